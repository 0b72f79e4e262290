"""The numbers of all computed versions, a row each, in one tensor that grows by doubling; freed rows are used again."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_FIRST = 64


class Arena:
    """Rows of numbers.

    Attributes:
        values: [rows, width] floating-point. integers: [rows, width] int64, for whole-number buffers.
    """

    def __init__(self, width: int, integers: int, dtype: torch.dtype, device: torch.device) -> None:
        self.values: Tensor = torch.empty(ROWS_FIRST, width, dtype=dtype, device=device)
        self.integers: Tensor = torch.empty(ROWS_FIRST, integers, dtype=torch.int64, device=device)
        self._free = list(range(ROWS_FIRST))[::-1]

    def take(self, count: int) -> list[int]:
        """Returns so many rows, contents arbitrary."""
        while len(self._free) < count:
            self._grow()
        return [self._free.pop() for _ in range(count)]

    def free(self, row: int) -> None:
        """Nobody needs this row any more."""
        self._free.append(row)

    @property
    def rows(self) -> int:
        """Rows that there are."""
        return len(self.values)

    @property
    def used(self) -> int:
        """Rows that hold a version."""
        return self.rows - len(self._free)

    def _grow(self) -> None:
        rows = self.rows
        self.values = torch.cat([self.values, torch.empty_like(self.values)])
        self.integers = torch.cat([self.integers, torch.empty_like(self.integers)])
        self._free = [*range(2 * rows - 1, rows - 1, -1), *self._free]
