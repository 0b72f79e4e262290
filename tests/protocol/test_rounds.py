"""Synchronous rounds are x <- W x with Metropolis-Hastings weights, and a lost neighbour costs one edge, not the run.

What holds: without losses an edge is mixed by both ends or by none, also at the deadline. Training waits here, so doubt
ends: an end in doubt gives the edge up when the link to its neighbour breaks, when its neighbour is suspect and does not
answer within two seconds, or twice the time-out after its start.
"""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

import topologies
from gossiptrain.protocol.config import ExchangeConfig
from gossiptrain.protocol.effects import Effect, Mix, Release, RunSteps, Send
from gossiptrain.protocol.membership import Member
from gossiptrain.protocol.messages import Abort, ExchangeId, Offer, Received, Reject, TransferKey
from gossiptrain.protocol.notices import ExchangeFailed, SnapshotRefused
from gossiptrain.protocol.rounds import NeighbourhoodRounds
from tests.protocol.virtual_network import VirtualNetwork, config, equals

QUICK = ExchangeConfig(round_timeout_s=2.0)


def synchronous(size: int, seed: int = 0, **changes) -> VirtualNetwork:
    return equals(size, seed, **{"kind": "round", "mixer": "d_psgd", **changes})


def slow_start(size: int, **changes) -> VirtualNetwork:
    """All peers know each other before anybody's first boundary, so that the first round has all edges."""
    net = VirtualNetwork()
    for index in range(size):
        seeds = ("control:0",) if index else ()
        peer_config = config(f"peer-{index:02d}", index, founder=True, kind="round", **changes)
        net.add(peer_config, float(index**2 % 7 + index), 2.0 + 0.05 * index, seeds)
    return net


@pytest.mark.parametrize("topology", ["ring", "star", "overlay", "complete", "exponential"])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_rounds_equal_the_naive_loop_with_metropolis_hastings_weights(topology: str, size: int) -> None:
    net = slow_start(size, topology=topology)
    names = sorted(net.peers)
    graph = topologies.family(topology, names, 0)
    degree = dict(graph.degree)
    values = np.array([net[name].value for name in names])
    weights = np.zeros((size, size))
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            if graph.has_edge(one, other):
                weights[i, j] = 1 / (1 + max(degree[one], degree[other]))
        weights[i, i] = 1 - weights[i].sum()
    for rounds in range(1, 5):
        while min(len(net[name].mixes) for name in names) < rounds:
            net.run(net.now + 0.02)
        values = weights @ values
        assert [net._settled(net[name]) for name in names] == pytest.approx(list(values), abs=1e-12)


@pytest.mark.parametrize("topology", ["one_peer_exponential", "hypercube_matchings", "base_k"])
def test_a_schedule_gives_each_round_its_own_graph(topology: str) -> None:
    size = 4
    net = slow_start(size, topology=topology)
    net.run(16.0)
    schedule = topologies.schedule_by_name(topology, size, 0)
    boots = {net[name].protocol.config.boot: place for place, name in enumerate(sorted(net.peers))}
    mixed: dict[int, set[tuple[int, int]]] = {}
    for place, name in enumerate(sorted(net.peers)):
        for _, mix in net[name].mixes:
            for key, weight in mix.inbox:
                # The round is in the key: the exchange that this peer asked for bears its number.
                mixed.setdefault(key.exchange.number, set()).add((place, boots[key.sender_boot]))
                assert 0 < weight <= 0.5
    assert len(mixed) > 3
    for number, pairs in sorted(mixed.items())[:-1]:
        edges = schedule.graph(number).to_undirected().edges
        assert pairs == {pair for a, b in edges for pair in ((a, b), (b, a))}


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 5, 16])
def test_nobody_hurt_nobody_waits_longer_than_the_slowest(size: int) -> None:
    net = synchronous(size, seed=size)
    for index, peer in enumerate(net.peers.values()):
        peer.step_s = 0.05 * (1 + index % 4)
    net.run(12.0)
    for peer in net.peers.values():
        assert peer.longest_gap_s(3.0) < 0.2 + 0.2, "the slowest step and a transfer"
        assert [n for t, n in peer.notices if t > 3.0 and isinstance(n, ExchangeFailed)] == []
    # A round that training stopped in ends at its deadline, and in doubt after twice that.
    net.quieten(mending_s=0.0, resting_s=25.0)
    assert net.total() == pytest.approx(size * (size - 1) / 2, abs=1e-9)
    assert net.spread() < 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_neighbour_costs_its_edges_and_no_time_out(seed: int) -> None:
    net = synchronous(5, seed)
    net.run(2.0 + 0.1 * net.chance.uniform())
    net.kill("peer-2")
    net.run(8.0)
    assert all(peer.longest_gap_s(2.0) < 0.5 for peer in net.living())
    assert net.spread() < 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_a_late_neighbour_delays_once_per_round_at_most_by_the_time_out_and_both_ends_skip_the_edge(seed: int) -> None:
    net = synchronous(4, seed, exchange=QUICK)
    net.run(2.0)
    late = net["peer-1"]
    late.step_s = 2.7
    net.run(25.0)
    for peer in net.living():
        assert peer.longest_gap_s(2.0) < 2.7 + 2.0 + 0.2
        assert {n.partner for n in peer.told(ExchangeFailed) if n.reason == "late"} <= {"peer-1"}
    net.quieten()
    assert net.total() == pytest.approx(6.0, abs=1e-9), "whoever skips, skips on both ends"


