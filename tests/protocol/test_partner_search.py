"""Whom to ask next: callers first, then one neighbour after the other, with pauses; few offers, well spread partners."""

from __future__ import annotations

from collections import Counter
from statistics import mean

import pytest

from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.notices import Exchanged
from gossiptrain.protocol.partner_search import CALLERS_MAX, PAUSE_SHARE, PartnerSearch
from tests.protocol.virtual_network import VirtualNetwork, equals


class Searching:
    """A search whose slot is free from the first question on; everybody may be called."""

    def __init__(self, patience_s: float = 2.0) -> None:
        self.search, self.chance = PartnerSearch(patience_s), Chance(0)

    def next(self, names: str, now: float, may_call: str = "abcdefgh") -> str | None:
        return self.search.next(tuple(names), lambda name: name in may_call, self.chance, now)

    def deadline_s(self) -> float:
        return min(self.search.ask_at_s, self.search.forget_at_s)


def test_the_first_is_asked_at_once_and_the_next_after_a_pause_that_doubles() -> None:
    one = Searching()
    asked = [one.next("abcd", 0.0)]
    pauses_s, now = [], 0.0
    for _ in range(3):
        began_s = now
        assert one.next("abcd", now) is None
        now = one.deadline_s()
        assert one.search.waits(now - 1e-6)
        pauses_s.append(now - began_s)
        asked.append(one.next("abcd", now))
    assert sorted(asked) == list("abcd"), "nobody is asked twice"
    first_s = 2.0 * PAUSE_SHARE
    assert all(0.5 * first_s * 2**i <= pause_s <= 1.5 * first_s * 2**i for i, pause_s in enumerate(pauses_s))


def test_pauses_follow_the_time_from_one_exchange_to_the_next() -> None:
    one = Searching()
    for began_s in (0.0, 0.08):
        one.next("ab", began_s)
        one.search.over("a")
    one.next("ab", 0.16)
    one.next("ab", 0.16)
    assert one.deadline_s() - 0.16 == pytest.approx(0.08 * PAUSE_SHARE, rel=0.51)


def test_who_asked_in_vain_is_called_before_neighbours_are_asked() -> None:
    one = Searching()
    for name in "efg":
        one.search.call_back(name)
    assert one.next("abc", 0.0, may_call="f") == "f"
    one.search.over("f")
    assert one.next("abc", 1.0, may_call="eg") in "eg"
    one.search.over("")
    one.search.forget("e")
    one.search.forget("g")
    assert one.next("abc", 2.0) in "abc"


def test_when_all_have_been_asked_they_are_asked_anew_only_after_the_patience() -> None:
    one = Searching(patience_s=2.0)
    assert one.next("a", 0.0) == "a"
    assert one.next("a", 0.1) is None
    assert 1.0 < one.deadline_s() < 3.2
    assert one.next("a", 0.9) is None
    now = one.deadline_s()
    while (name := one.next("a", now)) is None:
        now = one.deadline_s()
    assert (name, now < 6.0) == ("a", True)


def test_a_neighbour_that_appears_is_asked_at_once_by_who_had_none() -> None:
    one = Searching()
    assert one.next("", 0.0) is None
    assert one.deadline_s() == float("inf"), "nothing to wait for"
    assert one.next("a", 50.0) == "a"


def test_a_deadline_that_has_passed_is_not_slept_over() -> None:
    """It would come again and again, and the driver spin."""
    one = Searching(patience_s=2.0)
    one.next("a", 0.0)
    one.next("a", 0.0)
    asked_anew_s = one.deadline_s()
    one.search.call_back("b")
    one.next("a", asked_anew_s - 1e-6)
    assert one.deadline_s() == asked_anew_s
    assert not one.search.waits(asked_anew_s)
    one.next("a", asked_anew_s)
    assert one.deadline_s() > asked_anew_s


def test_no_more_than_some_callers_are_remembered() -> None:
    search = PartnerSearch(1.0)
    for number in range(3 * CALLERS_MAX):
        search.call_back(f"{number}")
    assert len(search._callers) == CALLERS_MAX
    assert list(search._callers)[-1] == f"{3 * CALLERS_MAX - 1}", "the newest are kept"


def test_who_leaves_calls_nobody() -> None:
    one = Searching()
    one.search.call_back("a")
    one.search.end()
    assert one.next("", 0.0) is None


# Many peers


def _mixes(net: VirtualNetwork) -> Counter[tuple[str, str]]:
    return Counter((peer.name, notice.partners[0]) for peer in net.peers.values() for notice in peer.told(Exchanged))


@pytest.mark.slow
@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize(("delay_s", "transfer_s"), [(0.0005, 0.003), (0.0005, 0.2), (0.03, 0.03)])
def test_an_exchange_takes_few_offers_and_almost_every_boundary_is_used(
    size: int, delay_s: float, transfer_s: float
) -> None:
    net = equals(size, seed=3, pace=4)
    net.delay_s, net.transfer_s = delay_s, transfer_s
    net.run(3.0)
    offers, exchanges, steps = net.sent["Offer"], sum(_mixes(net).values()), sum(p.steps for p in net.peers.values())
    net.run(30.0)
    exchanges = sum(_mixes(net).values()) - exchanges
    steps = sum(p.steps for p in net.peers.values()) - steps
    assert 2 * (net.sent["Offer"] - offers) / exchanges < 4.0
    # A boundary comes each 0.2 s: an exchange that lasts longer takes two of them.
    assert exchanges / steps > (0.9 if delay_s + transfer_s < 0.05 else 0.35)


@pytest.mark.slow
def test_partners_are_spread_over_all_neighbours_as_far_as_their_speeds_allow() -> None:
    net = equals(12, seed=5, pace=2)
    net.run(60.0)
    met = _mixes(net)
    for peer in net.peers.values():
        times = [met[(peer.name, other)] for other in peer.protocol.neighbours()]
        assert len(times) == 4
        assert min(times) > 0.3 * mean(times), f"{peer.name} met its neighbours {times} times"
        assert max(times) < 2.0 * mean(times), f"{peer.name} met its neighbours {times} times"


@pytest.mark.slow
def test_everybody_around_a_hub_has_its_turn_with_it() -> None:
    net = equals(9, seed=2, topology="star", pace=2)
    net.run(60.0)
    hub = next(peer for peer in net.peers.values() if len(peer.protocol.neighbours()) == 8)
    times = [_mixes(net)[(hub.name, name)] for name in hub.protocol.neighbours()]
    assert min(times) > 0.3 * mean(times), times
    assert 2 * net.sent["Offer"] / sum(_mixes(net).values()) < 6
