"""Which parameter, buffer and optimizer state lies where in a row of the arena.

A row is [parameters | mixed buffers | other buffers | optimizer slots], all of one floating-point dtype; whole-number
buffers lie in a row of their own. What is mixed follows the rule of real peers: trainable parameters, and persistent
floating-point buffers that are finite at the start (BatchNorm's statistics); all else stays with its peer.

Legend: G peers in a group, W width of a row, P parameters, M what is published (parameters and mixed buffers).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gossiptrain.compression import Codec
from gossiptrain.errors import ConfigurationError

DTYPES = (torch.float32, torch.float64)
Named = list[tuple[str, Tensor]]
# A larger buffer that no training step changes (a mask, a table of positions) is the same for all peers and not copied.
SMALL_BUFFER = 16


class Entry(NamedTuple):
    """A parameter or buffer and its columns."""

    name: str
    shape: tuple[int, ...]
    start: int
    numel: int

    def of(self, block_GW: Tensor) -> Tensor:
        """Returns its part of many rows, [G, *shape], as a view that autograd takes for a tensor of its own."""
        part = block_GW.narrow(1, self.start, self.numel)
        return part.view(len(block_GW), *self.shape).data


class StateLayout:
    """The places of everything that a peer's training keeps.

    Attributes:
        parameters, mixed, local, integers: the entries by kind; `local` and `integers` are never mixed.
        constants: names of buffers that are equal on all peers and for ever.
        size: numbers of all parameters, P. published: of parameters and mixed buffers, M.
        slots: tensors that the optimizer keeps. width: columns of a row, W. dtype, device: of all of them.
    """

    def __init__(self, model: nn.Module, changing: Iterable[str], slots: int) -> None:
        """
        Args:
            model: with at least one trainable parameter.
            changing: names of buffers that a training step changes.
            slots: tensors as large as the parameters that the optimizer keeps.

        Raises:
            ConfigurationError: the model has no trainable parameter, or several dtypes or devices.
        """
        tensors: Named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.dtype, self.device = _one_kind(model, tensors)
        mixed, local, whole, self.constants = _sort_buffers(model, self.dtype, set(changing))
        self.parameters, self.size = _place(tensors, 0)
        self.mixed, self.published = _place(mixed, self.size)
        self.local, end = _place(local, self.published)
        self.integers, self.integer_width = _place(whole, 0)
        self._slots_start, self.slots = end, slots
        self.width = end + slots * self.size

    @property
    def nbytes(self) -> int:
        """Bytes of what is published."""
        return self.published * self.dtype.itemsize

    def wire_bytes(self, codec: Codec | None) -> int:
        """Bytes of what is published, the parameters written by a codec."""
        if codec is None:
            return self.nbytes
        return codec.encoded_bytes(self.size, self.dtype) + (self.published - self.size) * self.dtype.itemsize

    def describe(self) -> tuple[str, ...]:
        """Describes what is published, an entry a line, as peers compare it."""
        dtype = str(self.dtype).removeprefix("torch.")
        lines = [f"{entry.name} {dtype} {list(entry.shape)}" for entry in self.parameters]
        return (*lines, *(f"{entry.name} {dtype} {list(entry.shape)} buffer" for entry in self.mixed))

    def leaves(self, block_GW: Tensor) -> dict[str, Tensor]:
        """Returns the parameters of many rows, each [G, *shape], no copies."""
        return {entry.name: entry.of(block_GW) for entry in self.parameters}

    def buffers(self, block_GW: Tensor, integers_GI: Tensor) -> dict[str, Tensor]:
        """Returns the buffers of many rows, each [G, *shape], no copies."""
        found = {entry.name: entry.of(block_GW) for entry in (*self.mixed, *self.local)}
        return found | {entry.name: entry.of(integers_GI) for entry in self.integers}

    def slot(self, block_GW: Tensor, index: int) -> Tensor:
        """Returns an optimizer slot of many rows, [G, P], no copy."""
        return block_GW.narrow(1, self._slots_start + index * self.size, self.size)

    @torch.no_grad()
    def store(self, model: nn.Module, row_W: Tensor, integers_I: Tensor) -> None:
        """Copies a model's parameters and buffers to a row; the optimizer's slots are left alone."""
        values, whole = self._tensors(model)
        torch.cat([value.reshape(-1) for value in values], out=row_W[: self._slots_start])
        for entry, value in zip(self.integers, whole):
            integers_I[entry.start : entry.start + entry.numel] = value.reshape(-1)

    @torch.no_grad()
    def load(self, model: nn.Module, row_W: Tensor, integers_I: Tensor) -> None:
        """Copies a row to a model's parameters and buffers."""
        values, whole = self._tensors(model)
        entries = (*self.parameters, *self.mixed, *self.local)
        parts = row_W[: self._slots_start].split([entry.numel for entry in entries])
        torch._foreach_copy_(values, [part.view(entry.shape) for part, entry in zip(parts, entries)])  # pyright: ignore
        for entry, value in zip(self.integers, whole):
            value.copy_(integers_I[entry.start : entry.start + entry.numel].view(entry.shape))

    def _tensors(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        values: list[Tensor] = [parameters[entry.name].data for entry in self.parameters]
        values += [buffers[entry.name] for entry in (*self.mixed, *self.local)]
        return values, [buffers[entry.name] for entry in self.integers]


def _place(tensors: list[tuple[str, Tensor]], start: int) -> tuple[tuple[Entry, ...], int]:
    entries = []
    for name, tensor in tensors:
        entries.append(Entry(name, tuple(tensor.shape), start, tensor.numel()))
        start += tensor.numel()
    return tuple(entries), start


def _one_kind(model: nn.Module, tensors: Named) -> tuple[torch.dtype, torch.device]:
    if not tensors:
        raise ConfigurationError(
            f"model={type(model).__name__}: has no trainable parameter (requires_grad=True): there is nothing to train"
        )
    first_name, first = tensors[0]
    for name, parameter in tensors:
        if parameter.dtype not in DTYPES or parameter.dtype != first.dtype:
            raise ConfigurationError(
                f"model: parameter {name!r} is {parameter.dtype} and {first_name!r} {first.dtype}; all must be "
                "torch.float32, or all torch.float64"
            )
    return first.dtype, first.device


def _sort_buffers(
    model: nn.Module, dtype: torch.dtype, changing: set[str]
) -> tuple[Named, Named, Named, tuple[str, ...]]:
    mixed: Named = []
    local: Named = []
    whole: Named = []
    constants: list[str] = []
    persistent = set(model.state_dict(keep_vars=True))
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and name in persistent and bool(torch.isfinite(buffer).all()):
            kind = mixed
        elif name not in changing and buffer.numel() > SMALL_BUFFER:
            constants.append(name)
            continue
        else:
            kind = local if buffer.is_floating_point() else whole
        if buffer.dtype != (torch.int64 if kind is whole else dtype):
            if name in changing or kind is mixed:
                raise ConfigurationError(
                    f"model: buffer {name!r} is {buffer.dtype}; buffers that training changes or peers mix must be "
                    f"{dtype}, and whole numbers torch.int64"
                )
            constants.append(name)
            continue
        kind.append((name, buffer))
    return mixed, local, whole, tuple(constants)
