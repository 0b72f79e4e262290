"""State transfers on the virtual network: states of one number, cut into chunks that have digests and no bytes.

At each adoption it checks that every chunk here is the donor's, whoever sent it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from gossiptrain.protocol.effects import (
    AdoptState,
    DropState,
    Effect,
    ExpectManifest,
    ExpectPiece,
    FreezeState,
    SendManifest,
    SendPiece,
    ThawState,
)
from gossiptrain.protocol.events import (
    AdoptionFailed,
    ManifestReceived,
    SnapshotReceived,
    SnapshotRejected,
    StateFrozen,
)
from gossiptrain.protocol.fetching import CHUNK_BYTES
from gossiptrain.protocol.messages import TransferKey

if TYPE_CHECKING:
    from tests.protocol.virtual_network import VirtualNetwork
    from tests.protocol.virtual_peer import VirtualPeer


@dataclass
class Frozen:
    """A frozen state: its number, and the digests of its chunks."""

    value: float
    step: int
    digests: tuple[bytes, ...]


@dataclass
class States:
    """What a driver keeps of its own frozen states and of another's that it fetches."""

    version: int = 0
    frozen: dict[int, Frozen] = field(default_factory=dict)
    awaited: dict[TransferKey, tuple[int, int]] = field(default_factory=dict)
    source: Frozen | None = None
    chunks: dict[int, bytes] = field(default_factory=dict)


class Parcel(NamedTuple):
    """What travels: a manifest, or the bytes [begin, end) of a state."""

    key: TransferKey
    frozen: Frozen
    piece: tuple[int, int] | None


def carry_out(net: VirtualNetwork, peer: VirtualPeer, effect: Effect) -> None:
    """Carries out an effect that concerns states."""
    states = peer.states
    match effect:
        case FreezeState():
            net.at(net.now + peer.step_s, lambda: freeze(net, peer))
        case ThawState(version):
            del states.frozen[version]
        case SendManifest(address, key, version):
            _send(net, peer, address, Parcel(key, states.frozen[version], None), net.delay_s)
        case SendPiece(address, key, version, begin, end):
            parcel = Parcel(key, states.frozen[version], (begin, end))
            _send(net, peer, address, parcel, net.transfer_s * (0.5 + net.chance.uniform()))
        case ExpectManifest(key):
            assert key not in states.awaited
            states.awaited[key] = (0, 0)
        case ExpectPiece(key, _, begin, end):
            assert key not in states.awaited
            states.awaited[key] = (begin, end)
        case DropState():
            states.source = None
            states.chunks.clear()
        case AdoptState():
            _adopt(net, peer)


def freeze(net: VirtualNetwork, peer: VirtualPeer) -> None:
    """The end of the step at which the state is frozen."""
    states = peer.states
    states.version += 1
    count = -(-net.state_bytes // CHUNK_BYTES)
    digests = tuple(net.digest(peer, index) for index in range(count))
    states.frozen[states.version] = Frozen(peer.value, peer.steps, digests)
    assert len(states.frozen) == 1, "one state at a time"
    net.give(peer, StateFrozen(states.version, peer.steps, 100, net.state_bytes))


def _adopt(net: VirtualNetwork, peer: VirtualPeer) -> None:
    source, chunks = peer.states.source, peer.states.chunks
    assert source is not None
    assert [chunks.get(index) for index in range(len(source.digests))] == [*source.digests], "chunks of another state"
    if net.spoils_state(source.value):
        net.at(net.now + net.delay_s, lambda: net.give(peer, AdoptionFailed("non-finite")))
    else:
        peer.pending.append(lambda _: source.value)
        peer.steps_adopted = source.step


def _send(net: VirtualNetwork, peer: VirtualPeer, address: str, parcel: Parcel, after_s: float) -> None:
    assert (address, "data") in peer.links, "no data link"
    target = net.by_address.get(address)
    if target is not None and net.reaches(peer, target) and not net.loses_piece(parcel.key):
        net.at(net.now + after_s, lambda: _arrive(net, peer, target, parcel))


def _arrive(net: VirtualNetwork, peer: VirtualPeer, target: VirtualPeer, parcel: Parcel) -> None:
    states, (key, frozen, piece) = target.states, parcel
    if not peer.alive or key not in states.awaited:
        return
    expected = states.awaited.pop(key)
    if reason := net.spoil(key):
        net.give(target, SnapshotRejected(key, reason))
    elif piece is None:
        states.source = frozen
        net.give(target, ManifestReceived(key, CHUNK_BYTES, frozen.digests))
    else:
        assert piece == expected
        for index in range(piece[0] // CHUNK_BYTES, -(-piece[1] // CHUNK_BYTES)):
            states.chunks[index] = frozen.digests[index]
        net.give(target, SnapshotReceived(key))


def digest_of_value(peer: VirtualPeer, index: int) -> bytes:
    """Equal values have equal chunks."""
    return blake2b(f"{peer.value} {index}".encode(), digest_size=16).digest()
