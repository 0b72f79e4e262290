"""What a peer's log says of notices, and which error stands for which failure of the protocol."""

from __future__ import annotations

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
    TopologyFailed,
)

ERRORS: dict[str, type[GossipTrainError]] = {
    "model": ModelMismatchError,
    "mixer": MixerMismatchError,
    "run": RunMismatchError,
    "version": VersionMismatchError,
    "name": NameTakenError,
    "seeds": SeedUnreachableError,
}


def worth_a_warning(notice: Notice) -> str:
    """Says in words what somebody may have to mend; empty for the ordinary course of a run."""
    match notice:
        case SeedSilent(address, waited_s):
            return f"the seed {address} has not answered for {waited_s:g} s; it is tried again"
        case PeerRefused(peer, _, text):
            return f"{peer} and this peer refuse each other: {text}"
        case SnapshotRefused(peer, reason):
            return f"a snapshot of {peer} was not used: {reason}; it is left alone for a while"
        case TopologyFailed(reason):
            return f"the default overlay stands in for the topology: {reason}"
        case SharingDiffers(peer, mine, theirs):
            return f"{peer} shares other data, and trains them apart from this peer: here {mine}; there {theirs}"
    return ""
