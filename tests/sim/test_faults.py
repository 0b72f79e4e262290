"""Fault schedules: what is accepted, what is refused and why, and that TOML holds all of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossiptrain.errors import ConfigurationError
from sim import FaultSchedule
from sim.random_faults import SHARES

EVERYTHING = (
    FaultSchedule()
    .crash(0, 10.0, silent=True)
    .restart("peer-0", 20.0)
    .crash_loop(1, 30.0, times=3, every_s=2.0)
    .stall(2, 40.0, 5.0)
    .pause(2, 50.0, 5.0)
    .leave(3, 60.0)
    .join(70.0, count=2)
    .partition([[0, 1], [2]], 80.0, 10.0)
    .one_way(0, 1, 95.0, 5.0)
    .slow_link(4, 100.0, 10.0, mbps_factor=0.5, extra_latency_s=0.1)
    .flapping(5, 110.0, 10.0, period_s=1.0, up_share=0.25)
    .swizzle([0, 1, 2], 130.0, 10.0, seed=9)
    .hostile(7, 150.0, 10.0, payload="size")
    .fail_slow(0, 170.0, 10.0, factor=3.0)
    .starve(1, 170.0, 10.0, share=0.25, period_s=0.5)
    .flip_flop(2, 170.0, 10.0, period_s=4.0, direction="out")
    .reset(4, 170.0)
    .address_change(5, 170.0)
    .garble(6, 170.0, 10.0, how="truncate", share=0.5)
    .replay(7, 170.0, 10.0, share=0.5, later_s=5.0)
    .slander(2, 185.0, 2.0)
    .impostor(0, 190.0)
    .stranger(195.0, differs="version")
    .rolling_restart([4, 5], 200.0, every_s=10.0, down_s=2.0)
)


def test_a_schedule_survives_being_written_as_rows_and_read_again():
    assert FaultSchedule.from_rows(EVERYTHING.to_rows()) == EVERYTHING
    assert len(EVERYTHING) == 27


def test_messages_may_be_replayed_while_their_sender_comes_and_goes():
    FaultSchedule().crash_loop(1, 10.0, 3, 3.0).replay(1, 12.0, 10.0).stall(1, 30.0, 5.0).replay(1, 31.0, 5.0).check(4)


def test_a_schedule_is_in_order_of_time_and_is_not_changed_by_adding():
    schedule = FaultSchedule().crash(0, 5.0)
    later = schedule.crash(1, 1.0)
    assert [fault.at_s for fault in later.faults] == [1.0, 5.0]
    assert len(schedule) == 1


def test_joiners_may_be_hurt_once_they_have_come():
    assert FaultSchedule().join(10.0, count=2).crash(9, 20.0).check(8).joiners() == 2
    with pytest.raises(ConfigurationError, match="peer 8 does not exist then; there are 0 to 7; 1 more join later"):
        FaultSchedule().join(10.0).crash(8, 5.0).check(8)


@pytest.mark.parametrize(
    ("schedule", "named"),
    [
        (FaultSchedule().crash(8, 1.0), "peer 8 does not exist"),
        (FaultSchedule().partition([[0], [9]], 1.0, 1.0), "peer 9 does not exist"),
        (FaultSchedule().crash(1, 1.0).crash(1, 2.0), "not running since its crash at 1 s"),
        (FaultSchedule().leave(1, 1.0).stall(1, 2.0, 1.0), "not running since its leave at 1 s"),
        (FaultSchedule().restart(1, 1.0), "peer 1 is running"),
        (FaultSchedule().stall(1, 1.0, 5.0).stall(1, 3.0, 5.0), "overlaps its stall from 1 s to 6 s"),
        (FaultSchedule().stall(1, 1.0, 5.0).pause(1, 3.0, 5.0), "overlaps its stall"),
        (FaultSchedule().crash_loop(1, 1.0, 3, 3.0).crash(1, 4.0), "overlaps its crash_loop"),
        (FaultSchedule().starve(1, 1.0, 5.0).stall(1, 3.0, 5.0), "overlaps its starve"),
        (FaultSchedule().crash(1, 1.0).impostor(1, 2.0), "not running"),
        (FaultSchedule().slow_link(1, 1.0, 5.0).slow_link(1, 2.0, 1.0), "overlaps its slow_link"),
        (FaultSchedule().one_way(1, 1, 1.0, 5.0), "source and target are both 1"),
    ],
)
def test_what_cannot_happen_is_refused(schedule, named):
    with pytest.raises(ConfigurationError, match=named):
        schedule.check(8)


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (lambda s: s.crash(1, -1.0), "at_s=-1.0"),
        (lambda s: s.crash(1, float("nan")), "at_s=nan"),
        (lambda s: s.stall(1, 1.0, 0.0), "for_s=0.0"),
        (lambda s: s.stall(1, 1.0, -2.0), "for_s=-2.0"),
        (lambda s: s.crash("node-1", 1.0), "peer='node-1'"),
        (lambda s: s.crash(True, 1.0), "peer=True"),
        (lambda s: s.restart(1, 1.0, boot="old"), "boot='old'"),
        (lambda s: s.partition([], 1.0, 1.0), "groups"),
        (lambda s: s.partition([[1], [1, 2]], 1.0, 1.0), "without a common peer"),
        (lambda s: s.flapping(1, 1.0, 5.0, up_share=1.0), "up_share=1.0"),
        (lambda s: s.slow_link(1, 1.0, 5.0, mbps_factor=0.0), "mbps_factor=0.0"),
        (lambda s: s.hostile(1, 1.0, 5.0, payload="virus"), "payload='virus'"),
        (lambda s: s.join(1.0, count=0), "count=0"),
        (lambda s: s.crash_loop(1, 1.0, times=0), "times=0"),
        (lambda s: s.fail_slow(1, 1.0, 5.0, factor=0.5), "factor=0.5"),
        (lambda s: s.starve(1, 1.0, 5.0, share=1.0), "share=1.0"),
        (lambda s: s.flip_flop(1, 1.0, 5.0, direction="up"), "direction='up': must be one of in, out"),
        (lambda s: s.garble(1, 1.0, 5.0, how="burn"), "how='burn': must be one of corrupt"),
        (lambda s: s.garble(1, 1.0, 5.0, share=0.0), "share=0.0"),
        (lambda s: s.replay(1, 1.0, 5.0, later_s=0.0), "later_s=0.0"),
        (lambda s: s.stranger(1.0, differs="colour"), "differs='colour'"),
        (lambda s: s.rolling_restart([1], 1.0, every_s=5.0, down_s=5.0), "down_s=5.0"),
    ],
)
def test_values_out_of_range_are_named(write, named):
    with pytest.raises(ConfigurationError, match=named):
        write(FaultSchedule())


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"kind": "crahs", "peer": 1, "at_s": 1.0}, "did you mean 'crash'"),
        ({"kind": "crash", "pear": 1, "at_s": 1.0}, "'pear' is not known; did you mean 'peer'"),
        ({"kind": "crash", "at_s": 1.0}, "'peer' is missing"),
        ({"kind": "stall", "peer": 1, "at_s": 1.0}, "'for_s' is missing"),
        ({"kind": "crash", "peer": 1, "at_s": -1.0}, r"faults\[1\] \(crash\): at_s=-1.0"),
        ({"peer": 1}, "kind=None"),
    ],
)
def test_rows_that_cannot_be_read_name_the_nearest_known_word(row, named):
    with pytest.raises(ConfigurationError, match=named):
        FaultSchedule.from_rows([row])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), peers=st.integers(2, 64), until_s=st.floats(80, 900))
def test_random_schedules_can_happen_and_leave_the_end_calm(seed, peers, until_s):
    schedule = FaultSchedule.random(seed, peers, until_s).check(peers)
    assert schedule == FaultSchedule.random(seed, peers, until_s)
    assert schedule.end_s() <= until_s - 60 + 1e-6
    assert FaultSchedule.from_rows(schedule.to_rows()) == schedule


def test_random_schedules_draw_every_kind_and_differ_by_seed():
    kinds = {fault.kind for seed in range(20) for fault in FaultSchedule.random(seed, 8, 600.0).faults}
    assert kinds == {*SHARES, "restart"}
    assert FaultSchedule.random(1, 8, 600.0) != FaultSchedule.random(2, 8, 600.0)


def test_random_schedules_hold_only_the_kinds_asked_for():
    schedule = FaultSchedule.random(3, 8, 600.0, shares={"stall": 1.0})
    assert {fault.kind for fault in schedule.faults} == {"stall"}
    with pytest.raises(ConfigurationError, match="did you mean 'stall'"):
        FaultSchedule.random(3, 8, 600.0, shares={"stal": 1.0})