def test_a_frozen_neighbour_holds_the_others_up_until_it_is_suspect() -> None:
    net = synchronous(4)
    net.run(2.0)
    net.freeze("peer-1", 12.0)
    net.run(13.9)
    others = [peer for peer in net.living() if peer.name != "peer-1"]
    for peer in others:
        assert peer.longest_gap_s(2.0) < 3.0 + 1.1 + 0.3
        assert len([t for t in peer.step_times_s if 6.5 < t < 13.9]) > 50
    net.run(20.0)
    assert net["peer-1"].protocol.status(net.now).members[0].state == "alive"
    assert net.spread() < 1e-3


def test_a_joiner_takes_the_parameters_and_the_round_number() -> None:
    net = synchronous(3)
    net.run(4.0)
    number = net["peer-0"].protocol._rounds.number
    assert number > 30
    joiner = net.add(config("peer-9", 9, kind="round", mixer="d_psgd"), 99.0, 0.05, seeds=("control:1",))
    net.run(4.5)
    assert joiner.value < 3
    net.run(6.0)
    numbers = {peer.protocol._rounds.number for peer in net.living()}
    assert max(numbers) - min(numbers) <= 1
    assert len(joiner.mixes) > 10
    assert all(peer.longest_gap_s(4.0) < 0.5 for peer in net.living()), "nobody waits for one that has not caught up"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_lost_and_doubled_messages_and_nan_keep_rounds_going_and_the_sum(seed: int) -> None:
    net = synchronous(5, seed, exchange=QUICK)
    chance = net.chance
    net.loses = lambda source, target: chance.uniform() < 0.03
    net.doubles = lambda source, target: chance.uniform() < 0.1
    net.spoil = lambda key: "non-finite" if chance.uniform() < 0.02 else None
    net.run(25.0)
    assert all(peer.longest_gap_s() < 2 * 2.0 + 0.5 for peer in net.living())
    assert all(len(peer.mixes) > 10 for peer in net.living())
    assert any(peer.told(SnapshotRefused) for peer in net.living())
    net.quieten(resting_s=15.0)
    assert net.total() == pytest.approx(10.0, abs=1e-9)
    assert all(peer.holds() == {"pins": 0, "expected": 0, "arrived": 0} for peer in net.living())


def test_weights_are_the_same_at_both_ends() -> None:
    net = slow_start(6, topology="star")
    net.run(10.0)
    given = {}
    for peer in net.living():
        for _, mix in peer.mixes:
            for key, weight in mix.inbox:
                given[key.exchange.number, peer.protocol.config.boot, key.sender_boot] = weight
    assert len(given) > 20
    assert all(given[r, j, i] == weight for (r, i, j), weight in given.items() if (r, j, i) in given)
    last = max(r for r, _, _ in given) - 1
    assert all((r, j, i) in given for r, i, j in given if r <= last)


# One part alone, its neighbours played by hand


