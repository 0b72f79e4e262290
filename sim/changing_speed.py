"""Devices whose speed changes with time: heat, a noisy neighbour, an upgrade. All times in seconds of the run."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from gossiptrain.errors import ConfigurationError
from sim.step_times import Clockwork, StepTimes, check_positive
from sim.streams import Normals, Uniforms


@dataclass(frozen=True, slots=True)
class ChangingSteps(StepTimes):
    """Step times of another model, stretched by a factor that changes at given times.

    Attributes:
        base: the steps as they would be at factor 1.
        changes: (time in seconds, factor) in order of time; before the first the factor is 1.
        peers: numbers of the peers concerned; () for all.
    """

    base: StepTimes
    changes: tuple[tuple[float, float], ...]
    peers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        times_s = [at_s for at_s, _ in self.changes]
        if not times_s or times_s != sorted(set(times_s)) or times_s[0] < 0:
            raise ConfigurationError(
                f"changes={self.changes!r}: must be pairs (time, factor), times from 0 on and rising"
            )
        for _, factor in self.changes:
            if not 0 < factor < math.inf:
                raise ConfigurationError(f"changes: factor {factor!r}: must be a positive number")

    def begin(self, seed: int, peer: int) -> Clockwork:
        clockwork = self.base.begin(seed, peer)
        concerned = not self.peers or peer in self.peers
        return _Planned(clockwork, self.changes) if concerned else clockwork


@dataclass(frozen=True, slots=True)
class SlowPhases(StepTimes):
    """Step times of another model, with phases now and then in which the device is slower: each device has its own.

    Attributes:
        base: the steps of a device that is well.
        every_s: mean time between the end of a slow phase and the next, exponential.
        for_s: median length of a slow phase.
        sigma: of the logarithm of its length; 0 makes all equally long.
        for_s_max: the longest.
        factor: a step takes so many times longer in it.
        share: of the devices that have such phases, [0, 1]; which ones is fixed by the seed.
    """

    base: StepTimes
    every_s: float = 600.0
    for_s: float = 60.0
    sigma: float = 1.0
    for_s_max: float = 36_000.0
    factor: float = 3.0
    share: float = 1.0

    def __post_init__(self) -> None:
        check_positive(every_s=self.every_s, for_s=self.for_s, for_s_max=self.for_s_max)
        if not self.sigma >= 0 or not self.factor >= 1 or not 0 <= self.share <= 1:
            raise ConfigurationError(
                f"sigma={self.sigma!r}, factor={self.factor!r}, share={self.share!r}: must be at least 0, at least 1, "
                "and between 0 and 1"
            )

    def begin(self, seed: int, peer: int) -> Clockwork:
        clockwork = self.base.begin(seed, peer)
        concerned = Uniforms(seed, "slow device", peer).next() < self.share
        return _Phased(clockwork, self, seed, peer) if concerned else clockwork


class _Stretched(Clockwork):
    """Walks through the steps one by one, since the speed may change between two and within one."""

    def __init__(self, base: Clockwork) -> None:
        self._base = base

    @abstractmethod
    def speed(self, now_s: float) -> tuple[float, float]:
        """Returns (factor now, until when it holds)."""

    def block(self, step: int, count: int, now_s: float = 0.0) -> tuple[float, float]:
        began_s, longest_s = now_s, 0.0
        for number in range(step, step + count):
            ends_s = self._stretch(now_s, self._base.block(number, 1, now_s)[0])
            longest_s = max(longest_s, ends_s - now_s)
            now_s = ends_s
        return now_s - began_s, longest_s

    def _stretch(self, now_s: float, work_s: float) -> float:
        """Returns when so much work is done that is begun now."""
        while True:
            factor, until_s = self.speed(now_s)
            if now_s + work_s * factor <= until_s:
                return now_s + work_s * factor
            work_s -= (until_s - now_s) / factor
            now_s = until_s


class _Planned(_Stretched):
    def __init__(self, base: Clockwork, changes: tuple[tuple[float, float], ...]) -> None:
        super().__init__(base)
        self._changes = changes

    def speed(self, now_s: float) -> tuple[float, float]:
        factor = 1.0
        for at_s, then in self._changes:
            if at_s > now_s:
                return factor, at_s
            factor = then
        return factor, math.inf


class _Phased(_Stretched):
    """Draws the phases as time reaches them; a process that starts anew on the device meets the same ones."""

    def __init__(self, base: Clockwork, options: SlowPhases, seed: int, peer: int) -> None:
        super().__init__(base)
        self._options = options
        self._waits = Uniforms(seed, "until slow", peer)
        self._lengths = Normals(seed, "slow for", peer)
        self._is_slow, self._until_s = False, self._wait_s()

    def speed(self, now_s: float) -> tuple[float, float]:
        while self._until_s <= now_s:
            self._is_slow = not self._is_slow
            self._until_s += self._length_s() if self._is_slow else self._wait_s()
        return (self._options.factor if self._is_slow else 1.0), self._until_s

    def _wait_s(self) -> float:
        return -self._options.every_s * math.log(1.0 - self._waits.next())

    def _length_s(self) -> float:
        options = self._options
        return min(options.for_s * math.exp(options.sigma * self._lengths.next()), options.for_s_max)
