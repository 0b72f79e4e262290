"""A simulation's report in the form that real runs share."""

from __future__ import annotations

import numpy as np
import pytest

import sim
from gossiptrain.protocol.notices import PeerDied
from gossiptrain.reports import timeline
from sim.__main__ import main


@pytest.fixture(scope="module")
def report() -> sim.Report:
    faults = sim.FaultSchedule().crash(peer=2, at_s=10).restart(peer=2, at_s=16).stall(peer=1, at_s=20, for_s=4)
    workload = sim.QuadraticWorkload.random(5, step_times=sim.ConstantSteps(0.1))
    return sim.Simulation(peers=5, faults=faults, seed=3, workload=workload).run(until_s=30)


def test_lives_steps_blocks_and_notices_are_the_simulations(report):
    record = report.record()
    assert record.origin == "simulated"
    assert [(p.name, p.number, p.end) for p in record.processes if p.name == "peer-2"] == [
        ("peer-2", 0, "crashed"),
        ("peer-2", 1, ""),
    ]
    for mine, theirs in zip(record.processes, report.peers):
        assert mine.steps == theirs.steps == int(mine.blocks.steps.sum())
        assert mine.notices == theirs.notices
        assert (mine.blocks.ended_s >= mine.blocks.began_s).all()
        assert (mine.blocks.began_s[1:] >= mine.blocks.ended_s[:-1] - 1e-9).all()


def test_a_block_begins_where_its_first_step_does(report):
    blocks = report.record().processes[0].blocks
    assert np.allclose(blocks.ended_s - blocks.began_s, 0.1 * blocks.steps)


def test_the_graph_over_time_is_what_the_peers_protocols_hold_at_the_end(report):
    graph = timeline.graph_at(report.record(), report.until_s - 1e-9)
    for peer in report.living():
        assert sorted(graph[peer.name]) == list(peer.neighbours)


def test_measures_and_bytes_over_time_end_where_the_run_did(report):
    samples = report.record().samples
    assert samples.overall["consensus_distance"][-1] == report.samples[-1].values["consensus_distance"]
    assert (np.diff(samples.bytes_sent) >= 0).all()
    sent = sum(peer.traffic["bytes"] + peer.traffic["snapshot_bytes"] for peer in report.peers)
    assert samples.bytes_sent[-1] <= sent
    assert samples.bytes_sent[-1] > 0.9 * sent


def test_faults_and_settings_are_told(report):
    record = report.record()
    assert [(f.kind, f.peers, f.began_s) for f in record.faults] == [
        ("crash", ("peer-2",), 10.0),
        ("restart", ("peer-2",), 16.0),
        ("stall", ("peer-1",), 20.0),
    ]
    assert (record.settings["topology"], record.settings["seed"]) == ("overlay", "3")
    assert record.settings["trace"] == report.trace_hash


def test_a_report_makes_frames_a_page_and_a_trace_by_itself(report, tmp_path):
    pytest.importorskip("pandas")
    frames = report.to_pandas()
    assert len(frames.peers) == 6
    died = frames.notices[(frames.notices.kind == "PeerDied") & (frames.notices.about == "peer-2")]
    assert len(died) == sum(bool(peer.told(PeerDied)) for peer in report.peers)
    assert "peer-2" in report.save(tmp_path / "run.html").read_text()
    assert report.to_chrome_trace()["traceEvents"]


def test_simulations_of_two_mixers_compare(report):
    workload = sim.QuadraticWorkload.random(5, step_times=sim.ConstantSteps(0.1))
    other = sim.Simulation(peers=5, mixer="d_psgd", seed=3, workload=workload).run(until_s=10)
    waits = other.record().processes[0].blocks
    assert (waits.began_s[1:] > waits.ended_s[:-1]).any(), "a synchronous peer waits for its round"
    rows = sim.compare(report, other, labels=["ad_psgd", "d_psgd"], measure="error").rows()
    assert [row["crashes"] for row in rows] == [1, 0]


def test_the_command_writes_a_page(tmp_path, capsys):
    scenario, page = tmp_path / "scenario.toml", tmp_path / "run.html"
    scenario.write_text("peers = 3\nuntil_s = 3.0\n")
    assert main([str(scenario), "--quiet", "--report", str(page)]) == 0
    assert f"report: {page}" in capsys.readouterr().out
    assert "<!doctype html>" in page.read_text()


def test_the_command_refuses_another_ending_before_it_runs(tmp_path, capsys):
    scenario = tmp_path / "scenario.toml"
    scenario.write_text("peers = 3\nuntil_s = 1e9\n")
    assert main([str(scenario), "--quiet", "--report", "run.pdf"]) == 2
    assert "must end in .html" in capsys.readouterr().err
