"""What a codec is, and why one that rounds loses nothing of the mean.

A codec writes a vector x [P] with fewer bytes; what is read again is Q(x), its rounded value. Every peer keeps its own
parameters in full and adds w (Q(x_j) - Q(x_i)): its own value is rounded too, exactly as the others see it. So both ends of
a pair add negatives of each other, and the mean of all peers stays what it was, however coarse Q is (the compensating rule
of Carli, Fagnani, Frasca, Zampieri 2010, "Gossip consensus algorithms via quantized communication"). What rounding costs is
agreement: differences below its steps are not seen.

Legend: P is the length of a vector, E the bytes that it is written in.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# Values worked on at a time on a CPU, so that the passes over a piece find it in the second-level cache.
PIECE = 1 << 17


class Codec(Protocol):
    """One way to write vectors. Equal vectors give equal bytes; `repr` names the codec with its settings, in full.

    What is not finite must be read as not finite again, or peers could not refuse it. A codec with an attribute `block`
    rounds every so many values by themselves, however long the vector is; simulations then round many peers at once.
    """

    def encoded_bytes(self, numel: int, dtype: torch.dtype) -> int:
        """Return E for a vector of so many values; it depends on nothing else."""
        ...

    def encode(self, x: Tensor, out: Tensor) -> None:
        """Write x [P], contiguous, into out [E] uint8, which begins at a multiple of 64 bytes."""
        ...

    def decode(self, data: Tensor, out: Tensor) -> None:
        """Read data [E] uint8 into out [P]. Any bytes are read as some values; nothing is raised for what they hold."""
        ...


def rounded(codec: Codec, x: Tensor, out: Tensor | None = None) -> Tensor:
    """Return Q(x): what others read of each vector in x.

    Args:
        x: [..., P]; its last dimension is contiguous.
        out: where it goes, contiguous, of x's shape; may be x. Default: a new tensor.
    """
    out = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    block = getattr(codec, "block", 0)
    rows = x.reshape(-1, x.shape[-1])
    if block and len(rows) > 1:
        # Rows filled up with zeros to whole blocks lie end to end: no block sees two rows, and zeros change no scale.
        padded = F.pad(rows, (0, -x.shape[-1] % block))
        flat = padded.contiguous().view(-1)
        _through(codec, flat, flat)
        out.view_as(rows).copy_(flat.view_as(padded)[:, : x.shape[-1]])
        return out
    for row, out_row in zip(rows, out.view_as(rows)):
        _through(codec, row, out_row)
    return out


def _through(codec: Codec, x: Tensor, out: Tensor) -> None:
    """Round one vector, on a CPU in pieces that stay in its cache where the codec's blocks allow that."""
    if not x.is_cuda and x.numel() > PIECE and PIECE % (getattr(codec, "block", 0) or PIECE + 1) == 0:
        for part, out_part in zip(x.split(PIECE), out.split(PIECE)):
            _through(codec, part, out_part)
        return
    data = torch.empty(codec.encoded_bytes(x.numel(), x.dtype), dtype=torch.uint8, device=x.device)
    codec.encode(x, data)
    codec.decode(data, out)
