"""What a peer tells its watchers: the lines of a run's event log, of the dashboard and of simulated reports."""

from __future__ import annotations

import msgspec

STATUS_BYTES_MAX = 61440


class _Notice(msgspec.Struct, frozen=True, tag=True, tag_field="kind"):
    """Base of all notices: immutable; JSON carries the class name as "kind"."""


class Joined(_Notice, frozen=True):
    """This peer counts in mixing from now on. `source` is the peer whose parameters it began from, or ""."""

    source: str


class SeedSilent(_Notice, frozen=True):
    """A seed has not answered for `waited_s` seconds; it is tried again."""

    address: str
    waited_s: float


class PeerJoined(_Notice, frozen=True):
    """Another member was found, or came back with a new boot id."""

    peer: str
    address: str


class PeerSuspected(_Notice, frozen=True):
    """A member is left out of mixing for now."""

    peer: str
    reason: str


class PeerRecovered(_Notice, frozen=True):
    """A suspected member answered again."""

    peer: str


class PeerDied(_Notice, frozen=True):
    """A member is taken for dead; the graph is re-wired without it."""

    peer: str
    reason: str


class PeerLeft(_Notice, frozen=True):
    """A member said goodbye."""

    peer: str
    reason: str


class PeerRefused(_Notice, frozen=True):
    """A peer was refused at HELLO ("version", "run", "mixer", "model", "name"); the text names both values and the mend."""

    peer: str
    reason: str
    text: str


class Rewired(_Notice, frozen=True):
    """The graph was computed anew for another set of living members; `epoch` counts these."""

    epoch: int
    members: int
    neighbours: tuple[str, ...]


class TopologyFailed(_Notice, frozen=True):
    """The chosen topology could not be computed for the living members; the default overlay stands in."""

    reason: str


class Exchanged(_Notice, frozen=True):
    """A mix was decided with these partners. `seconds` is from the offer to the decision."""

    partners: tuple[str, ...]
    seconds: float


class ExchangeFailed(_Notice, frozen=True):
    """An exchange ended without a mix; both ends keep what they had."""

    partner: str
    reason: str


class SnapshotRefused(_Notice, frozen=True):
    """A received snapshot or state was not used ("non-finite", "size", "checksum", "manifest", "digest")."""

    peer: str
    reason: str


class StateFetched(_Notice, frozen=True):
    """A peer's whole state is here. `nbytes` came from it; `kept_bytes` were here already, from others or another try."""

    peer: str
    step: int
    nbytes: int
    kept_bytes: int
    seconds: float


class StateAwaited(_Notice, frozen=True):
    """This peer has waited for `waited_s` seconds for a state to begin from, and none is on its way.

    `answers` are the newest of the members that it asked: (name, what came of it), such as "busy" where one has no room for
    another newcomer or its line is full, "unready" where it has none itself, "promised" where it makes its copy.
    """

    waited_s: float
    answers: tuple[tuple[str, str], ...]


class Paced(_Notice, frozen=True):
    """This peer's blocks of local steps last otherwise from now on.

    `steps` of `step_s` seconds each; all peers aim at `block_s` seconds (0 where the number of steps is fixed).
    `scale` multiplies the change that a block makes. `limit` says what decided the length: "given", "drift" (peers are
    apart by `apart_steps` steps' worth of movement; 0 is not known), "network", "overhead", "slowest" (the slowest peer
    needs so long for a few steps) or "unlike" (the members' data are: mixing takes back what peers learn; `tug` says how
    much so on this one, from -1 to 1).
    """

    steps: int
    step_s: float
    block_s: float
    scale: float
    limit: str
    apart_steps: float = 0.0
    tug: float = 0.0


class EpochFinished(_Notice, frozen=True):
    """Every chunk of an epoch of the shared data is trained, as far as this peer knows.

    Attributes:
        samples: of the epoch. trained_twice: so many samples more were trained than the epoch has, by all that told.
        own: samples that this peer trained of it.
        moved: chunks that changed hands because peers went, came or changed speed; given: chunks that this peer gave away.
    """

    epoch: int
    samples: int
    trained_twice: int
    own: int
    moved: int
    given: int


class SharingDiffers(_Notice, frozen=True):
    """A peer shares other data, or cuts them otherwise: nothing is shared with it. The texts describe both."""

    peer: str
    mine: str
    theirs: str


class Left(_Notice, frozen=True):
    """This peer said goodbye."""

    reason: str
    step: int


class PaceStatus(msgspec.Struct, frozen=True):
    """How fast a peer trains: `steps` of `step_s` seconds a block, and what its time went into lately, as shares of 1.

    `samples_per_s` is 0 where it is not known; what is not known of another peer is NaN or 0.
    """

    step_s: float
    steps: int
    compute_share: float
    mix_share: float
    wait_share: float
    samples_per_s: float = 0.0


class DataStatus(msgspec.Struct, frozen=True):
    """A peer's part in the shared data: of the oldest epoch that is not complete.

    `share` of its samples, in [0, 1], are those that the peer has trained (`trained` samples) and those of the `left`
    chunks that are its to train, held or owned; as the data ledger of whoever tells this knows.
    """

    epoch: int
    share: float
    trained: int
    left: int


class MemberStatus(msgspec.Struct, frozen=True):
    """One line of a peer's view, for `gossiptrain status`."""

    name: str
    address: str
    state: str
    step: int
    silent_s: float
    neighbour: bool
    incarnation: int = 0
    pace: PaceStatus | None = None
    data: DataStatus | None = None


class Status(msgspec.Struct, frozen=True):
    """A peer's whole view: itself, its members and its counters.

    `state` of a member is "alive", "busy" (a pause it announced), "suspect", "dead" or "left". `local_health` counts
    from 0 how much this peer doubts itself (Lifeguard). `pace` is this peer's own; that of a member is what it told.
    `data` is None where no data are shared, or nothing is known of a peer's part.
    """

    name: str
    run_id: str
    step: int
    epoch: int
    caught_up: bool
    topology: str
    mixer: str
    members: tuple[MemberStatus, ...]
    counters: dict[str, int]
    incarnation: int = 0
    local_health: int = 0
    pace: PaceStatus | None = None
    data: DataStatus | None = None

    def to_json(self) -> bytes:
        """Returns the JSON, with as many of the members as one control message holds."""
        status, text = self, msgspec.json.encode(self)
        while len(text) > STATUS_BYTES_MAX and status.members:
            status = msgspec.structs.replace(status, members=status.members[: len(status.members) // 2])
            text = msgspec.json.encode(status)
        return text


Notice = (
    Joined
    | SeedSilent
    | PeerJoined
    | PeerSuspected
    | PeerRecovered
    | PeerDied
    | PeerLeft
    | PeerRefused
    | Rewired
    | TopologyFailed
    | Exchanged
    | ExchangeFailed
    | SnapshotRefused
    | StateFetched
    | StateAwaited
    | Paced
    | EpochFinished
    | SharingDiffers
    | Left
)
