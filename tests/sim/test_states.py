"""A newcomer fetches a donor's state in the simulation, and the donor dies in the middle of it."""

from __future__ import annotations

import pytest

from gossiptrain.protocol.notices import Joined, SnapshotRefused, StateFetched
from sim import FaultSchedule, QuadraticWorkload, Simulation, TimedWorkload, Workload
from sim.peer import SimulatedPeer

STATE_BYTES = 40_000_000
JOINS_S = 5.0


def fetching(workload: Workload, at_least_bytes: int) -> tuple[Simulation, SimulatedPeer, SimulatedPeer]:
    """Three peers and a newcomer that has got so many bytes; returns it and its donor."""
    simulation = Simulation(3, workload=workload, faults=FaultSchedule().join(JOINS_S), seed=2)
    simulation.run(JOINS_S)
    newcomer = None
    while newcomer is None or newcomer.states.piece_bytes_received < at_least_bytes:
        simulation.run(simulation.clock.now + 0.01)
        newcomer = simulation.processes[3]
    own = newcomer.protocol._catching_up._own
    assert own is not None
    donor = next(p for p in simulation.processes if p is not None and p.name == own.source.name)
    return simulation, newcomer, donor


def told(peer: SimulatedPeer, kind: type) -> list:
    return [notice for _, notice in peer.notices if isinstance(notice, kind)]


def test_where_the_next_donor_has_the_same_bytes_it_sends_only_the_rest():
    simulation, newcomer, donor = fetching(TimedWorkload(STATE_BYTES), 12 << 20)
    before = newcomer.states.piece_bytes_received
    donor.stop("crashed")
    simulation.run(20.0)
    fetched = told(newcomer, StateFetched)
    assert fetched[0].peer == told(newcomer, Joined)[0].source != donor.name
    assert fetched[0].kept_bytes == before
    assert newcomer.states.piece_bytes_received == STATE_BYTES


def test_where_it_has_others_everything_comes_anew():
    workload = QuadraticWorkload.random(4, 8, snapshot_bytes=STATE_BYTES)
    simulation, newcomer, donor = fetching(workload, 12 << 20)
    before = newcomer.states.piece_bytes_received
    donor.stop("crashed")
    simulation.run(20.0)
    assert told(newcomer, StateFetched)[0].kept_bytes == 0
    assert newcomer.states.piece_bytes_received == before + STATE_BYTES


def test_a_donor_is_not_held_up_and_a_newcomer_counts_on_from_its_step():
    simulation = Simulation(3, workload=TimedWorkload(STATE_BYTES), faults=FaultSchedule().join(JOINS_S))
    simulation.run(JOINS_S + 7.0)
    newcomer = simulation.processes[3]
    assert newcomer is not None
    assert newcomer.training.is_training
    step = told(newcomer, StateFetched)[0].step
    assert step >= 20
    others = next(member for member in simulation.processes[0].protocol.status(0.0).members if member.name == "peer-3")
    assert others.step >= step, "the others hear of its steps as of their own"
    assert max(block.gap_s for block in simulation.processes[0].training.blocks) < 0.06


@pytest.mark.parametrize("kind", ["nan", "size"])
def test_a_hostile_donors_state_is_refused_and_another_is_asked(kind: str):
    faults = FaultSchedule().hostile(0, 3.0, 60.0, kind).join(JOINS_S)
    simulation = Simulation(2, workload=QuadraticWorkload.random(3, 2), faults=faults)
    simulation.run(30.0)
    newcomer = simulation.processes[2]
    assert told(newcomer, Joined) == [Joined("peer-1")]
    assert {notice.peer for notice in told(newcomer, SnapshotRefused)} == {"peer-0"}
