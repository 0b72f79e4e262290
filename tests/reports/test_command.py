"""`gossiptrain report` as a person meets it."""

from __future__ import annotations

import json
import webbrowser

import pytest

from gossiptrain import cli
from gossiptrain.reports import open_run
from tests.reports.made import write_folder

SPENT = {"compute_s": 1.6, "mix_s": 0.3, "wait_s": 0.1}


def test_it_prints_the_peers_and_writes_the_page_into_the_runs_folder(tmp_path, capsys):
    folder = write_folder(tmp_path / "run")
    assert cli.main(["report", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "2 peers" in printed
    assert "crashed after 3.0 s" in printed
    assert "peer-1 (2)" in printed
    assert "<!doctype html>" in (folder / "report.html").read_text()


def test_it_prints_how_fast_each_peer_trained_and_where_its_time_went(tmp_path, capsys):
    folder = write_folder(tmp_path / "run")
    with (folder / "events" / "peer-1.jsonl").open("a") as file:
        paced = {"steps": 10, "step_s": 0.1, "block_s": 1.0, "scale": 1.0, "limit": "drift"}
        for elapsed_s, kind, fields in ((0.05, "Paced", paced), (4.0, "Finished", {"step": 50, "ok": True, **SPENT})):
            file.write(
                json.dumps({"t": 1_000_006.0 + elapsed_s, "elapsed_s": elapsed_s, "kind": kind, **fields}) + "\n"
            )
    assert cli.main(["report", str(folder)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["pace", "steps/s", "steps", "a", "block", "of", "all", "steps", "compute", "mix", "wait"] in lines
    (last,) = [line for line in lines if line[:1] == ["peer-1"] and line[-3:] == ["80%", "15%", "5%"]]
    assert last[2] == "10", "steps a block, since it was paced"
    assert last[3] == "14%", "20 of 145 steps"


def test_where_data_are_shared_it_prints_each_processes_part_of_what_was_trained(tmp_path, capsys):
    folder = write_folder(tmp_path / "run")
    for name, elapsed_s, began, samples in (("peer-0", 11.0, 1_000_000.0, 900), ("peer-1", 4.0, 1_000_006.0, 300)):
        with (folder / "events" / f"{name}.jsonl").open("a") as file:
            line = {"t": began + elapsed_s, "elapsed_s": elapsed_s, "kind": "Finished", "step": 50, "ok": True}
            file.write(json.dumps({**line, **SPENT, "samples_trained": samples}) + "\n")
    assert cli.main(["report", str(folder)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["pace", "steps/s", "steps", "a", "block", "of", "all", "data", "compute", "mix", "wait"] in lines
    assert [line[3] for line in lines if line[-3:] == ["80%", "15%", "5%"]] == ["75%", "25%"]
    peers = open_run(folder).to_pandas().peers
    assert peers.data_share.dropna().tolist() == [0.75, 0.25]
    assert peers.samples_trained.dropna().tolist() == [900, 300]


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
