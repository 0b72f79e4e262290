"""Pairwise averaging: committed by both ends or by none, so that the sum of all peers' values stays.

What holds, and is tested here. For every exchange between two processes that go on living and never take each other
for dead, both ends commit or neither does: whatever is slow, late, lost, doubled, crossing, refused, frozen or suspected,
and whoever else is killed. When one end of an exchange is killed, the other may have committed with it; then the sum of
the survivors moves by that one correction, `pair_weight` times the difference of the two snapshots, and by nothing else.
"""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gossiptrain.protocol.budget import SendLimits
from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.effects import Discard, Effect, ExpectSnapshot, Mix, Notify, Release, Send, SendSnapshot
from gossiptrain.protocol.exchange import PairExchange
from gossiptrain.protocol.membership import Member
from gossiptrain.protocol.messages import Abort, Accept, ExchangeId, Offer, Received, Reject, TransferKey
from gossiptrain.protocol.notices import Exchanged, ExchangeFailed, PeerDied, PeerSuspected, SnapshotRefused
from tests.protocol.virtual_network import VirtualNetwork, config, equals

TOLERANCE = 1e-9


def sum_at_start(size: int) -> float:
    return size * (size - 1) / 2


def trouble(net: VirtualNetwork, kinds: set[str], seconds: float) -> None:
    """Hurts the network for a while, as its own seed says."""
    chance = net.chance
    if "loss" in kinds:
        net.loses = lambda source, target: chance.uniform() < 0.1
    if "doubles" in kinds:
        net.doubles = lambda source, target: chance.uniform() < 0.2
    if "nan" in kinds:
        net.spoil = lambda key: "non-finite" if chance.uniform() < 0.03 else None
    end_s = net.now + seconds
    while net.now < end_s:
        net.run(net.now + 1.5 * chance.uniform())
        name = chance.choice(sorted(net.peers))
        if "freeze" in kinds:
            net.freeze(name, 5.0 * chance.uniform())
        if "cut" in kinds:
            net.partition([name], for_s=3.0 * chance.uniform())


ALL = frozenset({"loss", "doubles", "nan", "freeze", "cut"})


@pytest.mark.slow
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(2, 7),
    kinds=st.sets(st.sampled_from(sorted(ALL))),
    weight=st.sampled_from([0.5, 0.3]),
    delays_s=st.sampled_from([(0.0001, 0.001), (0.0001, 0.5), (0.02, 0.001), (0.02, 0.5)]),
)
@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_the_sum_of_all_values_stays_whatever_the_network_does(
    seed: int, size: int, kinds: set[str], weight: float, delays_s: tuple[float, float]
) -> None:
    net = equals(size, seed, pace=2, pair_weight=weight)
    net.delay_s, net.transfer_s = delays_s
    trouble(net, kinds, 6.0)
    net.quieten()
    assert net.total() == pytest.approx(sum_at_start(size), abs=TOLERANCE)
    assert all(peer.told(PeerDied) == [] for peer in net.peers.values())


@pytest.mark.slow
def test_sixteen_peers_of_very_unequal_speed_converge_to_the_mean() -> None:
    net = equals(16, seed=5, pace=2)
    for index, peer in enumerate(net.peers.values()):
        peer.step_s = 0.1 * 1.2**index
    net.run(20.0)
    net.quieten()
    assert net.total() == pytest.approx(sum_at_start(16), abs=TOLERANCE)
    assert net.spread() < 0.01


def test_two_peers_meet_in_the_middle_after_one_exchange() -> None:
    net = equals(2)
    net.run(1.5)
    assert [peer.value for peer in net.peers.values()] == [0.5, 0.5]


def test_a_smaller_weight_moves_each_peer_by_that_part_of_the_difference() -> None:
    net = equals(2, pair_weight=0.125)
    net.run(2.0)
    one, other = net.peers.values()
    net.run(2.0 + 0.01)
    while len(one.mixes) != len(other.mixes):
        net.run(net.now + 0.01)
    distance = abs(net._settled(one) - net._settled(other))
    assert len(one.mixes) > 3
    assert distance == pytest.approx((1 - 2 * 0.125) ** len(one.mixes))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_after_a_death_the_sum_of_the_others_moves_only_by_exchanges_with_the_dead(seed: int) -> None:
    size = 6
    net = equals(size, seed, pace=2)
    net.run(1.0 + net.chance.uniform())
    victim = net["peer-3"]
    boot, before = victim.protocol.config.boot, net.total() - net._settled(victim)
    done = {peer.name: len(peer.mixes) for peer in net.living()}
    net.kill("peer-3")
    net.quieten()
    with_the_dead = [
        peer.name
        for peer in net.living()
        for _, mix in peer.mixes[done[peer.name] :]
        if any(key.sender_boot == boot for key, _ in mix.inbox)
    ]
    assert len(with_the_dead) <= 1, "a peer has one slot, so a death can catch it in one exchange at most"
    drift = abs(net.total() - before)
    assert drift < TOLERANCE if not with_the_dead else drift <= 0.5 * size


