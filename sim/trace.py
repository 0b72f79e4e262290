"""The hash of everything that happened, in order: two runs agree if and only if their hashes do."""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

from gossiptrain.protocol.events import (
    AdoptionFailed,
    ChunksTaken,
    ChunksTrained,
    DeadlineReached,
    DriftMeasured,
    LeaveRequested,
    LinkEvidence,
    ManifestReceived,
    MembersKnown,
    MessageReceived,
    SeedsFound,
    SharingBegun,
    SnapshotReceived,
    SnapshotRejected,
    Started,
    StateFrozen,
    StepsCompleted,
    TugMeasured,
)

STARTED, MESSAGE, EVIDENCE, SNAPSHOT, REJECTED, BOUNDARY, DEADLINE, SEEDS, LEAVE, SENT, NOTICE, ENDED, FAULT = range(13)
FROZEN, MANIFEST, KNOWN, DRIFT = 13, 14, 15, 16
SHARING, TAKEN, TRAINED, TUG = 17, 18, 19, 20

EVENT_KINDS = {
    Started: STARTED,
    MessageReceived: MESSAGE,
    LinkEvidence: EVIDENCE,
    SnapshotReceived: SNAPSHOT,
    SnapshotRejected: REJECTED,
    StepsCompleted: BOUNDARY,
    DeadlineReached: DEADLINE,
    SeedsFound: SEEDS,
    LeaveRequested: LEAVE,
    StateFrozen: FROZEN,
    ManifestReceived: MANIFEST,
    AdoptionFailed: REJECTED,
    MembersKnown: KNOWN,
    DriftMeasured: DRIFT,
    TugMeasured: TUG,
    SharingBegun: SHARING,
    ChunksTaken: TAKEN,
    ChunksTrained: TRAINED,
}
_head = Struct("<dIB").pack
FLUSH_PARTS = 1 << 12


class Trace:
    """Collects lines (time, host, kind, bytes) and hashes them in large pieces."""

    __slots__ = ("_hash", "_waiting")

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)
        self._waiting: list[bytes] = []

    def add(self, time_s: float, host: int, kind: int, text: bytes = b"") -> None:
        """Adds a line."""
        waiting = self._waiting
        waiting.append(_head(time_s, host, kind))
        if text:
            waiting.append(text)
        if len(waiting) > FLUSH_PARTS:
            self._flush()

    def hexdigest(self) -> str:
        """Returns the hash so far, 32 hexadecimal digits."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        self._hash.update(b"".join(self._waiting))
        self._waiting.clear()
