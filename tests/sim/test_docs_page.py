"""The blocks of docs/simulator.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim import loads

PAGE = Path(__file__).parents[2] / "docs" / "simulator.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_programs_of_the_page_run_one_after_the_other_and_print_what_they_say(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in _blocks("python"):
        exec(compile(block, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "peer 7 does not exist" in printed
    assert "s until the graph was laid anew" in printed
    measured, rest = re.search(r"'consensus_distance': ([0-9.e-]+).* at rest ([0-9.e-]+)", printed).groups()
    assert 0.5 < float(measured) / float(rest) < 2


def test_the_scenarios_of_the_page_can_be_read():
    first, *others = (loads(text).simulation() for text in _blocks("toml"))
    assert first.options.peers == 8
    assert any(other.options.environment for other in others)


@pytest.mark.slow
def test_the_scenario_of_the_page_that_trains_learns():
    trains = next(text for text in _blocks("toml") if 'kind = "torch"' in text)
    samples = loads(trains).simulation().run(2.0).samples
    assert samples[-1].values["average_accuracy"] > samples[0].values["average_accuracy"] + 0.1
