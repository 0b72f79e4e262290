"""How hard a peer and mixing pull against each other, measured on a sample of its parameters: whether data are alike.

Between two boundaries a peer's own steps move it by d_k, and at the boundary mixing moves it by m_k. With D and M their
sums over a window of K blocks, and D' that of the next window, the *tug* is

    -<M, D'> / (||D|| ||D'||)

that is, how much of what mixing took back in one window the peer does again in the next. With unlike data a peer learns
its own part, is called back, and learns it again: towards 1 (client drift, Karimireddy et al. 2020, SCAFFOLD). With data
that are alike mixing takes back mostly noise, and the next noise is another: about 0. That the factors come from two
windows is what makes noise vanish; inner products of successive steps are used so by Pflug (1983) and by Chee and Toulis
(2018) to find out whether SGD still gets anywhere. As a ratio the tug has no unit: neither the learning rate nor the
optimizer nor the length of a block sets its scale. Slow peers among fast ones lag behind and are drawn on, which counts
below 0; fast ones lead a little, which counts above.

The arithmetic is the same for numpy's and torch's vectors.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

WINDOW = 4
SAMPLE_MAX = 16_384


def stride(size: int) -> int:
    """Returns the distance between the values of a sample: odd, so that it meets all columns of a matrix of even width."""
    return -(-size // SAMPLE_MAX) | 1


class Products(NamedTuple):
    """-<M, D'>, <D, D> and <D', D'>: scalars of the vectors' kind, perhaps on a device that has not computed them yet."""

    against: Any
    before: Any
    now: Any

    def tug(self) -> float:
        """Returns the tug, in [-1, 1] but for very large corrections; 0 where nothing moved."""
        scale = math.sqrt(float(self.before) * float(self.now))
        return float(self.against) / scale if scale > 0 else 0.0


class Tug:
    """Sums up movements over windows of `WINDOW` boundaries. Vectors are [S], floating point; nobody changes them later."""

    def __init__(self) -> None:
        self._start: Any = None
        self._mixed: Any = None
        self._last: tuple[Any, Any] | None = None
        self._blocks = 0

    def boundary(self, before_S: Any, after_S: Any) -> Products | None:
        """A block has ended.

        Args:
            before_S, after_S: the sample before and after mixing; the same object where nothing was mixed.

        Returns:
            The products at the end of each window but the first; else None.
        """
        if self._start is None:
            self._start = after_S
            return None
        if after_S is not before_S:
            change_S = after_S - before_S
            self._mixed = change_S if self._mixed is None else self._mixed + change_S
        self._blocks += 1
        return self._end(after_S) if self._blocks == WINDOW else None

    def _end(self, after_S: Any) -> Products | None:
        moved_S, mixed_S, last = after_S - self._start, self._mixed, self._last
        own_S = moved_S if mixed_S is None else moved_S - mixed_S
        square = own_S @ own_S
        self._start, self._mixed, self._blocks, self._last = after_S, None, 0, (mixed_S, square)
        if last is None:
            return None
        mixed_before_S, square_before = last
        against = 0 * square if mixed_before_S is None else -(mixed_before_S @ own_S)
        return Products(against, square_before, square)
