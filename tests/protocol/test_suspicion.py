"""How long a suspect has: Lifeguard's formula, the tolerance for stalls, and refused connections."""

from __future__ import annotations

import math

import pytest

from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.config import MembershipConfig
from gossiptrain.protocol.suspicion import Suspicions


def suspicions(living: int = 8, **changes) -> Suspicions:
    return Suspicions(MembershipConfig(**changes), lambda: living)


@pytest.mark.parametrize("living", [4, 32, 1000])
@pytest.mark.parametrize("tolerance_s", [0.0, 30.0])
@pytest.mark.parametrize("accusers", [1, 2, 3, 4, 9])
def test_the_time_shrinks_with_each_accuser_as_in_lifeguard(living: int, tolerance_s: float, accusers: int) -> None:
    part = suspicions(living, stall_tolerance_s=tolerance_s, suspicion_factor=4.0, suspicion_max_factor=6.0)
    for index in range(accusers):
        part.accuse("p", f"accuser-{index}", False, 100.0)
    expected = min(3, living - 2)
    least_s = max(tolerance_s, 4.0 * max(1.0, math.log10(living)))
    most_s = 6.0 * least_s
    counted = min(accusers - 1, 3)
    closed = max(least_s, most_s - (most_s - least_s) * math.log(counted + 1) / math.log(expected + 1))
    assert part.next_deadline() == pytest.approx(100.0 + closed)


def test_the_same_accuser_counts_once_and_what_changes_nothing_is_no_news() -> None:
    part = suspicions()
    assert [part.accuse("p", name, False, 0.0) for name in ("a", "a", "b", "c", "d", "e")] == [
        True,
        False,
        True,
        True,
        True,
        False,
    ]


def test_two_whose_connections_are_refused_are_enough_and_one_is_not() -> None:
    part = suspicions(living=100)
    part.accuse("p", "a", True, 10.0)
    assert part.wants_observers("p")
    assert part.next_deadline() > 40.0
    part.accuse("p", "a", True, 10.5)
    assert part.next_deadline() > 40.0, "the same observer is no second one"
    part.accuse("p", "b", True, 10.7)
    assert not part.wants_observers("p")
    assert part.next_deadline() == pytest.approx(10.0 + 1.0 * 2), "refused_after_s log10 n after the first"
    ((name, reason),) = part.due(12.0)
    assert name == "p"
    assert reason == "its address refuses connections for 2.0 s"


def test_the_only_one_left_who_can_observe_is_enough() -> None:
    part = suspicions(living=2)
    part.accuse("p", "me", True, 0.0)
    assert part.next_deadline() == 1.0
    part = suspicions(living=4)
    for name in ("p", "q", "r"):
        part.accuse(name, "me", True, 0.0)
    part.accuse("p", "me", True, 0.1)
    assert part.next_deadline() == 1.0, "all others are suspects themselves"


def test_without_observers_in_the_settings_refusals_mean_nothing() -> None:
    part = suspicions(refused_observers=0)
    part.accuse("p", "a", True, 0.0)
    part.accuse("p", "b", True, 0.0)
    assert part.next_deadline() > 30.0
    assert not part.is_refused("p")


def test_a_stall_of_the_observer_is_nobodys_fault() -> None:
    part = suspicions()
    part.accuse("p", "a", True, 0.0)
    due_s = part.next_deadline()
    part.shift(25.0)
    assert part.next_deadline() == due_s + 25.0
    assert part.due(due_s + 24.9) == []


def test_who_spoke_up_is_cleared() -> None:
    part = suspicions()
    part.accuse("p", "a", False, 0.0)
    part.clear("p")
    assert part.next_deadline() == math.inf


@pytest.mark.parametrize("seed", range(20))
def test_the_deadline_that_is_remembered_is_the_soonest_verdict(seed: int) -> None:
    chance, now, living = Chance("moves", seed), 0.0, [8]
    part = Suspicions(MembershipConfig(), lambda: living[0])
    for _ in range(300):
        now += chance.uniform()
        living[0] = 3 + chance.below(60)
        name, accuser = f"p{chance.below(6)}", f"a{chance.below(9)}"
        match chance.below(8):
            case 0 | 1 | 2 | 3 | 4:
                part.accuse(name, accuser, chance.below(4) == 0, now)
            case 5:
                part.clear(name)
            case 6:
                part.shift(chance.uniform())
            case 7:
                for gone, _ in part.due(now):
                    part.clear(gone)
        assert part.next_deadline() == min((found.due_s for found in part._open.values()), default=math.inf)
