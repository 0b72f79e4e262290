"""Reading a user's data: tensors, a data set, or what `gossiptrain.data.load` returns; and checking that they fit."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from gossiptrain.errors import ConfigurationError


class Samples(NamedTuple):
    """Inputs [samples, ...] and targets [samples, ...]."""

    x: Tensor
    y: Tensor


def read(data: Any, name: str) -> Samples:
    """Returns the samples of (x, y) tensors or arrays, or of a map-style data set of such pairs, which is read once.

    Raises:
        ConfigurationError: it is none of these, empty, or x and y differ in length.
    """
    if hasattr(data, "train_x") and hasattr(data, "train_y"):
        data = (data.train_x, data.train_y)
    elif isinstance(data, TensorDataset):
        data = data.tensors
    elif isinstance(data, Dataset):
        data = _stacked(data, name)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ConfigurationError(
            f"{name}: is {type(data).__name__}; must be (x, y) tensors with one row a sample, a data set of such pairs, "
            "or a set of gossiptrain.data.load"
        )
    x, y = (_tensor(part, name) for part in data)
    if not len(x) or len(x) != len(y):
        raise ConfigurationError(
            f"{name}: has {len(x)} inputs and {len(y)} targets; must be equally many and at least one"
        )
    return Samples(x, y)


def evaluation_of(evaluate: Any, data: Any, train: Samples) -> Samples | None:
    """Returns the evaluation set: the given one, or the test part of a set of `gossiptrain.data.load`; None for neither.

    Raises:
        ConfigurationError: its samples are of another shape or kind than the training samples.
    """
    if evaluate is None and hasattr(data, "test_x"):
        evaluate = (data.test_x, data.test_y)
    if evaluate is None:
        return None
    found = read(evaluate, "evaluate")
    for part, other, what in ((found.x, train.x, "inputs"), (found.y, train.y, "targets")):
        if part.shape[1:] != other.shape[1:] or part.dtype != other.dtype:
            raise ConfigurationError(
                f"evaluate: has {what} of shape {list(part.shape[1:])} and {part.dtype}; those of the training data have "
                f"{list(other.shape[1:])} and {other.dtype}"
            )
    return found


def classes_of(output: Any, y: Tensor) -> int | None:
    """Returns how many classes a model's output scores for whole-number targets; None where that is not what it does."""
    if not isinstance(output, Tensor) or y.is_floating_point() or output.dim() != y.dim() + 1:
        return None
    if output.shape[:-1] == y.shape:
        return output.shape[-1]
    return output.shape[1] if output.shape[:1] + output.shape[2:] == y.shape else None


def correct_share(output: Tensor, y: Tensor) -> Tensor:
    """Returns the share of targets [...] whose class has the highest score, a scalar; see `classes_of`."""
    dim = -1 if output.shape[:-1] == y.shape else 1
    return (output.argmax(dim) == y).to(output.dtype).mean()


def check_labels(samples: Samples, classes: int, name: str) -> None:
    """Raises ConfigurationError when a label has no output; negative ones are left to the loss, which may ignore them."""
    highest = int(samples.y.max())
    if highest >= classes:
        raise ConfigurationError(
            f"{name}: has labels up to {highest}, but the model has {classes} outputs: labels must be in [0, {classes})"
        )


def _tensor(part: Any, name: str) -> Tensor:
    if isinstance(part, np.ndarray):
        part = torch.from_numpy(part)
    if not isinstance(part, Tensor) or part.dim() < 1:
        raise ConfigurationError(
            f"{name}: holds {type(part).__name__}; must be tensors or arrays with one row a sample"
        )
    return part.detach()


def _stacked(data: Any, name: str) -> tuple[Tensor, Tensor]:
    if not hasattr(data, "__len__"):
        raise ConfigurationError(
            f"{name}: {type(data).__name__} has no length; iterable data sets cannot be shared out"
        )
    if not len(data):
        raise ConfigurationError(f"{name}: {type(data).__name__} is empty")
    try:
        pairs = [(torch.as_tensor(x), torch.as_tensor(y)) for x, y in (data[index] for index in range(len(data)))]
        return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"{name}: samples of {type(data).__name__} must be pairs of tensors of equal shapes: {error}"
        ) from error
