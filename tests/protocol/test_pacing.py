"""How long blocks of local steps are: the pure rules, and what one peer makes of them."""

from __future__ import annotations

from statistics import fmean

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.events import BlockTiming, TugMeasured
from gossiptrain.protocol.messages import Pace
from gossiptrain.protocol.pacer import Pacer
from gossiptrain.protocol.pacing import (
    PacingConfig,
    StepTime,
    common_block_s,
    local_steps,
    normalised_scale,
    typical_step_s,
    wished_block_s,
)

AUTO, SECONDS = PacingConfig("auto"), PacingConfig("seconds", block_s=1.0)
times_s = st.floats(1e-4, 10.0)
paces = st.lists(st.builds(Pace, times_s, times_s, tug=st.just(0.0)), min_size=1, max_size=20)


def test_pauses_are_no_steps() -> None:
    assert typical_step_s([0.1] * 9 + [5.0]) == pytest.approx(0.1)
    assert typical_step_s([0.1, 0.1, 0.25]) == pytest.approx(0.15)
    assert typical_step_s([]) == 0.0


@given(st.lists(times_s, min_size=1, max_size=50))
def test_a_typical_step_lies_among_the_steps(durations_s: list[float]) -> None:
    found_s = typical_step_s(durations_s)
    assert min(durations_s) * (1 - 1e-9) <= found_s <= max(durations_s) * (1 + 1e-9)


def test_a_new_speed_is_believed_at_once_from_a_long_block_and_of_short_ones_when_the_second_agrees() -> None:
    known = StepTime(0.1)
    assert known.after(8, 0.5).step_s == 0.5
    doubted = known.after(1, 0.5)
    assert doubted.step_s == 0.1
    assert doubted.after(1, 0.55).step_s == 0.55
    assert doubted.after(1, 0.1).step_s == pytest.approx(0.1)
    assert doubted.after(1, 0.1).doubt_s == 0.0


def test_small_changes_are_averaged_and_nonsense_is_passed_over() -> None:
    known = StepTime(0.1)
    assert known.after(8, 0.11).step_s == pytest.approx(0.103)
    for nonsense in (0.0, -1.0, float("nan"), float("inf")):
        assert known.after(8, nonsense) == known


@given(times_s, times_s, st.integers(1, 5000))
def test_a_block_lasts_as_it_should_up_to_rounding_the_hysteresis_and_the_bounds(
    block_s: float, step_s: float, current: int
) -> None:
    steps = local_steps(block_s, step_s, current, AUTO)
    assert 1 <= steps <= AUTO.steps_max
    within = max(0.5 * step_s, AUTO.hysteresis * block_s) * (1 + 1e-9)
    is_bound = steps in (1, AUTO.steps_max)
    assert is_bound or abs(steps * step_s - block_s) <= within


@given(times_s, times_s, st.integers(1, 5000))
def test_a_number_of_steps_once_found_is_kept(block_s: float, step_s: float, current: int) -> None:
    steps = local_steps(block_s, step_s, current, AUTO)
    assert local_steps(block_s, step_s, steps, AUTO) == steps


@given(paces, st.randoms(use_true_random=False))
def test_all_who_hold_the_same_paces_compute_the_same_block_in_whatever_order(found: list[Pace], chance) -> None:
    shuffled = list(found)
    chance.shuffle(shuffled)
    assert common_block_s(found, AUTO) == common_block_s(shuffled, AUTO)


@given(paces)
def test_the_slowest_takes_its_few_steps_unless_it_is_a_straggler(found: list[Pace]) -> None:
    block_s, _ = common_block_s(found, AUTO)
    slowest_s = max(pace.step_s for pace in found)
    if block_s < AUTO.block_s_max and all(slowest_s <= AUTO.straggler_factor * pace.step_s for pace in found):
        assert block_s >= AUTO.slowest_steps * slowest_s * (1 - 1e-9)


# With six steps of the slowest these make 7 x 6.625 s and 6 x 6.6875 s.
@example([Pace(6.625, 1.0), Pace(6.6875, 1.0), Pace(7.1875, 1.0)])
@given(paces)
def test_blocks_of_all_peers_differ_by_less_than_15_percent_where_nobody_is_a_straggler(found: list[Pace]) -> None:
    block_s, _ = common_block_s(found, AUTO)
    slowest_s = max(pace.step_s for pace in found)
    if block_s >= AUTO.slowest_steps * slowest_s:
        steps = [local_steps(block_s, pace.step_s, 4, AUTO) for pace in found]
        lasts_s = [n * pace.step_s for n, pace in zip(steps, found) if 1 < n < AUTO.steps_max]
        assert not lasts_s or max(lasts_s) / min(lasts_s) < 1.15


