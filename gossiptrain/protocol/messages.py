"""What peers say to each other on the control lane: frozen structs, validated on arrival by `wire.decode`.

An `Envelope` names its sender and the sender's boot id, so that no message outlives the process that sent it.
Snapshots do not travel here: they go over the data lane, named by a `TransferKey`.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec

from gossiptrain.protocol.notices import STATUS_BYTES_MAX

VERSION_MIN = 4
VERSION_MAX = 4

STATES = ("alive", "suspect", "dead", "left")
BUSY_S_MAX = 3600.0
INCARNATION_MAX = 1 << 48

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Address = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
U64 = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Cosine = Annotated[float, msgspec.Meta(ge=-1, le=1)]
# Below the numbers of pulls; a peer that claims more must not carry the others there with it.
RoundNumber = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
# Bounds of what a donor may claim: entries of a manifest are tens of bytes, a state has at most terabytes.
ManifestBytes = Annotated[int, msgspec.Meta(ge=1, le=64 << 20)]
StateBytes = Annotated[int, msgspec.Meta(ge=1, le=1 << 48)]
# Bounds of what the data ledger tells: a bitmap is 1 KiB at most, and all of a message far below a control frame.
CHUNKS_MAX = 8192
EPOCHS_TOLD_MAX = 256
HANDS_TOLD_MAX = 64
HAND_CHUNKS_MAX = 64
COUNTS_TOLD_MAX = 32
EpochNumber = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
ChunkNumber = Annotated[int, msgspec.Meta(ge=0, lt=CHUNKS_MAX)]
ChunkBits = Annotated[bytes, msgspec.Meta(max_length=CHUNKS_MAX // 8)]


class ExchangeId(NamedTuple):
    """Names one exchange: who began it (by boot id) and the initiator's running number. Both below 2**64."""

    initiator_boot: int
    number: int


class TransferKey(NamedTuple):
    """Names one snapshot in flight: whose it is (boot id) and the exchange it belongs to."""

    sender_boot: int
    exchange: ExchangeId


class Pace(NamedTuple):
    """How fast a member trains, as it measured it itself; rounded, and told anew only when it has changed enough.

    step_s: seconds of a local step. block_s: how long, in seconds, it would have blocks of local steps last; 0 for no wish.
    mix_share, wait_share: shares of its time that go into mixing, and into waiting for others.
    tug: how hard it and mixing pull against each other, from -1 to 1; see `gossiptrain.tug`.
    """

    step_s: Seconds
    block_s: Seconds = 0.0
    mix_share: Share = 0.0
    wait_share: Share = 0.0
    tug: Cosine = 0.0


class ChunkId(NamedTuple):
    """Names one chunk of one epoch of the data."""

    epoch: EpochNumber
    chunk: ChunkNumber


