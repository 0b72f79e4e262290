"""How often something is done: after so many steps, or so much time."""

from __future__ import annotations

import re
from typing import NamedTuple

from gossiptrain.errors import ConfigurationError

_UNITS_S = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)\Z")


class Interval(NamedTuple):
    """So many optimizer steps, or so many seconds; the other one is 0."""

    steps: int = 0
    seconds: float = 0.0

    def is_due(self, step: int, last_step: int, elapsed_s: float) -> bool:
        """Whether it is time again, at this step; in steps it is at the multiples."""
        if self.steps:
            return step // self.steps > last_step // self.steps
        return step > last_step and elapsed_s >= self.seconds


def parse(parameter: str, value: int | str) -> Interval:
    """Reads a number of steps (500, "500") or a time ("90s", "10min", "2h").

    >>> parse("checkpoint_every", "10min")
    Interval(steps=0, seconds=600.0)

    Raises:
        ConfigurationError: it is neither, or not positive; names the parameter.
    """
    text = str(value).strip().lower()
    if not isinstance(value, bool) and text.isdecimal() and 0 < int(text) < 1 << 40:
        return Interval(steps=int(text))
    match = _TIME.match(text)
    if match and match[2] in _UNITS_S and float(match[1]) > 0:
        return Interval(seconds=float(match[1]) * _UNITS_S[match[2]])
    raise ConfigurationError(
        f"{parameter}={value!r}: must be a number of steps, such as 500, or a time, such as 90s, 10min or 2h"
    )


def parse_sync_every(value: int | str, parameter: str = "sync_every") -> Interval | None:
    """Reads how long a block of local steps is: steps (4), a time ("2s"), or "auto", which gives None.

    Raises:
        ConfigurationError: it is none of these.
    """
    if value == "auto":
        return None
    try:
        return parse(parameter, value)
    except ConfigurationError:
        raise ConfigurationError(
            f'{parameter}={value!r}: must be at least 1 local step, a time such as 500ms or 2s, or "auto"'
        ) from None
