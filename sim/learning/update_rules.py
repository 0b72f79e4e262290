"""Optimizers on many peers' parameters at once: the equations of `torch.optim`, over flat rows.

Legend: G peers in a group, P parameters. A rule keeps `slots` tensors [G, P], which begin as zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Rule(Protocol):
    """One optimizer's update.

    Attributes:
        slots: tensors kept.
        plain_lr: the learning rate of x <- x - lr g; None for any other rule.
    """

    @property
    def plain_lr(self) -> float | None: ...

    @property
    def slots(self) -> int: ...

    def step(
        self, x_GP: Tensor, grad_GP: Tensor, slots: Sequence[Tensor], steps: Sequence[int], lrs: Sequence[float] | None
    ) -> None:
        """Updates parameters and slots in place.

        Args:
            steps: those taken by each peer before this one. lrs: each peer's learning rate; None for the rule's own.
        """
        ...


@dataclass(frozen=True)
class Sgd:
    """`torch.optim.SGD` with momentum, Nesterov's too, and weight decay; without dampening."""

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float

    @property
    def slots(self) -> int:
        return 1 if self.momentum else 0

    @property
    def plain_lr(self) -> float | None:
        return None if self.momentum or self.weight_decay else self.lr

    def step(
        self,
        x_GP: Tensor,
        grad_GP: Tensor,
        slots: Sequence[Tensor],
        steps: Sequence[int],
        lrs: Sequence[float] | None = None,
    ) -> None:
        if self.weight_decay:
            grad_GP = grad_GP.add(x_GP, alpha=self.weight_decay)
        if self.momentum:
            buffer_GP = slots[0].mul_(self.momentum).add_(grad_GP)
            grad_GP = grad_GP.add(buffer_GP, alpha=self.momentum) if self.nesterov else buffer_GP
        if lrs is None:
            x_GP.add_(grad_GP, alpha=-self.lr)
        else:
            x_GP.sub_(grad_GP * _column(lrs, x_GP))


@dataclass(frozen=True)
class Adam:
    """`torch.optim.Adam` (Kingma & Ba 2015), and `AdamW` with decoupled weight decay (Loshchilov & Hutter 2019)."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    decoupled: bool
    slots: int = 2
    plain_lr: float | None = None

    def step(
        self,
        x_GP: Tensor,
        grad_GP: Tensor,
        slots: Sequence[Tensor],
        steps: Sequence[int],
        lrs: Sequence[float] | None = None,
    ) -> None:
        rates = lrs if lrs is not None else [self.lr] * len(steps)
        if self.weight_decay and self.decoupled:
            x_GP.mul_(_column([1 - lr * self.weight_decay for lr in rates], x_GP))
        elif self.weight_decay:
            grad_GP = grad_GP.add(x_GP, alpha=self.weight_decay)
        mean_GP, square_GP = slots
        mean_GP.lerp_(grad_GP, 1 - self.beta1)
        square_GP.mul_(self.beta2).addcmul_(grad_GP, grad_GP, value=1 - self.beta2)
        root = [(1 - self.beta2 ** (count + 1)) ** 0.5 for count in steps]
        size = [lr / (1 - self.beta1 ** (count + 1)) for lr, count in zip(rates, steps)]
        denominator_GP = square_GP.sqrt().div_(_column(root, x_GP)).add_(self.eps)
        x_GP.sub_(mean_GP.mul(_column(size, x_GP)).div_(denominator_GP))


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).unsqueeze(1)


UNUSUAL = ("amsgrad", "maximize", "capturable", "differentiable", "dampening")


def recognise(optimizer: torch.optim.Optimizer) -> Rule | str:
    """Returns the rule of an optimizer, or why there is none for it."""
    name = type(optimizer).__name__
    if type(optimizer) not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        return f"optimizer {name}: only SGD, Adam and AdamW have a rule for many peers at once"
    if len(optimizer.param_groups) != 1:
        return f"optimizer {name} has {len(optimizer.param_groups)} parameter groups: one is supported"
    group = optimizer.param_groups[0]
    unusual = [option for option in UNUSUAL if group.get(option)]
    if unusual:
        return f"optimizer {name} with {unusual[0]}={group[unusual[0]]!r}: has no rule for many peers at once"
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return f"optimizer {name} has step hooks, which need its own step"
    lr, decay = float(group["lr"]), float(group["weight_decay"])
    if type(optimizer) is torch.optim.SGD:
        return Sgd(lr, float(group["momentum"]), bool(group["nesterov"]), decay)
    decoupled = type(optimizer) is torch.optim.AdamW or bool(group.get("decoupled_weight_decay", False))
    beta1, beta2 = (float(beta) for beta in group["betas"])
    return Adam(lr, beta1, beta2, float(group["eps"]), decay, decoupled)