@pytest.mark.slow
def test_a_frozen_partner_costs_nobody_a_step_and_is_left_out() -> None:
    net = equals(5, seed=2, pace=4)
    net.run(3.0)
    net.freeze("peer-1", 10.0)
    net.run(12.9)
    others = [peer for peer in net.living() if peer.name != "peer-1"]
    for peer in others:
        assert peer.longest_gap_s(3.0) <= peer.step_s * 1.001, "no step ever waits"
        assert peer.told_at(PeerSuspected)[0] < 3.0 + 3.0 + 1.1
        late = [n for t, n in peer.notices if t > 7.2 and isinstance(n, Exchanged)]
        assert len(late) > 10
        assert all("peer-1" not in notice.partners for notice in late)
    net.quieten()
    assert net.total() == pytest.approx(sum_at_start(5), abs=TOLERANCE)


def test_an_offer_that_nobody_answers_ends_at_its_time_out_and_others_are_asked() -> None:
    net = equals(3, seed=1)
    net.run(2.0)
    net.freeze("peer-2", 2.9)
    net.run(2.0 + 3.5)
    silent = [n for p in net.peers.values() for n in p.told(ExchangeFailed) if n.reason == "no answer"]
    assert all(notice.partner == "peer-2" for notice in silent)
    assert all(len([t for t, n in p.notices if isinstance(n, Exchanged) and t > 5.1]) > 1 for p in net.peers.values())


@pytest.mark.slow
def test_a_peer_that_sends_nan_is_left_alone_for_longer_each_time_and_the_others_go_on() -> None:
    net = equals(3, seed=4, pace=4)
    net.run(1.0)
    net.spoil = lambda key: "non-finite" if key.sender_boot == 1002 else None
    net.run(40.0)
    net.rests = True
    net.run(41.0)
    times_s = [t for t, n in net["peer-0"].notices if isinstance(n, SnapshotRefused)]
    assert {n.peer for n in net["peer-0"].told(SnapshotRefused)} == {"peer-2"}
    assert [b - a >= pause for a, b, pause in zip(times_s, times_s[1:], (10.0, 20.0))] == [True, True]
    healthy = [n for n in net["peer-0"].told(Exchanged) if n.partners == ("peer-1",)]
    assert len(healthy) > 30
    assert net.total() == pytest.approx(sum_at_start(3), abs=TOLERANCE)
    assert net["peer-0"].protocol.counters["snapshot_non-finite"] == 3


@pytest.mark.slow
def test_when_all_is_quiet_nothing_is_pinned_expected_or_kept() -> None:
    net = equals(6, seed=3)
    net.run(5.0)
    net.quieten()
    for peer in net.peers.values():
        assert peer.holds() == {"pins": 0, "expected": 0, "arrived": 0}


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["one_peer_exponential", "base_k", "random_matchings"])
def test_time_varying_graphs_keep_mixing_where_rounds_leave_somebody_out(topology: str) -> None:
    """A peer whose round pairs it with nobody, or with a frozen peer, goes on to the next."""
    net = equals(5, seed=1, topology=topology, pace=2)
    net.run(4.0)
    net.freeze("peer-4", 8.0)
    net.run(12.0)
    for peer in net.living():
        if peer.name != "peer-4":
            assert len([t for t in peer.told_at(Exchanged) if t > 7.5]) > 5
    net.run(14.0)
    assert net.spread() < 0.01


# One part alone, its partner played by hand


class Alone:
    """A `PairExchange` named "b" whose partners "a" and "c" are played by the test."""

    def __init__(self) -> None:
        self.members = {n: Member(n, i, f"control:{n}", f"data:{n}") for i, n in enumerate("abc", start=1)}
        self.part = PairExchange(config("b", 2, boot=2), Chance(0), self.members.get)
        self.part.boundary(1, 0)

    def begin(self, *names: str, now: float = 0.0) -> Offer:
        return next(e.message for e in self.part.begin(names, now) if isinstance(e, Send))  # type: ignore[return-value]

    def sent(self, effects: list[Effect]) -> list[object]:
        return [effect.message for effect in effects if isinstance(effect, Send)]


