"""Getting in touch: which addresses were greeted, and for how long in vain."""

from __future__ import annotations

from dataclasses import dataclass

from gossiptrain.protocol.config import MembershipConfig

GREETED_MAX = 4096
SLOWER_MAX = 8


@dataclass(slots=True)
class _Attempt:
    """Times in seconds."""

    since_s: float
    next_s: float
    every_s: float
    report_after_s: float


class Greeting:
    """The seeds that have not answered yet. Each is tried again until it does, and reported now and then.

    Attributes:
        attempts: by address; read only.
    """

    def __init__(self, config: MembershipConfig) -> None:
        self._config = config
        self.attempts: dict[str, _Attempt] = {}

    def __len__(self) -> int:
        return len(self.attempts)

    def add(self, address: str, now: float) -> bool:
        """Begins to greet an address, which is never given up. Returns False when it is being greeted already."""
        if address in self.attempts or len(self.attempts) >= GREETED_MAX:
            return False
        retry_s = self._config.hello_retry_s
        self.attempts[address] = _Attempt(now, now + retry_s, retry_s, self._config.join_timeout_s / 4)
        return True

    def answered(self, address: str) -> None:
        """Somebody is there; no more tries."""
        self.attempts.pop(address, None)

    def knows(self, address: str) -> bool:
        """Says whether this address is being greeted."""
        return address in self.attempts

    def due(self, now: float) -> list[str]:
        """Returns the addresses to greet once more, each time after a longer pause up to `SLOWER_MAX` times the first."""
        due = [address for address, attempt in self.attempts.items() if attempt.next_s <= now]
        for address in due:
            attempt = self.attempts[address]
            attempt.every_s = min(1.25 * attempt.every_s, SLOWER_MAX * self._config.hello_retry_s)
            attempt.next_s = now + attempt.every_s
        return due

    def silent(self, now: float) -> list[tuple[str, float]]:
        """Returns (address, seconds waited) of the seeds to be reported now; each report doubles the time to the next."""
        found = []
        for address, attempt in self.attempts.items():
            if now >= attempt.since_s + attempt.report_after_s:
                attempt.report_after_s *= 2
                found.append((address, now - attempt.since_s))
        return found

    def summary(self, now: float) -> str:
        """Says which addresses were tried and for how long."""
        tried = (f"{a} for {now - attempt.since_s:.1f} s" for a, attempt in sorted(self.attempts.items()))
        return ", ".join(tried)

    def next_deadline(self) -> float:
        """The next time at which `due` or `silent` returns something."""
        soonest_s = (min(a.next_s, a.since_s + a.report_after_s) for a in self.attempts.values())
        return min(soonest_s, default=float("inf"))
