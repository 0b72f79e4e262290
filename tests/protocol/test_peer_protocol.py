"""The whole peer: its stories, and that no word from outside, however odd, raises or grows anything."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol import messages as m
from gossiptrain.protocol import wire
from gossiptrain.protocol.effects import (
    Discard,
    Effect,
    ExpectSnapshot,
    Mix,
    Release,
    RunSteps,
    Send,
    SendSnapshot,
)
from gossiptrain.protocol.events import (
    DeadlineReached,
    Event,
    LeaveRequested,
    LinkEvidence,
    MessageReceived,
    SeedsFound,
    SnapshotReceived,
    SnapshotRejected,
    Started,
    StepsCompleted,
    TrafficCounted,
)
from gossiptrain.protocol.handshake import Handshake
from gossiptrain.protocol.notices import Left, MemberStatus, Status
from gossiptrain.protocol.peer_protocol import PeerProtocol
from tests.protocol.test_wire import MESSAGES
from tests.protocol.virtual_network import cluster, config, equals
from tests.protocol.virtual_peer import VirtualPeer

# Few values, so that the random words often meet what is really open.
BOOTS = st.sampled_from([1000, 1001, 1002, 7])
NUMBERS = st.sampled_from([0, 1, 2, 3, 1 << 32, (1 << 32) + 1, (1 << 32) + 2])
ROUNDS = st.sampled_from([0, 1, 2, 3, 40, (1 << 32) - 1])
EXCHANGES = st.builds(m.ExchangeId, BOOTS, NUMBERS)
KEYS = st.builds(m.TransferKey, BOOTS, EXCHANGES)
SENDERS = st.sampled_from([("peer-1", 1001), ("peer-2", 1002), ("peer-1", 7), ("stranger", 7), ("peer-0", 7)])
ADDRESSES = st.sampled_from(["control:0", "control:1", "control:2", "control:77"])


RUMOURS = st.lists(
    st.builds(
        m.MemberEntry,
        st.sampled_from(["peer-0", "peer-1", "peer-2", "peer-9"]),
        BOOTS,
        ADDRESSES,
        ADDRESSES,
        incarnation=st.sampled_from([0, 1, 2, m.INCARNATION_MAX - 1]),
        state=st.sampled_from(m.STATES),
        caught_up=st.booleans(),
        busy_s=st.sampled_from([0.0, 3.0]),
        accuser=st.sampled_from(["", "peer-1", "peer-2"]),
        refused=st.booleans(),
    ),
    max_size=3,
).map(tuple)


def hellos(index: int, boot: int, address: str) -> m.Hello:
    peer = config(f"peer-{index}", index, boot=boot, control_address=address, founder=True)
    return Handshake(peer).hello(3, True, wants_reply=boot % 2 == 0)


WORDS = st.one_of(
    st.builds(m.Offer, EXCHANGES, st.sampled_from(["pair", "round", "pull", "?"]), ROUNDS, st.integers(0, 4)),
    st.builds(m.Accept, EXCHANGES, st.just(1)),
    st.builds(m.Reject, EXCHANGES, st.sampled_from(["busy", "over"]), ROUNDS),
    st.builds(m.Received, EXCHANGES, st.booleans()),
    st.builds(m.Abort, EXCHANGES, st.just("x")),
    st.builds(m.Ping, st.just(1), st.just(2), st.integers(0, 3)),
    st.builds(m.Ack, st.integers(0, 3), st.just(2), st.integers(0, 3), RUMOURS),
    st.builds(m.Gossip, RUMOURS),
    st.builds(m.Sync, RUMOURS, st.booleans()),
    st.builds(m.PingRequest, st.integers(0, 3), st.sampled_from(["peer-0", "peer-1", "peer-2"]), RUMOURS),
    st.builds(m.PingResult, st.integers(0, 3), st.booleans()),
    st.builds(hellos, st.integers(0, 3), BOOTS, ADDRESSES),
    st.just(m.Leave("bye")),
    st.builds(m.StatusRequest, ADDRESSES),
    *(strategy for kind, strategy in MESSAGES.items() if kind not in (m.Hello,)),
)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(lambda sender, word: MessageReceived(m.Envelope(*sender, word)), SENDERS, WORDS),
    st.builds(SnapshotReceived, KEYS),
    st.builds(SnapshotRejected, KEYS, st.sampled_from(["non-finite", "size"])),
    st.builds(StepsCompleted, st.integers(1, 99), st.sampled_from([None, 5, 6]), st.integers(0, 9)),
    st.builds(
        LinkEvidence, ADDRESSES, st.sampled_from(["control", "data"]), st.sampled_from(["up", "down", "refused"])
    ),
    st.builds(SeedsFound, st.lists(ADDRESSES, max_size=2).map(tuple)),
    st.just(DeadlineReached()),
)


class Ledger:
    """What a driver keeps for a protocol, and what each of its effects must find there."""

    def __init__(self) -> None:
        self.expected: set[m.TransferKey] = set()
        self.pins: Counter[int] = Counter()

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(_, message):
                    wire.decode(wire.encode(m.Envelope("peer-0", 1000, message)))
                case ExpectSnapshot(key, _):
                    assert key not in self.expected
                    self.expected.add(key)
                case Discard(key):
                    self.expected.discard(key)
                case SendSnapshot(_, _, version):
                    self.pins[version] += 1
                case Mix(version, inbox):
                    assert self.pins[version] > 0
                    assert 0 < sum(weight for _, weight in inbox) <= 1
                    self.expected -= {key for key, _ in inbox}
                case Release(version):
                    self.pins[version] -= 1
                    assert self.pins[version] >= 0
        assert len(self.expected) <= 8
        assert self.pins.total() <= 8


def feed(protocol: PeerProtocol, ledger: Ledger, events: list[Event]) -> None:
    """Feeds events half a second apart, a snapshot only where one is expected, and lets each deadline come."""
    now = 0.0
    for event in events:
        now += 0.5
        if isinstance(event, (SnapshotReceived, SnapshotRejected)) and event.transfer not in ledger.expected:
            continue
        ledger.carry_out(protocol.handle(event, now))
        for _ in range(3):
            if protocol.next_deadline() <= now:
                ledger.carry_out(protocol.handle(DeadlineReached(), now))
        assert protocol.next_deadline() > now, "a deadline that nothing settles"


def started(kind: str, founder: bool, ledger: Ledger | None = None) -> PeerProtocol:
    ledger = ledger or Ledger()
    protocol = PeerProtocol(config("peer-0", 0, kind=kind, founder=founder, expects_seeds=True))
    ledger.carry_out(protocol.handle(Started(), 0.0))
    ledger.carry_out(protocol.handle(StepsCompleted(1, 4, 0), 0.0))
    for index in (1, 2):
        hello = hellos(index, 1000 + index, f"control:{index}")
        ledger.carry_out(protocol.handle(MessageReceived(m.Envelope(f"peer-{index}", 1000 + index, hello)), 0.0))
    return protocol


@pytest.mark.slow
@given(st.sampled_from(["pair", "round"]), st.booleans(), st.lists(EVENTS, min_size=10, max_size=60))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_no_word_from_outside_raises_pins_for_ever_or_hurries_the_clock(
    kind: str, founder: bool, events: list[Event]
) -> None:
    ledger = Ledger()
    feed(started(kind, founder, ledger), ledger, events)


def test_alone_a_peer_asks_for_no_snapshots_and_with_others_it_does() -> None:
    protocol = PeerProtocol(config("peer-0", 0))
    assert not any(isinstance(effect, RunSteps) for effect in protocol.handle(Started(), 0.0))
    effects = protocol.handle(MessageReceived(m.Envelope("peer-1", 1001, hellos(1, 1001, "control:1"))), 1.0)
    assert RunSteps(4, publish=True) in effects
    effects = protocol.handle(MessageReceived(m.Envelope("peer-1", 1001, m.Leave("done"))), 2.0)
    assert RunSteps(4, publish=False) in effects


def test_a_survivor_of_all_others_trains_on_alone() -> None:
    net = cluster(4, pace=4)
    net.run(3.0)
    for index in (0, 1, 3):
        net.kill(f"peer-{index}")
    net.run(12.0)
    survivor = net["peer-2"]
    assert survivor.protocol.living() == ("peer-2",)
    assert survivor.longest_gap_s() < 0.29
    assert not survivor.publish
    assert sum(survivor.holds().values()) == 0


def test_the_status_tells_what_the_transport_has_counted() -> None:
    net = cluster(2, pace=4)
    net.run(2.0)
    peer = net["peer-0"]
    net.give(peer, MessageReceived(m.Envelope("stranger", 5, m.Leave("x"))))
    net.give(peer, TrafficCounted({"bytes_sent": 1234, "no_link": 1}))
    assert peer.protocol.status(net.now).counters == {"bytes_sent": 1234, "no_link": 1, "message_from_stranger": 1}


def test_a_goodbye_gives_everything_back_and_nothing_is_done_afterwards() -> None:
    for kind in ("pair", "round"):
        net = equals(4, kind=kind)
        net.run(2.013)
        peer = net["peer-1"]
        net.give(peer, LeaveRequested("x" * 5000))
        assert peer.told(Left) == [Left("x" * 5000, peer.steps)]
        assert peer.holds() == {"pins": 0, "expected": 0, "arrived": 0}
        assert peer.protocol.next_deadline() == float("inf")
        count = len(peer.notices)
        net.run(4.0)
        assert len(peer.notices) == count
        assert all(peer.name not in other.protocol.living() for other in net.living() if other is not peer)


def status_of(peer: VirtualPeer, now: float) -> Status:
    return peer.protocol.status(now)


def test_the_status_tells_step_graph_members_and_counters() -> None:
    net = equals(3, topology="path", pace=4)
    net.run(4.0)
    status = status_of(net["peer-0"], net.now)
    assert (status.name, status.run_id, status.topology, status.caught_up) == ("peer-0", "run", "path", True)
    assert status.step == net["peer-0"].steps
    assert [(member.name, member.neighbour) for member in status.members] == [("peer-1", True), ("peer-2", False)]
    assert all(0 <= member.silent_s < 1.1 for member in status.members)
    assert all(abs(member.step - net[member.name].steps) < 12 for member in status.members)
    assert json.loads(status.to_json())["members"][0]["name"] == "peer-1"


def test_a_status_of_very_many_members_fits_into_a_message() -> None:
    lines = tuple(MemberStatus("n" * 128, "a" * 256, "alive", 1, 0.5, False) for _ in range(256))
    status = Status("me", "run", 1, 1, True, "overlay", "m", lines, {})
    reply = m.Envelope("me", 1, m.StatusReply(status.to_json()))
    assert wire.decode(wire.encode(reply)) == reply
    assert len(json.loads(status.to_json())["members"]) > 50


def test_an_offer_in_the_name_of_another_process_is_refused_and_counted() -> None:
    protocol = started("pair", True)
    offer = m.Offer(m.ExchangeId(1002, 5), "pair", 0, 1)
    effects = protocol.handle(MessageReceived(m.Envelope("peer-1", 1001, offer)), 0.1)
    assert Send("control:1", m.Reject(offer.exchange, "busy", 0)) in effects
    assert protocol.counters["offer_unexpected"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "x" * 129},
        {"pair_weight": 0.6},
        {"pair_weight": 0.0},
        {"kind": "star"},
        {"run_id": ""},
        {"run_id": "x" * 257},
        {"control_address": ""},
        {"boot": 1 << 64},
        {"boot": -1},
    ],
)
def test_a_setting_that_cannot_work_is_refused_naming_itself_and_its_value(changes: dict) -> None:
    values = {**{"name": "peer"}, **changes}
    ((key, value),) = changes.items()
    with pytest.raises(ConfigurationError, match=f"{key}="):
        config(values.pop("name"), 0, **values)
    assert value == changes[key]
