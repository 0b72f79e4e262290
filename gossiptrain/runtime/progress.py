"""What a peer says about its own training twice a second: steps, speed, loss, the longest gap between two steps."""

from __future__ import annotations

import logging
import time
from typing import Any

from gossiptrain.errors import ConfigurationError

# Fields of a `Progress` line that are not the script's to set.
RESERVED = frozenset(
    {"t", "elapsed_s", "kind", "step", "steps_per_s", "longest_gap_s", "neighbours", "members"}
    | {"consensus_distance", "exchanges", "bytes_sent", "bytes_received"}
    | {"compute_s", "mix_s", "wait_s", "samples_trained"}
)

log = logging.getLogger("gossiptrain")


class Progress:
    """Written by the training thread (`step`, `record`), read by the network thread (`take`).

    Single attributes are replaced, never updated in two places, so no lock is held on the way of a step.
    """

    def __init__(self) -> None:
        self.step_count = 0
        self._latest: dict[str, Any] = {}
        self._last_step_s: float | None = None
        self._gap_s_max = 0.0
        self._taken = (0, time.monotonic())
        self._began = self._taken
        self._steps_per_s: float | None = None
        self._has_warned = False

    def begin_at(self, step: int) -> None:
        """Counts on from a step: the state that training begins from has so many behind it."""
        self.step_count = step
        self._taken = self._began = (step, time.monotonic())

    def average_step_s(self) -> float:
        """How long a step of this process took on average, in seconds; since the beginning where it has taken none."""
        steps, since_s = self._began
        return (time.monotonic() - since_s) / max(1, self.step_count - steps)

    def step(self) -> float:
        """Counts an optimizer step; returns the time (monotonic)."""
        now = time.monotonic()
        if self._last_step_s is not None:
            self._gap_s_max = max(self._gap_s_max, now - self._last_step_s)
        self._last_step_s = now
        self.step_count += 1
        return now

    def step_outside(self, name: str, has_ended: bool) -> None:
        """Says once that steps before `with peer:` are nobody's: a script that forgets it would train alone, in silence."""
        if not (self._has_warned or has_ended):
            self._has_warned = True
            log.warning("%s: steps outside `with peer:` exchange nothing; put the training loop inside of it", name)

    def record(self, values: dict[str, Any]) -> None:
        """Keeps the latest values (numbers or one-element tensors).

        They are read only when they are reported, so that no device is waited for on the way of a step.

        Raises:
            ConfigurationError: a name is one of the line's own.
        """
        if taken := RESERVED & values.keys():
            raise ConfigurationError(
                f"record({sorted(taken)[0]}=...): the peer reports a value of this name itself; choose another name"
            )
        self._latest = {**self._latest, **values}

    def take(self) -> dict[str, Any]:
        """Returns the fields of a `Progress` line and begins the next interval."""
        now, (steps, since_s) = time.monotonic(), self._taken
        rate = (self.step_count - steps) / max(now - since_s, 1e-9)
        self._taken = (self.step_count, now)
        self._steps_per_s = rate if self._steps_per_s is None else 0.5 * self._steps_per_s + 0.5 * rate
        gap_s, self._gap_s_max = self._gap_s_max, 0.0
        values = {name: _number(value) for name, value in self._latest.items()}
        return {
            "step": self.step_count,
            "steps_per_s": round(self._steps_per_s, 2),
            "longest_gap_s": round(gap_s, 4),
            "loss": None,
            **values,
        }


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
