"""Whom to offer an exchange next, and when: those who asked in vain first, then one neighbour after the other.

Who refuses an offer calls back: it remembers who asked, and offers to one of those before anybody else when its own slot
is free again. To any of them: the newest most likely still wait, but calling these first starves the others around a hub.
So a refused peer need not ask on and on. It waits for such a call and asks a further neighbour after pauses that double,
measured against its own time from one exchange to the next. A call may be lost or forgotten: when all neighbours have been
asked, they are asked anew after a longer time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gossiptrain.protocol.chance import Chance

NEVER_S = float("inf")
# The first pause, as a share of the time between two exchanges. Measured with 4 to 32 peers and steps from far shorter to
# far longer than a transfer: with less, an exchange takes more than three offers; with more, there are fewer exchanges.
PAUSE_SHARE = 0.2
PAUSE_S_MIN = 0.001
DOUBLINGS_MAX = 16
CALLERS_MAX = 64


class PartnerSearch:
    """Remembers whom this peer asked since its last exchange and who asked it in vain; times in seconds.

    Attributes:
        ask_at_s, forget_at_s: when `next` is to be asked again while the slot is free, whichever comes first.
    """

    def __init__(self, patience_s: float) -> None:
        """
        Args:
            patience_s: so long at least a neighbour that was busy is trusted to call.
        """
        self._patience_s = patience_s
        self._asked: set[str] = set()
        self._callers: dict[str, None] = {}
        self._asks = 0
        self._since_s: float | None = None
        self._began_s: float | None = None
        self._cycle_s = patience_s
        self.ask_at_s = self.forget_at_s = NEVER_S

    def next(self, neighbours: Sequence[str], may_use: Callable[[str], bool], chance: Chance, now: float) -> str | None:
        """Returns whom to ask now, while this peer's slot is free; None to wait.

        Args:
            neighbours: whom to ask besides those that asked before.
            may_use: says whether one of either can be asked.
        """
        if self._since_s is None:
            self._begin(now)
        if now >= self.forget_at_s:
            self._asked.clear()
            self.forget_at_s = NEVER_S
        callers = [name for name in self._callers if may_use(name)]
        asked = self._asked
        fresh = [name for name in neighbours if name not in asked and may_use(name)]
        if not callers and not fresh:
            self.ask_at_s = NEVER_S
            if self.forget_at_s == NEVER_S and any(map(may_use, neighbours)):
                self.forget_at_s = now + max(self._patience_s, self._cycle_s) * (0.5 + chance.uniform())
            return None
        if self._asks and self.ask_at_s == NEVER_S:
            self.ask_at_s = now + self._pause_s() * (0.5 + chance.uniform())
        if self._asks and now < self.ask_at_s:
            return None
        self.ask_at_s = NEVER_S
        self._asks += 1
        name = chance.choice(callers or fresh)
        self._callers.pop(name, None)
        self._asked.add(name)
        return name

    def waits(self, now: float) -> bool:
        """Says whether somebody has been asked lately and it is not yet time for the next."""
        return now < self.ask_at_s < NEVER_S and now < self.forget_at_s

    def call_back(self, name: str) -> None:
        """Somebody asked in vain."""
        self._callers.pop(name, None)
        self._callers[name] = None
        if len(self._callers) > CALLERS_MAX:
            del self._callers[next(iter(self._callers))]

    def over(self, name: str) -> None:
        """An exchange with this member was committed: the next search begins when the slot is free."""
        self._asked.clear()
        self._callers.pop(name, None)
        self._asks = 0
        self._since_s = None
        self.ask_at_s = self.forget_at_s = NEVER_S

    def hurry(self) -> None:
        """An exchange agreed on came to nothing: go on at once, with somebody else."""
        self._asks = 0
        self.ask_at_s = NEVER_S

    def forget(self, name: str) -> None:
        """This member's process is gone, and what it knew."""
        self._asked.discard(name)
        self._callers.pop(name, None)

    def end(self) -> None:
        """Nobody is to be called any more."""
        self._callers.clear()

    def _begin(self, now: float) -> None:
        if self._began_s is not None:
            self._cycle_s = now - self._began_s
        self._since_s = self._began_s = now

    def _pause_s(self) -> float:
        return max(PAUSE_S_MIN, PAUSE_SHARE * self._cycle_s * 2 ** min(self._asks - 1, DOUBLINGS_MAX))
