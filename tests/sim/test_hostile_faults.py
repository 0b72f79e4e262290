"""What is sent again, damaged or comes from those who must not be let in: refused, counted, and harmless."""

from __future__ import annotations

import pytest

from gossiptrain.protocol.notices import Joined, PeerDied, PeerRefused, SnapshotRefused
from gossiptrain.protocol.peer_protocol import PeerProtocol
from sim import FaultSchedule, InvariantBroken, LogNormalSteps, Report, Simulation, TimedWorkload

WORKLOAD = TimedWorkload(400_000, LogNormalSteps(0.1, 0.3, 0.1))


def _run(faults: FaultSchedule, until_s: float = 50.0, peers: int = 5) -> Report:
    return Simulation(peers, seed=2, workload=WORKLOAD, faults=faults).run(until_s)


@pytest.mark.parametrize("how", ["corrupt", "truncate", "oversize"])
def test_what_is_no_message_is_refused_counted_and_survived(how):
    report = _run(FaultSchedule().garble(1, 10.0, 10.0, how=how, share=0.3)).require("frame refused")
    assert report.saw["frame refused"] == report.network["damaged"] > 3
    assert sum(peer.frames_refused for peer in report.peers) == report.saw["frame refused"]
    assert report.saw["PeerDied"] == 0
    assert len([1 for time_s, _ in report.peer("peer-1").notices if time_s > 21.0]) > 20, "it exchanges again"


def test_messages_that_come_again_later_change_nothing():
    plain, again = _run(FaultSchedule()), _run(FaultSchedule().replay(1, 10.0, 30.0, share=0.5))
    assert again.network["replayed"] > 50
    assert {peer.living for peer in again.peers} == {peer.living for peer in plain.peers}
    assert again.saw["PeerDied"] == again.saw["PeerSuspected"] == 0


def test_the_messages_of_a_former_boot_do_not_bring_it_back():
    faults = FaultSchedule().replay(1, 5.0, 15.0, share=0.6, later_s=40.0).crash(1, 20.0).restart(1, 21.0)
    simulation = Simulation(5, seed=3, workload=WORKLOAD, faults=faults)
    report = simulation.run(100.0).require("fault replay", "fault restart", "graph connected")
    boot = report.peer("peer-1").boot
    for peer in simulation.living():
        held = peer.protocol._membership.get("peer-1")
        assert held is None or held.boot == boot, "the newest boot is the one that all know"
    assert report.network["replayed"] > 20


def test_a_second_process_of_a_living_name_is_refused_loudly_and_the_first_goes_on():
    report = _run(FaultSchedule().impostor(1, 10.0)).require("failed name")
    first, second = (peer for peer in report.peers if peer.name == "peer-1")
    ended = {peer.end: peer for peer in (first, second)}
    assert "already uses the name 'peer-1'" in ended["failed"].failures[0]
    assert ended["failed"].steps == 0
    assert ended["failed"].ended_s < 25.0
    assert ended[""].longest_gap_s() < 1.0


@pytest.mark.parametrize("differs", ["run", "model", "mixer", "version"])
def test_who_belongs_elsewhere_learns_what_differs_and_both_sides_tell_it(differs):
    report = _run(FaultSchedule().stranger(10.0, differs=differs), 30.0).require(f"failed {differs}")
    refused = [notice for peer in report.living() for _, notice in peer.told(PeerRefused)]
    assert {notice.reason for notice in refused} == {differs}
    assert report.peer("stranger-0").failures[0].startswith(f"{differs}: ")
    assert all("stranger-0" not in peer.living for peer in report.living())


def test_a_stranger_that_is_let_in_breaks_i1(monkeypatch):
    living = PeerProtocol.living
    monkeypatch.setattr(PeerProtocol, "living", lambda self: (*living(self), "stranger-0"))
    with pytest.raises(InvariantBroken) as caught:
        _run(FaultSchedule().stranger(10.0))
    assert caught.value.invariant == "I1"


def test_who_is_said_to_be_dead_by_a_liar_objects_and_all_views_are_whole_afterwards():
    faults = FaultSchedule().slander(1, 10.0, 20.0).stall(2, 12.0, 4.0).join(14.0)  # both make news that it can twist
    report = _run(faults, 100.0).require("graph connected")
    assert report.saw["PeerDied"] > 0, "the lies are told"
    assert {len(peer.living) for peer in report.living()} == {6}
    assert all(peer.steps > 100 for peer in report.living())


def test_snapshots_damaged_on_their_way_are_refused():
    report = _run(FaultSchedule().hostile(1, 10.0, 10.0, payload="checksum")).require("SnapshotRefused")
    reasons = {notice.reason for peer in report.peers for _, notice in peer.told(SnapshotRefused)}
    assert reasons == {"checksum"}


# Faults of one host


def test_a_device_that_slows_down_only_takes_longer_steps():
    report = _run(FaultSchedule().fail_slow(1, 10.0, 20.0, factor=10.0))
    blocks = report.peer("peer-1").blocks
    before, during = ([b.gap_s for b in blocks if low < b.end_s <= high] for low, high in ((5.0, 10.0), (12.0, 30.0)))
    assert min(during) > 5 * max(before)
    assert report.saw["PeerSuspected"] == 0


def test_a_starved_process_makes_a_tenth_of_its_steps_and_is_not_taken_for_dead():
    report = _run(FaultSchedule().starve(1, 10.0, 20.0, share=0.1))
    blocks = report.peer("peer-1").blocks
    before, during = (sum(b.steps for b in blocks if low < b.end_s <= high) for low, high in ((0, 10), (10, 30)))
    assert during < 0.5 * before
    assert not [n for peer in report.peers for _, n in peer.told(PeerDied)]


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_link_that_is_open_one_way_by_turns_kills_nobody(direction):
    report = _run(FaultSchedule().flip_flop(1, 10.0, 40.0, period_s=16.0, direction=direction), 100.0)
    report.require("PeerSuspected", "PeerRecovered", "graph connected")
    assert report.saw["PeerDied"] == 0


@pytest.mark.parametrize("fault", ["reset", "address_change"])
def test_connections_that_break_or_lead_nowhere_are_made_anew(fault):
    report = _run(getattr(FaultSchedule(), fault)(1, 10.0), 80.0).require("graph connected")
    partners = {n.partners[0] for t, n in report.peer("peer-1").notices if t > 20.0 and hasattr(n, "partners")}
    assert len(partners) == len(report.peer("peer-1").neighbours)
    assert report.saw["PeerDied"] == 0


def test_a_rolling_restart_leaves_all_views_whole():
    report = _run(FaultSchedule().rolling_restart(range(1, 5), 10.0, every_s=8.0, down_s=2.0), 100.0)
    assert {len(peer.living) for peer in report.living()} == {5}
    assert report.saw["PeerLeft"] > 0


@pytest.mark.slow
def test_many_who_join_at_once_are_all_known_within_seconds():
    report = _run(FaultSchedule().join(10.0, count=24), 25.0, peers=1)
    assert {len(peer.living) for peer in report.living()} == {25}


def test_a_joiner_during_a_partition_begins_on_its_side_and_all_merge_afterwards():
    faults = FaultSchedule().partition([[3, 4]], 10.0, 20.0).join(15.0)
    report = _run(faults, 90.0).require("graph connected")
    assert report.peer("peer-5").told(Joined)[0][0] < 30.0, "its side lets it in"
    assert {len(peer.living) for peer in report.living()} == {6}
