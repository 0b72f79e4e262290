"""Learning-rate schedules that a scenario file can name: functions of the step that return a factor."""

from __future__ import annotations

import math
from collections.abc import Callable

from gossiptrain.errors import ConfigurationError


def cosine(steps: int, warmup: int = 0, floor: float = 0.0) -> Callable[[int], float]:
    """From 1 down to `floor` along half a cosine (Loshchilov & Hutter 2017, equation 5, without restarts).

    Args:
        steps: after so many the factor stays at `floor`; above `warmup`. warmup: so many steps it grows linearly first.
        floor: the last factor, in [0, 1].

    >>> [round(cosine(8, warmup=2)(step), 2) for step in (0, 1, 2, 5, 8, 100)]
    [0.33, 0.67, 1.0, 0.5, 0.0, 0.0]
    """
    if not 0 <= warmup < steps:
        raise ConfigurationError(f"warmup={warmup!r}, steps={steps!r}: must be 0 <= warmup < steps")
    if not 0 <= floor <= 1:
        raise ConfigurationError(f"floor={floor!r}: must be between 0 and 1")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        share = min(1.0, (step - warmup) / (steps - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))

    return factor


def steps(every: int, factor: float = 0.1) -> Callable[[int], float]:
    """Multiplied by `factor`, in (0, 1], after each `every` steps.

    >>> [round(steps(10, factor=0.5)(step), 3) for step in (0, 9, 10, 25)]
    [1.0, 1.0, 0.5, 0.25]
    """
    if every < 1:
        raise ConfigurationError(f"every={every!r}: must be at least 1")
    if not 0 < factor <= 1:
        raise ConfigurationError(f"factor={factor!r}: must be above 0 and at most 1")
    return lambda step: factor ** (step // every)


SCHEDULES = {"cosine": cosine, "steps": steps}
