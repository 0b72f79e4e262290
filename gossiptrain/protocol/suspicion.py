"""How long a suspect has to speak up: the more accuse it, the shorter (Lifeguard, Dadgar et al. 2018, section IV-B).

    T = max(T_min, T_max - (T_max - T_min) log(c + 1) / log(k + 1))   with c accusers besides the first, k expected

T_min is at least the tolerance for stalls. Two observers whose connections its address refused need not wait for that:
the process is gone, and only a quick restart is waited for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from gossiptrain.protocol.config import MembershipConfig, log_size


@dataclass(slots=True)
class _Suspicion:
    """Against one incarnation of a member. Times in seconds."""

    since_s: float
    accusers: dict[str, None] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)
    due_s: float = math.inf
    reckoned: tuple[int, int] = (0, 0)


class Suspicions:
    """Who is accused, by whom, and when that becomes a verdict."""

    def __init__(self, config: MembershipConfig, living: Callable[[], int]) -> None:
        """
        Args:
            living: how many members live, this peer and all suspects included.
        """
        self._config = config
        self._living = living
        self._open: dict[str, _Suspicion] = {}
        self._next_s: float | None = math.inf

    def accuse(self, name: str, accuser: str, refused: bool, now: float) -> bool:
        """Notes an accusation. Returns whether it is worth passing on: it changes what others would decide."""
        found = self._open.get(name)
        if found is None:
            found = self._open[name] = _Suspicion(since_s=now)
        is_news = has_changed = False
        if accuser not in found.accusers and len(found.accusers) <= self._config.confirmations:
            found.accusers[accuser] = None
            is_news = has_changed = True
        if refused and accuser not in found.refused and len(found.refused) < max(1, self._config.refused_observers):
            found.refused[accuser] = now
            is_news |= self._config.refused_observers > 0
            has_changed = True
        living = self._living()
        reckoned = (living, min(self._config.refused_observers, max(1, living - len(self._open))))
        if not has_changed and reckoned == found.reckoned:
            return False  # most of what is heard in a large group has been heard before
        found.reckoned = reckoned
        before_s, found.due_s = found.due_s, self._due_s(found)
        if before_s == self._next_s:
            self._next_s = None
        elif self._next_s is not None:
            self._next_s = min(self._next_s, found.due_s)
        return is_news

    def is_refused(self, name: str) -> bool:
        """Says whether enough observers saw its address refuse connections."""
        found = self._open.get(name)
        return found is not None and 0 < self._observers() <= len(found.refused)

    def wants_observers(self, name: str) -> bool:
        """Says whether its address refused somebody, but too few to be sure."""
        found = self._open.get(name)
        return found is not None and 0 < len(found.refused) < self._observers()

    def clear(self, name: str) -> None:
        """The member spoke up, or the verdict is passed."""
        if (found := self._open.pop(name, None)) is not None and found.due_s == self._next_s:
            self._next_s = None

    def due(self, now: float) -> list[tuple[str, str]]:
        """Returns (name, reason) of those whose time is over."""
        return [(name, self._reason(found, now)) for name, found in self._open.items() if now >= found.due_s]

    def shift(self, gap_s: float) -> None:
        """This peer stood still for so long: the time does not count against anybody."""
        for found in self._open.values():
            found.since_s += gap_s
            found.refused = {accuser: at_s + gap_s for accuser, at_s in found.refused.items()}
            found.due_s += gap_s
        self._next_s = None

    def next_deadline(self) -> float:
        """When the next verdict is due, in seconds; infinity when nobody is accused."""
        if self._next_s is None:  # asked after every event, and in a large run many are accused at once
            self._next_s = min((found.due_s for found in self._open.values()), default=math.inf)
        return self._next_s

    def _observers(self) -> int:
        """So many are asked for, but suspects observe nothing: in a run of two, or when all others die, one is enough."""
        return min(self._config.refused_observers, max(1, self._living() - len(self._open)))

    def _due_s(self, found: _Suspicion) -> float:
        config, living = self._config, self._living()
        least_s, most_s = config.suspicion_min_s(living), config.suspicion_max_s(living)
        expected = min(config.confirmations, living - 2)
        confirmed = len(found.accusers) - 1
        share = math.log(confirmed + 1) / math.log(expected + 1) if expected > 0 else 1.0
        due_s = found.since_s + max(least_s, most_s - (most_s - least_s) * share)
        observers = self._observers()
        if observers and len(found.refused) >= observers:
            due_s = min(due_s, min(found.refused.values()) + config.refused_after_s * log_size(living))
        return due_s

    def _reason(self, found: _Suspicion, now: float) -> str:
        accusers = f"{len(found.accusers)} accuser{'s' if len(found.accusers) > 1 else ''}"
        observers = self._observers()
        if observers and len(found.refused) >= observers:
            return f"its address refuses connections for {now - min(found.refused.values()):.1f} s"
        return f"suspect for {now - found.since_s:.0f} s, {accusers}"
