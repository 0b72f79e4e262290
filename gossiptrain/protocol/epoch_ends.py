"""When the end of an epoch of the shared data is told, and until when peers keep telling their own counts of it."""

from __future__ import annotations

# How long after an epoch's last chunk the counts of all are together, and how long each tells its own.
SETTLE_S = 2.0
COUNTS_KEPT_S = 4 * SETTLE_S
NEVER_S = float("inf")


class EpochEnds:
    """Complete epochs on their way to being told and forgotten."""

    def __init__(self) -> None:
        self._told_s: dict[int, float] = {}
        self._dropped_s: dict[int, float] = {}

    def complete(self, epochs: range, now: float) -> None:
        """These epochs are complete."""
        for epoch in epochs:
            self._told_s[epoch] = now + SETTLE_S

    def next_deadline(self) -> float:
        """When the next epoch is to be told; infinity for never."""
        return min(self._told_s.values(), default=NEVER_S)

    def take_due(self, now: float) -> list[int]:
        """Returns the epochs to be told by now, the oldest first, once each."""
        due = sorted(epoch for epoch, at_s in self._told_s.items() if now >= at_s)
        for epoch in due:
            del self._told_s[epoch]
            self._dropped_s[epoch] = now + COUNTS_KEPT_S - SETTLE_S
        return due

    def take_old(self, now: float) -> list[int]:
        """Returns the epochs whose counts all have heard by now, once each."""
        old = [epoch for epoch, at_s in self._dropped_s.items() if now >= at_s]
        for epoch in old:
            del self._dropped_s[epoch]
        return old
