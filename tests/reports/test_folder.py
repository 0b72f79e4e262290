"""A real run's folder, read as a record."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.notices import PeerDied
from gossiptrain.reports import open_run
from tests.reports.made import write_folder


def test_every_process_of_a_peer_is_told_apart_with_its_own_steps(tmp_path):
    record = open_run(write_folder(tmp_path / "run"))
    lives = [(p.name, p.number, p.began_s, p.end, p.steps) for p in record.processes]
    assert lives == [
        ("peer-0", 0, 0.0, "finished", 95),
        ("peer-1", 0, 1.0, "crashed", 30),
        ("peer-1", 1, 6.0, "finished", 20),
    ]
    assert record.origin == "real"
    assert record.until_s == pytest.approx(10.0)
    assert record.processes[1].ended_s == pytest.approx(4.0), "its last step"


def test_steps_of_a_state_that_came_from_elsewhere_are_counted_apart(tmp_path):
    record = open_run(write_folder(tmp_path / "run"))
    assert [process.first_step for process in record.processes] == [0, 0, 30]


def test_notices_are_the_protocols_own_with_seconds_of_the_run(tmp_path):
    record = open_run(write_folder(tmp_path / "run"))
    assert list(record.processes[0].told(PeerDied)) == [(5.0, PeerDied("peer-1", "refuses"))]


def test_blocks_group_steps_and_are_cut_where_training_stood_still(tmp_path):
    blocks = open_run(write_folder(tmp_path / "run")).processes[2].blocks
    assert blocks.steps.tolist() == [5, 5, 5, 5]
    waited_s = blocks.began_s[1:] - blocks.ended_s[:-1]
    assert waited_s == pytest.approx([0.0, 0.5, 0.0], abs=1e-6)
    assert blocks.gap_s.max() == pytest.approx(0.6)


def test_what_peers_said_holds_until_they_say_something_else(tmp_path):
    samples = open_run(write_folder(tmp_path / "run")).samples
    at = lambda time_s: int(np.searchsorted(samples.time_s, time_s))  # noqa: E731
    assert samples.measures()[:3] == ("loss", "accuracy", "consensus_distance")
    loss_T = samples.by_peer["loss"][:, 0]
    assert np.isnan(loss_T[at(1.0)])
    assert loss_T[at(5.0)] == 1.5
    assert loss_T[at(9.0)] == 0.5
    assert samples.bytes_sent[at(9.0)] == 2000
    assert samples.bytes_sent[-1] == 2500


def test_traffic_is_split_into_messages_and_snapshots(tmp_path):
    assert open_run(write_folder(tmp_path / "run")).processes[0].traffic == {"bytes": 100, "snapshot_bytes": 2400}


@pytest.mark.parametrize("end", ["killed", "stopped", "failed"])
def test_the_launchers_summary_tells_how_a_peer_ended_that_could_not(tmp_path, end):
    folder = write_folder(tmp_path / "run")
    log = folder / "events" / "peer-1.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    code, stopped = {"killed": (-9, False), "stopped": (-15, True), "failed": (1, False)}[end]
    peers = {"peer-1": {"returncode": code, "stopped": stopped, "cause": "so it ended"}}
    (folder / "summary.json").write_text(json.dumps({"peers": peers}))
    last = open_run(folder).processes[-1]
    assert (last.end, last.reason) == ("crashed" if end == "killed" else end, "so it ended")


def test_a_run_that_still_goes_is_reported_as_far_as_it_went(tmp_path):
    folder = write_folder(tmp_path / "run", summary=False)
    log = folder / "events" / "peer-0.jsonl"
    shift_s = time.time() - 1_000_009.6
    lines = [json.loads(line) for line in log.read_text().splitlines()][:-2]
    log.write_text("".join(json.dumps({**line, "t": line["t"] + shift_s}) + "\n" for line in lines))
    (np.fromfile(folder / "events" / "peer-0.steps") + shift_s).tofile(folder / "events" / "peer-0.steps")
    for file in folder.glob("events/peer-1.*"):
        file.unlink()
    record = open_run(folder)
    assert record.is_going
    assert "still going" in record.remarks[0]
    assert (record.processes[0].end, record.processes[0].ended_s) == ("", float("inf"))


def test_without_a_summary_the_peers_own_last_words_count(tmp_path):
    record = open_run(write_folder(tmp_path / "run", summary=False))
    assert [process.end for process in record.processes] == ["finished", "crashed", "finished"]
    assert "no summary.json" in record.remarks[0]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda run: shutil.rmtree(run / "events"), "no peer of this run has recorded anything"),
        (lambda run: (shutil.rmtree(run / "events"), (run / "config.json").unlink()), "is not the folder of a run"),
        (lambda run: [file.write_text("") for file in run.glob("events/*.jsonl")], "are empty"),
    ],
)
def test_what_is_no_run_is_refused_with_the_reason(tmp_path, spoil, says):
    folder = write_folder(tmp_path / "run")
    spoil(folder)
    with pytest.raises(ConfigurationError, match=says):
        open_run(folder)
