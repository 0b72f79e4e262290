"""A newcomer that nobody gives a state says so now and then, with what it was answered last by whom.

It is no failure: members serve a few newcomers at a time, and not beside a full line or without memory for a copy. But who
watches should know what a peer waits for that does not begin to train.
"""

from __future__ import annotations

from gossiptrain.protocol.effects import Effect, Notify
from gossiptrain.protocol.notices import StateAwaited

TELL_EVERY_S = 30.0
# The newest answers; in a large group a newcomer asks one member after the other.
ANSWERS_MAX = 8


class StateWait:
    """Keeps the time and the answers."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._tell_at_s = 0.0
        self._answers: dict[str, str] = {}

    def answered(self, name: str, what: str) -> None:
        """A member refused, failed, or has promised its state."""
        self._answers.pop(name, None)
        self._answers[name] = what
        if len(self._answers) > ANSWERS_MAX:
            del self._answers[next(iter(self._answers))]

    def goes_on(self, is_coming: bool, now: float) -> list[Effect]:
        """The peer still has no state to begin from.

        Args:
            is_coming: parts of one are on their way: the wait begins anew when that breaks off.
        """
        if is_coming:
            self._began_s = None
        elif self._began_s is None:
            self._began_s, self._tell_at_s = now, now + TELL_EVERY_S
        elif now >= self._tell_at_s:
            self._tell_at_s = now + TELL_EVERY_S
            return [Notify(StateAwaited(round(now - self._began_s, 3), tuple(self._answers.items())))]
        return []
