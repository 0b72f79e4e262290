"""A model's parameters as views of flat memory, and its buffers where they are."""

from __future__ import annotations

import torch
from torch import Tensor

from gossiptrain.errors import ConfigurationError
from gossiptrain.runtime.layout import Group, Slot, slots_of


def flatten(group: Group, device: torch.device) -> Tensor:
    """Copy the group's parameters into one tensor, [numel], and make each a view of it."""
    live = torch.zeros(group.numel, dtype=group.dtype, device=device)
    for slot in group.slots:
        parameter = slot.parameter()
        assert parameter is not None
        view = live.as_strided(slot.spec.shape, slot.spec.strides, slot.offset)
        view.copy_(parameter.data)
        for tied in (parameter, *slot.aliases):
            tied.data = view
    return live


def check_places(groups: tuple[Group, ...], lives: tuple[Tensor, ...]) -> list[tuple[Slot, int]]:
    """Return where each parameter must be; empty ones have no address and are left out."""
    starts = {id(group): live.data_ptr() for group, live in zip(groups, lives)}
    places = [
        (slot, starts[id(group)] + slot.offset * group.dtype.itemsize) for group, slot in slots_of(groups) if slot.numel
    ]
    if not places:
        raise ConfigurationError("all trainable parameters are empty: there is nothing to exchange")
    return places


def current_buffer(slot: Slot) -> Tensor:
    """Return the buffer as it is now, checked: it may have been replaced."""
    buffer, spec = slot.buffer(), slot.spec
    if buffer is None or tuple(buffer.shape) != spec.shape or buffer.dtype != spec.dtype:
        found = "gone" if buffer is None else f"{buffer.dtype} {list(buffer.shape)}"
        raise ConfigurationError(
            f"buffer {spec.name!r} was {spec.dtype} {list(spec.shape)} when attached and is {found} now: "
            "keep its shape, or leave buffers local with mix_buffers=False"
        )
    return buffer


def move_buffers(group: Group, target: Tensor, weight: float) -> None:
    buffers = [current_buffer(slot) for slot in group.slots]
    parts = target.split([slot.numel for slot in group.slots])
    targets = [part.view(slot.spec.shape) for part, slot in zip(parts, group.slots)]
    torch._foreach_lerp_(buffers, targets, weight)  # pyright: ignore[reportPrivateImportUsage]
