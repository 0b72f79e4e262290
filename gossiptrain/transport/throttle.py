"""A bandwidth budget kept: a token bucket that all links for snapshots of a peer take from before each chunk.

In any interval of T seconds at most `burst_bytes + T * bytes_per_s` are handed to the network, and the burst is a twentieth
of a second's worth (at least one chunk): over two seconds that is 2.5 % above the budget, with the smallest budget allowed
9 %. Headers of chunks are counted; those of TCP, 3 % with usual packets, are not, nor is the control lane.
"""

from __future__ import annotations

from gossiptrain.budgets import check_mbps

CHUNK_BYTES_MIN = 4096
_BURST_S = 0.05
# What may be under way unconfirmed: it may all leave at once when a line that stood still goes on.
_CREDIT_S = 0.5


class Throttle:
    """Says when so many bytes may be sent. Times are the caller's, in seconds, and never go back.

    Args:
        mbps: the budget in megabit a second; 0 is none.

    Raises:
        ConfigurationError: the budget is negative, or below what one small chunk takes.
    """

    def __init__(self, mbps: float) -> None:
        check_mbps("max_mbps", mbps)
        self._bytes_per_s = mbps * 125e3
        self._burst_bytes = max(_BURST_S * self._bytes_per_s, float(CHUNK_BYTES_MIN))
        self._tokens = self._burst_bytes
        self._seen_s: float | None = None
        self.is_waiting = False
        """Whether something was refused since the last time that something was granted."""

    @property
    def limits(self) -> bool:
        """Whether there is a budget at all."""
        return self._bytes_per_s > 0

    def chunk_bytes(self, most: int) -> int:
        """Returns how large a chunk may be: a burst, at most `most`."""
        return min(most, int(self._burst_bytes)) if self.limits else most

    def credit_bytes(self, most: int) -> int:
        """Returns how much may be under way unconfirmed: half a second's worth, at least two chunks, at most `most`."""
        if not self.limits:
            return most
        return min(most, max(2 * int(self._burst_bytes), int(_CREDIT_S * self._bytes_per_s)))

    def take(self, nbytes: int, now: float) -> bool:
        """Takes so many bytes out of the budget; False when they have to wait."""
        if not self.limits:
            return True
        self._refill(now)
        needed = min(nbytes, self._burst_bytes)
        self.is_waiting = self._tokens < needed
        if self.is_waiting:
            return False
        self._tokens -= nbytes
        return True

    def give_back(self, nbytes: int) -> None:
        """Returns what was taken for bytes that nobody took."""
        self._tokens = min(self._burst_bytes, self._tokens + nbytes)

    def wait_s(self, nbytes: int, now: float) -> float:
        """Returns in how many seconds `take` will grant so many bytes."""
        if not self.limits:
            return 0.0
        self._refill(now)
        return max(0.0, (min(nbytes, self._burst_bytes) - self._tokens) / self._bytes_per_s)

    def _refill(self, now: float) -> None:
        elapsed_s = 0.0 if self._seen_s is None else max(0.0, now - self._seen_s)
        self._seen_s = now
        self._tokens = min(self._burst_bytes, self._tokens + elapsed_s * self._bytes_per_s)
