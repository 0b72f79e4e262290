"""A limited line: exchanges begin when it is free, nobody reaches a time-out, and the mean stays."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol import messages as m
from gossiptrain.protocol.budget import Line, SendLimits, is_local, least_mbps
from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.config import ExchangeConfig
from gossiptrain.protocol.donating import Donor
from gossiptrain.protocol.effects import Effect, Mix, Send, SendPiece, SendSnapshot
from gossiptrain.protocol.events import StateFrozen
from gossiptrain.protocol.exchange import PairExchange
from gossiptrain.protocol.member_table import Member
from gossiptrain.protocol.notices import Exchanged, ExchangeFailed, Joined
from gossiptrain.protocol.open_exchange import PULL_NUMBERS
from tests.protocol.virtual_network import VirtualNetwork, config

SNAPSHOT_BYTES = 1_000_000
MBPS = 4.0  # a snapshot takes two seconds


class SlowLines(VirtualNetwork):
    """Snapshots leave a peer one after the other, at the rate of its line; the others' lines have no limit."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.given: dict[str, list[float]] = {}
        self._line_free_s: dict[str, float] = {}
        self.queued_s = 0.0

    def _send_snapshot(self, peer, address: str, key: m.TransferKey, value: float) -> None:
        self.given.setdefault(peer.name, []).append(self.now)
        mbps = peer.protocol.config.limits.max_mbps
        begins_s = max(self.now, self._line_free_s.get(peer.name, 0.0))
        self.queued_s = max(self.queued_s, begins_s - self.now)
        lasts_s = SNAPSHOT_BYTES * 8e-6 / mbps if mbps else 0.01
        self._line_free_s[peer.name] = begins_s + lasts_s
        target = self.by_address[address]
        self.at(begins_s + lasts_s, lambda: self._arrive(peer, target, key, value))


def network(size: int, limited: set[int], **changes) -> SlowLines:
    """Founders, some of them with a limited line."""
    net = SlowLines()
    for index in range(size):
        limits = SendLimits(max_mbps=MBPS) if index in limited else SendLimits()
        peer_config = config(
            f"peer-{index}",
            index,
            founder=True,
            snapshot_bytes=SNAPSHOT_BYTES,
            limits=limits,
            **{"exchange": ExchangeConfig(round_timeout_s=8.0), **changes},
        )
        net.add(peer_config, float(index), 0.1, ("control:0",) if index else ())
    return net


def failures(net: VirtualNetwork) -> list[str]:
    return [notice.reason for peer in net.peers.values() for notice in peer.told(ExchangeFailed)]


def test_a_peer_with_a_limited_line_gives_a_snapshot_only_when_the_last_one_has_left():
    net = network(4, limited={1})
    net.run(60.0)
    times_s = net.given["peer-1"]
    assert all(after - before >= 2.0 - 1e-9 for before, after in itertools.pairwise(times_s))
    assert len(times_s) >= 0.8 * 60 / 2, "the budget is there to be used"
    assert net.queued_s == 0.0
    assert failures(net) == []


def test_the_others_exchange_among_themselves_meanwhile():
    limited, free = network(4, limited={1}), network(4, limited=set())
    limited.run(30.0)
    free.run(30.0)
    among_others = [
        len([n for n in net["peer-0"].told(Exchanged) if n.partners != ("peer-1",)]) for net in (limited, free)
    ]
    # A third of its exchanges were with the limited one, and its slot is held for two seconds now and then.
    assert among_others[0] > 0.3 * among_others[1]


def test_the_sum_stays_and_peers_meet_when_every_line_is_limited():
    net = network(4, limited={0, 1, 2, 3})
    net.run(80.0)
    net.quieten()
    assert net.total() == pytest.approx(6.0, abs=1e-9)
    assert net.spread() < 0.1
    assert failures(net) == []


def test_training_never_waits_for_the_line():
    net = network(3, limited={0, 1, 2})
    net.run(20.0)
    assert all(peer.longest_gap_s(1.0) < 0.11 for peer in net.peers.values())


