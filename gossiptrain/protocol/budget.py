"""What a peer may give others, when its line or its memory is limited: decided before an exchange begins.

The transport keeps the rate by holding chunks back (`transport.throttle`); here it is seen to that nobody waits for them in
vain. The line is busy as long as what was given to it takes; meanwhile no exchange is begun, offers are refused as "busy"
(and called back), and pieces of states wait. So a partner's slot is held no longer than one snapshot takes, and time-outs,
which allow for that, are not reached. Synchronous rounds leave neighbours out as well, so that none lasts longer than half
of its time-out: there training waits for the neighbours' snapshots by definition.

    least budget:  snapshot + 2 pieces of a state  within  3/4 of an exchange's time-out

Partners on the same host get snapshots through shared memory, which is no part of the budget.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.fetching import PIECE_BYTES_MAX

# Of an exchange's time-out; the rest is for the network.
_TIMEOUT_SHARE = 0.75
# Of a round's: who was left out of one is a round ahead, and waits for what is left of it and for the next.
_ROUND_SHARE = 0.25
# States hold a few values for each parameter, and are given in pieces; small ones are one piece.
_STATE_FACTOR = 4


@dataclass(frozen=True, slots=True)
class SendLimits:
    """What bounds a peer's exchanges.

    Attributes:
        max_mbps: the bandwidth budget in megabit a second; 0 for none.
        local_hosts: hosts whose peers get snapshots through shared memory, as their addresses say.
        asides_max: exchanges in doubt that may be held in memory beside the open one; 0 to 2. With 0 a peer in doubt
            keeps its slot until its partner answers or is gone.
        edges_max: neighbours whose snapshots a synchronous round may hold in memory; 0 for no limit.
    """

    max_mbps: float = 0.0
    local_hosts: tuple[str, ...] = ()
    asides_max: int = 2
    edges_max: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.max_mbps < float("inf"):
            raise ConfigurationError(f"max_mbps={self.max_mbps!r}: must be a positive number of megabit a second, or 0")
        if not 0 <= self.asides_max <= 2:
            raise ConfigurationError(f"asides_max={self.asides_max!r}: must be 0, 1 or 2")
        if self.edges_max < 0:
            raise ConfigurationError(f"edges_max={self.edges_max!r}: must be 0 or more")

    def check(self, snapshot_bytes: int, transfer_timeout_s: float, round_timeout_s: float, kind: str) -> None:
        """Refuses a budget with which exchanges would reach their time-outs.

        Raises:
            ConfigurationError: names the budget, what one snapshot takes, and the least that is accepted.
        """
        least = least_mbps(snapshot_bytes, transfer_timeout_s, round_timeout_s, kind)
        if not self.max_mbps or self.max_mbps >= least:
            return
        limit = (
            f"round_timeout_s={round_timeout_s:g}" if kind == "round" else f"transfer_timeout_s={transfer_timeout_s:g}"
        )
        raise ConfigurationError(
            f"max_mbps={self.max_mbps:g}: a snapshot of {snapshot_bytes / 1e6:.4g} MB would take "
            f"{snapshot_bytes * 8e-6 / self.max_mbps:.3g} s, too long for an exchange with {limit} s; must be at least "
            f"{least:.3g}, or give exchange=ExchangeConfig(...) a longer time-out"
        )


def least_mbps(snapshot_bytes: int, transfer_timeout_s: float, round_timeout_s: float, kind: str) -> float:
    """Returns the least bandwidth budget, in megabit a second, with which exchanges end before their time-outs."""
    within_s = _TIMEOUT_SHARE * transfer_timeout_s
    least = (snapshot_bytes + 2 * _piece_bytes(snapshot_bytes)) * 8e-6 / within_s
    return max(least, snapshot_bytes * 8e-6 / (_ROUND_SHARE * round_timeout_s)) if kind == "round" else least


def _piece_bytes(snapshot_bytes: int) -> int:
    return min(PIECE_BYTES_MAX, _STATE_FACTOR * snapshot_bytes)


class Line:
    """Knows until when the line out is busy with what was given to it. Times in seconds.

    Attributes:
        is_limited: whether there is a budget.
    """

    def __init__(self, limits: SendLimits) -> None:
        self._limits = limits
        self._bytes_per_s = limits.max_mbps * 125e3
        self.is_limited = self._bytes_per_s > 0
        self._busy_until_s = 0.0

    @property
    def bytes_per_s(self) -> float:
        """The budget; infinity where there is none."""
        return self._bytes_per_s or float("inf")

    def counts(self, address: str) -> bool:
        """Says whether what is sent to this address takes of the budget."""
        return bool(self._bytes_per_s) and not is_local(address, self._limits.local_hosts)

    def free_at_s(self, address: str) -> float:
        """When something can be sent to this address; in the past for at once."""
        return self._busy_until_s if self.counts(address) else 0.0

    def is_free(self, address: str, now: float) -> bool:
        """Says whether something can be sent to this address now."""
        return now >= self.free_at_s(address)

    def spend(self, address: str, nbytes: int, now: float) -> None:
        """So many bytes are sent to this address, from now on or after what is sent already."""
        if self.counts(address):
            self._busy_until_s = max(now, self._busy_until_s) + nbytes / self._bytes_per_s

    def newcomers_max(self, most: int, snapshot_bytes: int, timeout_s: float) -> int:
        """Returns how many newcomers can be served by turns without one of them waiting for too long; at least 1."""
        if not self._bytes_per_s:
            return most
        piece_s = 2 * _piece_bytes(snapshot_bytes) / self._bytes_per_s  # half of the line is for exchanges
        left_s = timeout_s - snapshot_bytes / self._bytes_per_s
        return max(1, min(most, int(left_s / piece_s)))

    def affordable(
        self, own: str, others: Iterable[tuple[str, str]], *, nbytes: int, turn: int, timeout_s: float, now: float
    ) -> set[str]:
        """Returns the names of those that a synchronous round can serve: all that the line and the memory have room for.

        Both ends of an edge rank it alike, by a hash of their names and the turn, so that what one has room for the other
        likely has, too.

        Args:
            own: this peer's name. others: (name, data address) of those that would be served, `nbytes` each.
            turn: the round's number. timeout_s: of a round.
        """
        if not self._bytes_per_s and not self._limits.edges_max:
            return {name for name, _ in others}
        found: set[str] = set()
        busy_s, is_busy = 0.0, now < self._busy_until_s
        for name, address in sorted(others, key=lambda other: _rank(own, other[0], turn)):
            if self._limits.edges_max and len(found) >= self._limits.edges_max:
                break
            takes_s = nbytes / self._bytes_per_s if self.counts(address) else 0.0
            if takes_s and (is_busy or busy_s + takes_s > _ROUND_SHARE * timeout_s):
                continue
            busy_s += takes_s
            found.add(name)
        return found


def is_local(address: str, hosts: tuple[str, ...]) -> bool:
    """Says whether an address "tcp://host:port" is of one of these hosts; "127." stands for all that begin so."""
    host = address.removeprefix("tcp://").rpartition(":")[0]
    return any(host == known or (known == "127." and host.startswith(known)) for known in hosts)


def _rank(one: str, other: str, turn: int) -> bytes:
    first, second = sorted((one, other))
    return blake2b(f"{turn}\n{first}\n{second}".encode(), digest_size=8).digest()
