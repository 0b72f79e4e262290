"""A peer's budgets, turned into what each of its parts has to keep to, and checked before anything begins.

The memory budget holds what exchanges need at most, counted in snapshots of S bytes; what is left is for the states that
newcomers are given:

    pairs:   S (4 + 2 a)  on a CPU:  3 + a published, 1 + a received
             S (6 + 4 a)  on CUDA:   as many staged in pinned memory for sending (1 + a) and on the device (1 + a)
    rounds:  S (4 + k)    on a CPU;  S (6 + 2 k) on CUDA;  S more where blocks are paced, which may keep a copy

and with a codec that packs a snapshot into E bytes, on either (2 E more on CUDA, for packing there):

    pairs:   S (5 + 2 a) + E (2 + 2 a):  3 + a published, 1 + a unpacked, the own one rounded; 1 + a packed each way
    rounds:  S (5 + k) + E (1 + k)

with `a` exchanges in doubt beside the open one (0 to 2), and `k` neighbours in a round. Published are three at most: one is
being written, one is the latest, and one is pinned by the exchange. A newcomer whose state finds no room is refused and
asks another peer. Not counted are the parameters themselves, what a newcomer fetches before it trains, checkpoints, and the
transport's own bounded buffers (`TransportConfig.credit_bytes`, `segment_bytes`).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from gossiptrain.budgets import check_megabytes
from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.budget import SendLimits
from gossiptrain.runtime.parameters import ParameterVector
from gossiptrain.transport.config import TransportConfig, split_address
from gossiptrain.transport.shared_memory import IS_AVAILABLE

if TYPE_CHECKING:
    from gossiptrain.peer_config import PeerConfig

ASIDES_MAX = 2
# Room is left for a newcomer's state before further exchanges in doubt are allowed for; optimizers keep two values or so.
_STATE_SNAPSHOTS = 4


class MemoryPlan(NamedTuple):
    """How a memory budget is shared out.

    Attributes:
        asides_max, edges_max: see `SendLimits`.
        exchange_bytes: the most that exchanges take; 0 without a budget.
        state_bytes: what is left for frozen states of this peer; None without a budget.
    """

    asides_max: int = ASIDES_MAX
    edges_max: int = 0
    exchange_bytes: int = 0
    state_bytes: int | None = None


def plan_memory(
    max_buffer_mb: float,
    snapshot_bytes: int,
    *,
    kind: str,
    on_cuda: bool,
    keeps_copy: bool = False,
    packed_bytes: int = 0,
) -> MemoryPlan:
    """Shares a memory budget out; see the module's text.

    Args:
        max_buffer_mb: in megabytes (10^6 bytes); 0 for none.
        kind: "pair" or "round".
        keeps_copy: a copy of the parameters is kept from block to block, as synchronous rounds with scaling do.
        packed_bytes: of a snapshot on the wire, where there is a codec.

    Raises:
        ConfigurationError: it is negative, or less than what one exchange needs; the message says how much that is.
    """
    check_megabytes("max_buffer_mb", max_buffer_mb)
    if not max_buffer_mb:
        return MemoryPlan()
    base_bytes, each_bytes = _needs(snapshot_bytes, packed_bytes, kind, on_cuda)
    base_bytes += snapshot_bytes * (kind == "round" and keeps_copy)
    least_bytes = base_bytes + (each_bytes if kind == "round" else 0)
    limit_bytes = int(max_buffer_mb * 1e6)
    if limit_bytes < least_bytes:
        raise ConfigurationError(
            f"max_buffer_mb={max_buffer_mb:g}: one exchange of this model's snapshots of {snapshot_bytes / 1e6:.4g} MB "
            f"needs {least_bytes / snapshot_bytes:.3g} times as much; must be at least {_rounded_up(least_bytes)}"
        )
    spare = max(0, limit_bytes - base_bytes - _STATE_SNAPSHOTS * snapshot_bytes) // each_bytes
    more = max(1, spare) if kind == "round" else min(spare, ASIDES_MAX)
    used = base_bytes + each_bytes * more
    asides, edges = (ASIDES_MAX, more) if kind == "round" else (more, 0)
    return MemoryPlan(asides, edges, used, limit_bytes - used)


def _needs(whole: int, packed: int, kind: str, on_cuda: bool) -> tuple[int, int]:
    """Returns what exchanges need at least, and what each further one (or each edge of a round) needs, in bytes."""
    if packed:
        staged = 2 * packed * on_cuda
        if kind == "round":
            return 5 * whole + packed + staged, whole + packed
        return 5 * whole + 2 * packed + staged, 2 * whole + 2 * packed
    if kind == "round":
        base, each = (6, 2) if on_cuda else (4, 1)
    else:
        base, each = (6, 4) if on_cuda else (4, 2)
    return base * whole, each * whole


def _rounded_up(nbytes: int) -> str:
    """In megabytes, with enough digits to be accepted."""
    return f"{-(-nbytes // 1000) / 1000:.10g}"


class StateRoom:
    """Counts the memory of frozen states. Any thread.

    Args:
        limit_bytes: None for no limit.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._held: dict[object, int] = {}

    @property
    def held_bytes(self) -> int:
        """What is held now."""
        with self._lock:
            return sum(self._held.values())

    def take(self, owner: object, nbytes: int) -> bool:
        """Takes room for somebody who has none yet; False when there is not enough."""
        with self._lock:
            assert owner not in self._held, "gives back first"
            if self._limit_bytes is not None and sum(self._held.values()) + nbytes > self._limit_bytes:
                return False
            self._held[owner] = nbytes
            return True

    def give_back(self, owner: object) -> None:
        """Gives back what somebody took; nothing, if it took nothing."""
        with self._lock:
            self._held.pop(owner, None)