def test_a_newcomer_gets_its_state_over_a_limited_line_beside_exchanges():
    net = network(3, limited={0, 1, 2})
    net.run(5.0)
    net.state_bytes = 3 * SNAPSHOT_BYTES
    limits = SendLimits(max_mbps=MBPS)
    newcomer = net.add(
        config("peer-9", 9, snapshot_bytes=SNAPSHOT_BYTES, limits=limits), 99.0, 0.1, seeds=("control:0",)
    )
    net.run(60.0)
    assert newcomer.told(Joined)
    assert failures(net) == []
    assert min(len(net[f"peer-{index}"].told(Exchanged)) for index in range(3)) >= 5


def test_a_synchronous_peer_leaves_out_whom_its_line_has_no_room_for():
    net = network(4, limited={1}, kind="round", mixer="d_psgd", topology="complete")
    net.run(60.0)
    times_s = net.given["peer-1"]
    assert times_s
    # One of its three edges fits into a quarter of a round's eight seconds.
    assert len(times_s) * 2.0 <= 60.0 + 4.0
    assert "late" not in failures(net)
    net.quieten()
    assert net.total() == pytest.approx(6.0, abs=1e-9)
    assert all(peer.longest_gap_s(3.0) < 4.0 + 0.5 for peer in net.peers.values()), (
        "half of a round's time-out, no longer"
    )


def test_a_limit_of_memory_bounds_the_edges_of_a_round():
    line = Line(SendLimits(edges_max=2))
    others = [(name, f"tcp://10.0.0.{index}:1") for index, name in enumerate("bcdef")]
    assert len(line.affordable("a", others, nbytes=1, turn=3, timeout_s=1.0, now=0.0)) == 2


@settings(max_examples=30, deadline=None)
@given(names=st.sets(st.text(min_size=1, max_size=4), min_size=2, max_size=6), turn=st.integers(0, 99))
def test_with_room_for_one_edge_at_least_one_pair_of_a_complete_graph_agrees(names, turn):
    """Both ends rank an edge alike, so the first of all is the first for both."""
    chosen = {}
    for name in names:
        line = Line(SendLimits(edges_max=1))
        others = [(other, "tcp://h:1") for other in names if other != name]
        chosen[name] = line.affordable(name, others, nbytes=1, turn=turn, timeout_s=1.0, now=0.0)
    assert any(name in chosen[other] for name in names for other in chosen[name])


@given(
    mbps=st.floats(0.5, 1000),
    gifts=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 10_000_000)), min_size=1, max_size=30),
)
def test_what_is_given_to_a_free_line_never_exceeds_its_rate_by_more_than_the_last_gift(mbps, gifts):
    line, now, total, address = Line(SendLimits(max_mbps=mbps)), 0.0, 0, "tcp://10.0.0.1:1"
    for pause_s, nbytes in gifts:
        now += pause_s
        if line.is_free(address, now):
            assert total <= now * mbps * 125e3 + 1.0 or total == 0
            line.spend(address, nbytes, now)
            total += nbytes
        assert line.free_at_s(address) >= total / (mbps * 125e3) * (1 - 1e-9)


def test_what_goes_through_shared_memory_is_free():
    line = Line(SendLimits(max_mbps=1.0, local_hosts=("127.", "10.0.0.1")))
    for address in ("tcp://127.0.0.1:5", "tcp://127.9.9.9:5", "tcp://10.0.0.1:5"):
        line.spend(address, 1 << 40, 0.0)
        assert line.is_free(address, 0.0)
    assert line.counts("tcp://10.0.0.11:5")
    assert not is_local("tcp://128.0.0.1:5", ("127.", "10.0.0.1"))


@given(
    snapshot_bytes=st.integers(1, 1 << 32),
    timeout_s=st.floats(1, 1000),
    round_timeout_s=st.floats(1, 1000),
    kind=st.sampled_from(["pair", "round"]),
)
def test_the_least_budget_said_is_accepted_and_a_little_less_is_not(snapshot_bytes, timeout_s, round_timeout_s, kind):
    least = least_mbps(snapshot_bytes, timeout_s, round_timeout_s, kind)
    SendLimits(max_mbps=least).check(snapshot_bytes, timeout_s, round_timeout_s, kind)
    with pytest.raises(ConfigurationError, match=r"max_mbps=.*would take.*must be at least"):
        SendLimits(max_mbps=0.99 * least).check(snapshot_bytes, timeout_s, round_timeout_s, kind)


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"max_mbps": -1.0}, "max_mbps=-1.0"),
        ({"max_mbps": float("nan")}, "max_mbps=nan"),
        ({"asides_max": 3}, "asides_max=3"),
        ({"edges_max": -1}, "edges_max=-1"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits, named):
    with pytest.raises(ConfigurationError, match=named):
        SendLimits(**limits)


