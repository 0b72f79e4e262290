"""The checkers see what they are there for: each test breaks the code on purpose."""

from __future__ import annotations

import pytest
from msgspec import structs

from gossiptrain.protocol.effects import Mix, Release, RunSteps
from gossiptrain.protocol.events import MessageReceived, SnapshotReceived
from gossiptrain.protocol.messages import Ping
from gossiptrain.protocol.peer_protocol import PeerProtocol
from sim import FaultSchedule, InvariantBroken, Limits, QuadraticWorkload, Simulation
from sim.peer import SimulatedPeer
from sim.training_thread import Payload, TrainingThread


def _broken(simulation: Simulation, until_s: float = 60.0) -> InvariantBroken:
    with pytest.raises(InvariantBroken) as caught:
        simulation.run(until_s)
    return caught.value


def _change_effects(monkeypatch, change) -> None:
    """Has every list of effects of peer-1 go through `change(effects, event)`."""
    handle = PeerProtocol.handle

    def changed(self, event, now):
        effects = handle(self, event, now)
        return change(effects, event) if self.config.name == "peer-1" else effects

    monkeypatch.setattr(PeerProtocol, "handle", changed)


def test_a_spoilt_snapshot_in_the_mix_breaks_i1(monkeypatch):
    monkeypatch.setattr(QuadraticWorkload, "is_finite", lambda self, value: True)
    simulation = Simulation(3, workload=QuadraticWorkload.random(3, 2), faults=FaultSchedule().hostile(1, 5.0, 10.0))
    spoilt = simulation.network.send_snapshot

    def unmarked(process, address, key, payload, size):
        if not isinstance(payload, Payload):
            return spoilt(process, address, key, payload, size)
        return spoilt(process, address, key, Payload(payload.value, "taint" if payload.fault else ""), size)

    monkeypatch.setattr(simulation.network, "send_snapshot", unmarked)
    monkeypatch.setattr("sim.peer.SimulatedPeer.take_snapshot", _accepts_all)
    assert _broken(simulation).invariant == "I1"


_take_snapshot = SimulatedPeer.take_snapshot


def _accepts_all(self, key, payload):
    if not isinstance(payload, Payload):
        _take_snapshot(self, key, payload)
    elif self.alive and key in self.expected:
        del self.expected[key]
        self.received[key] = payload
        self.take(SnapshotReceived(key))


@pytest.mark.parametrize("weight", [0.4, 1.5, -0.1, float("nan")])
def test_a_weight_that_differs_or_is_out_of_range_breaks_i2(monkeypatch, weight):
    def change(effects, event):
        return [
            structs.replace(e, inbox=tuple((key, weight) for key, _ in e.inbox)) if isinstance(e, Mix) else e
            for e in effects
        ]

    _change_effects(monkeypatch, change)
    broken = _broken(Simulation(3))
    assert broken.invariant == "I2"


def test_a_mix_at_one_end_only_breaks_i2(monkeypatch):
    def change(effects, event):
        return [e for e in effects if not isinstance(e, Mix)]

    _change_effects(monkeypatch, change)
    broken = _broken(Simulation(2, limits=Limits(half_commit_s=10.0)))
    assert broken.invariant == "I2"
    assert "has not" in broken.detail


def test_pins_that_are_never_released_break_i3(monkeypatch):
    _change_effects(monkeypatch, lambda effects, event: [e for e in effects if not isinstance(e, Release)])
    assert _broken(Simulation(3)).invariant == "I3"


def test_a_dead_peer_taken_for_alive_breaks_i4(monkeypatch):
    monkeypatch.setattr(PeerProtocol, "living", lambda self: ("peer-0", "peer-1", "peer-2"))
    broken = _broken(Simulation(3, faults=FaultSchedule().crash(1, 5.0), limits=Limits(detect_s=20.0)))
    assert (broken.invariant, "peer-1 ended" in broken.detail) == ("I4", True)


