"""Memory that is used again and again: new memory must first be cleared by the system, page by page.

That takes ten times as long as adding the numbers of two peers, once they fill more than a hundred kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor


class Workspace:
    """Tensors by what they are used for. One thread uses it at a time."""

    def __init__(self) -> None:
        self._tensors: dict[Hashable, Tensor] = {}

    def take(self, use: Hashable, like: Tensor, *shape: int) -> Tensor:
        """Returns a tensor of this shape, contents arbitrary; what was taken for the same use before is overwritten."""
        size = math.prod(shape)
        known = self._tensors.get(use)
        if known is None or known.numel() < size:
            known = self._tensors[use] = torch.empty(size, dtype=like.dtype, device=like.device)
        return known[:size].view(shape)

    def gather(self, use: Hashable, table: Tensor, rows: Sequence[int] | Tensor) -> Tensor:
        """Returns copies of some rows of a table [rows, columns]."""
        numbers = rows if isinstance(rows, Tensor) else torch.tensor(rows, device=table.device)
        return torch.index_select(table, 0, numbers, out=self.take(use, table, len(numbers), table.shape[1]))