# Parts alone, their partners played by hand


def members() -> dict[str, Member]:
    return {name: Member(name, boot, f"control:{name}", f"data:{name}") for boot, name in enumerate("abc", start=1)}


def part_named_b(limits: SendLimits) -> PairExchange:
    found = members()
    part = PairExchange(config("b", 2, boot=2, snapshot_bytes=SNAPSHOT_BYTES, limits=limits), Chance(0), found.get)
    part.boundary(1, 0)
    return part


def messages(effects: list[Effect]) -> list[object]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def test_after_an_exchange_that_broke_off_offers_wait_until_what_was_given_to_the_line_has_left():
    part, others = part_named_b(SendLimits(max_mbps=MBPS)), members()
    accepted = part.offered(m.Offer(m.ExchangeId(1, 7), "pair", 0, 1), others["a"], 0.0)
    assert any(isinstance(effect, SendSnapshot) for effect in accepted)
    part.aborted(m.Abort(m.ExchangeId(1, 7), "leaving"), others["a"], 0.1)
    assert messages(part.offered(m.Offer(m.ExchangeId(3, 1), "pair", 0, 1), others["c"], 0.2)) == [
        m.Reject(m.ExchangeId(3, 1), "busy", 0)
    ]
    assert part.begin(("a", "c"), 0.3) == []
    assert part.next_deadline() == 2.0
    (offer,) = messages(part.tick(2.0))
    assert isinstance(offer, m.Offer)
    assert "c" in part.busy_with(), "who asked in vain is called first"


@pytest.mark.parametrize("asides_max", [0, 1])
def test_without_room_beside_its_slot_a_peer_in_doubt_keeps_it_until_its_partner_answers(asides_max):
    part, others = part_named_b(SendLimits(asides_max=asides_max)), members()
    exchange = m.ExchangeId(1, 7)
    part.offered(m.Offer(exchange, "pair", 0, 1), others["a"], 0.0)
    part.snapshot_received(m.TransferKey(1, exchange), 0.1)
    part.peer_lost("a", gone=False, now=0.2)
    (answer,) = messages(part.offered(m.Offer(m.ExchangeId(3, 1), "pair", 0, 1), others["c"], 0.3))
    assert isinstance(answer, m.Accept if asides_max else m.Reject)
    assert part.tick(1000.0) != [], "it asks again and does not give up"
    effects = part.received(m.Received(exchange, again=False), others["a"], 1001.0)
    assert any(isinstance(effect, Mix) for effect in effects), "the partner had committed: so does this peer"


def test_pieces_of_a_state_wait_for_the_line_and_leave_half_of_it_to_exchanges():
    line, newcomer = Line(SendLimits(max_mbps=MBPS)), members()["a"]
    settings = config("b", 2, boot=2, snapshot_bytes=SNAPSHOT_BYTES, limits=SendLimits(max_mbps=MBPS))
    donor, exchange = Donor(settings, line), m.ExchangeId(1, PULL_NUMBERS + 1)
    donor.offered(exchange, newcomer, 0.0)
    donor.frozen(StateFrozen(version=1, step=5, manifest_bytes=100, state_bytes=2 * SNAPSHOT_BYTES), 0.0)
    line.spend(newcomer.data_address, SNAPSHOT_BYTES, 0.0)  # an exchange's snapshot: two seconds

    def wanted(number: int, begin: int, end: int, now: float) -> list[Effect]:
        piece = m.ExchangeId(1, PULL_NUMBERS + number)
        return donor.wanted(m.PieceWanted(exchange, piece, 1, begin, end), newcomer, now) or []

    assert wanted(2, 0, SNAPSHOT_BYTES, 0.1) == []
    assert donor.next_deadline() == 2.0
    assert [type(effect) for effect in donor.tick(2.0)] == [SendPiece]
    assert line.free_at_s(newcomer.data_address) == 4.0
    assert wanted(3, SNAPSHOT_BYTES, 2 * SNAPSHOT_BYTES, 4.0)[1:] == [], "the line is free, for exchanges"
    assert donor.next_deadline() == 6.0
