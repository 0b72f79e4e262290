"""Pauses of training that are known beforehand: others are told, so that they do not take this peer for dead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.events import BusyAnnounced, Event


class BusyLeases:
    """The pauses that are going on; they may overlap.

    Args:
        tell: hands an event to the protocol; may be called when nobody listens any more.
    """

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._until_s: dict[object, float] = {}

    def begin(self, seconds: float) -> object:
        """Announces a pause of at most so many seconds; returns what `end` takes.

        Raises:
            ConfigurationError: it is not a positive, finite number.
        """
        if not 0 < seconds < float("inf"):
            raise ConfigurationError(f"seconds={seconds!r}: must be a positive number of seconds")
        lease = object()
        self._until_s[lease] = time.monotonic() + seconds
        self._announce()
        return lease

    def end(self, lease: object) -> None:
        """The pause is over; longer ones around it go on."""
        if self._until_s.pop(lease, None) is not None:
            self._announce()

    @contextmanager
    def during(self, seconds: float) -> Iterator[None]:
        """Announces a pause for as long as the block lasts."""
        lease = self.begin(seconds)
        try:
            yield
        finally:
            self.end(lease)

    def _announce(self) -> None:
        now = time.monotonic()
        self._tell(
            BusyAnnounced(max((until_s - now for until_s in [*self._until_s.values()] if until_s > now), default=0.0))
        )


def is_compiled(model: nn.Module) -> bool:
    """Says whether the first step of a model will compile it (`torch.compile(model)` or `model.compile()`)."""
    return _is_wrapper(model) or any(module._compiled_call_impl is not None for module in model.modules())


def original(model: nn.Module) -> nn.Module:
    """Returns the model itself where `torch.compile` put a wrapper around it, so that names are those of the model."""
    return model._orig_mod if _is_wrapper(model) else model  # pyright: ignore[reportReturnType]


def _is_wrapper(model: nn.Module) -> bool:
    # By name: importing torch._dynamo takes longer than everything else here.
    return type(model).__name__ == "OptimizedModule" and "_orig_mod" in model._modules
