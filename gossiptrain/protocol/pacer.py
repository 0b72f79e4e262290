"""One peer's pace: what it measures, what it tells the others, and how many local steps come next. See `pacing`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import isfinite
from statistics import median
from typing import NamedTuple

from gossiptrain.protocol.events import BlockTiming, DriftMeasured, TugMeasured
from gossiptrain.protocol.messages import Pace
from gossiptrain.protocol.notices import Paced
from gossiptrain.protocol.pacing import (
    EWMA,
    PacingConfig,
    StepTime,
    common_block_s,
    local_steps,
    normalised_scale,
    rate,
    wished_block_s,
)

EXCHANGES_KEPT = 8
TOLD_CHANGE = 0.15
EWMA_TUG = 0.25
TOLD_EVERY_S = 2.0
TOLD_EVERY_S_A_MEMBER = 0.1


class Plan(NamedTuple):
    """What training is to do: so many steps a block, and what each block's change is multiplied by."""

    steps: int
    scale: float = 1.0


class Pacer:
    """Keeps one peer's pace; methods are told what happened.

    Attributes:
        plan: the present one.
        pace: what this peer knows of itself; None before the first block was measured.
    """

    def __init__(self, config: PacingConfig, is_synchronous: bool) -> None:
        """
        Args:
            is_synchronous: peers wait for each other at each boundary, so that all take as many blocks.
        """
        self._config, self._is_synchronous = config, is_synchronous
        self._time = StepTime()
        self._timing = BlockTiming(0, 0.0)
        self._shares = (0.0, 0.0)
        self._exchanges_s: deque[float] = deque(maxlen=EXCHANGES_KEPT)
        self._apart_steps = 0.0
        self._tug: float | None = None
        self._wish_s, self._why = 0.0, "given"
        self._block_s, self._limit = 0.0, "given"
        self._told: Pace | None = None
        self._told_at_s = -float("inf")
        self._reckoned: tuple[Pace | None, Sequence[Pace] | None] = (None, None)
        self._noted: Paced | None = None
        self.plan = Plan(config.steps)
        self.pace: Pace | None = None

    def block(self, timing: BlockTiming) -> None:
        """A block of local steps has ended."""
        self._time = self._time.after(timing.steps, timing.step_s)
        self._note_shares(timing)
        self._timing = timing
        if self._time.step_s:
            self.pace = self._own_pace()

    def exchanged(self, seconds: float) -> None:
        """An exchange took so long."""
        self._exchanges_s.append(seconds)

    def measured(self, event: DriftMeasured | TugMeasured) -> None:
        """Takes a measurement; see the events."""
        match event:
            case DriftMeasured(distance, movement):
                if not (distance >= 0 and movement > 0 and isfinite(distance / movement)):
                    return
                apart = distance / movement
                self._apart_steps = apart if not self._apart_steps else (1 - EWMA) * self._apart_steps + EWMA * apart
            case TugMeasured(tug):
                if not isfinite(tug):
                    return
                tug = min(max(tug, -1.0), 1.0)
                self._tug = tug if self._tug is None else (1 - EWMA_TUG) * self._tug + EWMA_TUG * tug
        if self._config.mode == "auto" and self._block_s:
            self._wish(self._block_s)

    def tell(self, living: int, now: float) -> Pace | None:
        """Returns this peer's pace when the others should know it: the first time, and when it has changed enough.

        With many members each tells its own less often, so that news of paces stay few.
        """
        if self.pace is None or now < self._told_at_s + max(TOLD_EVERY_S, TOLD_EVERY_S_A_MEMBER * living):
            return None
        if not _has_changed(self._told, self.pace):
            return None
        self._told, self._told_at_s = _rounded(self.pace), now
        return self._told

    def reckon(self, others: Sequence[Pace]) -> Paced | None:
        """Works out the plan anew from what the living others have told; returns a notice when it has changed."""
        if self.pace is None or not self._config.adapts:
            return None
        own = self._told or _rounded(self.pace)
        if self._config.mode != "steps" and (own, others) != self._reckoned:
            self._reckoned = (own, others)
            self._block_s, self._limit = common_block_s([own, *others], self._config, self._is_synchronous)
            if self._limit == "unlike":
                self._wish(self._block_s)
        if self._limit == "unlike" and not self._is_synchronous:
            self._block_s = self._wish_s
        steps = local_steps(self._block_s, self._time.step_s, self.plan.steps, self._config)
        self.plan = Plan(steps, self._scale(steps, own, others) if self._config.normalise else 1.0)
        return self._notice()

    def steps_of(self, other: Pace) -> int:
        """How many steps a block of another has, as far as this peer can tell."""
        if self._config.mode == "steps":
            return self._config.steps
        return local_steps(self._block_s, other.step_s, 0, self._config)

    def _note_shares(self, timing: BlockTiming) -> None:
        before = self._timing
        spent = [timing.compute_s - before.compute_s, timing.mix_s - before.mix_s, timing.wait_s - before.wait_s]
        if min(spent) >= 0 and (total_s := sum(spent)) > 0:
            parts = (spent[1] / total_s, spent[2] / total_s)
            is_first = not before.compute_s
            mix, wait = ((new if is_first else (1 - EWMA) * old + EWMA * new) for old, new in zip(self._shares, parts))
            self._shares = (mix, wait)

    def _own_pace(self) -> Pace:
        step_s = self._time.step_s
        if self._config.mode == "auto" and self._tug is not None and not (self._apart_steps and self._block_s):
            # Without a word on drift the wish follows what exchanges and boundaries take.
            self._wish(self._config.steps * step_s)
        elif self._limit == "unlike":
            self._wish(self._block_s)
        return Pace(step_s, self._wish_s, *self._shares, self._tug or 0.0)

    def _wish(self, from_s: float) -> None:
        overhead_s = self._timing.mix_s / max(1, self._timing.blocks)
        is_unlike = self._limit == "unlike"
        self._wish_s, self._why = wished_block_s(
            from_s, self._apart_steps, self._exchange_s(), overhead_s, self._config, is_unlike=is_unlike
        )

    def _exchange_s(self) -> float:
        """What an exchange takes. In a synchronous round the quickest counts: in the others somebody was waited for."""
        if not self._exchanges_s:
            return 0.0
        return min(self._exchanges_s) if self._is_synchronous else median(self._exchanges_s)

    def _scale(self, steps: int, own: Pace, others: Sequence[Pace]) -> float:
        """Between pairs what counts is how many steps a peer takes in a second, in rounds how many in a round."""
        if not self._is_synchronous:
            return normalised_scale(rate(own), [rate(own), *map(rate, others)])
        if self._config.mode == "steps":
            return 1.0
        return normalised_scale(steps, [steps, *map(self.steps_of, others)])

    def _notice(self) -> Paced | None:
        limit = self._why if self._limit == "wish" else self._limit
        step_s, block_s, scale = round(self._time.step_s, 6), round(self._block_s, 6), round(self.plan.scale, 4)
        apart, tug = round(self._apart_steps, 2), round(self._tug or 0.0, 2)
        found = Paced(self.plan.steps, step_s, block_s, scale, limit, apart, tug)
        last = self._noted
        if last is not None and last.steps == found.steps and abs(found.scale / last.scale - 1) < TOLD_CHANGE:
            return None
        self._noted = found
        return found


def _has_changed(told: Pace | None, pace: Pace) -> bool:
    if told is None:
        return True
    shares = zip(told[2:], pace[2:])
    if any(abs(after - before) > TOLD_CHANGE for before, after in shares):
        return True
    pairs = ((told.step_s, pace.step_s), (told.block_s, pace.block_s))
    return any(abs(after - before) > TOLD_CHANGE * before for before, after in pairs)


def _rounded(pace: Pace) -> Pace:
    """Four digits are more than enough, and short on the wire."""
    return Pace(*(float(f"{value:.4g}") for value in pace))
