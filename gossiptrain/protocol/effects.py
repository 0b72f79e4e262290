"""What a driver is to do. The protocol returns these in order and never does any of it itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gossiptrain.protocol.events import Lane
from gossiptrain.protocol.messages import ChunkId, Message, TransferKey
from gossiptrain.protocol.notices import Notice


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a link to the address, unless there is one."""

    address: str
    lane: Lane


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the link to the address and drop what waits on it."""

    address: str
    lane: Lane


@dataclass(frozen=True, slots=True)
class Send:
    """Put a message on the control link of the address."""

    address: str
    message: Message


@dataclass(frozen=True, slots=True)
class ExpectSnapshot:
    """Make room for the snapshot that will arrive under this key; anything unexpected is dropped and counted.

    address: the sender's control address, to which credit is returned.
    """

    transfer: TransferKey
    address: str


@dataclass(frozen=True, slots=True)
class SendSnapshot:
    """Pin this published version until its `Release` and send it to the data address under the key."""

    address: str
    transfer: TransferKey
    version: int


@dataclass(frozen=True, slots=True)
class CancelSnapshot:
    """Stop sending the snapshot of this key, if it is still under way."""

    address: str
    transfer: TransferKey


@dataclass(frozen=True, slots=True)
class Mix:
    """Compute the correction of this pinned version against the received snapshots, and have it applied.

    inbox: the received snapshots and the weight that this peer gives to each; weights are in (0, 1) and sum
    to at most 1, the rest being this peer's own. The driver forgets the received snapshots afterwards.
    """

    version: int
    inbox: tuple[tuple[TransferKey, float], ...]


@dataclass(frozen=True, slots=True)
class FreezeState:
    """Copy the whole state (parameters, buffers, optimizer state, step count) at the next step.

    `StateFrozen` or `FreezeFailed` follows.
    """


@dataclass(frozen=True, slots=True)
class ThawState:
    """Nobody needs this frozen state any more."""

    version: int


@dataclass(frozen=True, slots=True)
class SendManifest:
    """Send what a frozen state consists of, with the digests of its chunks, to the data address under the key."""

    address: str
    transfer: TransferKey
    version: int


@dataclass(frozen=True, slots=True)
class SendPiece:
    """Send the bytes [begin, end) of a frozen state to the data address under the key."""

    address: str
    transfer: TransferKey
    version: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class ExpectManifest:
    """Make room for the manifest, of `nbytes` bytes, of a state of `state_bytes`; `ManifestReceived` follows.

    address: the sender's control address, to which credit is returned.
    """

    transfer: TransferKey
    address: str
    nbytes: int
    state_bytes: int


@dataclass(frozen=True, slots=True)
class ExpectPiece:
    """The bytes [begin, end) of the state of the last manifest will arrive; check them against its digests."""

    transfer: TransferKey
    address: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class AdoptState:
    """Take over the whole fetched state at the next boundary: it counts as one correction, or `AdoptionFailed` follows.

    source: whose state it is.
    """

    source: str


@dataclass(frozen=True, slots=True)
class DropState:
    """Forget what has been fetched of others' states."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Forget what has been received, or is still expected, under this key."""

    transfer: TransferKey


@dataclass(frozen=True, slots=True)
class Release:
    """One `SendSnapshot`'s pin on this version is no longer needed."""

    version: int


@dataclass(frozen=True, slots=True)
class RunSteps:
    """Take this many local steps up to the next boundary; publish a snapshot there if asked.

    In synchronous mode the training thread waits at each boundary for this effect; in asynchronous mode it
    goes on with the latest one it has seen.

    scale: at the boundary, before anything else, the change that the block's steps made is multiplied by this.
    """

    steps: int
    publish: bool
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class HandChunks:
    """Train these chunks next, after those handed before, in this order. share: this peer's part of an epoch, in (0, 1]."""

    chunks: tuple[ChunkId, ...]
    share: float


@dataclass(frozen=True, slots=True)
class WithdrawChunks:
    """Do not train these chunks, as far as it has not begun: others do, or did."""

    chunks: tuple[ChunkId, ...]


@dataclass(frozen=True, slots=True)
class RefuseSharing:
    """This peer's data differ from those that the others share: nothing can be handed to it, for the reason given."""

    text: str


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell whoever watches."""

    notice: Notice


@dataclass(frozen=True, slots=True)
class Fail:
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