def test_a_living_peer_that_stays_out_of_a_view_breaks_i4(monkeypatch):
    living = PeerProtocol.living

    def forgetful(self):
        names = living(self)
        return tuple(name for name in names if name != "peer-2") if self.config.name == "peer-0" else names

    monkeypatch.setattr(PeerProtocol, "living", forgetful)
    broken = _broken(Simulation(3))
    assert (broken.invariant, broken.peer) == ("I4", "peer-0")


def test_who_has_met_must_find_each_other_again_also_when_all_seeds_are_dead(monkeypatch):
    living = PeerProtocol.living

    def forgetful(self):
        names = living(self)
        return tuple(name for name in names if name != "peer-2") if self.config.name == "peer-1" else names

    monkeypatch.setattr(PeerProtocol, "living", forgetful)
    simulation = Simulation(4, seeds=1, faults=FaultSchedule().crash(0, 3.0), limits=Limits(heal_s=20.0))
    broken = _broken(simulation)
    assert (broken.invariant, broken.peer) == ("I4", "peer-1")
    assert broken.time_s > 40.0


def test_a_neighbour_that_is_not_mutual_breaks_i5(monkeypatch):
    neighbours = PeerProtocol.neighbours
    monkeypatch.setattr(
        PeerProtocol, "neighbours", lambda self: () if self.config.name == "peer-1" else neighbours(self)
    )
    assert _broken(Simulation(3, topology="ring")).invariant == "I5"


def test_an_exchange_used_again_breaks_i6():
    simulation = Simulation(3)
    simulation.run(10.0)
    used = simulation.checkers._used
    used.update(dict.fromkeys(used, 1 << 60))
    assert _broken(simulation).invariant == "I6"


def test_a_round_that_never_ends_breaks_i7(monkeypatch):
    def change(effects, event):
        return [e for e in effects if not (isinstance(e, RunSteps) and isinstance(event, MessageReceived))]

    _change_effects(monkeypatch, change)
    assert _broken(Simulation(3, mixer="d_psgd"), 120.0).invariant == "I7"


def test_a_peer_that_never_joins_breaks_i7(monkeypatch):
    monkeypatch.setattr(TrainingThread, "joined", lambda self: None)
    assert _broken(Simulation(2), 120.0).invariant == "I7"


def test_a_protocol_that_raises_breaks_i10_and_keeps_the_cause(monkeypatch):
    def change(effects, event):
        if isinstance(event, MessageReceived) and isinstance(event.envelope.message, Ping):
            raise KeyError("peer-9")
        return effects

    _change_effects(monkeypatch, change)
    broken = _broken(Simulation(3))
    assert (broken.invariant, broken.peer) == ("I10", "peer-1")
    assert isinstance(broken.__cause__, KeyError)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda e, event: [*e, *(x for x in e if isinstance(x, Release))], "releases version"),
        (lambda e, event: sorted(e, key=lambda x: not isinstance(x, Release)), "which is not pinned"),
        (lambda e, event: [x for x in e for _ in range(2 if isinstance(x, Mix) else 1)], "which is not"),
    ],
)
def test_effects_that_break_the_drivers_contract_are_seen(monkeypatch, change, told):
    _change_effects(monkeypatch, change)
    broken = _broken(Simulation(3))
    assert broken.invariant == "driver contract"
    assert told in broken.detail


def test_a_deadline_that_never_moves_is_seen(monkeypatch):
    monkeypatch.setattr(PeerProtocol, "next_deadline", lambda self: 1.0)
    broken = _broken(Simulation(2))
    assert "deadlines fell due" in broken.detail


def test_the_message_tells_how_to_replay(monkeypatch):
    _change_effects(monkeypatch, lambda effects, event: [e for e in effects if not isinstance(e, Release)])
    broken = _broken(Simulation(3, seed=11, faults=FaultSchedule().stall(0, 50.0, 1.0)))
    text = str(broken)
    assert "seed 11" in text
    assert "python -m sim failing.toml" in text
    assert 'kind = "stall"' in text


def test_nothing_is_found_where_nothing_is_broken():
    report = Simulation(4, faults=FaultSchedule().crash(1, 5.0).restart(1, 20.0)).run(150.0)
    report.require("graph connected", "Exchanged", "PeerDied")