def wish(block_s: float, apart: float, exchange_s: float, overhead_s: float, is_unlike: bool = False) -> tuple:
    return wished_block_s(block_s, apart, exchange_s, overhead_s, AUTO, is_unlike=is_unlike)


def test_the_wish_follows_drift_but_not_below_what_an_exchange_or_a_boundary_costs() -> None:
    drift = AUTO.drift_steps
    assert wish(1.0, drift, 0.1, 0.0) == (1.0, "drift")
    assert wish(1.0, 4 * drift, 0.1, 0.0)[0] == pytest.approx(0.5**0.5)
    assert wish(1.0, drift / 4, 0.1, 0.0)[0] == pytest.approx(2**0.5)
    assert wish(1.0, 4 * drift, 3.0, 0.0) == (3.0, "network")
    assert wish(1.0, 4 * drift, 0.1, 0.1) == (5.0, "overhead")
    assert wish(1e9, 0.0, 0.1, 0.1)[0] == AUTO.block_s_max


def test_with_unlike_data_the_wish_is_as_short_as_exchanges_and_boundaries_allow() -> None:
    assert wish(7.0, 1.0, 0.25, 0.0, is_unlike=True) == (0.25, "unlike")
    assert wish(7.0, 1.0, 0.0, 0.05, is_unlike=True) == (pytest.approx(0.5), "unlike")
    assert 0 < wish(7.0, 1.0, 0.0, 0.0, is_unlike=True)[0] <= 0.001


def test_the_mean_tug_tells_whether_data_are_unlike_so_that_leaders_and_laggards_balance() -> None:
    def found(*tugs: float, is_synchronous: bool = False) -> tuple[float, str]:
        return common_block_s([Pace(0.1 * k, 0.05, tug=tug) for k, tug in enumerate(tugs, 1)], AUTO, is_synchronous)

    assert found(0.6, 0.3, -0.2, -0.5) == (pytest.approx(AUTO.slowest_steps * 0.4), "slowest")
    assert found(0.1, 0.2, 0.1, 0.4) == (0.05, "unlike")
    assert found(0.1, 0.2, 0.1, 0.4, is_synchronous=True) == (pytest.approx(0.4), "unlike"), "one step of the slowest"


def test_nothing_is_decided_before_half_of_the_members_know_what_they_wish() -> None:
    knows, does_not = Pace(0.1, 2.0), Pace(0.1)
    assert common_block_s([knows, does_not, does_not], AUTO) == (0.0, "given")
    assert common_block_s([knows, knows, does_not, does_not], AUTO)[0] == 2.0


def test_a_pair_with_unlike_data_takes_as_many_steps_as_its_own_exchanges_last() -> None:
    pacer = Pacer(AUTO, is_synchronous=False)
    others = [Pace(0.1, 2.0, tug=0.1), Pace(0.4, 2.0)]
    pacer.block(timing(0.1))
    assert pacer.reckon(others) is not None
    assert pacer.plan.steps == 4 * AUTO.slowest_steps, "the least that the slowest takes"
    for _ in range(4):
        pacer.exchanged(0.3)
        pacer.measured(TugMeasured(0.9))
    pacer.block(timing(0.1))
    pacer.tell(3, 100.0)
    notice = pacer.reckon(others)
    assert notice is not None
    assert (notice.limit, notice.steps, notice.tug) == ("unlike", 3, 0.9)


def test_a_tug_that_is_no_number_is_passed_over() -> None:
    pacer = Pacer(AUTO, is_synchronous=False)
    pacer.block(timing(0.1))
    pacer.measured(TugMeasured(float("nan")))
    pacer.block(timing(0.1))
    assert pacer.pace is not None
    assert (pacer.pace.block_s, pacer.pace.tug) == (0.0, 0.0)
    pacer.measured(TugMeasured(7.0))
    pacer.block(timing(0.1))
    assert pacer.pace.tug == 1.0


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_scaled_numbers_of_steps_are_all_equal_to_their_mean(steps: list[int]) -> None:
    for own in steps:
        assert own * normalised_scale(own, steps) == pytest.approx(fmean(steps))


