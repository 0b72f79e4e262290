"""Blocks of local steps: their times, and the fixed points of unequal numbers of steps with real optimizers."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gossiptrain.protocol.pacing import PacingConfig
from gossiptrain.runtime.blocks import WARMUP_STEPS, Blocks, StepClock
from gossiptrain.runtime.parameters import ParameterVector
from gossiptrain.tug import WINDOW

STEPS = (12, 6, 4, 2)
MEAN = sum(STEPS) / len(STEPS)
CURVATURE = torch.tensor([1.0, 0.5, 2.0, 1.5], dtype=torch.float64)
OPTIMUM = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)


class Point(nn.Module):
    """One number x, which wants to be at its peer's optimum: f_i(x) = a_i (x - b_i)^2 / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def grade(self, peer: int) -> None:
        self.x.grad = CURVATURE[peer] * (self.x.detach() - OPTIMUM[peer])


def rest(make: Callable, steps: tuple[int, ...], normalise: bool, rounds: int = 250) -> float:
    """Trains in rounds: so many local steps each, an average; the optimizers' states live on. Returns where it rests."""
    models = [Point() for _ in steps]
    optimizers = [make(model.parameters()) for model in models]
    vectors = [ParameterVector(model) for model in models]
    tail = []
    for number in range(rounds):
        for peer, (model, optimizer, vector) in enumerate(zip(models, optimizers, vectors)):
            vector.mark(copy=True)
            for _ in range(steps[peer]):
                model.grade(peer)
                optimizer.step()
            if normalise:
                vector.scale_change(MEAN / steps[peer])
        mean = sum(float(model.x.detach()) for model in models) / len(models)
        with torch.no_grad():
            for model in models:
                model.x.fill_(mean)
        if number >= rounds - 50:
            tail.append(mean)
    return sum(tail) / len(tail)


def weighted(weights: tuple[float, ...]) -> float:
    """argmin sum_i w_i f_i."""
    w = torch.tensor(weights, dtype=torch.float64) * CURVATURE
    return float((w * OPTIMUM).sum() / w.sum())


@pytest.mark.parametrize("momentum", [0.0, 0.9], ids=["sgd", "heavy ball"])
def test_with_sgd_and_momentum_the_weighted_rounds_rest_at_the_optimum_and_the_plain_ones_do_not(
    momentum: float,
) -> None:
    def make(parameters):
        return torch.optim.SGD(parameters, lr=1e-2 * (1 - momentum), momentum=momentum)

    optimum, pulled = weighted((1.0,) * 4), weighted(STEPS)
    plain, normalised = rest(make, STEPS, False), rest(make, STEPS, True)
    assert abs(plain - pulled) < 0.1 * abs(pulled - optimum)
    assert abs(normalised - optimum) < 0.1 * abs(pulled - optimum)


def test_with_adam_weighted_rounds_rest_where_equal_numbers_of_steps_do() -> None:
    def make(parameters):
        return torch.optim.Adam(parameters, lr=5e-3, betas=(0.9, 0.99))

    equal = rest(make, (6, 6, 6, 6), False)
    plain, normalised = rest(make, STEPS, False), rest(make, STEPS, True)
    assert abs(plain - equal) > 0.1, "unequal numbers pull, or this shows nothing"
    assert abs(normalised - equal) < 0.25 * abs(plain - equal)


def test_the_change_since_the_mark_is_measured_and_scaled_over_all_dtypes() -> None:
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3).double())
    vector = ParameterVector(model)
    before = [p.detach().clone() for p in model.parameters()]
    assert vector.movement() is None
    vector.mark(copy=True)
    changes = [torch.randn_like(p) for p in before]
    with torch.no_grad():
        for parameter, change in zip(model.parameters(), changes):
            parameter.add_(change)
    expected = torch.cat([change.double().flatten() for change in changes]).norm()
    torch.testing.assert_close(vector.movement(), expected.float(), rtol=1e-5, atol=0)
    vector.scale_change(0.25)
    for parameter, start, change in zip(model.parameters(), before, changes):
        torch.testing.assert_close(parameter.detach(), start + 0.25 * change)
    vector.unmark()
    assert vector.movement() is None


def test_a_mark_on_the_published_snapshot_needs_no_copy() -> None:
    model = nn.Linear(100, 100)
    vector = ParameterVector(model)
    vector.publish()
    held = sum(vector.memory_report().values())
    vector.mark(copy=False)
    with torch.no_grad():
        model.weight.add_(1.0)
    torch.testing.assert_close(vector.movement(), torch.tensor(100.0))
    assert sum(vector.memory_report().values()) == held


class Network:
    """Stands for the network's thread: mixes as it is told, and notes what it is told."""

    def __init__(self, pull: float) -> None:
        self.pull, self.tugs = pull, []
        self.plan = SimpleNamespace(steps=2, scale=1.0, publish=True)

    def completed(self, event) -> None:
        pass

    def run_soon(self, call) -> None:
        call()

    def moved(self, movement, steps) -> None:
        pass

    def tugged(self, products) -> None:
        self.tugs.append(products.tug())


@pytest.mark.parametrize("pull", [0.0, 0.5, 1.0])
def test_every_fourth_boundary_tells_how_hard_the_peer_and_mixing_pull_against_each_other(pull: float) -> None:
    """Steps add one to everything; mixing takes the part `pull` of it back."""
    model = nn.Sequential(nn.Linear(300, 100), nn.Linear(100, 3).double())
    vector, network = ParameterVector(model), Network(pull)
    blocks = Blocks(vector, PacingConfig("auto"), is_synchronous=False, timeout_s=1.0)
    vector.publish()
    blocks.begin(network)
    real_apply = vector.apply

    def apply() -> int:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(2 * pull)
        return real_apply()

    vector.apply = apply
    for step in range(2 * (3 * WINDOW + 1)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        blocks.step(network, step, time.monotonic() + 1.0)
    assert network.tugs == [pytest.approx(pull, abs=1e-5)] * 2


def test_the_first_steps_do_not_count_nor_does_what_is_done_between_two_steps() -> None:
    clock = StepClock()
    now_s = clock._last_s
    for _ in range(WARMUP_STEPS):
        now_s += 7.0
        clock.step(now_s)
    for _ in range(4):
        now_s += 0.5
        clock.step(now_s)
    timing = clock.block()
    assert (timing.steps, timing.step_s, timing.blocks) == (WARMUP_STEPS + 4, pytest.approx(0.5), 1)
    assert timing.compute_s == pytest.approx(7.0 * WARMUP_STEPS + 2.0)
    clock.waited(3.0)
    clock.step(now_s + 3.5)
    again = clock.block()
    assert (again.steps, again.wait_s) == (1, 3.0)
    assert again.step_s == pytest.approx(0.5)
