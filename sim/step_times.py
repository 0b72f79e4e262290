"""How long local steps last: models of equal, varying and unequal devices. All times in seconds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from gossiptrain.errors import ConfigurationError
from sim.streams import Normals, Uniforms


def check_positive(**values: float) -> None:
    """Refuses values that are not positive and finite, by their names."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ConfigurationError(f"{name}={value!r}: must be a positive number")


class StepTimes(ABC):
    """How long steps last on each peer. Instances hold options only; `begin` makes a peer's own clockwork."""

    @abstractmethod
    def begin(self, seed: int, peer: int) -> Clockwork:
        """Returns the clockwork of one peer, fixed by the seed and the peer's number."""


class Clockwork(ABC):
    """One peer's step times."""

    @abstractmethod
    def block(self, step: int, count: int, now_s: float = 0.0) -> tuple[float, float]:
        """Returns (seconds of the next `count` steps after `step` in all, seconds of the longest of them).

        Args:
            now_s: virtual time at which the first of them begins, for devices whose speed changes with time.
        """


class _Equal(Clockwork):
    def __init__(self, step_s: float) -> None:
        self._step_s = step_s

    def block(self, step: int, count: int, now_s: float = 0.0) -> tuple[float, float]:
        return self._step_s * count, self._step_s


@dataclass(frozen=True, slots=True)
class ConstantSteps(StepTimes):
    """Every step of every peer lasts the same."""

    step_s: float = 0.05

    def __post_init__(self) -> None:
        check_positive(step_s=self.step_s)

    def begin(self, seed: int, peer: int) -> Clockwork:
        return _Equal(self.step_s)


@dataclass(frozen=True, slots=True)
class LogNormalSteps(StepTimes):
    """Devices differ, and so do a device's steps; both by a log-normal factor of median 1.

    Attributes:
        median_s: the median device's median step.
        between: sigma of the logarithm between devices; 0.6 is what FedScale (Lai et al. 2022) found among phones.
        within: sigma of the logarithm between the steps of one device.
    """

    median_s: float = 0.05
    between: float = 0.3
    within: float = 0.05

    def __post_init__(self) -> None:
        check_positive(median_s=self.median_s)
        if self.between < 0 or self.within < 0:
            raise ConfigurationError(f"between={self.between!r}, within={self.within!r}: must not be negative")

    def begin(self, seed: int, peer: int) -> Clockwork:
        own = self.median_s * exp(self.between * Normals(seed, "device", peer).next())
        return _Equal(own) if self.within == 0 else _LogNormal(own, self.within, Normals(seed, "steps", peer))


class _LogNormal(Clockwork):
    def __init__(self, median_s: float, sigma: float, chance: Normals) -> None:
        self._median_s, self._sigma, self._chance = median_s, sigma, chance

    def block(self, step: int, count: int, now_s: float = 0.0) -> tuple[float, float]:
        times_s = [self._median_s * exp(self._sigma * self._chance.next()) for _ in range(count)]
        return sum(times_s), max(times_s)


@dataclass(frozen=True, slots=True)
class BimodalSteps(StepTimes):
    """Fast devices and stragglers.

    Attributes:
        fast_s, slow_s: their step times.
        slow_share: share of slow devices, [0, 1]; which ones is fixed by the seed.
    """

    fast_s: float = 0.05
    slow_s: float = 0.2
    slow_share: float = 0.25

    def __post_init__(self) -> None:
        check_positive(fast_s=self.fast_s, slow_s=self.slow_s)
        if not 0 <= self.slow_share <= 1:
            raise ConfigurationError(f"slow_share={self.slow_share!r}: must be between 0 and 1")

    def begin(self, seed: int, peer: int) -> Clockwork:
        is_slow = Uniforms(seed, "device", peer).next() < self.slow_share
        return _Equal(self.slow_s if is_slow else self.fast_s)


@dataclass(frozen=True, slots=True)
class TraceSteps(StepTimes):
    """Recorded step times: a row for each peer, repeated when it ends; peers beyond the rows begin again at the first."""

    rows_s: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.rows_s or not all(self.rows_s):
            raise ConfigurationError("rows_s: must hold at least one row, and each row one step time")
        for row in self.rows_s:
            for value in row:
                check_positive(rows_s=value)

    def begin(self, seed: int, peer: int) -> Clockwork:
        return _Trace(self.rows_s[peer % len(self.rows_s)])


class _Trace(Clockwork):
    def __init__(self, row_s: Sequence[float]) -> None:
        self._row_s = row_s

    def block(self, step: int, count: int, now_s: float = 0.0) -> tuple[float, float]:
        times_s = [self._row_s[(step + i) % len(self._row_s)] for i in range(count)]
        return sum(times_s), max(times_s)
