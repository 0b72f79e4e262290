"""Learning rates that change with the steps taken: by a function of the step, or as one of torch's schedulers says.

A peer's state is computed long after its step was simulated, and beside others' at other steps. So a rate must follow from
the step alone: a scheduler is run once, on a stand-in, and what it says of each step is kept.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gossiptrain.errors import ConfigurationError
from sim.learning.task import MakeOptimizer

ACCEPTED = (
    "a function of the step that returns a factor, such as lambda step: 0.999**step, or one of the optimizer that returns "
    "one of torch.optim.lr_scheduler"
)
CYCLED = ("momentum", "betas", "weight_decay")


class Rates:
    """The learning rates of every step, from 0 on: a number for each of the optimizer's parameter groups."""

    def __init__(self, schedule: Any, make_optimizer: MakeOptimizer, parameters: Sequence[nn.Parameter]) -> None:
        """
        Args:
            schedule: see `TorchWorkload`. parameters: like those that are trained; they are not touched.

        Raises:
            ConfigurationError: the schedule is none, needs a measure, or changes more than the learning rate.
        """
        self._optimizer = make_optimizer([nn.Parameter(torch.empty_like(parameter)) for parameter in parameters])
        self._base = tuple(float(group["lr"]) for group in self._optimizer.param_groups)
        self._kept = self._others()
        self._factor, self._scheduler = _read(schedule, self._optimizer)
        self._known: list[tuple[float, ...]] = []
        self.at(1)

    def at(self, step: int) -> tuple[float, ...]:
        """Returns the learning rates of the step after so many.

        Raises:
            ConfigurationError: the schedule gives no finite number, or one below 0.
        """
        while len(self._known) <= step:
            self._known.append(self._next(len(self._known)))
        return self._known[step]

    def _next(self, step: int) -> tuple[float, ...]:
        if self._factor is not None:
            factor = float(self._factor(step))
            rates = tuple(base * factor for base in self._base)
        else:
            rates = self._scheduled(step)
        if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
            raise ConfigurationError(
                f"schedule: gives the learning rate {rates[0]:g} at step {step}; must be at least 0"
            )
        return rates

    def _scheduled(self, step: int) -> tuple[float, ...]:
        if step:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the stand-in's optimizer takes no steps, of which torch warns
                self._scheduler.step()  # type: ignore[union-attr]
        if self._others() != self._kept:
            raise ConfigurationError(
                f"schedule: {type(self._scheduler).__name__} changes more than the learning rate (momentum, say); "
                "turn that off, as with cycle_momentum=False"
            )
        return tuple(float(group["lr"]) for group in self._optimizer.param_groups)

    def _others(self) -> list[dict[str, Any]]:
        return [{key: group.get(key) for key in CYCLED} for group in self._optimizer.param_groups]


def _read(schedule: Any, optimizer: torch.optim.Optimizer) -> tuple[Callable[[int], float] | None, LRScheduler | None]:
    """Finds out which of the two kinds of function it is."""
    if not callable(schedule):
        raise ConfigurationError(f"schedule: is {type(schedule).__name__}; must be {ACCEPTED}")
    try:
        first = schedule(0)
    except Exception as error:  # a factory that was given a number, or a function of the step that fails
        first, failure = None, error
    else:
        failure = None
    if isinstance(first, (int, float)):
        return cast(Callable[[int], float], schedule), None
    try:
        made = schedule(optimizer)
    except Exception as error:
        raise ConfigurationError(
            f"schedule: fails for step 0 ({failure or first!r}) and for the optimizer ({error}); must be {ACCEPTED}"
        ) from error
    if isinstance(made, ReduceLROnPlateau):
        raise ConfigurationError("schedule: ReduceLROnPlateau needs a measure; a rate must follow from the step alone")
    if not isinstance(made, LRScheduler):
        raise ConfigurationError(f"schedule: returned {type(made).__name__}; must be {ACCEPTED}")
    return None, made
