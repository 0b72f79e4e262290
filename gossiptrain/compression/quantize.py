"""Blockwise 8-bit quantization (Dettmers, Lewis, Shleifer, Zettlemoyer 2022, section 2.1, with a linear code).

Each block of 256 values is divided by its largest absolute one and rounded to a whole number from -127 to 127. A block of
its own scale keeps one large weight from costing all others their digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gossiptrain.compression.base import PIECE
from gossiptrain.errors import ConfigurationError

LEVELS = 127
SCALE_BYTES = 4
# The smallest scale that divides without overflow; smaller blocks are written as zeros.
SCALE_MIN = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class Int8:
    """One byte a value, and a float32 scale for each block: 3.9 times fewer bytes than float32.

    No value is off by more than 1/254 of its block's largest. Out come the scales [ceil(P / block)], then the bytes [P].

    Attributes:
        block: values that share a scale, a power of two from 16 to 65,536.
    """

    block: int = 256

    def __post_init__(self) -> None:
        if not (isinstance(self.block, int) and 16 <= self.block <= 1 << 16 and self.block & (self.block - 1) == 0):
            raise ConfigurationError(f"block={self.block!r}: must be a power of two from 16 to 65536")

    def encoded_bytes(self, numel: int, dtype: torch.dtype) -> int:
        """Return 1 for each value and 4 for each block; see `Codec`."""
        return numel + SCALE_BYTES * self._blocks(numel)

    def encode(self, x: Tensor, out: Tensor) -> None:
        """Quantize x [P] into out uint8; see `Codec`."""
        scales_N, bytes_P = self._parts(out, x.numel())
        for start, end in self._pieces(x):
            piece = x[start:end]
            full = piece.numel() // self.block * self.block
            first = start // self.block
            _encode_blocks(piece[:full].view(-1, self.block), scales_N[first:], bytes_P[start:])
            if full < piece.numel():
                rest = start + full
                _encode_blocks(x[rest:].view(1, -1), scales_N[rest // self.block :], bytes_P[rest:])

    def decode(self, data: Tensor, out: Tensor) -> None:
        """Multiply the bytes by their scales into out [P]; see `Codec`."""
        scales_N, bytes_P = self._parts(data, out.numel())
        for start, end in self._pieces(out):
            full = start + (end - start) // self.block * self.block
            first, last = start // self.block, full // self.block
            blocks = bytes_P[start:full].view(-1, self.block)
            torch.mul(blocks, scales_N[first:last, None], out=out[start:full].view(-1, self.block))
            if full < end:
                torch.mul(bytes_P[full:end], scales_N[last], out=out[full:end])

    def _blocks(self, numel: int) -> int:
        return -(-numel // self.block)

    def _parts(self, data: Tensor, numel: int) -> tuple[Tensor, Tensor]:
        at = SCALE_BYTES * self._blocks(numel)
        return data[:at].view(torch.float32), data[at : at + numel].view(torch.int8)

    def _pieces(self, x: Tensor) -> list[tuple[int, int]]:
        size = max(1, x.numel()) if x.is_cuda else PIECE
        return [(start, min(start + size, x.numel())) for start in range(0, x.numel(), size)]


def _encode_blocks(x_NB: Tensor, scales: Tensor, data: Tensor) -> None:
    """Quantize blocks [N, B]; the first N scales and the first N B bytes receive the result."""
    if not x_NB.numel():
        return
    largest_N = x_NB.abs().amax(dim=1)
    scale_N = (largest_N / LEVELS).float().clamp_(min=SCALE_MIN)
    scales[: len(x_NB)] = scale_N
    # Half precision would round the quotient before it is rounded to a whole number.
    wide = x_NB if x_NB.dtype in (torch.float32, torch.float64) else x_NB.float()
    # A scale is off by 2^-24 at most, so that no quotient rounds to more than LEVELS.
    quotient_NB = torch.div(wide, scale_N[:, None]).round_()
    data[: x_NB.numel()].view_as(x_NB).copy_(quotient_NB)


def int8(block: int = 256) -> Int8:
    """Return the codec of one byte a value.

    Args:
        block: values that share a scale, a power of two from 16 to 65,536.

    Raises:
        ConfigurationError: it is not.

    >>> int8().encoded_bytes(1024, torch.float32)
    1040
    """
    return Int8(block)
