"""Half precision: two bytes a value, by one cast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gossiptrain.errors import ConfigurationError

HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Cast:
    """Values cast to a smaller floating-point type, rounded to the nearest.

    Attributes:
        dtype: torch.bfloat16 (8 significant bits, the range of float32) or torch.float16 (11 bits; values beyond 65,504
            become infinite, and are then refused by whoever receives them).
    """

    dtype: torch.dtype = torch.bfloat16
    block: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.dtype not in HALVES:
            raise ConfigurationError(f"dtype={self.dtype!r}: must be torch.bfloat16 or torch.float16")

    def encoded_bytes(self, numel: int, dtype: torch.dtype) -> int:
        """Return two for each value; see `Codec`."""
        return numel * self.dtype.itemsize

    def encode(self, x: Tensor, out: Tensor) -> None:
        """Cast x [P] into out [2 P] uint8; see `Codec`."""
        out.view(self.dtype).copy_(x)

    def decode(self, data: Tensor, out: Tensor) -> None:
        """Cast data [2 P] uint8 back into out [P]; see `Codec`."""
        out.copy_(data.view(self.dtype))


def bfloat16() -> Cast:
    """Return the codec of 8 significant bits, for any value that float32 holds.

    >>> bfloat16().encoded_bytes(1000, torch.float32)
    2000
    """
    return Cast(torch.bfloat16)


def float16() -> Cast:
    """Return the codec of 11 significant bits, for values up to 65,504: for weights the more exact half."""
    return Cast(torch.float16)
