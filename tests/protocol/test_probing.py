"""SWIM's probe cycle: everybody in turn, through others where there is no answer, with doubt in oneself."""

from __future__ import annotations

from collections import Counter

import pytest

from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.config import MembershipConfig
from gossiptrain.protocol.probing import Probing

NAMES = tuple(f"p{index}" for index in range(9))


def probing(**changes) -> Probing:
    return Probing(MembershipConfig(**changes), Chance("probing"))


def test_each_member_is_probed_once_a_round_in_another_order_each_time() -> None:
    part = probing()
    rounds = [[part.next_target(NAMES, NAMES.__contains__) for _ in NAMES] for _ in range(4)]
    assert all(sorted(found) == sorted(NAMES) for found in rounds)
    assert len({tuple(found) for found in rounds}) == 4


def test_a_newcomer_is_probed_within_the_present_round_and_the_gone_not_at_all() -> None:
    part = probing()
    part.next_target(NAMES, NAMES.__contains__)
    part.joined("new")
    left = [*(name for name in NAMES if name != "p3"), "new"]
    found = Counter(part.next_target(left, left.__contains__) for _ in range(8))
    assert found["new"] == 1
    assert found["p3"] == 0
    assert part.next_target([], [].__contains__) is None


def test_an_unanswered_probe_asks_others_and_then_fails() -> None:
    part = probing()
    number = part.begin("p1", 10.0)
    assert part.next_deadline() == 10.5
    assert part.to_ask(10.49) == []
    (probe,) = part.to_ask(10.5)
    assert (probe.name, probe.number) == ("p1", number)
    assert part.to_ask(10.6) == [], "once"
    assert part.next_deadline() == 11.0
    assert [found.name for found in part.failed(11.0)] == ["p1"]
    assert part.next_deadline() == float("inf")


@pytest.mark.parametrize("ends", ["word", "result", "forget"])
def test_any_word_of_the_member_ends_the_probe(ends: str) -> None:
    part = probing()
    number = part.begin("p1", 0.0)
    if ends == "word":
        part.word_of("p1")
    elif ends == "result":
        assert part.result(number, answered=True) == "p1"
        part.word_of("p1")
    else:
        part.forget("p1")
    assert part.failed(5.0) == []
    assert not part.is_open("p1")


def test_a_peer_doubts_itself_by_the_helpers_that_were_silent_and_takes_longer() -> None:
    part = probing()
    for answers, expected in ((3, 0), (1, 2), (0, 5), (0, 8), (0, 8)):
        number = part.begin("p1", 0.0)
        (probe,) = part.to_ask(100.0)
        probe.helpers = 3
        for _ in range(answers):
            assert part.result(number, answered=False) is None
        part.failed(100.0)
        assert part.health == expected
    assert part.period_s() == 9.0
    part.begin("p2", 0.0)
    assert part.next_deadline() == 4.5
    part.word_of("p2")
    assert part.health == 7
    plain = probing(local_health_max=0)
    plain.begin("p1", 0.0)
    plain.failed(1.0)
    assert plain.period_s() == 1.0


def test_a_probe_for_another_is_answered_or_given_up_in_time() -> None:
    part = probing()
    number = part.relay("asker", 77, "p1", 0.0)
    assert part.relayed(number, "p2") is None, "only the word of the member counts"
    relay = part.relayed(number, "p1")
    assert (relay.asker, relay.asker_number) == ("asker", 77)
    part.relay("asker", 78, "p1", 0.0)
    assert part.next_deadline() == pytest.approx(0.4)
    assert [found.asker_number for found in part.relays_over(0.4)] == [78]


def test_a_peer_that_stood_still_draws_no_conclusion_from_what_it_asked_before() -> None:
    part = probing()
    part.begin("p1", 0.0)
    part.relay("asker", 1, "p2", 0.0)
    part.drop_all()
    assert part.failed(100.0) == part.relays_over(100.0) == part.to_ask(100.0) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_deadline_that_is_remembered_is_the_soonest_of_all_that_is_under_way(seed: int) -> None:
    part, chance, now, moves = probing(), Chance("moves", seed), 0.0, 0
    for _ in range(300):
        now += 0.3 * chance.uniform()
        name, other = chance.choice(NAMES), chance.choice(NAMES)
        numbers = [*part._probes, *part._relays]
        match chance.below(9):
            case 0 | 1 | 2:
                part.begin(name, now)
            case 3:
                part.relay(other, 7, name, now)
            case 4:
                part.word_of(name)
            case 5:
                part.forget(name)
            case 6:
                moves += bool(part.to_ask(now)) + bool(part.failed(now)) + bool(part.relays_over(now))
            case 7 if numbers:
                moves += part.relayed(chance.choice(numbers), name) is not None
            case 8 if chance.below(20) == 0:
                part.drop_all()
        probes_s = [s for probe in part._probes.values() for s in (probe.asks_at_s, probe.ends_s)]
        relays_s = [relay.gives_up_s for relay in part._relays.values()]
        assert part.next_deadline() == min([*probes_s, *relays_s], default=float("inf"))
    assert moves > 5
