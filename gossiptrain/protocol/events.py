"""What happens to a peer. `PeerProtocol.handle(event, now)` is the one door for all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gossiptrain.protocol.messages import Envelope, TransferKey

Lane = Literal["control", "data"]


@dataclass(frozen=True, slots=True)
class Started:
    """The driver is ready: its sockets are bound. Comes first, once."""


@dataclass(frozen=True, slots=True)
class SeedsFound:
    """Control addresses of peers to get in touch with, as far as they are known now. May come again."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A valid message arrived on the control lane."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class SnapshotReceived:
    """All bytes of an expected snapshot are here and every value is finite."""

    transfer: TransferKey


@dataclass(frozen=True, slots=True)
class SnapshotRejected:
    """An expected snapshot arrived but cannot be used, for the reason given ("non-finite", "size", "checksum")."""

    transfer: TransferKey
    reason: str


@dataclass(frozen=True, slots=True)
class StepsCompleted:
    """The training thread reached the end of a block of local steps.

    step: optimizer steps completed since the start of the run.
    version: the snapshot published at this boundary, or None when none was asked for.
    corrections: corrections applied so far, in all; a `Mix` or `Adopt` counts one.
    """

    step: int
    version: int | None
    corrections: int


@dataclass(frozen=True, slots=True)
class DeadlineReached:
    """The moment that `next_deadline` named has come."""


@dataclass(frozen=True, slots=True)
class LinkEvidence:
    """What the transport noticed about an address, without any message: "up", "down" or "refused"."""

    address: str
    lane: Lane
    kind: Literal["up", "down", "refused"]


@dataclass(frozen=True, slots=True)
class BusyAnnounced:
    """Training, and perhaps the whole process, will pause for up to so many seconds; 0 says that it is over."""

    seconds: float


@dataclass(frozen=True, slots=True)
class LeaveRequested:
    """Training is over on this peer, or it was told to stop."""

    reason: str


Event = (
    Started
    | SeedsFound
    | MessageReceived
    | SnapshotReceived
    | SnapshotRejected
    | StepsCompleted
    | DeadlineReached
    | LinkEvidence
    | BusyAnnounced
    | LeaveRequested
)