class Alone:
    def __init__(self, *names: str) -> None:
        self.members = {n: Member(n, i, f"control:{n}", f"data:{n}") for i, n in enumerate(names, start=1)}
        self.part = NeighbourhoodRounds(config("me", 50, boot=50, founder=True, kind="round"), self.members.get)
        self.now = 0.0

    def begin(self, *names: str) -> list[Effect]:
        return [*self.part.advance(self.now), *self.part.begin(7, names, self.now)]

    def commit(self, name: str) -> list[Effect]:
        return [*self.hold(name), *self.held(name)]

    def hold(self, name: str) -> list[Effect]:
        """The neighbour offers, and its snapshot arrives."""
        member, number = self.members[name], self.part.number
        effects = self.part.offered(Offer(ExchangeId(member.boot, number), "round", number, 3), member, self.now)
        return [*effects, *self.part.snapshot_received(TransferKey(member.boot, ExchangeId(50, number)), self.now)]

    def held(self, name: str) -> list[Effect]:
        """The neighbour says that it holds this peer's snapshot."""
        member = self.members[name]
        return self.part.received(Received(ExchangeId(member.boot, self.part.number), False), member, self.now)


def mixed(effects: list[Effect]) -> list[tuple[int, float]]:
    return [(key.sender_boot, weight) for e in effects if isinstance(e, Mix) for key, weight in e.inbox]


def messages(effects: list[Effect]) -> list[object]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def test_a_round_ends_when_every_edge_is_settled_and_releases_what_it_pinned() -> None:
    alone = Alone("a", "b")
    alone.begin("a", "b")
    assert mixed(alone.commit("a")) == []
    effects = alone.commit("b")
    assert mixed(effects) == [(1, 0.25), (2, 0.25)]
    assert sum(isinstance(effect, Release) for effect in effects) == 2
    assert effects[-1] == RunSteps(4, publish=True)


def test_alone_a_round_is_over_at_once() -> None:
    assert Alone().begin() == [RunSteps(4, publish=True)]


def test_at_the_deadline_an_edge_not_in_doubt_is_aborted_and_one_in_doubt_is_asked_about() -> None:
    alone = Alone("a", "b")
    alone.begin("a", "b")
    alone.hold("a")
    alone.now = alone.part.next_deadline()
    said = messages(alone.part.tick(alone.now))
    assert Received(ExchangeId(50, 1), again=True) in said
    assert Abort(ExchangeId(50, 1), "late") in said
    assert mixed(alone.held("a")) == [(1, 0.25)], "its word still counts"


def test_doubt_ends_twice_the_time_out_after_the_start() -> None:
    alone = Alone("a")
    alone.begin("a")
    alone.hold("a")
    times_s = []
    while alone.part.next_deadline() < float("inf"):
        alone.now = alone.part.next_deadline()
        times_s.append(alone.now)
        effects = alone.part.tick(alone.now)
    assert times_s[0] == 10.0
    assert times_s[-1] == 20.0
    assert effects[-1] == RunSteps(4, publish=True)


@pytest.mark.parametrize("recovers", [False, True])
def test_a_suspect_that_is_in_doubt_is_asked_and_waited_for_only_a_moment(recovers: bool) -> None:
    """Else the others, who have skipped it, wait in the next round for this peer, until their time-out."""
    alone = Alone("a")
    alone.begin("a")
    alone.hold("a")
    alone.members["a"].state = "suspect"
    assert messages(alone.part.peer_lost("a", False, 1.5)) == [Received(ExchangeId(50, 1), again=True)]
    assert alone.part.next_deadline() == 3.5
    if recovers:
        alone.members["a"].state = "alive"
    effects = alone.part.tick(3.5)
    assert (RunSteps(4, publish=True) in effects) == (not recovers)
    assert alone.part.next_deadline() == (10.0 if recovers else float("inf"))


