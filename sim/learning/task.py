"""What all peers share: model, loss, optimizer, samples; and one step's arguments."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gossiptrain.compression.base import Codec, rounded
from sim.learning.arena import Arena
from sim.learning.batches import Batches
from sim.learning.dropout import base_key, step_key
from sim.learning.layout import StateLayout
from sim.learning.versions import Correction

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Loss = Callable[[Any, Tensor], Tensor]


class RatesByStep(Protocol):
    """Learning rates that follow from the step."""

    def at(self, step: int) -> tuple[float, ...]:
        """Returns those of the step after so many, one for each parameter group."""
        ...


@dataclass
class Task:
    """One simulation's training.

    Attributes:
        model: the structure, in training mode as the user left it; its values are never used nor changed.
        loss_fn: of (model output, targets), a scalar. make_optimizer: of the parameters.
        x, y: all training samples, [samples, ...], on the device.
        layout: of a state. arena: of all states.
        batches: which samples a step sees. seed: of the simulation.
        drops: the model has dropout. draws: it draws other random numbers.
        rates: the learning rates where a schedule tells them; None: the optimizer's own.
        codec: rounds what peers read of each other; None: nothing does.
    """

    model: nn.Module
    loss_fn: Loss
    make_optimizer: MakeOptimizer
    x: Tensor
    y: Tensor
    layout: StateLayout
    arena: Arena
    batches: Batches
    seed: int
    drops: bool
    draws: bool
    rates: RatesByStep | None = None
    codec: Codec | None = None
    _base_keys: dict[int, int] = field(default_factory=dict)

    def copy_of_model(self) -> nn.Module:
        """Returns a module to compute with; one thread uses it at a time."""
        return copy.deepcopy(self.model)

    def read(self, x: Tensor, correction: Correction) -> Tensor:
        """Returns published parameters, [..., P], as peers read them for a correction; may be x itself."""
        return x if self.codec is None or not correction.is_read else rounded(self.codec, x)

    def key(self, peer: int, step: int) -> int:
        """Returns the key of a step's random choices, 32 bits."""
        if peer not in self._base_keys:
            self._base_keys[peer] = base_key(self.seed, peer)
        return step_key(self._base_keys[peer], step)
