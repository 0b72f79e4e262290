"""The training thread's side of a boundary: what is due when a block of local steps has ended, and how long things took.

Every so often it is measured how far the block moved the parameters, so that the length of blocks can follow how fast peers
drift apart: at most `DRIFT_SHARE` of the time goes into that. How hard a peer and mixing pull against each other
is measured at every boundary, on a sample.
"""

from __future__ import annotations

import time

from gossiptrain.protocol.events import BlockTiming, StepsCompleted
from gossiptrain.protocol.pacing import PacingConfig, typical_step_s
from gossiptrain.runtime.driver import Driver
from gossiptrain.runtime.parameters import ParameterVector
from gossiptrain.tug import Tug

# The first steps of a process compile, choose kernels and fill caches: they say nothing of those that follow.
WARMUP_STEPS = 3
DURATIONS_KEPT = 1024
DRIFT_EVERY_BLOCKS = 8
DRIFT_SHARE = 0.005


class StepClock:
    """Times the steps of a block and sums up where the time goes; in seconds of the monotonic clock.

    Attributes:
        compute_s, mix_s, wait_s, blocks: so far, in all; see `BlockTiming`.
    """

    def __init__(self) -> None:
        self.compute_s = self.mix_s = self.wait_s = 0.0
        self.blocks = 0
        self._warmup = WARMUP_STEPS
        self._steps = 0
        self._durations_s: list[float] = []
        self._last_s = time.monotonic()

    def step(self, now_s: float) -> None:
        """A step has ended."""
        duration_s, self._last_s = now_s - self._last_s, now_s
        self.compute_s += duration_s
        self._steps += 1
        if self._warmup:
            self._warmup -= 1
        elif len(self._durations_s) < DURATIONS_KEPT:
            self._durations_s.append(duration_s)

    def resume(self) -> None:
        """What was done since the last step, such as copying a state for a newcomer, is no part of the next step."""
        now_s = time.monotonic()
        self.mix_s += now_s - self._last_s
        self._last_s = now_s

    def waited(self, seconds: float) -> None:
        """Of the time since the last step so much was waiting for others."""
        self.wait_s += seconds
        self._last_s += seconds

    def block(self) -> BlockTiming:
        """A block has ended: returns how it went, and begins the next one."""
        self.blocks += 1
        step_s = typical_step_s(self._durations_s)
        timing = BlockTiming(self._steps, step_s, self.compute_s, self.mix_s, self.wait_s, self.blocks)
        self._steps = 0
        self._durations_s.clear()
        return timing


class Blocks:
    """Counts local steps down; at the end of a block mixes and publishes."""

    def __init__(
        self, vector: ParameterVector, pacing: PacingConfig, *, is_synchronous: bool, timeout_s: float
    ) -> None:
        """
        Args:
            is_synchronous: training waits at each boundary until the round is over, at most `timeout_s` seconds.
        """
        self._vector = vector
        self._is_synchronous, self._timeout_s = is_synchronous, timeout_s
        self._normalises = pacing.normalise
        self._left = self._steps = pacing.steps
        self._rounds = 0
        self._drift_at: float = DRIFT_EVERY_BLOCKS if pacing.mode == "auto" else float("inf")
        self._drift_at_s = 0.0
        self._tug = Tug() if pacing.mode == "auto" else None
        self.clock = StepClock()

    def begin(self, driver: Driver) -> None:
        """Training begins; a snapshot of the beginning has been published."""
        self._left = self._steps = driver.plan.steps
        self._mark(is_published=not self._is_synchronous)
        self.clock = StepClock()

    def step(self, driver: Driver, step_count: int, now_s: float) -> None:
        """A step has ended, the one of this count, at this time."""
        self.clock.step(now_s)
        self._left -= 1
        if self._left <= 0:
            self._boundary(driver, step_count)
            self.clock.resume()

    def spent(self) -> dict[str, float]:
        """What training's time went into so far, in seconds, for the event log."""
        clock = self.clock
        parts = {"compute_s": clock.compute_s, "mix_s": clock.mix_s, "wait_s": clock.wait_s}
        return {name: round(seconds, 4) for name, seconds in parts.items()}

    def _boundary(self, driver: Driver, step_count: int) -> None:
        self._look_at_change(driver)
        if self._is_synchronous:
            self._meet(driver, step_count)
            self._mark(is_published=False)
        else:
            applied = self._mix(driver)
            version = self._vector.publish().version if driver.plan.publish else None
            driver.completed(StepsCompleted(step_count, version, applied, self.clock.block()))
            self._mark(is_published=version is not None)
        self._left = self._steps = driver.plan.steps

    def _meet(self, driver: Driver, step_count: int) -> None:
        """A synchronous round: publishes, waits until it is over, and applies what came of it."""
        if not driver.is_alive():
            return
        self._rounds += 1
        applied = self._vector.apply()
        driver.completed(StepsCompleted(step_count, self._vector.publish().version, applied, self.clock.block()))
        began_s = time.monotonic()
        driver.wait_for_round(self._rounds, self._timeout_s)
        self.clock.waited(time.monotonic() - began_s)
        self._mix(driver)

    def _mix(self, driver: Driver) -> int:
        """Applies what mixing brought; returns how many mixes and adoptions that is so far, in all."""
        if self._tug is None:
            return self._vector.apply()
        before_S = self._vector.sample()
        applied = self._vector.apply()
        found = self._tug.boundary(before_S, self._vector.sample())
        if found is not None:
            driver.run_soon(lambda: driver.tugged(found))
        return applied

    def _mark(self, is_published: bool) -> None:
        """A block begins: its change is counted from the published snapshot, else from a copy if somebody will ask."""
        if is_published:
            self._vector.mark(copy=False)
        elif self._is_synchronous and (self._normalises or self.clock.blocks + 1 >= self._drift_at):
            self._vector.mark(copy=True)
        else:
            self._vector.unmark()

    def _look_at_change(self, driver: Driver) -> None:
        began_s = time.monotonic()
        if self.clock.blocks + 1 >= self._drift_at and began_s >= self._drift_at_s:
            movement, steps = self._vector.movement(), self._steps
            if movement is not None:
                driver.run_soon(lambda: driver.moved(movement, steps))
            end_s = time.monotonic()
            self._drift_at = self.clock.blocks + DRIFT_EVERY_BLOCKS
            self._drift_at_s = end_s + (end_s - began_s) / DRIFT_SHARE
        if driver.plan.scale != 1.0:
            self._vector.scale_change(driver.plan.scale)