def test_who_asks_about_an_edge_learns_how_it_ended() -> None:
    alone = Alone("a", "b")
    a, b = alone.members["a"], alone.members["b"]
    alone.begin("a", "b")
    alone.commit("a")
    question = Received(ExchangeId(1, 1), again=True)
    assert messages(alone.part.received(question, a, 1.0)) == [Received(ExchangeId(50, 1), False)], "round still open"
    alone.part.peer_lost("b", False, 1.0)
    assert messages(alone.part.received(question, a, 2.0)) == [Received(ExchangeId(50, 1), False)], "round over"
    other = Received(ExchangeId(2, 1), again=True)
    assert isinstance(messages(alone.part.received(other, b, 2.0))[0], Abort)
    alone.begin("a", "b")
    assert messages(alone.part.received(question, a, 2.0)) == [Received(ExchangeId(50, 1), False)], "next round"


def test_a_neighbour_in_a_later_round_settles_the_edge_unless_it_is_in_doubt() -> None:
    for doubt in (True, False):
        alone = Alone("a")
        alone.begin("a")
        if doubt:
            alone.hold("a")
        effects = alone.part.offered(Offer(ExchangeId(1, 2), "round", 2, 1), alone.members["a"], 1.0)
        if doubt:
            assert messages(effects) == [Received(ExchangeId(50, 1), again=True)]
        else:
            assert effects[-1] == RunSteps(4, publish=True)


def test_an_offer_for_a_later_round_waits_and_one_for_an_earlier_is_refused_with_the_number() -> None:
    alone = Alone("a", "b")
    a = alone.members["a"]
    alone.part.offered(Offer(ExchangeId(1, 5), "round", 5, 1), a, 0.0)
    effects = alone.begin("a")
    assert alone.part.number == 5
    assert Offer(ExchangeId(50, 5), "round", 5, 1) in messages(effects)
    assert "SendSnapshot" in [type(effect).__name__ for effect in effects]
    early = Offer(ExchangeId(2, 4), "round", 4, 1)
    assert messages(alone.part.offered(early, alone.members["b"], 0.0)) == [Reject(early.exchange, "over", 5)]


def test_a_late_peer_jumps_to_the_round_of_the_others_at_its_next_boundary() -> None:
    alone = Alone("a")
    alone.begin("a")
    alone.part.rejected(Reject(ExchangeId(50, 1), "over", 40), alone.members["a"], 0.0)
    alone.begin("a")
    assert alone.part.number == 40


def test_an_aborted_offer_that_waits_is_forgotten() -> None:
    alone = Alone("a")
    a = alone.members["a"]
    alone.part.offered(Offer(ExchangeId(1, 1), "round", 1, 1), a, 0.0)
    alone.part.aborted(Abort(ExchangeId(1, 1), "late"), a, 0.0)
    assert "SendSnapshot" not in [type(effect).__name__ for effect in alone.begin("a")]


def test_a_false_word_of_holding_what_was_never_sent_commits_no_edge() -> None:
    alone = Alone("a")
    alone.begin("a")
    alone.held("a")
    effects = alone.part.snapshot_received(TransferKey(1, ExchangeId(50, 1)), 0.0)
    assert mixed(effects) == []


def test_a_boundary_that_did_not_wait_gives_the_open_round_up() -> None:
    alone = Alone("a", "b")
    alone.begin("a", "b")
    alone.commit("a")
    effects = alone.begin("a", "b")
    assert mixed(effects) == [(1, 0.25)]
    assert alone.part.number == 2


def test_one_who_has_not_begun_refuses_at_once() -> None:
    newcomer = NeighbourhoodRounds(config("me", 50, founder=False, kind="round"), lambda name: None)
    offer = Offer(ExchangeId(1, 3), "round", 3, 1)
    effects = newcomer.offered(offer, Member("a", 1, "control:a", "data:a"), 0.0)
    assert messages(effects) == [Reject(offer.exchange, "unready", 0)]


def test_the_consensus_rate_of_rounds_is_the_second_eigenvalue() -> None:
    net = slow_start(8, topology="ring")
    net.run(6.0)
    weights = topologies.metropolis_hastings(nx.cycle_graph(8))
    rate = sorted(abs(np.linalg.eigvalsh(weights)))[-2]
    before, mixes = net.spread(), len(net["peer-00"].mixes)
    net.run(30.0)
    rounds = len(net["peer-00"].mixes) - mixes
    assert (net.spread() / before) ** (1 / rounds) == pytest.approx(rate, rel=0.05)
