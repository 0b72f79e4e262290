"""What an optimizer keeps between its steps, by the names of the parameters that it belongs to.

Only what belongs to one parameter and is a tensor or a number can be carried over: moments, step counts, averages. The
hyperparameters (learning rates, momentum) stay those of the script.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gossiptrain.runtime.manifest import NAMES

# Options of torch's optimizers that decide which values are kept for a parameter.
_SHAPING = ("amsgrad", "centered", "momentum")
_FACTORS = ("row_var", "col_var")  # Adafactor's, smaller than their parameter
_PREFIX = "optimizer/"

Scalar = bool | int | float | None
Value = Tensor | Scalar


class Kept(NamedTuple):
    """What an optimizer keeps: tensors and numbers by name ("optimizer/PARAMETER/KEY"), or why it cannot be named."""

    tensors: dict[str, Tensor]
    scalars: dict[str, Scalar]
    problem: str


def describe(optimizer: torch.optim.Optimizer | None) -> str:
    """Returns class and shaping options: optimizers with equal descriptions understand each other's state.

    >>> describe(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9))
    'torch.optim.sgd.SGD momentum'
    """
    if optimizer is None:
        return ""
    kind = type(optimizer)
    options = [name for name in _SHAPING if any(bool(group.get(name)) for group in optimizer.param_groups)]
    return " ".join([f"{kind.__module__}.{kind.__qualname__}", *options])


def collect(optimizer: torch.optim.Optimizer | None, model: nn.Module) -> Kept:
    """Returns everything the optimizer keeps, without copying it."""
    if optimizer is None:
        return Kept({}, {}, "")
    names = {id(parameter): name for name, parameter in _names(optimizer, model).items()}
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Scalar] = {}
    for parameter, kept in optimizer.state.items():
        name = names.get(id(parameter))
        if name is None:
            return Kept({}, {}, f"{describe(optimizer)} keeps values that belong to no parameter")
        for key, value in kept.items():
            full = f"{_PREFIX}{name}/{key}"
            if isinstance(value, Tensor) and value.dtype in NAMES and value.layout == torch.strided:
                tensors[full] = value
            elif value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
                scalars[full] = value
            else:
                what = f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
                return Kept({}, {}, f"{describe(optimizer)} keeps a {what} as {key!r}")
    return Kept(tensors, scalars, "")


def is_of_optimizer(name: str) -> bool:
    """Says whether an entry of a state belongs to the optimizer."""
    return name.startswith(_PREFIX)


def misfit(
    optimizer: torch.optim.Optimizer | None,
    model: nn.Module,
    description: str,
    kept: Mapping[str, Value],
) -> str:
    """Says why what another optimizer keeps means nothing to this one; "" if it does.

    Args:
        description: of the other one. kept: what it keeps, by name.
    """
    own = describe(optimizer)
    if own != description:
        return f"here {own or 'none was given to attach'}, there {description or 'none was given to attach'}"
    if optimizer is not None:
        known = _names(optimizer, model)
        for full, value in kept.items():
            name, key = _split(full)
            if name not in known:
                return f"the other's keeps a value for {name!r}, which this one does not optimize"
            if isinstance(value, Tensor) and not _has_a_shape_of(value, key, known[name], own):
                there, here = list(value.shape), list(known[name].shape)
                return f"the other's {key!r} of {name!r} has the shape {there}, the parameter {here}"
    return ""


@torch.no_grad()
def load(
    optimizer: torch.optim.Optimizer, model: nn.Module, kept: Mapping[str, Tensor | bool | int | float | None]
) -> None:
    """Replaces everything the optimizer keeps. Tensors are copied, to where the optimizer itself would have them."""
    known = _names(optimizer, model)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    optimizer.state.clear()
    for full, value in kept.items():
        name, key = _split(full)
        parameter = known[name]
        optimizer.state[parameter][key] = _placed(value, key, parameter, groups[id(parameter)])


def _has_a_shape_of(value: Tensor, key: str, parameter: Tensor, description: str) -> bool:
    """Whether a value can belong to a parameter. Of optimizers that are not torch's own, nobody knows."""
    is_known = description.startswith("torch.optim.") and key not in _FACTORS
    return not is_known or value.shape == parameter.shape or value.numel() == 1


def _placed(value: Any, key: str, parameter: Tensor, group: Mapping[str, Any]) -> Any:
    if not isinstance(value, Tensor):
        return value
    if key == "step" and not (group.get("capturable") or group.get("fused")):
        return value.clone()  # torch keeps it on the host, so that no step waits for the device
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return value.to(parameter.device, copy=True)


def _names(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Returns the optimizer's parameters by their names in the model; by number those that it does not hold."""
    names = {id(parameter): name for name, parameter in reversed([*model.named_parameters(remove_duplicate=False)])}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {names.get(id(parameter), f"#{index}"): parameter for index, parameter in enumerate(parameters)}


def _split(full: str) -> tuple[str, str]:
    name, _, key = full.removeprefix(_PREFIX).rpartition("/")
    return name, key