class _Message(msgspec.Struct, frozen=True, tag=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages: immutable, tagged with the class name, encoded as an array."""


class MemberEntry(_Message, frozen=True):
    """What one peer tells another about a third: the news that gossip spreads.

    Entries of one name are ordered by (incarnation, boot, state), the states as listed in `STATES`; the greater one
    holds, so that all members come to the same view in whatever order they hear. Only a member itself raises its
    incarnation (and whoever lets its next process in).

    busy_s: for so many seconds from now the member may not answer; it said so itself.
    pace: how fast it trains, where that is of use to others.
    accuser, refused: of a suspect: who accuses it, and whether its address refused the accuser's connection.
    """

    name: Name
    boot: U64
    control_address: Address
    data_address: Address
    incarnation: Annotated[int, msgspec.Meta(ge=0, lt=INCARNATION_MAX)] = 0
    state: Literal["alive", "suspect", "dead", "left"] = "alive"
    caught_up: bool = False
    busy_s: Annotated[float, msgspec.Meta(ge=0, le=BUSY_S_MAX)] = 0.0
    accuser: Annotated[str, msgspec.Meta(max_length=128)] = ""
    refused: bool = False
    pace: Pace | None = None


Updates = Annotated[tuple[MemberEntry, ...], msgspec.Meta(max_length=256)]


class Hello(_Message, frozen=True):
    """The first word on a link: who I am and what I run.

    `parameter_hashes` holds 4 bytes a parameter (at most 8,192 parameters), so that two models that differ
    can name the first difference. `wants_reply` asks the other side to introduce itself as well.
    """

    version_min: int
    version_max: int
    run_id: Text
    mixer: Text
    schema_hash: Annotated[bytes, msgspec.Meta(max_length=32)]
    parameter_hashes: Annotated[bytes, msgspec.Meta(max_length=32768)]
    control_address: Address
    data_address: Address
    step: U64
    caught_up: bool
    wants_reply: bool


class Refuse(_Message, frozen=True):
    """HELLO was not accepted: `kind` is "version", "run", "mixer", "model" or "name", `mine` the refuser's own value.

    For "model", `index` is the first differing parameter and `mine` describes it on the refuser's side.
    `wants_reply` asks for the other's value in return, so that both sides can name both. `control_address` is the
    refuser's own.
    """

    kind: Annotated[str, msgspec.Meta(max_length=16)]
    mine: Text
    index: int
    wants_reply: bool
    control_address: Address


class Gossip(_Message, frozen=True):
    """News of members, to be merged and passed on."""

    updates: Updates


class Sync(_Message, frozen=True):
    """Part of the sender's whole list of members, the dead among them. `wants_reply` asks for the receiver's in return."""

    entries: Updates
    wants_reply: bool


class Ping(_Message, frozen=True):
    """Are you there? `view_hash` is the sender's set of living members; lists are sent when two stay different."""

    number: U64
    step: U64
    view_hash: U64
    updates: Updates = ()


class Ack(_Message, frozen=True):
    """Yes. `step` counts the optimizer steps completed."""

    number: U64
    step: U64
    view_hash: U64
    updates: Updates = ()


class PingRequest(_Message, frozen=True):
    """Please ping this member for me, and tell me what came of it under my number."""

    number: U64
    target: Name
    updates: Updates = ()


class PingResult(_Message, frozen=True):
    """The answer to a `PingRequest`: the member answered, or (Lifeguard's NACK) has not in time, but I am here."""

    number: U64
    answered: bool


class Leave(_Message, frozen=True):
    """Goodbye: the sender finished or was told to stop; it is not to be taken for dead."""

    reason: Text


class Offer(_Message, frozen=True):
    """I would exchange snapshots with you.

    `kind` is "pair" (pairwise averaging), "round" (a synchronous neighbourhood round, number in `round`) or
    "pull" (I want your whole state, to begin from). `degree` is the sender's number of neighbours, for the weights.
    """

    exchange: ExchangeId
    kind: Annotated[str, msgspec.Meta(max_length=8)]
    round: RoundNumber
    degree: U64


class Accept(_Message, frozen=True):
    """Agreed: my snapshot is pinned and on its way; send yours. To a pull: my state is being frozen, wait for it."""

    exchange: ExchangeId
    degree: U64


class Reject(_Message, frozen=True):
    """Not now. `reason` is "busy", "unready", "behind", "stranger" or "over"; `round` is the refuser's own round."""

    exchange: ExchangeId
    reason: Annotated[str, msgspec.Meta(max_length=16)]
    round: RoundNumber


class Received(_Message, frozen=True):
    """I hold your whole snapshot of this exchange and found it finite.

    `again` marks a repetition by a peer that still waits for the other's word; only that is answered when the
    exchange is already committed, so that two peers never answer each other for ever.
    """

    exchange: ExchangeId
    again: bool


class Abort(_Message, frozen=True):
    """I give this exchange up; unless you have committed it already, forget it too."""

    exchange: ExchangeId
    reason: Text


class StateReady(_Message, frozen=True):
    """My state of this optimizer step is frozen; ask for its manifest, then for its pieces.

    `version` names the frozen state, so that somebody who comes back can tell whether it is still the same.
    """

    exchange: ExchangeId
    version: U64
    step: U64
    manifest_bytes: ManifestBytes
    state_bytes: StateBytes


class PieceWanted(_Message, frozen=True):
    """Send me the bytes [begin, end) of that version of your state, under the key of `piece`; [0, 0) is the manifest."""

    exchange: ExchangeId
    piece: ExchangeId
    version: U64
    begin: U64
    end: U64


class StatusRequest(_Message, frozen=True):
    """Tell the address your view of the run (`gossiptrain status`)."""

    reply_to: Address


class StatusReply(_Message, frozen=True):
    """The answer, as the JSON of `notices.Status`."""

    status: Annotated[bytes, msgspec.Meta(max_length=STATUS_BYTES_MAX)]


class ChunkHand(_Message, frozen=True):
    """What one process says of its part in the data: what it works on, how fast, and what it has done.

    Only the process itself makes new versions of it; the highest holds.

    samples_per_s: its measured speed, 0 where it is not known yet.
    chunks: those it works on now or next. trained: samples of the chunks it has finished, by epoch, of the newest epochs.
    """

    name: Name
    boot: U64
    version: U64
    samples_per_s: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    chunks: Annotated[tuple[ChunkId, ...], msgspec.Meta(max_length=HAND_CHUNKS_MAX)]
    trained: Annotated[tuple[tuple[EpochNumber, U64], ...], msgspec.Meta(max_length=COUNTS_TOLD_MAX)]


class LedgerNews(_Message, frozen=True):
    """What the sender knows of the data's progress; merged and passed on.

    samples, chunk_samples, order: the sender's `DataPlan`; 0 samples say that it shares no data.
    floor: all epochs below are complete. done: finished chunks of open epochs, one bit each, the lowest first.
    """

    samples: U64
    chunk_samples: U64
    order: U64
    floor: EpochNumber
    done: Annotated[tuple[tuple[EpochNumber, ChunkBits], ...], msgspec.Meta(max_length=EPOCHS_TOLD_MAX)]
    hands: Annotated[tuple[ChunkHand, ...], msgspec.Meta(max_length=HANDS_TOLD_MAX)]
    wants_reply: bool


class ChunksWanted(_Message, frozen=True):
    """I have nothing left to do in this epoch: give me up to `count` chunks of yours that you have not begun."""

    epoch: EpochNumber
    count: Annotated[int, msgspec.Meta(ge=1, le=HAND_CHUNKS_MAX)]


class ChunksGiven(_Message, frozen=True):
    """These are yours to do; none says that I have none to give in this epoch."""

    epoch: EpochNumber
    chunks: Annotated[tuple[ChunkNumber, ...], msgspec.Meta(max_length=HAND_CHUNKS_MAX)]


Message = (
    Hello
    | Refuse
    | Gossip
    | Sync
    | Ping
    | Ack
    | PingRequest
    | PingResult
    | Leave
    | Offer
    | Accept
    | Reject
    | Received
    | Abort
    | StateReady
    | PieceWanted
    | LedgerNews
    | ChunksWanted
    | ChunksGiven
    | StatusRequest
    | StatusReply
)


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A message with its sender. `boot` is drawn anew by each process, so that a restart is told from its ghost.

    `run` is a hash of run and model: what a process tells of members that this peer does not know yet is believed only
    from the same run, whoever listens at a former member's address by now.
    """

    sender: Name
    boot: U64
    message: Message
    run: U64 = 0
