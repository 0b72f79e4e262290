"""Learning-rate schedules: the rates of torch's schedulers, equal in both modes, by the steps a state has taken."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import sim
from gossiptrain.errors import ConfigurationError
from sim.learning.rates import Rates
from tests.sim.learning.models import mlp, simulate, workload

SCHEDULES: dict[str, Any] = {
    "function": lambda step: 0.9**step,
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 40),
    "warm-up, then steps": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5), lr_scheduler.StepLR(optimizer, 7)], [5]
    ),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.5, 300, cycle_momentum=False),
}
OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.2),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1e-1),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rates_are_those_of_torch(name: str) -> None:
    schedule, parameter = SCHEDULES[name], nn.Parameter(torch.zeros(2))
    rates = Rates(schedule, OPTIMIZERS["momentum"], [parameter])
    optimizer = OPTIMIZERS["momentum"]([parameter])
    real = lr_scheduler.LambdaLR(optimizer, schedule) if name == "function" else schedule(optimizer)
    expected = []
    for _ in range(30):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        real.step()
    assert rates.at(29) == (pytest.approx(expected[29]),)
    assert [rates.at(step)[0] for step in range(30)] == pytest.approx(expected)


def test_each_parameter_group_has_its_own_rate() -> None:
    def grouped(parameters: Any) -> torch.optim.Optimizer:
        first, *rest = parameters
        return torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": rest}], lr=0.1)

    rates = Rates(lambda step: 1 / (1 + step), grouped, [nn.Parameter(torch.zeros(1)) for _ in range(3)])
    assert rates.at(3) == (0.125, 0.025)


@pytest.mark.parametrize(
    ("optimizer", "schedule"), [("sgd", "function"), ("momentum", "cosine"), ("adamw", "one cycle")]
)
def test_both_modes_end_at_the_same_parameters_with_unequal_blocks(optimizer: str, schedule: str) -> None:
    ends = []
    for mode in ("batched", "loop"):
        options = {"optimizer": OPTIMIZERS[optimizer], "schedule": SCHEDULES[schedule]}
        work = workload(mlp, torch.float64, mode=mode, **options)
        work.prepare(4, seed=1)
        for peer, steps in enumerate((3, 7, 1, 7)):
            work.begin(1, peer)
            work.train(peer, steps)
            work.train(peer, 4)
        ends.append(torch.stack([work.vector(work.publish(peer)).clone() for peer in range(4)]))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)
    plain = workload(mlp, torch.float64, optimizer=OPTIMIZERS[optimizer])
    plain.prepare(1, seed=1)
    plain.begin(1, 0)
    plain.train(0, 7)
    assert (plain.vector(plain.publish(0)) - ends[0][0]).abs().max() > 1e-3, "the schedule does something"


@pytest.mark.slow
def test_a_simulation_with_a_newcomer_gives_the_same_in_both_modes() -> None:
    found = []
    for mode in ("batched", "loop"):
        work = workload(mlp, torch.float64, mode=mode, optimizer=OPTIMIZERS["momentum"], schedule=SCHEDULES["cosine"])
        found.append(simulate(work, faults=sim.FaultSchedule().join(1.5), seed=4))
    (one, x), (other, y) = found
    assert one.trace_hash == other.trace_hash
    assert one.saw["adopted"]
    torch.testing.assert_close(x, y, rtol=0, atol=1e-9 * float(y.abs().max()))


def test_who_takes_over_a_state_goes_on_with_its_step_count() -> None:
    """At a rate of 0 from the fifth step on, a newcomer that adopts a state of five steps no longer moves."""
    for mode in ("batched", "loop"):
        work = workload(mlp, torch.float64, mode=mode, schedule=lambda step: float(step < 5))
        work.prepare(2, seed=1)
        work.begin(1, 0)
        work.train(0, 5)
        work.begin(1, 1)
        work.adopt(1, work.publish(0))
        before = work.vector(work.publish(1)).clone()
        work.train(1, 3)
        assert torch.equal(work.vector(work.publish(1)), before)


def test_a_scheduled_block_gives_the_same_bits_alone_and_among_others() -> None:
    found = []
    for others in (0, 9):
        work = workload(mlp, mode="batched", schedule=SCHEDULES["cosine"])
        work.prepare(10, seed=1)
        for peer in range(others, -1, -1):
            work.begin(1, peer)
            work.train(peer, 4 + peer)
        found.append(work.vector(work.publish(0)).clone())
    assert torch.equal(found[0], found[1])


def test_the_description_says_that_there_is_one() -> None:
    assert "SGD by a schedule" in workload(mlp, schedule=SCHEDULES["function"]).describe()


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (0.5, "schedule: is float; must be a function of the step"),
        (lambda step: "x", "must be a function of the step"),
        (lambda step: math.nan, "gives the learning rate nan at step 0"),
        (lambda step: 1.0 - step * 2, "gives the learning rate -0.1 at step 1"),
        (lr_scheduler.ReduceLROnPlateau, "ReduceLROnPlateau needs a measure"),
        (lambda o: torch.optim.SGD(o.param_groups[0]["params"]), "returned SGD; must be"),
        (lr_scheduler.StepLR, "fails for step 0"),
    ],
)
def test_what_is_no_schedule_is_refused(schedule: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        workload(mlp, schedule=schedule)


def test_a_schedule_that_moves_the_momentum_is_refused() -> None:
    cycle = lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.5, 300)  # noqa: E731
    with pytest.raises(ConfigurationError, match="OneCycleLR changes more than the learning rate"):
        workload(mlp, optimizer=OPTIMIZERS["momentum"], schedule=cycle)
