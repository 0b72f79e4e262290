"""A snapshot as it is in memory, and as it travels: parameters through a codec, buffers as they are.

Buffers are few and some of them are variances, whose small values must not be rounded beside large ones.
"""

from __future__ import annotations

from torch import Tensor

from gossiptrain.compression.base import Codec, rounded
from gossiptrain.runtime.layout import ALIGNMENT_BYTES, Group, Layout


class Packing:
    """The wire's form of a layout's snapshots; as in the layout, each group begins at a multiple of 64 bytes.

    Attributes:
        nbytes: of a packed snapshot. full_bytes: of one in memory.
    """

    def __init__(self, layout: Layout, codec: Codec) -> None:
        self._codec = codec
        self._parameters: list[tuple[Group, slice]] = []
        self._buffers: list[tuple[Group, slice]] = []
        at = 0
        for group in layout.parameters:
            part = slice(at, at + codec.encoded_bytes(group.numel, group.dtype))
            self._parameters.append((group, part))
            at = _aligned(part.stop)
        for group in layout.buffers:
            part = slice(at, at + group.nbytes)
            self._buffers.append((group, part))
            at = _aligned(part.stop)
        self.nbytes, self.full_bytes = at, layout.nbytes

    def pack(self, snapshot: Tensor, out: Tensor) -> None:
        """Write a snapshot [full_bytes] uint8 into out [nbytes] uint8."""
        for group, part in self._parameters:
            self._codec.encode(group.view(snapshot), out[part])
        for group, part in self._buffers:
            out[part].view(group.dtype).copy_(group.view(snapshot))

    def unpack(self, packed: Tensor, out: Tensor) -> None:
        """Read packed [nbytes] uint8 into out [full_bytes] uint8."""
        for group, part in self._parameters:
            self._codec.decode(packed[part], group.view(out))
        for group, part in self._buffers:
            group.view(out).copy_(packed[part].view(group.dtype))

    def round(self, snapshot: Tensor, out: Tensor) -> None:
        """Write a snapshot's parameters into out [full_bytes] as others will read them; its buffers are left out."""
        for group, _ in self._parameters:
            rounded(self._codec, group.view(snapshot), group.view(out))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
