"""Step times as a real run had them: each peer's distribution, and how much one step tells of the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gossiptrain.errors import ConfigurationError
from sim.step_times import Clockwork, StepTimes
from sim.streams import Normals, generator

BINS_MAX = 32


@dataclass(frozen=True, slots=True)
class MeasuredSteps(StepTimes):
    """Each measured peer draws from its own distribution; a peer beyond them is like one of them, drawn by the seed.

    The distribution is kept as the means of equally probable bins, so that its mean, on which the speed depends, is exact
    and no family is assumed. One number carries the order of steps: the lag-one correlation of a Gaussian copula, an AR(1)
    sequence z' = r z + sqrt(1 - r^2) e (Joe 1997, ch. 8) whose ranks choose the bins. It is what the spread of many steps
    together depends on most, (1 + r) / (1 - r) times that of independent ones; slow phases of many steps are not kept.

    Attributes:
        bins_s: for each measured peer, in the order of their numbers, the bins' means in rising order.
        correlations: r of each, in (-1, 1); () for independent steps.
    """

    bins_s: tuple[tuple[float, ...], ...]
    correlations: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.bins_s or not all(self.bins_s):
            raise ConfigurationError("bins_s: must hold at least one peer, and each peer one step time")
        if any(not 0 < value < math.inf for row in self.bins_s for value in row):
            raise ConfigurationError("bins_s: holds a step time that is not a positive number of seconds")
        if self.correlations and len(self.correlations) != len(self.bins_s):
            raise ConfigurationError(f"correlations: has {len(self.correlations)}, bins_s {len(self.bins_s)} peers")
        if any(not -1 < value < 1 for value in self.correlations):
            raise ConfigurationError(f"correlations={self.correlations!r}: must be between -1 and 1")

    def begin(self, seed: int, peer: int) -> Clockwork:
        count = len(self.bins_s)
        like = peer if peer < count else int(generator(seed, "device like", peer).integers(count))
        correlation = self.correlations[like] if self.correlations else 0.0
        return _Measured(self.bins_s[like], correlation, Normals(seed, "steps", peer))

    def mean_s(self, peer: int) -> float:
        """The mean step of a measured peer."""
        return math.fsum(self.bins_s[peer]) / len(self.bins_s[peer])

    @staticmethod
    def fit(rows_s: Sequence[np.ndarray]) -> MeasuredSteps:
        """Fits step times.

        Args:
            rows_s: one float64 array [steps] a peer, in the order in which the steps were taken, at least 2 each.
        """
        for number, row_s in enumerate(rows_s):
            if len(row_s) < 2 or not np.all(row_s > 0):
                raise ConfigurationError(f"rows_s[{number}]: must hold at least two positive step times")
        bins = [tuple(float(part.mean()) for part in np.array_split(np.sort(r), min(BINS_MAX, len(r)))) for r in rows_s]
        return MeasuredSteps(tuple(bins), tuple(_correlation(row_s) for row_s in rows_s))


class _Measured(Clockwork):
    def __init__(self, bins_s: tuple[float, ...], correlation: float, chance: Normals) -> None:
        self._bins_s, self._r, self._chance = bins_s, correlation, chance
        self._rest = math.sqrt(1.0 - correlation * correlation)
        self._z = chance.next()

    def block(self, step: int, count: int, now_s: float = 0.0) -> tuple[float, float]:
        times_s = [self._next_s() for _ in range(count)]
        return sum(times_s), max(times_s)

    def _next_s(self) -> float:
        self._z = self._r * self._z + self._rest * self._chance.next()
        rank = 0.5 * (1.0 + math.erf(self._z / math.sqrt(2.0)))
        return self._bins_s[min(int(rank * len(self._bins_s)), len(self._bins_s) - 1)]


def _correlation(row_s: np.ndarray) -> float:
    """The Gaussian copula's r from the lag-one rank correlation rho: r = 2 sin(pi rho / 6) (Kruskal 1958)."""
    if len(row_s) < 4 or np.ptp(row_s) == 0:
        return 0.0
    ranks = np.argsort(np.argsort(row_s, kind="stable"), kind="stable").astype(float)
    rho = float(np.corrcoef(ranks[:-1], ranks[1:])[0, 1])
    return round(max(-0.99, min(0.99, 2 * math.sin(math.pi * rho / 6))), 4)
