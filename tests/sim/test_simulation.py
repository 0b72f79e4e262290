"""The whole simulation: determinism, the effects' semantics, faults seen from the peers, and the report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from math import isfinite
from pathlib import Path

import pytest

import topologies
from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.config import MembershipConfig
from gossiptrain.protocol.notices import Joined, PeerDied, PeerJoined, PeerLeft, PeerSuspected, Rewired, SnapshotRefused
from sim import (
    BimodalSteps,
    FaultSchedule,
    LogNormalSteps,
    NetworkOptions,
    QuadraticWorkload,
    Simulation,
    TimedWorkload,
    TraceSteps,
)

ROOT = Path(__file__).parents[2]
FAULTS = FaultSchedule().crash(1, 5.0).restart(1, 9.0).stall(2, 6.0, 3.0).partition([[0, 1]], 15.0, 3.0).join(12.0)


def _simulation(seed: int = 3, **options) -> Simulation:
    workload = TimedWorkload(100_000, LogNormalSteps(0.05, 0.3, 0.1))
    return Simulation(**{"peers": 4, "faults": FAULTS, "workload": workload, "seed": seed, **options})


def test_one_seed_gives_one_trace_and_another_seed_another():
    traces = [_simulation(seed).run(30.0).trace_hash for seed in (3, 3, 4)]
    assert traces[0] == traces[1] != traces[2]


def test_stepping_and_running_in_pieces_give_the_same_trace():
    whole, pieces, stepped = _simulation(), _simulation(), _simulation()
    expected = whole.run(12.0)
    for until_s in (1.0, 1.5, 7.25):
        pieces.run(until_s)
    assert pieces.run(12.0).trace_hash == expected.trace_hash
    while stepped.clock.next_s() <= 12.0:
        stepped.step()
    assert stepped.report().trace_hash == expected.trace_hash


@pytest.mark.slow
def test_other_processes_and_hash_seeds_give_the_same_trace():
    program = "from tests.sim.test_simulation import _simulation; print(_simulation().run(20.0).trace_hash)"
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"
    traces = set()
    for hash_seed in ("0", "1", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
        )
        traces.add(done.stdout.strip())
    assert traces == {_simulation().run(20.0).trace_hash}


@pytest.mark.slow
def test_the_simulator_needs_neither_torch_nor_zmq():
    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['zmq'] = None; import sim; "
        "print(sim.Simulation(peers=3).run(5.0).saw['Joined'])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"


def test_no_module_of_the_simulator_reads_a_clock_or_draws_unseeded_numbers():
    forbidden = {"torch", "zmq", "time", "random", "threading", "datetime", "secrets"}
    # What runs simulations shows real progress and ends with its parent; nothing of that reaches a simulation.
    allowed = {"progress.py": {"time", "threading"}, "soak.py": {"time", "threading"}}
    for path in sorted((ROOT / "sim").glob("*.py")):
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                found = forbidden - allowed.get(path.name, set())
                assert words[1].split(".")[0] not in found, f"{path.name}: {line}"


def test_peers_that_start_from_one_list_are_one_run_from_the_first_moment():
    report = Simulation(8, formed=True, seed=4).run(20.0)
    assert all(len(peer.living) == 8 and peer.exchanges() > 10 for peer in report.peers)
    assert not any(peer.told(PeerJoined) or peer.told(PeerSuspected) for peer in report.peers)
    assert max(peer.told(Rewired)[0][0] for peer in report.peers) < 1.0
    assert all(set(peer.traffic).isdisjoint({"Hello", "Sync"}) for peer in report.peers)


def test_a_formed_run_lives_through_deaths_restarts_and_joins_like_any_other():
    faults = FaultSchedule().crash(peer=2, at_s=10).restart(peer=2, at_s=14).join(at_s=16).crash(peer=5, at_s=20)
    report = Simulation(8, formed=True, faults=faults, seed=4).run(40.0)
    assert {peer.name for peer in report.living()} == {*(f"peer-{i}" for i in range(9))} - {"peer-5"}
    assert all(len(peer.living) == 8 for peer in report.living())


def test_ctrl_c_ends_a_run_between_two_events_and_it_can_go_on():
    whole = _simulation().run(20.0)
    simulation = _simulation()
    simulation.clock.at(5.0, lambda _: signal.raise_signal(signal.SIGINT))
    first = simulation.run(20.0)
    assert first.interrupted
    assert 5.0 <= first.until_s < 20.0
    rest = simulation.run(20.0)
    assert not rest.interrupted
    assert rest.trace_hash == whole.trace_hash
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_interrupts_at_once():
    simulation = _simulation()
    for _ in range(2):
        simulation.clock.at(5.0, lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        simulation.run(20.0)


def test_progress_tells_virtual_time_speed_and_the_time_to_go(capsys, monkeypatch):
    monkeypatch.setattr("sim.progress.SHOWN_AFTER_S", 0.0)
    monkeypatch.setattr("sim.progress.SHOWN_EVERY_S", 0.0)
    _simulation().run(20.0, progress=True)
    lines = capsys.readouterr().err.rstrip().split("\r")
    assert "of 20 virtual s" in lines[1]
    assert "to go" in lines[1]
    assert lines[-1].startswith("[########################] 20.0 of 20 virtual s")
    _simulation().run(20.0)  # nobody looks
    assert capsys.readouterr().err == ""


def test_the_wire_changes_nothing():
    assert _simulation(checks_wire=True).run(20.0).trace_hash == _simulation().run(20.0).trace_hash


@pytest.mark.parametrize("mixer", ["ad_psgd", "d_psgd"])
def test_peers_join_train_and_exchange(mixer):
    report = Simulation(peers=5, mixer=mixer, seed=1, sync_every=8).run(15.0).require("adopted", "Rewired", "Exchanged")
    for peer in report.peers:
        assert len(peer.told(Joined)) == 1
        assert peer.steps > 200
        assert peer.exchanges() > 5
        assert len(peer.living) == 5


def test_a_synchronous_peer_waits_at_each_boundary_and_an_asynchronous_one_never():
    slow_one = TraceSteps(((0.05,), (0.2,), (0.05,)))
    together = Simulation(3, mixer="d_psgd", workload=TimedWorkload(1000, slow_one), topology="complete").run(60.0)
    alone = Simulation(3, mixer="ad_psgd", workload=TimedWorkload(1000, slow_one), topology="complete").run(60.0)
    assert together.peer("peer-0").steps == pytest.approx(together.peer("peer-1").steps, abs=24)
    assert alone.peer("peer-0").steps == pytest.approx(4 * alone.peer("peer-1").steps, rel=0.05)
    assert alone.peer("peer-0").longest_gap_s() == pytest.approx(0.05)


def test_a_crash_is_noticed_by_all_and_the_survivors_steps_do_not_pause():
    faults = FaultSchedule().crash(2, 10.0)
    report = Simulation(6, faults=faults, seed=2).run(20.0).require("fault crash", "PeerDied")
    suspected, died = (report.since_fault(kind, 10.0, "peer-2") for kind in (PeerSuspected, PeerDied))
    rewired = report.since_fault(Rewired, 10.0)
    assert set(suspected) == set(died) == set(rewired) == {f"peer-{i}" for i in (0, 1, 3, 4, 5)}
    assert max(suspected.values()) < 2
    assert max(died.values()) < 5
    assert max(peer.longest_gap_s() for peer in report.living()) < 0.06
    assert report.peer("peer-2").end == "crashed"


def test_a_silent_crash_is_noticed_only_by_silence():
    faults = FaultSchedule().crash(2, 10.0, silent=True)
    report = Simulation(4, faults=faults, seed=2).run(60.0)
    assert min(report.since_fault(PeerSuspected, 10.0, "peer-2").values()) > 1.0, "a probe takes its period"
    assert min(report.since_fault(PeerDied, 10.0, "peer-2").values()) > 20


def test_a_restart_has_the_same_name_and_another_boot_and_begins_anew():
    report = Simulation(4, faults=FaultSchedule().crash(2, 10.0).restart(2, 12.0), seed=2).run(30.0)
    before, after = (peer for peer in report.peers if peer.name == "peer-2")
    assert before.boot != after.boot
    assert (before.end, after.end) == ("crashed", "")
    assert after.told(Joined)[0][1].source != ""
    assert after.exchanges() > 0


def test_a_stalled_process_takes_no_step_and_answers_nothing_meanwhile():
    report = Simulation(4, faults=FaultSchedule().stall(1, 10.0, 6.0), seed=2).run(30.0)
    ends_s = [block.end_s for block in report.peer("peer-1").blocks]
    assert not [end_s for end_s in ends_s if 10.0 < end_s < 16.0]
    assert report.peer("peer-1").longest_gap_s() == pytest.approx(6.05, abs=0.01)
    assert set(report.since_fault(PeerSuspected, 10.0, "peer-1")) == {"peer-0", "peer-2", "peer-3"}
    assert report.saw["PeerDied"] == 0


def test_a_paused_trainer_is_suspected_by_nobody():
    report = Simulation(4, faults=FaultSchedule().pause(1, 10.0, 6.0), seed=2).run(30.0)
    assert report.peer("peer-1").longest_gap_s() == pytest.approx(6.05, abs=0.01)
    assert report.saw["PeerSuspected"] == 0


def test_leaving_and_joining_are_told():
    report = Simulation(3, faults=FaultSchedule().leave(2, 8.0).join(10.0, count=2), seed=2).run(20.0)
    assert report.peer("peer-2").end == "left"
    assert len(report.peer("peer-0").told(PeerLeft)) == 1
    assert report.peer("peer-4").living == ("peer-0", "peer-1", "peer-3", "peer-4")
    assert {notice.peer for _, notice in report.peer("peer-0").told(PeerJoined, 9.0)} == {"peer-3", "peer-4"}


@pytest.mark.parametrize("payload", ["nan", "size"])
def test_a_hostile_peers_snapshots_are_refused_and_never_mixed(payload):
    workload = QuadraticWorkload.random(4, 2)
    faults = FaultSchedule().hostile(1, 5.0, 10.0, payload=payload)
    report = Simulation(4, workload=workload, faults=faults, seed=2).run(30.0)
    refused = [notice for peer in report.peers for _, notice in peer.told(SnapshotRefused)]
    assert {(notice.peer, notice.reason) for notice in refused} == {
        ("peer-1", "non-finite" if payload == "nan" else "size")
    }
    assert all(isfinite(value) for sample in report.samples for value in sample.values.values())


def test_a_short_partition_heals_and_both_sides_train_meanwhile():
    faults = FaultSchedule().partition([[0, 1]], 10.0, 8.0)
    report = Simulation(4, faults=faults, seed=2).run(80.0).require("PeerSuspected", "PeerRecovered", "graph connected")
    assert max(peer.longest_gap_s() for peer in report.peers) < 0.06


def test_a_slow_network_slows_exchanges_but_not_steps():
    fast, slow = (
        Simulation(4, workload=TimedWorkload(5_000_000), network=NetworkOptions(uplink_mbps=mbps), seed=1).run(40.0)
        for mbps in (1000.0, 20.0)
    )
    assert sum(p.exchanges() for p in slow.peers) < 0.5 * sum(p.exchanges() for p in fast.peers)
    assert max(peer.longest_gap_s() for peer in slow.peers) == pytest.approx(0.05)


def test_stragglers_are_fixed_by_the_seed():
    steps = BimodalSteps(0.05, 0.5, 0.5)
    rates = [steps.begin(seed, peer).block(0, 1)[0] for seed in (1, 1, 2) for peer in range(16)]
    assert rates[:16] == rates[16:32] != rates[32:]
    assert set(rates) == {0.05, 0.5}


def test_a_family_may_be_given_as_its_function():
    report = Simulation(4, topology=topologies.ring, seed=1).run(10.0)
    assert {len(peer.neighbours) for peer in report.peers} == {2}
    assert report.saw["TopologyFailed"] == 0


def test_rows_hold_what_a_table_needs():
    row = _simulation().run(20.0).to_rows()[0]
    assert row["peer"] == "peer-0"
    assert row["steps"] > 100
    assert row["messages_per_s"] > 0
    assert row["snapshot_mb"] > 0


def test_a_sometimes_check_names_what_never_happened():
    with pytest.raises(AssertionError, match="never happened: PeerDied"):
        Simulation(2).run(5.0).require("Joined", "PeerDied")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"peers": 0}, "peers=0"),
        ({"mixer": "sgd"}, "mixer='sgd'"),
        ({"sync_every": 0}, "sync_every=0"),
        ({"founders": 5, "peers": 4}, "founders=5"),
        ({"faults": FaultSchedule().crash(9, 5.0), "peers": 4}, "peer 9 does not exist"),
        ({"faults": FaultSchedule().crash(0, 0.1), "peers": 4}, "faults begin after all peers have started"),
        ({"membership": None, "topology": "moebius"}, "moebius"),
    ],
)
def test_arguments_that_cannot_work_are_named(arguments, named):
    with pytest.raises(ConfigurationError, match=named):
        Simulation(**arguments).run(1.0)


def test_the_protocols_time_outs_are_used():
    quick = MembershipConfig(probe_period_s=0.2, probe_timeout_s=0.1, stall_tolerance_s=2.0)
    report = Simulation(4, faults=FaultSchedule().crash(2, 10.0, silent=True), membership=quick, seed=2).run(30.0)
    assert max(report.since_fault(PeerDied, 10.0, "peer-2").values()) < 8
