"""What happens to a peer. `PeerProtocol.handle(event, now)` is the one door for all of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from gossiptrain.protocol.data_plan import DataPlan, LedgerState
from gossiptrain.protocol.messages import ChunkId, Envelope, MemberEntry, TransferKey

Lane = Literal["control", "data"]


class Started(msgspec.Struct, frozen=True):
    """The driver is ready: its sockets are bound. Comes first, once."""


class SeedsFound(msgspec.Struct, frozen=True):
    """Control addresses of peers to get in touch with, as far as they are known now. May come again."""

    addresses: tuple[str, ...]


class MembersKnown(msgspec.Struct, frozen=True):
    """Others who are in the run from the beginning, as this peer is: no HELLO is needed between them.

    For a start from a list that all share; comes right after `Started`. This peer's own entry in it is passed over.
    """

    members: tuple[MemberEntry, ...]


class MessageReceived(msgspec.Struct, frozen=True):
    """A valid message arrived on the control lane."""

    envelope: Envelope


class SnapshotReceived(msgspec.Struct, frozen=True):
    """All bytes of an expected snapshot are here and every value is finite; or those of an expected piece of a state, and
    they are what the manifest says."""

    transfer: TransferKey


class SnapshotRejected(msgspec.Struct, frozen=True):
    """An expected snapshot, manifest or piece arrived but cannot be used.

    reason: "non-finite", "size", "checksum"; of a manifest "manifest", of a piece "digest".
    """

    transfer: TransferKey
    reason: str


class BlockTiming(NamedTuple):
    """How a block of local steps went, by the training thread's own clock; all times in seconds.

    steps: local steps of the block. step_s: what a step of it took, pauses left out; 0 where none counts yet.
    compute_s, mix_s, wait_s: what training has spent so far, in all, in its steps (loading data among them), in mixing and
    publishing, and in waiting for others; blocks: in so many blocks.
    """

    steps: int
    step_s: float
    compute_s: float = 0.0
    mix_s: float = 0.0
    wait_s: float = 0.0
    blocks: int = 1


class StepsCompleted(msgspec.Struct, frozen=True):
    """The training thread reached the end of a block of local steps.

    step: optimizer steps completed, those behind the state that the peer began from among them; 0 until it trains.
    version: the snapshot published at this boundary, or None when none was asked for.
    corrections: corrections applied so far, in all; a `Mix` or `AdoptState` counts one.
    timing: of the block that ended; None where it was not measured.
    """

    step: int
    version: int | None
    corrections: int
    timing: BlockTiming | None = None


class DriftMeasured(msgspec.Struct, frozen=True):
    """How far peers are apart, and how far a step moves one: norms of parameters, both positive and finite.

    consensus_distance: estimated distance from this peer to the mean of all. step_movement: of one local step; that of
    many steps, over the square root of their number.
    """

    consensus_distance: float
    step_movement: float


class TugMeasured(msgspec.Struct, frozen=True):
    """How hard this peer and mixing pull against each other; see `gossiptrain.tug`.

    tug: about 0 with data that are alike, towards 1 with unlike data; below 0 where mixing drives it the same way.
    """

    tug: float


class StateFrozen(msgspec.Struct, frozen=True):
    """A state was frozen and its manifest made. version: names it; step: when; sizes in bytes."""

    version: int
    step: int
    manifest_bytes: int
    state_bytes: int


class FreezeFailed(msgspec.Struct, frozen=True):
    """The state cannot be given to others, for the reason given."""

    reason: str


class ManifestReceived(msgspec.Struct, frozen=True):
    """An expected manifest is here and describes a state that this peer's model can take.

    chunk_bytes: bytes that each digest covers, but for the last; digests: in order.
    """

    transfer: TransferKey
    chunk_bytes: int
    digests: tuple[bytes, ...]


class AdoptionFailed(msgspec.Struct, frozen=True):
    """The fetched state turned out unusable ("non-finite"); this peer's own is unchanged."""

    reason: str


class DeadlineReached(msgspec.Struct, frozen=True):
    """The moment that `next_deadline` named has come."""


class LinkEvidence(msgspec.Struct, frozen=True):
    """What the transport noticed about an address, without any message: "up", "down" or "refused"."""

    address: str
    lane: Lane
    kind: Literal["up", "down", "refused"]


class BusyAnnounced(msgspec.Struct, frozen=True):
    """The peer may be silent for up to so many seconds (a checkpoint, a compilation); 0 says that the pause is over."""

    seconds: float


class TrafficCounted(msgspec.Struct, frozen=True):
    """What the transport has counted so far (bytes sent and received, what it rejected), for the status."""

    counters: dict[str, int]


class SharingBegun(msgspec.Struct, frozen=True):
    """This peer takes its part in the data from now on; it has joined. begins: what it knows to be trained already."""

    plan: DataPlan
    begins: LedgerState | None = None


class ChunksTaken(msgspec.Struct, frozen=True):
    """Training has begun on chunks that it was handed; more are wanted."""

    chunks: tuple[ChunkId, ...]


class ChunksTrained(msgspec.Struct, frozen=True):
    """A block of steps has ended that holds the last samples of these chunks, maybe of none.

    samples_per_s: how fast this peer trains now; 0 where that is not known yet.
    """

    chunks: tuple[ChunkId, ...]
    samples_per_s: float


class LeaveRequested(msgspec.Struct, frozen=True):
    """Training is over on this peer, or it was told to stop."""

    reason: str


Event = (
    Started
    | SeedsFound
    | MembersKnown
    | MessageReceived
    | SnapshotReceived
    | SnapshotRejected
    | StepsCompleted
    | DriftMeasured
    | TugMeasured
    | StateFrozen
    | FreezeFailed
    | ManifestReceived
    | AdoptionFailed
    | BusyAnnounced
    | TrafficCounted
    | SharingBegun
    | ChunksTaken
    | ChunksTrained
    | DeadlineReached
    | LinkEvidence
    | LeaveRequested
)