class Limits(NamedTuple):
    """A peer's budgets, checked. room: of the states that it freezes for newcomers."""

    transport: TransportConfig
    max_buffer_mb: float
    memory: MemoryPlan
    room: StateRoom

    def of_sending(self, data_address: str = "") -> SendLimits:
        """Returns what the protocol has to keep to.

        Args:
            data_address: where this peer receives snapshots: others on that host share memory with it.
        """
        hosts: tuple[str, ...] = ()
        if self.transport.shared_memory and IS_AVAILABLE:
            own = (split_address(data_address)[0],) if data_address else ()
            hosts = ("127.", "localhost", "[::1]", *own)
        return SendLimits(self.transport.max_mbps, hosts, self.memory.asides_max, self.memory.edges_max)

    def held(self) -> dict[str, int]:
        """Returns the bytes held for states, by name."""
        return {"states": self.room.held_bytes}

    def described(self) -> dict[str, float]:
        """Returns the budgets, as the event log has them."""
        return {"max_mbps": self.transport.max_mbps, "max_buffer_mb": self.max_buffer_mb}


def plan(config: PeerConfig, vector: ParameterVector) -> Limits:
    """Checks a peer's budgets against its model and its time-outs; see `plan_memory`.

    Raises:
        ConfigurationError: names the budget, its value, and the least that is accepted.
    """
    kind, megabytes, exchange = config.mixer.kind, config.settings.max_buffer_mb, config.exchange
    on_cuda = vector.device.type == "cuda"
    memory = plan_memory(
        megabytes,
        vector.full_bytes,
        kind=kind,
        on_cuda=on_cuda,
        keeps_copy=config.pacing.adapts,
        packed_bytes=vector.nbytes if config.codec is not None else 0,
    )
    found = Limits(config.listening, megabytes, memory, StateRoom(memory.state_bytes))
    found.of_sending().check(vector.nbytes, exchange.transfer_timeout_s, exchange.round_timeout_s, kind)
    return found
