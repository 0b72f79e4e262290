"""Churn: who comes and goes has the rates and sessions asked for, can happen, and is the same each time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossiptrain.errors import ConfigurationError
from sim import Environment, Fault, FaultSchedule, RateChurn, Simulation, TraceChurn, WeibullChurn, load, presets
from sim.churn import HOUR_S

YEAR_S = 365 * 24 * HOUR_S


def sessions_s(schedule: FaultSchedule, peers: int, until_s: float) -> tuple[list[float], list[float]]:
    """Returns the times up and the times down that ended within the run."""
    since, ups, downs = dict.fromkeys(range(peers), 1.0), [], []
    for fault in schedule.faults:
        peer = fault.peers[0]
        (ups if fault.kind == "crash" else downs).append(fault.at_s - since[peer])
        since[peer] = fault.at_s
    return ups, downs


def test_crashes_come_at_their_rate_and_peers_are_back_after_the_time_told():
    until_s = 1000 * HOUR_S
    schedule = RateChurn(crashes_per_hour=0.5, down_s=600.0).schedule(20, seed=1, until_s=until_s).check(20)
    ups, downs = sessions_s(schedule, 20, until_s)
    assert np.mean(ups) == pytest.approx(2 * HOUR_S, rel=0.05)
    assert np.mean(downs) == pytest.approx(600.0, rel=0.05)


def test_weibull_sessions_have_the_moments_of_their_shape():
    churn = WeibullChurn(0.6, 1.75 * HOUR_S, 0.71, 1.32 * HOUR_S)
    ups, downs = sessions_s(churn.schedule(40, 2, 2000 * HOUR_S).check(40), 40, 2000 * HOUR_S)
    for times_s, shape, scale_s in ((ups, 0.6, 1.75 * HOUR_S), (downs, 0.71, 1.32 * HOUR_S)):
        assert np.mean(times_s) == pytest.approx(scale_s * math.gamma(1 + 1 / shape), rel=0.05)
        assert np.median(times_s) == pytest.approx(scale_s * math.log(2) ** (1 / shape), rel=0.07)


def test_a_group_may_be_lost_together():
    churn = WeibullChurn(1.0, HOUR_S, 1.0, HOUR_S, group_size=4, group_share=1.0)
    crashes = [fault for fault in churn.schedule(8, 1, 5 * HOUR_S).faults if fault.kind == "crash"]
    at_once = [fault.peers[0] // 4 for fault in crashes if fault.at_s == crashes[0].at_s]
    assert len(at_once) == 4
    assert len(set(at_once)) == 1


def test_the_llama_rate_gives_that_runs_failures_again():
    churn = presets.large_gpu_cluster(gpus_per_peer=8, down_s=1.0)
    schedule = churn.schedule(2048, seed=3, until_s=54 * 24 * HOUR_S)
    assert sum(fault.kind == "crash" for fault in schedule.faults) == pytest.approx(419, rel=0.15)


def test_research_clusters_fail_at_their_published_rates():
    for cluster, per_1000_node_days in (("rsc-1", 6.5), ("rsc-2", 2.34)):
        schedule = presets.research_cluster(cluster, down_s=1.0).schedule(1000, 4, 100 * 24 * HOUR_S)
        crashes = sum(fault.kind == "crash" for fault in schedule.faults)
        assert crashes / 100 == pytest.approx(per_1000_node_days, rel=0.2)


def test_spot_instances_are_up_a_share_of_the_time_within_what_was_published():
    ups, downs = sessions_s(presets.spot_instances().schedule(50, 1, 500 * HOUR_S), 50, 500 * HOUR_S)
    assert 0.17 < sum(ups) / (sum(ups) + sum(downs)) < 0.91


def test_most_volunteers_stay_for_minutes_and_some_for_days():
    ups, _ = sessions_s(presets.volunteers().schedule(60, 1, 60 * 24 * HOUR_S), 60, 60 * 24 * HOUR_S)
    assert np.median(ups) < 30 * 60
    assert max(ups) > 24 * HOUR_S


def test_what_happens_faster_is_the_same_in_less_time():
    slow = WeibullChurn(0.6, 600.0, 0.7, 300.0).schedule(4, 1, 10_000.0, begin_s=0.0)
    fast = WeibullChurn(0.6, 600.0, 0.7, 300.0, faster=10.0).schedule(4, 1, 1000.0, begin_s=0.0)
    assert [f.kind for f in slow.faults] == [f.kind for f in fast.faults]
    assert [f.at_s for f in fast.faults] == pytest.approx([f.at_s / 10 for f in slow.faults], abs=0.002)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), peers=st.integers(1, 24), keep_up=st.integers(1, 4), crashes=st.floats(0, 200))
def test_what_is_drawn_can_happen_and_leaves_as_many_up_as_asked_for(seed, peers, keep_up, crashes):
    churn = RateChurn(crashes, down_s=60.0, joins_per_hour=30.0, keep_up=keep_up)
    schedule = churn.schedule(peers, seed, 900.0).check(peers)
    assert schedule == churn.schedule(peers, seed, 900.0)
    assert all(1.0 <= fault.at_s < 900.0 for fault in schedule.faults)
    up = peers
    for fault in schedule.faults:
        up += {"crash": -1, "restart": 1, "join": 1}[fault.kind]
        assert up >= min(keep_up, peers)


def test_a_longer_run_begins_like_a_shorter_one():
    churn = RateChurn(30.0, down_s=60.0, joins_per_hour=20.0)
    short, long = churn.schedule(6, 5, 300.0).faults, churn.schedule(6, 5, 900.0).faults
    assert long[: len(short)] == short
    assert len(long) > len(short)


def test_peers_that_other_faults_name_are_spared():
    environment = Environment(churn=RateChurn(60.0, down_s=30.0))
    written = FaultSchedule().crash(2, 100.0).stall("peer-1", 50.0, 5.0)
    schedule = environment.faults(6, 1, 900.0, besides=written).check(6)
    assert {fault.peers[0] for fault in schedule.faults if fault not in written.faults} == {0, 3, 4, 5}
    with pytest.raises(ConfigurationError, match="let only one of the two"):
        Environment(churn=RateChurn(joins_per_hour=60.0)).faults(6, 1, 900.0, besides=FaultSchedule().join(5.0))


def test_a_simulation_under_churn_trains_on():
    environment = Environment(churn=RateChurn(crashes_per_hour=120.0, down_s=15.0, keep_up=2))
    report = Simulation(6, environment=environment, until_s=60.0, seed=2).run(90.0)
    report.require("fault crash", "fault restart", "PeerDied")
    assert min(peer.steps for peer in report.living()) > 100


# Traces

TRACE = """time,peer,event,note
5.0,1,crash,preempted
2.0,peer-0,down,
20,1,up,
21,1,up,
30,3,join,the first newcomer of three
40,3,leave,
"""


def test_a_trace_is_read_in_order_of_time_and_what_is_so_already_is_left_out(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    schedule = TraceChurn.read(path).schedule(3, 0, 100.0, begin_s=1.0).check(3)
    told = [(fault.at_s, fault.kind, fault.peers) for fault in schedule.faults]
    assert told == [
        (3.0, "crash", (0,)),
        (6.0, "crash", (1,)),
        (21.0, "restart", (1,)),
        (31.0, "join", ()),
        (41.0, "leave", (3,)),
    ]


def test_a_trace_named_in_a_scenario_is_looked_for_beside_it(tmp_path):
    (tmp_path / "trace.csv").write_text("time,peer,event\n10,1,down\n12,1,up\n")
    scenario = tmp_path / "spot.toml"
    scenario.write_text(
        "peers = 3\nuntil_s = 30.0\n[environment.churn]\nkind = 'trace'\npath = 'trace.csv'\nsilent = true"
    )
    simulation = load(scenario).simulation()
    assert simulation.options.faults == FaultSchedule().crash(1, 11.0, silent=True).restart(1, 13.0)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("time,peer\n1,2\n", "has no column 'event'"),
        ("time,peer,event\n1,x,down\n", "line 2: "),
        ("time,peer,event\n-1,1,down\n", "time -1.0 of peer 1"),
        ("time,peer,event\n1,1,dwon\n", "did you mean 'down'"),
        ("time,peer,event\n1,7,down\n", "peer 7 does not exist at 1 s; there are 0 to 2"),
    ],
)
def test_a_trace_that_cannot_be_is_refused(text, named, tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=named):
        TraceChurn.read(path).schedule(3, 0, 100.0)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: RateChurn(down_s=0.0), "down_s=0.0"),
        (lambda: RateChurn(joins_per_hour=-1.0), "joins_per_hour=-1.0"),
        (lambda: RateChurn(keep_up=0), "keep_up=0"),
        (lambda: WeibullChurn(0.0, 1.0, 1.0, 1.0), "up_shape=0.0"),
        (lambda: WeibullChurn(1.0, 1.0, 1.0, 1.0, group_share=2.0), "group_share=2.0"),
        (lambda: WeibullChurn(1.0, 1.0, 1.0, 1.0, faster=0.0), "faster=0.0"),
        (lambda: RateChurn(1.0).schedule(4, 0, -5.0), "until_s=-5.0"),
    ],
)
def test_churn_out_of_range_is_named(make, named):
    with pytest.raises(ConfigurationError, match=named):
        make()


# What the check of schedules refuses beside what test_faults.py holds


@pytest.mark.parametrize(
    ("schedule", "named"),
    [
        (
            FaultSchedule().partition([[0]], 1.0, 5.0).partition([[1]], 3.0, 5.0),
            "partition at 3 s overlaps the partition",
        ),
        (FaultSchedule().one_way(0, 1, 1.0, 5.0).one_way(0, 1, 3.0, 5.0), "one_way from 0 to 1 at 3 s overlaps"),
        (FaultSchedule([Fault("stall", -1.0, 2.0, (1,))]), "at_s=-1.0"),
        (FaultSchedule([Fault("stall", 1.0, -2.0, (1,))]), "for_s=-2.0"),
        (FaultSchedule([Fault("stal", 1.0, 2.0, (1,))]), "did you mean 'stall'"),
    ],
)
def test_schedules_that_cannot_be_are_refused(schedule, named):
    with pytest.raises(ConfigurationError, match=named):
        schedule.check(4)


def test_cuts_that_do_not_overlap_pass():
    FaultSchedule().partition([[0]], 1.0, 5.0).partition([[1]], 6.0, 5.0).one_way(0, 1, 1.0, 9.0).one_way(
        1, 0, 2.0, 9.0
    ).check(4)
