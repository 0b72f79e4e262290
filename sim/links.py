"""One peer's link to an address, as libzmq would keep it: connecting, up, broken, connecting again."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gossiptrain.protocol.events import Lane
    from gossiptrain.protocol.messages import Envelope, TransferKey
    from sim.bandwidth import Flow


class Process(Protocol):
    """What the network needs of a simulated peer: one process on one host.

    host: number of its host. alive: it has not ended. stalled_until_s: until then it does nothing; its kernel does.
    control_links, data_links: its links by address. incoming: the transfers under way to it.
    """

    host: int
    alive: bool
    stalled_until_s: float
    control_links: dict[str, Link]
    data_links: dict[str, Link]
    incoming: dict[TransferKey, Flow]

    def take_message(self, envelope: Envelope) -> None:
        """A control message arrived."""

    def take_frame(self, frame: bytes) -> None:
        """Bytes arrived on the control lane that need not be a message."""

    def take_evidence(self, evidence: tuple[str, Lane, str]) -> None:
        """A link went up or down, or an address refused."""

    def take_snapshot(self, key: TransferKey, payload: Any) -> None:
        """The last byte of a snapshot arrived."""


class Link:
    """State of one outgoing connection; `network.Network` moves it.

    Attributes:
        source: the process that opened it. target: the process that accepted it, while it is up.
        waiting: control messages (envelope, bytes) sent before it was up. held: those sent into an outage.
        flows: snapshots on it, begun or waiting for it. last_s: when the last message arrives: none overtakes it.
        delay_s, bps: of a message, as of the network's state number `measured`.
    """

    __slots__ = (
        "address",
        "bps",
        "closed",
        "delay_s",
        "flows",
        "held",
        "held_since_s",
        "is_up",
        "lane",
        "last_s",
        "measured",
        "pause_s",
        "source",
        "target",
        "target_host",
        "waiting",
        "waiting_bytes",
    )

    def __init__(self, source: Process, address: str, lane: Lane, target_host: int | None) -> None:
        self.source, self.address = source, address
        self.lane: Lane = lane
        self.target_host = target_host
        self.target: Process | None = None
        self.is_up = self.closed = False
        self.waiting: deque[tuple[Envelope, int]] = deque()
        self.waiting_bytes = 0
        self.held: list[tuple[Envelope, int]] = []
        self.held_since_s = 0.0
        self.pause_s = 0.0
        self.last_s = 0.0
        self.delay_s = self.bps = 0.0
        self.measured = -1
        self.flows: dict[TransferKey, Flow] = {}
