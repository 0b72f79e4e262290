"""Blocks that last as long on fast and slow peers, and the fixed points that unequal numbers of steps lead to."""

from __future__ import annotations

import numpy as np
import pytest

import sim
from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.notices import Paced
from gossiptrain.protocol.pacing import PacingConfig
from sim import ConstantSteps, FaultSchedule, LogNormalSteps, QuadraticWorkload, Simulation, TimedWorkload, TraceSteps

STEPS_S = (0.05, 0.1, 0.15, 0.2, 0.3)
STEPS = np.array([12, 6, 4, 3, 2])  # in a block of 0.6 s
SCALE = STEPS.mean() / STEPS


def quadratic(learning_rate: float = 0.04) -> QuadraticWorkload:
    rows = TraceSteps(tuple((step_s,) for step_s in STEPS_S))
    return QuadraticWorkload.random(len(STEPS_S), 3, seed=1, learning_rate=learning_rate, step_times=rows)


def rest_in_rounds(work: QuadraticWorkload, **options) -> np.ndarray:
    """Trains in synchronous rounds on the complete graph until nothing changes; returns the parameters between rounds."""
    n = len(STEPS_S)
    options = {"sync_every": "0.6s", **options}
    simulation = Simulation(n, topology="complete", mixer="d_psgd", workload=work, formed=True, seed=2, **options)
    simulation.run(250.0)
    last_s = max(peer.training.blocks[-1].end_s for peer in simulation.living())
    simulation.run(max(250.0, last_s) + 0.05)
    return np.stack([peer.training.settled() for peer in simulation.living()])


def test_in_rounds_blocks_of_equal_time_rest_where_those_with_more_steps_pull() -> None:
    work = quadratic()
    expected = work.fixed_point(np.full((5, 5), 0.2), STEPS)
    np.testing.assert_allclose(rest_in_rounds(work), expected, atol=1e-5)
    # ... which is, to first order in the learning rate, the minimum of sum_i H_i f_i
    assert np.linalg.norm(expected[0] - work.weighted_solution(STEPS)) < 0.2 * np.linalg.norm(
        expected[0] - work.solution()
    )


def test_normalised_rounds_rest_at_the_global_optimum_to_first_order() -> None:
    work = quadratic()
    expected = work.fixed_point(np.full((5, 5), 0.2), STEPS, SCALE)
    np.testing.assert_allclose(rest_in_rounds(work, normalise=True), expected, atol=1e-5)
    errors = []
    for learning_rate in (0.04, 0.02, 0.01):
        finer = quadratic(learning_rate)
        point = finer.fixed_point(np.full((5, 5), 0.2), STEPS, SCALE)[0]
        errors.append(np.linalg.norm(point - finer.solution()))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("normalise", [False, True])
def test_between_pairs_the_rates_of_steps_weigh_and_normalised_they_do_not(normalise: bool) -> None:
    work = quadratic(learning_rate=0.004)
    simulation = Simulation(
        5,
        topology="complete",
        workload=work,
        formed=True,
        seed=3,
        sync_every=4,
        normalise=normalise,
        observe_every_s=1e6,
    )
    simulation.run(120.0)
    means = []
    for until_s in range(125, 220, 5):
        simulation.run(float(until_s))
        means.append(np.mean([peer.training.settled() for peer in simulation.living()], axis=0))
    rest = np.mean(means, axis=0)
    apart = [np.linalg.norm(rest - point) for point in (work.solution(), work.weighted_solution(1 / np.array(STEPS_S)))]
    expected, other = apart if normalise else reversed(apart)
    assert expected < 0.15 * other


def test_blocks_of_all_peers_last_equally_long_after_five_and_again_after_a_change() -> None:
    slow = FaultSchedule().fail_slow(2, at_s=40.0, for_s=1000.0, factor=5.0)
    work = TimedWorkload(1000, LogNormalSteps(0.02, between=0.5, within=0.05))
    simulation = Simulation(8, workload=work, formed=True, seed=4, sync_every="2s", faults=slow)
    simulation.run(100.0)
    for peer in simulation.living():
        lasts_s = np.array([block.end_s - block.began_s for block in peer.training.blocks])
        ends_s = np.array([block.end_s for block in peer.training.blocks])
        settled = lasts_s[5:][ends_s[5:] < 40.0]
        again = lasts_s[ends_s > 40.0][5:]
        assert min(len(settled), len(again)) > 5
        for each in (settled, again):
            assert abs(each.mean() / 2.0 - 1) < 0.07, peer.name


def test_peers_that_have_only_heard_of_each_others_speed_agree_on_the_length_of_a_block() -> None:
    work = TimedWorkload(1000, LogNormalSteps(0.05, between=0.6, within=0.0))
    simulation = Simulation(16, workload=work, formed=True, seed=5, sync_every="auto")
    simulation.run(60.0)
    lasts_s = [np.mean([b.end_s - b.began_s for b in p.training.blocks[-5:]]) for p in simulation.living()]
    assert max(lasts_s) / min(lasts_s) < 1.15
    told = [notice for peer in simulation.living() for _, notice in peer.notices if isinstance(notice, Paced)]
    assert {notice.limit for notice in told} & {"slowest", "drift", "network", "overhead"}


def blocks_of(spread: float, **options) -> float:
    """How long blocks of peers last whose optima are so far apart, in steps."""
    chance = np.random.default_rng(0)
    curvature_NP = np.ones((8, 50))
    work = QuadraticWorkload(
        curvature_NP,
        spread * chance.standard_normal((8, 50)),
        learning_rate=0.01,
        noise=1.0,
        step_times=ConstantSteps(0.05),
    )
    simulation = Simulation(8, workload=work, formed=True, seed=6, sync_every="auto", observe_every_s=1e6, **options)
    simulation.run(80.0)
    return float(np.mean([block.steps for peer in simulation.living() for block in peer.training.blocks[-20:]]))


def test_blocks_grow_shorter_the_faster_peers_drift_apart_and_longer_where_the_network_is_slow() -> None:
    alike, unlike = blocks_of(0.0), blocks_of(20.0)
    assert unlike < 0.7 * alike
    slow = sim.NetworkOptions(latency_s=0.5)
    assert blocks_of(20.0, network=slow) > 1.5 * unlike


def test_dead_and_departed_peers_speeds_count_no_more() -> None:
    rows = TraceSteps(((0.05,), (0.05,), (0.05,), (0.05,), (0.2,)))
    crash = FaultSchedule().leave(4, at_s=30.0)
    simulation = Simulation(5, workload=TimedWorkload(1000, rows), formed=True, seed=7, sync_every="auto", faults=crash)
    simulation.run(60.0)
    blocks = simulation.living()[0].training.blocks
    before = [b.steps for b in blocks if 20 < b.end_s < 30]
    assert np.mean(before) == pytest.approx(PacingConfig().slowest_steps * 0.2 / 0.05, rel=0.1)
    assert blocks[-1].steps < 0.6 * np.mean(before)


@pytest.mark.parametrize("value", ["0", 0, "2 parsecs", "-1s", "often"])
def test_a_block_that_cannot_be_is_refused_with_what_is_accepted(value: object) -> None:
    with pytest.raises(ConfigurationError, match='at least 1 local step, a time such as 500ms or 2s, or "auto"'):
        Simulation(2, sync_every=value)  # type: ignore[arg-type]
