"""Environments: devices whose speed changes, published regions, and all of it in Python, in TOML and in reports."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.notices import Exchanged
from sim import (
    ChangingSteps,
    ConstantSteps,
    Environment,
    FaultSchedule,
    LogNormalSteps,
    MeasuredSteps,
    NetworkOptions,
    RateChurn,
    Simulation,
    SlowPhases,
    TimedWorkload,
    TraceChurn,
    TraceSteps,
    WeibullChurn,
    loads,
    presets,
    regions,
)
from sim.scenario import dumps
from sim.step_times import StepTimes


def test_a_change_of_speed_within_a_step_stretches_the_rest_of_it():
    clockwork = ChangingSteps(ConstantSteps(1.0), ((1.5, 2.0), (5.5, 1.0))).begin(0, 0)
    # Steps end at 1, then 0.5 s of work by 1.5 and the other half by 2.5, then 4.5; half of the next by 5.5, all by 6.
    assert clockwork.block(0, 4, 0.0) == (pytest.approx(6.0), pytest.approx(2.0))
    assert clockwork.block(4, 1, 100.0) == (pytest.approx(1.0), pytest.approx(1.0))


def test_only_the_peers_named_change_their_speed():
    steps = ChangingSteps(ConstantSteps(1.0), ((0.0, 3.0),), peers=(2,))
    assert [steps.begin(0, peer).block(0, 1, 0.0)[0] for peer in range(4)] == [1.0, 1.0, 3.0, 1.0]


def test_slow_phases_take_the_share_of_time_that_they_should():
    steps = SlowPhases(ConstantSteps(0.1), every_s=30.0, for_s=10.0, sigma=0.0, factor=4.0)
    clockwork = steps.begin(5, 0)
    now_s, slow = 0.0, 0.0
    while now_s < 20_000:
        lasts_s = clockwork.block(0, 1, now_s)[0]
        slow += lasts_s if lasts_s > 0.2 else 0.0
        now_s += lasts_s
    assert slow / now_s == pytest.approx(10 / 40, abs=0.03)


def test_a_device_has_its_slow_phases_at_the_same_times_whenever_its_process_began():
    steps = SlowPhases(ConstantSteps(0.1), every_s=30.0, for_s=10.0)
    early, late = steps.begin(5, 1), steps.begin(5, 1)
    early.block(0, 100, 0.0)
    times_s = np.arange(100.0, 200.0, 1.0)
    assert [early.block(0, 1, t) for t in times_s] == [late.block(0, 1, t) for t in times_s]


def test_a_simulation_slows_down_when_its_devices_do():
    slow = ChangingSteps(ConstantSteps(0.05), ((10.0, 5.0),))
    peer = Simulation(2, environment=Environment(slow), seed=1).run(20.0).peers[0]
    before = sum(block.steps for block in peer.blocks if block.end_s <= 10.0)
    after = sum(block.steps for block in peer.blocks if block.end_s > 10.0)
    assert before / after == pytest.approx(5.0, rel=0.15)


# The network


def test_every_two_regions_of_one_cloud_have_published_figures():
    aws = ("oregon", "virginia", "ohio", "tokyo", "seoul", "singapore", "sydney", "london", "frankfurt", "ireland")
    ibm = ("dallas", "toronto", "montreal", "madrid", "osaka", "sao_paulo", "virginia", "frankfurt", "london", "tokyo")
    assert all(regions.path(a, b).round_trip_ms > 5 for a in aws for b in aws if a != b)
    assert all(math.isfinite(regions.path(a, b).gbps) for a in aws for b in aws if a != b)
    assert all(regions.path(a, b).round_trip_ms > 5 for a in ibm for b in ibm if a != b)
    assert regions.path("virginia", "tokyo") == regions.path("tokyo", "virginia") == (143.0, 0.524)
    assert regions.path("madrid", "sao_paulo").round_trip_ms == 202.0


def test_a_pair_of_regions_gets_the_published_bandwidth_and_no_more():
    def transfer_s(network: NetworkOptions) -> float:
        workload = TimedWorkload(20_000_000, ConstantSteps(0.5))
        report = Simulation(2, environment=Environment(None, network), workload=workload, seed=1).run(60.0)
        return float(np.median([n.seconds for p in report.peers for _, n in p.told(Exchanged)]))

    wide = NetworkOptions(regions=("virginia", "sydney"), uplink_mbps=10_000.0, downlink_mbps=10_000.0)
    free = NetworkOptions(latency_s=0.0985, uplink_mbps=10_000.0, downlink_mbps=10_000.0)
    # 160 Mbit take 0.418 s at 383 Mbit/s and 0.016 s at 10 Gbit/s.
    assert transfer_s(wide) - transfer_s(free) == pytest.approx(0.402, rel=0.1)


def test_delays_over_the_internet_have_the_median_and_spread_asked_for():
    rows_s = np.array(presets.wide_area(draw_seed=3).latencies_s(200))
    logs = np.log(1000 * rows_s[np.triu_indices(200, 1)])
    assert np.array_equal(rows_s, rows_s.T)
    assert (logs.mean(), logs.std()) == (pytest.approx(4.0, abs=0.03), pytest.approx(0.84, abs=0.03))
    assert np.array_equal(np.array(presets.wide_area(draw_seed=3).latencies_s(50)), rows_s[:50, :50])


def test_hosts_beyond_a_matrix_are_like_those_in_it_where_that_is_asked_for():
    small = ((0.0, 0.1, 0.2), (0.1, 0.0, 0.3), (0.2, 0.3, 0.0))
    rows = np.array(NetworkOptions(latency_s=small, extends=True).latencies_s(40))
    assert np.array_equal(rows[:3, :3], np.array(small))
    assert set(np.unique(rows)) == {0.0, 0.1, 0.2, 0.3}
    assert np.all(rows[~np.eye(40, dtype=bool)] > 0)
    ups = NetworkOptions(uplink_mbps=(10.0, 20.0), extends=True).bandwidths_mbps("uplink_mbps", 40)
    assert ups[:2] == [10.0, 20.0]
    assert {*ups[2:]} == {10.0, 20.0}


# In files and reports

EVERYTHING = Environment(
    compute=SlowPhases(ChangingSteps(LogNormalSteps(0.1), ((5.0, 2.0),), peers=(1, 2)), factor=2.5),
    network=NetworkOptions(latency_lognormal=(3.0, 0.5), uplink_mbps=(50.0, 100.0), extends=True, loss=0.01),
    churn=WeibullChurn(0.6, 600.0, 0.7, 300.0, group_size=4, group_share=0.5, silent=True),
    name='a "small" cluster',
)
ENVIRONMENTS = [
    EVERYTHING,
    Environment(),
    Environment(MeasuredSteps(((0.1, 0.2), (0.3, 0.4)), (0.5, -0.5)), NetworkOptions(regions=("virginia", "ireland"))),
    Environment(TraceSteps(((0.1, 0.2),)), churn=RateChurn(2.0, down_s=math.inf, joins_per_hour=3.0)),
    Environment(network=NetworkOptions(latency_s=((0.0, 0.1), (0.1, 0.0))), churn=TraceChurn(((5.0, 1, "down"),))),
]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_survives_being_written_and_read_again(environment):
    assert Environment.from_dict(environment.to_dict()) == environment
    read = loads(environment.to_toml() or "").arguments.get("environment", Environment())
    assert read == environment


def test_a_scenario_with_an_environment_gives_the_same_trace_when_written_and_read_again():
    churn = RateChurn(crashes_per_hour=120.0, down_s=10.0, joins_per_hour=120.0)
    environment = Environment(LogNormalSteps(0.2), NetworkOptions(latency_lognormal=(2.0, 0.5)), churn)
    faults = FaultSchedule().stall(1, 20.0, 3.0)
    simulation = Simulation(4, environment=environment, until_s=60.0, seed=3, faults=faults)
    report = simulation.run(60.0).require("fault crash", "fault stall", "fault join")
    whole, explicit = dumps(simulation.options, 60.0), dumps(simulation.options, 50.0)
    assert whole is not None
    assert explicit is not None
    assert "[environment.churn]" in whole
    assert "[environment.churn]" not in explicit
    assert loads(whole).run().trace_hash == report.trace_hash
    assert loads(explicit).simulation().options.faults == simulation.options.faults


def test_a_report_tells_the_environment_also_where_its_parts_were_given_one_by_one():
    assert Environment.from_dict(Simulation(2, environment=EVERYTHING, until_s=5.0).run(2.0).environment) == EVERYTHING
    report = Simulation(2, network=NetworkOptions(latency_s=0.1)).run(2.0)
    assert Environment.from_dict(report.environment) == Environment(ConstantSteps(), NetworkOptions(latency_s=0.1))


def test_presets_may_be_named_in_a_file():
    text = """
    [environment.compute]
    preset = "mobile_devices"
    batch = 16
    [environment.network]
    preset = "cloud_regions"
    regions = ["virginia", "tokyo"]
    [environment.churn]
    preset = "spot_instances"
    faster = 100
    """
    environment = loads(text).arguments["environment"]
    assert environment.compute == presets.mobile_devices(batch=16)
    assert environment.network == presets.cloud_regions(("virginia", "tokyo"))
    assert environment.churn == presets.spot_instances(faster=100)


@pytest.mark.parametrize("name", [name for known in presets.PRESETS.values() for name in known])
def test_every_preset_runs_and_can_be_written(name):
    part = next(part for part, known in presets.PRESETS.items() if name in known)
    environment = Environment(**{part: presets.PRESETS[part][name]()})
    assert Environment.from_dict(environment.to_dict()) == environment
    if part == "churn":
        environment.faults(16, 1, 600.0).check(16)
    elif part == "compute":
        assert environment.compute is not None
        assert environment.compute.begin(1, 0).block(0, 4, 0.0)[0] > 0
    else:
        assert np.all(np.array(environment.network.latencies_s(4))[~np.eye(4, dtype=bool)] > 0)


class OwnSteps(StepTimes):
    def begin(self, seed, peer):
        return ConstantSteps(0.1).begin(seed, peer)


def test_step_times_of_ones_own_class_run_but_cannot_be_written():
    simulation = Simulation(2, environment=Environment(OwnSteps()))
    assert "OwnSteps" in simulation.run(2.0).environment["compute"]
    with pytest.raises(ConfigurationError, match="OwnSteps cannot be written"):
        dumps(simulation.options, 2.0)
    with pytest.raises(ConfigurationError, match="OwnSteps cannot be written"):
        Environment(OwnSteps()).to_dict()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[environment]\ncompute_ = 1", "environment: 'compute_' is not known; did you mean 'compute'"),
        ("[environment.compute]\nkind = 'slowphases'", "did you mean 'slow_phases'"),
        ("[environment.compute]\nkind = 'changing'\nchanges = [[1.0, 2.0]]", "environment.compute: 'base' is missing"),
        ("[environment.compute]\nkind = 'changing'\nbase = 3\nchanges = [[1.0, 2.0]]", "base=3: must be a table"),
        (
            "[environment.compute]\nkind = 'changing'\nchanges = [[1.0, 2.0]]\nbase = {kind = 'constant', step = 1.0}",
            "environment.compute.base: 'step' is not known; did you mean 'step_s'",
        ),
        (
            "[environment.compute]\nstep_s = 'fast'",
            "environment.compute: a value of step_s='fast' is of the wrong type",
        ),
        ("[environment.network]\nregions = ['irland']", "did you mean 'ireland'"),
        ("[environment.network]\nlatencys = 3", "did you mean 'latency_s'"),
        ("[environment.network]\nlatency_lognormal = [1.0]", "must be \\(mu, sigma\\)"),
        ("[environment.churn]\npreset = 'spot_instance'", "did you mean 'spot_instances'"),
        ("[environment.churn]\npreset = 'spot_instances'\nfast = 3", "did you mean 'faster'"),
        ("[environment.churn]\ncrashes_per_hour = -1", "crashes_per_hour=-1"),
        ("[environment.churn]\nkind = 'trace'\npath = 'nowhere.csv'", "nowhere.csv' cannot be read"),
        ("[environment]\nname = 'x'\n[network]\nloss = 0.1", r"write it as \[environment.network\]"),
        (
            "[environment.compute]\nstep_s = 0.1\n[workload.steps]\nstep_s = 0.1",
            r"workload.steps: stands beside \[environment.compute\]",
        ),
        ("environment = 3", "environment: 3 is no table"),
        ("until_s = 'long'", "until_s='long'"),
        ("[[faults]]\nkind = 'crash'\npeer = 1\nat_s = 'soon'", r"faults\[1\] \(crash\): a value of"),
        ("[random_faults]\nper_minute = 'x'", "random_faults: a value of"),
    ],
)
def test_what_an_environment_cannot_be_is_named(text, named):
    with pytest.raises(ConfigurationError, match=named):
        loads(text).simulation()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ChangingSteps(ConstantSteps(), ()), "changes"),
        (lambda: ChangingSteps(ConstantSteps(), ((5.0, 1.0), (4.0, 2.0))), "rising"),
        (lambda: ChangingSteps(ConstantSteps(), ((5.0, 0.0),)), "factor 0.0"),
        (lambda: SlowPhases(ConstantSteps(), factor=0.5), "factor=0.5"),
        (lambda: SlowPhases(ConstantSteps(), every_s=0.0), "every_s=0.0"),
        (lambda: MeasuredSteps(()), "bins_s"),
        (lambda: MeasuredSteps(((0.1,),), (1.0,)), "correlations"),
        (lambda: Environment(compute=3), "compute=3"),  # type: ignore[arg-type]
        (lambda: NetworkOptions(regions=("tokyo",), latency_lognormal=(1.0, 1.0)), "not both"),
        (lambda: NetworkOptions(pair_mbps=0.0).pairs_mbps(2), "pair_mbps=0.0"),
        (lambda: Simulation(2, environment=Environment(), network=NetworkOptions()), "beside an environment"),
        (lambda: Simulation(2, environment=EVERYTHING), "until_s: the environment has churn"),
        (lambda: presets.volunteers("suse"), "sessions='suse'"),
        (lambda: presets.research_cluster("rsc-3"), "did you mean"),
        (lambda: presets.large_gpu_cluster(0), "gpus_per_peer=0"),
    ],
)
def test_values_out_of_range_are_named(make, named):
    with pytest.raises(ConfigurationError, match=named):
        make()
