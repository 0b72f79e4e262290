"""What a driver is to do. The protocol returns these in order and never does any of it itself."""

from __future__ import annotations

from typing import Literal

import msgspec

from gossiptrain.protocol.events import Lane
from gossiptrain.protocol.messages import ChunkId, Message, TransferKey
from gossiptrain.protocol.notices import Notice


class Connect(msgspec.Struct, frozen=True):
    """Open a link to the address, unless there is one."""

    address: str
    lane: Lane


class Disconnect(msgspec.Struct, frozen=True):
    """Close the link to the address and drop what waits on it."""

    address: str
    lane: Lane


class Send(msgspec.Struct, frozen=True):
    """Put a message on the control link of the address."""

    address: str
    message: Message


class ExpectSnapshot(msgspec.Struct, frozen=True):
    """Make room for the snapshot that will arrive under this key; anything unexpected is dropped and counted.

    address: the sender's control address, to which credit is returned.
    """

    transfer: TransferKey
    address: str


class SendSnapshot(msgspec.Struct, frozen=True):
    """Pin this published version until its `Release` and send it to the data address under the key."""

    address: str
    transfer: TransferKey
    version: int


class CancelSnapshot(msgspec.Struct, frozen=True):
    """Stop sending the snapshot of this key, if it is still under way."""

    address: str
    transfer: TransferKey


class Mix(msgspec.Struct, frozen=True):
    """Compute the correction of this pinned version against the received snapshots, and have it applied.

    inbox: the received snapshots and the weight that this peer gives to each; weights are in (0, 1) and sum
    to at most 1, the rest being this peer's own. The driver forgets the received snapshots afterwards.
    """

    version: int
    inbox: tuple[tuple[TransferKey, float], ...]


class FreezeState(msgspec.Struct, frozen=True):
    """Copy the whole state (parameters, buffers, optimizer state, step count) at the next step.

    `StateFrozen` or `FreezeFailed` follows.
    """


class ThawState(msgspec.Struct, frozen=True):
    """Nobody needs this frozen state any more."""

    version: int


class SendManifest(msgspec.Struct, frozen=True):
    """Send what a frozen state consists of, with the digests of its chunks, to the data address under the key."""

    address: str
    transfer: TransferKey
    version: int


class SendPiece(msgspec.Struct, frozen=True):
    """Send the bytes [begin, end) of a frozen state to the data address under the key."""

    address: str
    transfer: TransferKey
    version: int
    begin: int
    end: int


class ExpectManifest(msgspec.Struct, frozen=True):
    """Make room for the manifest, of `nbytes` bytes, of a state of `state_bytes`; `ManifestReceived` follows.

    address: the sender's control address, to which credit is returned.
    """

    transfer: TransferKey
    address: str
    nbytes: int
    state_bytes: int


class ExpectPiece(msgspec.Struct, frozen=True):
    """The bytes [begin, end) of the state of the last manifest will arrive; check them against its digests."""

    transfer: TransferKey
    address: str
    begin: int
    end: int


class AdoptState(msgspec.Struct, frozen=True):
    """Take over the whole fetched state at the next boundary: it counts as one correction, or `AdoptionFailed` follows.

    source: whose state it is.
    """

    source: str


class DropState(msgspec.Struct, frozen=True):
    """Forget what has been fetched of others' states."""


class Discard(msgspec.Struct, frozen=True):
    """Forget what has been received, or is still expected, under this key."""

    transfer: TransferKey


class Release(msgspec.Struct, frozen=True):
    """One `SendSnapshot`'s pin on this version is no longer needed."""

    version: int


class RunSteps(msgspec.Struct, frozen=True):
    """Take this many local steps up to the next boundary; publish a snapshot there if asked.

    In synchronous mode the training thread waits at each boundary for this effect; in asynchronous mode it
    goes on with the latest one it has seen.

    scale: at the boundary, before anything else, the change that the block's steps made is multiplied by this.
    """

    steps: int
    publish: bool
    scale: float = 1.0


class HandChunks(msgspec.Struct, frozen=True):
    """Train these chunks next, after those handed before, in this order. share: this peer's part of an epoch, in (0, 1]."""

    chunks: tuple[ChunkId, ...]
    share: float


class WithdrawChunks(msgspec.Struct, frozen=True):
    """Do not train these chunks, as far as it has not begun: others do, or did."""

    chunks: tuple[ChunkId, ...]


class RefuseSharing(msgspec.Struct, frozen=True):
    """This peer's data differ from those that the others share: nothing can be handed to it, for the reason given."""

    text: str


class Notify(msgspec.Struct, frozen=True):
    """Tell whoever watches."""

    notice: Notice


class Fail(msgspec.Struct, frozen=True):
    """This peer cannot take part: raise the error named by `kind` ("model", "mixer", "run", ...)."""

    kind: Literal["model", "mixer", "run", "version", "name", "seeds"]
    text: str


Effect = (
    Connect
    | Disconnect
    | Send
    | ExpectSnapshot
    | SendSnapshot
    | CancelSnapshot
    | Mix
    | FreezeState
    | ThawState
    | SendManifest
    | SendPiece
    | ExpectManifest
    | ExpectPiece
    | AdoptState
    | DropState
    | Discard
    | Release
    | RunSteps
    | HandChunks
    | WithdrawChunks
    | RefuseSharing
    | Notify
    | Fail
)