def kinds(effects: list[Effect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def test_of_crossing_offers_that_of_the_smaller_name_stands() -> None:
    alone = Alone()
    a, c = alone.members["a"], alone.members["c"]
    offer = alone.begin("a")
    effects = alone.part.offered(Offer(ExchangeId(1, 7), "pair", 0, 1), a, 0.0)
    assert Discard(TransferKey(1, offer.exchange)) in effects
    assert alone.sent(effects) == [Accept(ExchangeId(1, 7), 1)]
    other = Alone()
    other.begin("c")
    effects = other.part.offered(Offer(ExchangeId(3, 7), "pair", 0, 1), c, 0.0)
    assert alone.sent(effects) == [Reject(ExchangeId(3, 7), "busy", 0)]


def test_the_slot_is_free_again_only_when_the_correction_is_in_a_snapshot() -> None:
    alone = Alone()
    a = alone.members["a"]
    exchange = alone.begin("a").exchange
    alone.part.accepted(Accept(exchange, 1), a, 0.1)
    alone.part.snapshot_received(TransferKey(1, exchange), 0.2)
    effects = alone.part.received(Received(exchange, False), a, 0.3)
    assert kinds(effects) == ["Mix", "Release", "Notify"]
    alone.part.boundary(2, 0)
    assert alone.part.begin(("a", "c"), 0.4) == [], "the snapshot of this boundary lacks the correction"
    assert not alone.part.is_idle()
    alone.part.boundary(3, 1)
    assert alone.part.begin(("a", "c"), 0.5) != []


def test_a_false_word_of_holding_what_was_never_sent_commits_nothing() -> None:
    alone = Alone()
    a = alone.members["a"]
    exchange = alone.begin("a").exchange
    assert alone.part.received(Received(exchange, False), a, 0.1) == []
    effects = alone.part.accepted(Accept(exchange, 1), a, 0.2)
    effects += alone.part.snapshot_received(TransferKey(1, exchange), 0.3)
    assert not any(isinstance(effect, Mix) for effect in effects)
    assert "Mix" in kinds(alone.part.received(Received(exchange, False), a, 0.4))


def test_an_offer_accept_or_reject_that_comes_twice_changes_nothing() -> None:
    alone = Alone()
    a = alone.members["a"]
    exchange = alone.begin("a").exchange
    assert "SendSnapshot" in kinds(alone.part.accepted(Accept(exchange, 1), a, 0.1))
    assert alone.part.accepted(Accept(exchange, 1), a, 0.1) == []
    assert alone.part.rejected(Reject(exchange, "busy", 0), a, 0.1) == []
    other = Alone()
    offer = Offer(ExchangeId(1, 7), "pair", 0, 1)
    assert other.part.offered(offer, a, 0.0) != []
    assert other.part.offered(offer, a, 0.0) == []


@pytest.mark.parametrize("end", ["committed", "aborted", "refused"])
def test_an_offer_said_again_when_its_exchange_is_over_opens_nothing(end: str) -> None:
    """Else the snapshot under its key could come again too, with another's values, while the initiator is busy."""
    alone = Alone()
    a = alone.members["a"]
    offer = Offer(ExchangeId(1, 7), "pair", 0, 1)
    if end == "refused":
        alone.part.boundary(None, 0)
    alone.part.offered(offer, a, 0.0)
    if end == "committed":
        alone.part.snapshot_received(TransferKey(1, offer.exchange), 0.1)
        assert "Mix" in kinds(alone.part.received(Received(offer.exchange, False), a, 0.2))
    elif end == "aborted":
        alone.part.aborted(Abort(offer.exchange, "over"), a, 0.2)
    alone.part.boundary(2, 1)
    effects = alone.part.offered(offer, a, 0.3)
    effects += alone.part.snapshot_received(TransferKey(1, offer.exchange), 0.4)
    effects += alone.part.received(Received(offer.exchange, False), a, 0.5)
    assert kinds(effects) == ["Discard"]
    assert isinstance(alone.sent(alone.part.offered(Offer(ExchangeId(1, 8), "pair", 0, 1), a, 0.6))[0], Accept)


def test_another_process_under_a_known_name_begins_to_number_anew() -> None:
    alone = Alone()
    a, reborn = alone.members["a"], Member("a", 9, "control:a", "data:a")
    alone.part.offered(Offer(ExchangeId(1, 8), "pair", 0, 1), a, 0.0)
    alone.part.aborted(Abort(ExchangeId(1, 8), "over"), a, 0.1)
    assert isinstance(alone.sent(alone.part.offered(Offer(ExchangeId(9, 1), "pair", 0, 1), reborn, 0.2))[0], Accept)


def in_doubt(alone: Alone, name: str = "a", now: float = 0.0) -> ExchangeId:
    exchange = alone.begin(name, now=now).exchange
    member = alone.members[name]
    alone.part.accepted(Accept(exchange, 1), member, now)
    alone.part.snapshot_received(TransferKey(member.boot, exchange), now)
    return exchange


def test_a_peer_in_doubt_gives_up_neither_for_a_suspicion_nor_for_the_deadline() -> None:
    for hurt in ("suspect", "deadline"):
        alone = Alone()
        exchange = in_doubt(alone)
        effects = alone.part.peer_lost("a", False, 1.0) if hurt == "suspect" else alone.part.tick(1000.0)
        assert not any(isinstance(e, (Release, Discard)) for e in effects)
        assert alone.part.begin(("a",), 1001.0) == [], "no other exchange with a partner in doubt"
        assert alone.sent(alone.part.begin(("c",), 1001.0)) != [], "but with others"
        effects = alone.part.received(Received(exchange, False), alone.members["a"], 1002.0)
        assert kinds(effects) == ["Mix", "Release", "Notify"]


def test_a_peer_in_doubt_asks_again_and_an_abort_ends_it() -> None:
    alone = Alone()
    exchange = in_doubt(alone)
    assert alone.sent(alone.part.tick(alone.part.next_deadline())) == [Received(exchange, again=True)]
    assert alone.part.next_deadline() == 4.0
    effects = alone.part.aborted(Abort(exchange, "over"), alone.members["a"], 3.0)
    assert kinds(effects)[:3] == ["Discard", "CancelSnapshot", "Release"]


def test_who_asks_again_learns_whether_the_other_committed() -> None:
    alone = Alone()
    a = alone.members["a"]
    exchange = in_doubt(alone)
    alone.part.received(Received(exchange, False), a, 0.5)
    assert alone.sent(alone.part.received(Received(exchange, True), a, 1.0)) == [Received(exchange, False)]
    other = ExchangeId(1, 99)
    assert isinstance(alone.sent(alone.part.received(Received(other, True), a, 1.0))[0], Abort)
    assert alone.part.received(Received(other, False), a, 1.0) == [], "two peers must not answer each other for ever"


def test_only_a_few_exchanges_are_kept_in_doubt() -> None:
    alone = Alone()
    alone.members |= {f"x{i}": Member(f"x{i}", 100 + i, f"control:x{i}", f"data:x{i}") for i in range(5)}
    for index in range(5):
        in_doubt(alone, f"x{index}", now=float(index))
        alone.part.peer_lost(f"x{index}", False, index + 0.5)
    assert len(alone.part.busy_with()) == SendLimits().asides_max
    assert alone.part.busy_with() == {"x3", "x4"}


def test_death_ends_every_doubt_and_gives_back_what_it_held() -> None:
    alone = Alone()
    in_doubt(alone)
    alone.part.peer_lost("a", False, 1.0)
    effects = alone.part.peer_lost("a", True, 2.0)
    assert kinds(effects)[:3] == ["Discard", "CancelSnapshot", "Release"]
    assert alone.part.is_idle()


def test_a_late_accept_is_answered_with_an_abort() -> None:
    alone = Alone()
    a = alone.members["a"]
    exchange = alone.begin("a").exchange
    alone.members.pop("a")
    alone.part.tick(3.0)
    assert isinstance(alone.sent(alone.part.accepted(Accept(exchange, 1), a, 3.1))[0], Abort)


def test_a_quarantined_peer_may_not_offer_either() -> None:
    alone = Alone()
    a = alone.members["a"]
    offer = Offer(ExchangeId(1, 7), "pair", 0, 1)
    alone.part.offered(offer, a, 0.0)
    effects = alone.part.snapshot_rejected(TransferKey(1, offer.exchange), "non-finite", 0.1)
    assert Notify(SnapshotRefused("a", "non-finite")) in effects
    again = Offer(ExchangeId(1, 8), "pair", 0, 1)
    assert alone.sent(alone.part.offered(again, a, 5.0)) == [Reject(again.exchange, "busy", 0)]
    later = Offer(ExchangeId(1, 9), "pair", 0, 1)
    assert isinstance(alone.sent(alone.part.offered(later, a, 10.2))[0], Accept)


def test_an_exchange_sends_the_snapshot_of_the_last_boundary_and_expects_the_partners() -> None:
    alone = Alone()
    alone.part.boundary(5, 0)
    effects = alone.part.offered(Offer(ExchangeId(1, 7), "pair", 0, 1), alone.members["a"], 0.0)
    mine, theirs = TransferKey(2, ExchangeId(1, 7)), TransferKey(1, ExchangeId(1, 7))
    assert SendSnapshot("data:a", mine, 5) in effects
    assert ExpectSnapshot(theirs, "control:a") in effects


def test_without_neighbours_nothing_is_scheduled() -> None:
    alone = Alone()
    assert alone.part.begin((), 0.0) == []
    assert alone.part.next_deadline() == float("inf")
