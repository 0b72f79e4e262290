"""`gossiptrain report` as a person meets it."""

from __future__ import annotations

import json
import webbrowser

import pytest

from gossiptrain import cli
from tests.reports.made import write_folder


def test_it_prints_the_peers_and_writes_the_page_into_the_runs_folder(tmp_path, capsys):
    folder = write_folder(tmp_path / "run")
    assert cli.main(["report", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "2 peers" in printed
    assert "crashed after 3.0 s" in printed
    assert "peer-1 (2)" in printed
    assert "<!doctype html>" in (folder / "report.html").read_text()


def test_options_may_stand_after_the_run_and_write_page_and_trace(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(webbrowser, "open", lambda url: shown.append(url) or True)
    folder, page, trace = write_folder(tmp_path / "run"), tmp_path / "a.html", tmp_path / "t.json"
    assert cli.main(["report", str(folder), "--html", str(page), "--chrome-trace", str(trace), "--open"]) == 0
    assert shown == [page.as_uri()]
    assert json.loads(trace.read_text())["traceEvents"]
    assert not (folder / "report.html").exists()


def test_latest_is_the_newest_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "runs" / "20260101-train")
    assert cli.main(["report", "latest"]) == 0
    assert "20260101-train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "no such folder"),
        (["run", "--html", "page.txt"], "must end in .html"),
        (["run", "--chrome-trace", "trace.txt"], "must end in .json"),
        (["run", "--html", "no/such/page.html"], "cannot be written"),
        (["run", "another"], "takes one RUN"),
        (["latest"], "there is no run below runs/"),
    ],
)
def test_what_cannot_work_is_told_with_exit_code_2(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "run")
    assert cli.main(["report", *words]) == 2
    assert says in capsys.readouterr().err
