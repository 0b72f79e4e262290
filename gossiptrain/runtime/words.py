"""What a peer's log says of notices, and which error stands for which failure of the protocol."""

from __future__ import annotations

from collections.abc import Iterable

from gossiptrain.errors import (
    GossipTrainError,
    MixerMismatchError,
    ModelMismatchError,
    NameTakenError,
    RunMismatchError,
    SeedUnreachableError,
    VersionMismatchError,
)
from gossiptrain.protocol.notices import (
    Notice,
    PeerRefused,
    SeedSilent,
    SharingDiffers,
    SnapshotRefused,
    StateAwaited,
    TopologyFailed,
)

_ANSWERS = {
    "busy": "has no room for another newcomer just now",
    "unready": "has none itself yet",
    "promised": "makes its copy",
}
ERRORS: dict[str, type[GossipTrainError]] = {
    "model": ModelMismatchError,
    "mixer": MixerMismatchError,
    "run": RunMismatchError,
    "version": VersionMismatchError,
    "name": NameTakenError,
    "seeds": SeedUnreachableError,
}


def asked(answers: Iterable[tuple[str, str]]) -> str:
    """Says in words what members answered who were asked for their state.

    >>> asked([("peer-1", "busy"), ("peer-2", "no answer")])
    'peer-1 has no room for another newcomer just now, peer-2: no answer; others are asked in turn'
    """
    said = [f"{name} {_ANSWERS[what]}" if what in _ANSWERS else f"{name}: {what}" for name, what in answers]
    return f"{', '.join(said)}; others are asked in turn" if said else "there was nobody to ask"


def worth_a_warning(notice: Notice) -> str:
    """Says in words what somebody may have to mend; empty for the ordinary course of a run."""
    match notice:
        case SeedSilent(address, waited_s):
            return f"the seed {address} has not answered for {waited_s:g} s; it is tried again"
        case StateAwaited(waited_s, answers):
            return f"no state to begin from after {waited_s:.0f} s; {asked(answers)}"
        case PeerRefused(peer, _, text):
            return f"{peer} and this peer refuse each other: {text}"
        case SnapshotRefused(peer, reason):
            return f"a snapshot of {peer} was not used: {reason}; it is left alone for a while"
        case TopologyFailed(reason):
            return f"the default overlay stands in for the topology: {reason}"
        case SharingDiffers(peer, mine, theirs):
            return f"{peer} shares other data, and trains them apart from this peer: here {mine}; there {theirs}"
    return ""
