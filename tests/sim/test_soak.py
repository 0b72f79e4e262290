"""Thousands of random schedules: drawn from their numbers, run in parallel, resumed, and told about when they fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

from gossiptrain.protocol.peer_protocol import PeerProtocol
from sim import load
from sim.__main__ import main
from sim.soak import Outcome, Schedule, Soak, run_one

ROOT = Path(__file__).parents[2]
SMALL = {"peers_max": 3, "minutes": 1.5}


def test_a_schedule_is_drawn_from_its_number_alone_and_most_are_small():
    sizes = [Schedule(seed).scenario().arguments["peers"] for seed in range(200)]
    assert sizes == [Schedule(seed).scenario().arguments["peers"] for seed in range(200)]
    assert (min(sizes), max(sizes) > 48, max(sizes) <= 64) == (2, True, True)
    assert median(sizes) < 12
    one, other = (Schedule(seed).scenario().arguments for seed in (1, 2))
    assert one["faults"] != other["faults"]


def test_a_run_that_holds_tells_what_it_saw_and_is_the_same_again():
    outcomes = [run_one(Schedule(1, **SMALL)) for _ in range(2)]
    assert outcomes[0].error == outcomes[0].scenario == ""
    assert outcomes[0].trace_hash == outcomes[1].trace_hash != ""
    assert outcomes[0].saw["Joined"] >= outcomes[0].peers
    assert Outcome.from_json(outcomes[0].to_json()) == outcomes[0]


def test_a_run_that_breaks_tells_how_to_run_it_again_and_keeps_its_scenario(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(PeerProtocol, "living", lambda self: ("nobody",))
    outcome = run_one(Schedule(4, **SMALL))
    assert outcome.error.startswith("I4 broken at")
    Soak([], 1, tmp_path / "results", tmp_path / "failures")._note(outcome)
    assert "replay: python -m sim soak --only 4 --peers-max 3 --minutes 1.5" in capsys.readouterr().out
    kept = load(tmp_path / "failures" / "seed_4.toml")
    monkeypatch.undo()
    again = Schedule(4, **SMALL).scenario().run()
    assert kept.run().trace_hash == again.trace_hash, "the file is the very run"


def test_a_fault_of_the_simulator_itself_is_an_outcome_too(monkeypatch):
    monkeypatch.setattr("sim.training_thread.TrainingThread._publish", lambda self: 1 / 0)
    assert run_one(Schedule(1, **SMALL)).error == "ZeroDivisionError: division by zero"


@pytest.mark.slow
def test_what_is_done_is_skipped_and_the_command_tells_by_its_status(tmp_path, capsys):
    where = ["--results", str(tmp_path / "r.jsonl"), "--failures", str(tmp_path / "f")]
    size = ["--peers-max", "3", "--minutes", "1.5", "--jobs", "2", *where]
    assert main(["soak", "--schedules", "2", *size]) == 0
    assert main(["soak", "--schedules", "3", "--seed-from", "0", *size]) == 0
    printed = capsys.readouterr().out
    assert "2 of 3 are done already" in printed
    assert "everything held" in printed
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["schedule"]["seed"] for line in lines) == [0, 1, 2]
    broken = Outcome.from_json(lines[0])
    failed = {**json.loads(lines[0]), "error": "I3 broken"}
    (tmp_path / "r.jsonl").write_text("\n".join([json.dumps(failed), *lines[1:]]) + "\n")
    assert main(["soak", "--schedules", "3", *size]) == 1
    assert broken.schedule.command() in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_ends_it_with_the_summary_so_far_and_leaves_no_process_behind(tmp_path):
    results = tmp_path / "r.jsonl"
    command = [sys.executable, "-m", "sim", "soak", "--schedules", "5000", "--jobs", "2", "--peers-max", "3"]
    command += ["--minutes", "1.5", "--results", str(results), "--failures", str(tmp_path / "f")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline_s = time.monotonic() + 60
        while not (results.exists() and results.read_text().count("\n") >= 2):
            assert time.monotonic() < deadline_s, "no schedule came to its end"
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = children.read_text().split() if children.exists() else []
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert "stopped" in printed
    assert "everything held so far" in printed
    assert "Traceback" not in printed
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline_s + 30, f"{workers} go on"
        time.sleep(0.05)


@pytest.mark.parametrize("words", [["--schedules", "0"], ["--jobs", "0"], ["--peers-max", "1"], ["--minutes", "1"]])
def test_options_out_of_range_are_refused(words, capsys):
    assert main(["soak", *words]) == 2
    assert "at least 1 schedule" in capsys.readouterr().err