def timing(step_s: float, steps: int = 8, **changes: float) -> BlockTiming:
    return BlockTiming(steps, step_s, **changes)  # type: ignore[arg-type]


def test_a_peer_tells_its_pace_first_and_then_when_it_has_changed_but_not_too_often() -> None:
    pacer = Pacer(SECONDS, is_synchronous=False)
    assert pacer.tell(4, 0.0) is None
    pacer.block(timing(0.1))
    told = pacer.tell(4, 1.0)
    assert told == Pace(0.1)
    pacer.block(timing(0.105))
    assert pacer.tell(4, 10.0) is None
    pacer.block(timing(0.5))
    assert pacer.tell(4, 2.0) is None, "two seconds after the last"
    assert pacer.tell(1000, 50.0) is None, "many members tell less often"
    assert pacer.tell(4, 3.5) == Pace(0.5)


def test_the_plan_follows_the_peers_own_speed_at_once_and_says_so_only_when_it_changes() -> None:
    pacer = Pacer(SECONDS, is_synchronous=False)
    assert pacer.plan.steps == 4
    pacer.block(timing(0.1))
    notice = pacer.reckon([])
    assert notice is not None
    assert (pacer.plan.steps, notice.steps, notice.block_s) == (10, 10, 1.0)
    pacer.block(timing(0.101))
    assert pacer.reckon([]) is None
    pacer.block(timing(0.5))
    assert pacer.reckon([]) is not None
    assert pacer.plan.steps == 2


def test_a_fixed_number_of_steps_stays_and_needs_no_word_of_others() -> None:
    pacer = Pacer(PacingConfig(steps=7), is_synchronous=False)
    pacer.block(timing(0.1))
    assert pacer.reckon([Pace(5.0)]) is None
    assert pacer.plan == (7, 1.0)


def test_normalised_pairs_weigh_by_rates_and_rounds_by_steps() -> None:
    others = [Pace(0.1), Pace(0.2), Pace(0.4)]
    pair = Pacer(PacingConfig(normalise=True), is_synchronous=False)
    pair.block(timing(0.1))
    pair.reckon(others)
    assert pair.plan.scale == pytest.approx(fmean([10, 10, 5, 2.5]) / 10)
    rounds = Pacer(PacingConfig("seconds", block_s=1.2, normalise=True), is_synchronous=True)
    rounds.block(timing(0.4))
    rounds.reckon(others)
    assert rounds.plan == (3, pytest.approx(fmean([3, 12, 6, 3]) / 3))


def test_shares_of_time_are_of_the_recent_blocks() -> None:
    pacer = Pacer(AUTO, is_synchronous=True)
    pacer.block(timing(0.1, compute_s=0.8, mix_s=0.2, wait_s=1.0))
    assert pacer.pace is not None
    assert (pacer.pace.mix_share, pacer.pace.wait_share) == pytest.approx((0.1, 0.5))
    for block in range(2, 40):
        pacer.block(timing(0.1, compute_s=0.8 * block, mix_s=0.2, wait_s=1.0))
    assert pacer.pace.wait_share < 0.001


@pytest.mark.parametrize(
    ("value", "mode", "steps", "block_s"),
    [
        (4, "steps", 4, 0.0),
        ("16", "steps", 16, 0.0),
        ("2s", "seconds", 4, 2.0),
        ("500ms", "seconds", 4, 0.5),
        ("auto", "auto", 4, 0.0),
    ],
)
def test_sync_every_is_steps_a_time_or_auto(value: int | str, mode: str, steps: int, block_s: float) -> None:
    config = PacingConfig.of(value)
    assert (config.mode, config.steps, config.block_s) == (mode, steps, block_s)


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "fast"},
        {"steps": 0},
        {"mode": "seconds"},
        {"hysteresis": 1.0},
        {"drift_steps": 0},
        {"overhead_share": 1.0},
        {"tug_limit": 0.0},
    ],
)
def test_a_setting_that_cannot_work_is_named(changes: dict) -> None:
    with pytest.raises(ConfigurationError, match=list(changes)[-1] if "mode" not in changes else "mode=|block_s="):
        PacingConfig(**changes)
