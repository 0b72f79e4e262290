"""How many local steps each peer takes in a block, so that all blocks last about as long and nobody waits.

Theory of operation. Each peer measures what a step of its own takes and tells the others (`MemberEntry.pace`). From the
same paces everybody computes the same length of a block, T, and takes H_i = T / s_i steps of s_i seconds. So fast peers
take many steps and slow ones few, and exchanges meet peers of equal age.

T itself, when it is not given, is the median of what the members wish. A peer wishes for a block in which peers drift
apart by `drift_steps` steps' worth of movement: the shorter, the faster they part (consensus-distance control: Kong et
al. 2021, "Consensus Control for Decentralized Deep Learning", where the distance is kept below a multiple of the step
lr ||gradient||; AdaComm, Wang and Joshi 2019, also lengthens and shortens blocks as training goes on). But no shorter
than an exchange takes, since it would end before there is anything to mix, nor so short that mixing costs more than
`overhead_share` of the time. And the slowest peer takes a few steps at least, so that rounding leaves blocks equal.

That changes where peers hold unlike data. Long blocks are then lost work: each learns its own data, and mixing takes it
back. Each peer measures how hard it and mixing pull against each other, the *tug* (`gossiptrain.tug`), and where its mean
over the members is above `tug_limit` (with data that are alike it is below 0.1, with unlike data 0.2 to 1, whatever the
optimizer and the length of blocks) blocks are as short as exchanges and boundaries allow, and those may cost
`overhead_share_unlike`. It is the mean that counts, since leading and lagging peers, of which there are some wherever
speeds differ, balance in it. Between pairs nobody waits for the slowest, so that blocks need not be equally long; in rounds
it takes one step.

Unequal numbers of steps pull towards the data of those who take many: the fixed point of gradient descent on sum_i f_i
becomes that of sum_i H_i f_i (Wang et al. 2020, FedNova, eq. 5). Where peers hold different data, each one's change is
therefore multiplied by mean(H) / H_i (their eq. 7 with tau_eff the mean): as if everybody took the mean number of steps.
The momentum of heavy ball and Adam lives on from block to block, so that each gradient has the same weight in all, whenever
in a block it comes: the norm ||a_i||_1 of the paper, which is for a momentum that begins anew, is here H_i as for SGD.

Everything here is a pure function; `pacer` keeps one peer's pace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, median, median_low
from typing import Literal, NamedTuple

from gossiptrain.errors import ConfigurationError
from gossiptrain.intervals import parse_sync_every
from gossiptrain.protocol.messages import Pace

# A step that takes so many times the median of its block is a pause, not a step.
PAUSE_FACTOR = 3.0
# A block whose steps are so much slower or faster than before is believed at once if it is long, else if the next agrees.
JUMP_FACTOR = 1.5
STEPS_BELIEVED = 4
EWMA = 0.3
LEAST_BLOCK_S = 1e-3


@dataclass(frozen=True, slots=True)
class PacingConfig:
    """How blocks of local steps are paced.

    Attributes:
        mode: "steps" for a fixed number of steps, "seconds" for blocks of `block_s`, "auto" to work out both.
        steps: steps of a block in mode "steps", and of the first blocks in the others; at least 1.
        block_s: seconds of a block in mode "seconds".
        normalise: multiply each block's change so that peers count alike however many steps they take; for peers that
            hold different data, and not for those that share it by their speed.
        steps_max: no block has more steps.
        block_s_max: no block is meant to last longer, in seconds.
        hysteresis: a number of steps is kept while the block lasts within this share of T; [0, 1).
        slowest_steps: the slowest peer's steps in a block, at least, in mode "auto"; one that is more than
            `straggler_factor` times as slow as the median is not waited for so. From seven on, rounding to whole steps
            leaves blocks within 15 % of each other: the longest is at most 8/7 of the shortest.
        straggler_factor: see there; at least 1.
        drift_steps: how far apart peers may be before they mix, in movements of one step.
        overhead_share: of the time at most so much goes into mixing and publishing; (0, 1).
        overhead_share_unlike: the same, where mixing takes back what peers learn.
        tug_limit: the mean tug of the members from which their data count as unlike; (0, 1].
    """

    mode: Literal["steps", "seconds", "auto"] = "steps"
    steps: int = 4
    block_s: float = 0.0
    normalise: bool = False
    steps_max: int = 4096
    block_s_max: float = 60.0
    hysteresis: float = 0.05
    slowest_steps: int = 7
    straggler_factor: float = 4.0
    drift_steps: float = 3.0
    overhead_share: float = 0.02
    overhead_share_unlike: float = 0.1
    tug_limit: float = 0.15

    def __post_init__(self) -> None:
        if self.mode not in ("steps", "seconds", "auto"):
            raise ConfigurationError(f'mode={self.mode!r}: must be "steps", "seconds" or "auto"')
        if self.mode == "seconds" and not 0 < self.block_s <= 3600:
            raise ConfigurationError(f"block_s={self.block_s!r}: must be above 0 and at most 3600 seconds")
        for name, low, high in _RANGES:
            if not low <= getattr(self, name) <= high:
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: must be from {low:g} to {high:g}")

    @classmethod
    def of(cls, sync_every: int | str, normalise: bool = False) -> PacingConfig:
        """Returns the pacing of a block of so many steps (4), of a time ("2s"), or "auto".

        Raises:
            ConfigurationError: it is none of these.
        """
        found = parse_sync_every(sync_every)
        if found is None:
            return cls("auto", normalise=normalise)
        if found.seconds:
            return cls("seconds", block_s=found.seconds, normalise=normalise)
        return cls(steps=found.steps, normalise=normalise)

    @property
    def adapts(self) -> bool:
        """Whether the number of steps, or their weight, depends on how fast the members are."""
        return self.mode != "steps" or self.normalise


_RANGES = (
    ("steps", 1, 1 << 40),
    ("steps_max", 1, 1 << 40),
    ("block_s_max", 1e-3, 3600),
    ("hysteresis", 0, 0.99),
    ("slowest_steps", 1, 1000),
    ("straggler_factor", 1, 1e6),
    ("drift_steps", 1e-6, 1e12),
    ("overhead_share", 1e-4, 0.99),
    ("overhead_share_unlike", 1e-4, 0.99),
    ("tug_limit", 1e-6, 1),
)


def typical_step_s(durations_s: Sequence[float]) -> float:
    """Returns the mean duration of steps without those that are pauses: longer than three times the median. 0 for none."""
    if not durations_s:
        return 0.0
    limit_s = PAUSE_FACTOR * median(durations_s)
    return fmean(duration for duration in durations_s if duration <= limit_s)


class StepTime(NamedTuple):
    """A robust moving estimate of a step's duration.

    Attributes:
        step_s: seconds; 0 before the first block.
        doubt_s: what the last block said, where that is not believed yet; 0 else.
    """

    step_s: float = 0.0
    doubt_s: float = 0.0

    def after(self, steps: int, step_s: float) -> StepTime:
        """Returns the estimate after a block of so many steps that took `step_s` seconds each (0 says nothing).

        Small changes are averaged (exponentially, 0.3); a large one is a pause or another speed: a block of at least
        four steps, or two blocks that agree, are believed.
        """
        if not (step_s > 0 and isfinite(step_s)):
            return self
        if not self.step_s:
            return StepTime(step_s)
        if _are_near(step_s, self.step_s):
            return StepTime((1 - EWMA) * self.step_s + EWMA * step_s)
        if steps >= STEPS_BELIEVED or (self.doubt_s and _are_near(step_s, self.doubt_s)):
            return StepTime(step_s)
        return StepTime(self.step_s, step_s)


def local_steps(block_s: float, step_s: float, current: int, config: PacingConfig) -> int:
    """Returns H = clip(round(T / s), 1, H_max), or the current number while its block lasts within the hysteresis of T.

    Args:
        block_s: T, seconds. step_s: s, seconds; 0 where it is not known, which keeps the current number.
    """
    if step_s <= 0 or block_s <= 0:
        return current
    steps = min(max(round(block_s / step_s), 1), config.steps_max)
    if current <= config.steps_max and abs(current * step_s / block_s - 1) <= config.hysteresis:
        return current
    return steps


def common_block_s(paces: Sequence[Pace], config: PacingConfig, is_synchronous: bool = False) -> tuple[float, str]:
    """Returns (T in seconds, what decided): the median of the wishes, raised so that the slowest takes a few steps.

    With unlike data that is one step in rounds and none between pairs. All members that hold the same paces compute the
    same; 0 until half of them have a wish.
    """
    if config.mode == "seconds":
        return config.block_s, "given"
    steps_s = sorted(pace.step_s for pace in paces if pace.step_s > 0)
    wishes_s = [pace.block_s for pace in paces if pace.block_s > 0]
    if not steps_s or 2 * len(wishes_s) < len(steps_s):
        return 0.0, "given"
    is_unlike = fmean(pace.tug for pace in paces if pace.block_s > 0) >= config.tug_limit
    wish_s = median_low(wishes_s)
    slowest_steps = int(is_synchronous) if is_unlike else config.slowest_steps
    # A straggler beyond the factor takes what steps it can: waiting for it would keep all others from mixing.
    slowest_s = slowest_steps * min(steps_s[-1], config.straggler_factor * median_low(steps_s))
    block_s = min(max(wish_s, slowest_s), config.block_s_max)
    return block_s, "unlike" if is_unlike else "slowest" if block_s > wish_s else "wish"


def wished_block_s(
    block_s: float, apart_steps: float, exchange_s: float, overhead_s: float, config: PacingConfig, *, is_unlike: bool
) -> tuple[float, str]:
    """Returns (the length of block that one peer wishes for, in seconds, and why).

    Args:
        block_s: the present length. apart_steps: consensus distance over one step's movement; 0 where it is not known.
        exchange_s: what an exchange takes. overhead_s: what mixing and publishing take training at each boundary.
        is_unlike: whether the members' data are.

    Returns:
        The reason is "drift", "network", "overhead", or "unlike" for as short as the network and the overhead allow.
    """
    wish_s, limit = block_s, "drift"
    if is_unlike:
        return min(
            max(exchange_s, overhead_s / config.overhead_share_unlike, LEAST_BLOCK_S), config.block_s_max
        ), "unlike"
    if apart_steps > 0:
        # The distance grows with between the root of the length and the length: a damped step towards the aim.
        wish_s = block_s * min(max(config.drift_steps / apart_steps, 0.5), 2.0) ** 0.5
    for least_s, name in ((exchange_s, "network"), (overhead_s / config.overhead_share, "overhead")):
        if least_s > wish_s:
            wish_s, limit = least_s, name
    return min(wish_s, config.block_s_max), limit


def rate(pace: Pace) -> float:
    """Returns steps per second of all the time, mixing and waiting included."""
    return max(1e-3, 1 - pace.mix_share - pace.wait_share) / pace.step_s


def normalised_scale(own: float, all_of_them: Sequence[float]) -> float:
    """Returns mean(H) / H_i (FedNova, Wang et al. 2020, eq. 7): what this peer's change is multiplied by.

    Args:
        own: this peer's local steps a block, or a second; positive.
        all_of_them: of all members, this one included.
    """
    return fmean(all_of_them) / own


def _are_near(one_s: float, other_s: float) -> bool:
    return one_s / JUMP_FACTOR <= other_s <= one_s * JUMP_FACTOR
