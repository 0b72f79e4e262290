"""State transfers of a simulated peer: what `gossiptrain.runtime` does with real bytes, done with values and digests.

A state is as large as a snapshot. Its chunks have digests of the published value, so that equal values have equal chunks:
what one donor sent counts with the next exactly where the real digests would agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from gossiptrain.protocol.effects import (
    AdoptState,
    DropState,
    ExpectManifest,
    ExpectPiece,
    FreezeState,
    SendManifest,
    SendPiece,
    ThawState,
)
from gossiptrain.protocol.events import (
    AdoptionFailed,
    Event,
    ManifestReceived,
    SnapshotReceived,
    SnapshotRejected,
    StateFrozen,
)
from gossiptrain.protocol.fetching import CHUNK_BYTES, DIGEST_BYTES
from gossiptrain.protocol.messages import TransferKey
from sim.training_thread import Payload

if TYPE_CHECKING:
    from sim.peer import SimulatedPeer

MANIFEST_HEAD_BYTES = 2000
# When the driver hears of an adoption that failed.
TURN_S = 1e-4


@dataclass(frozen=True, slots=True)
class FrozenState:
    """A peer's state at a step: the value, what a hostile donor did to it, and the digests of its chunks."""

    payload: Payload
    step: int
    nbytes: int
    digests: tuple[bytes, ...]

    @property
    def manifest_bytes(self) -> int:
        return MANIFEST_HEAD_BYTES + DIGEST_BYTES * len(self.digests)


class StatePart(NamedTuple):
    """What travels: the manifest of a state (`end` 0), or its bytes [begin, end)."""

    state: FrozenState
    begin: int
    end: int


class States:
    """The states that one process gives and fetches.

    Attributes:
        frozen: those it gives, by version. carry_out: what to do for each effect.
        piece_bytes_received: bytes of others' states that came.
    """

    def __init__(self, peer: SimulatedPeer) -> None:
        self._peer = peer
        self._version = 0
        self._awaited: dict[TransferKey, tuple[int, int]] = {}
        self._source: FrozenState | None = None
        self._chunks: dict[int, bytes] = {}
        self.frozen: dict[int, FrozenState] = {}
        self.piece_bytes_received = 0
        self.carry_out: dict[type, Callable[[Any], Any]] = {
            FreezeState: lambda _: peer.training.freeze_at_next_boundary(),
            ThawState: lambda effect: self.frozen.pop(effect.version),
            SendManifest: lambda effect: self._send(effect, 0, 0),
            SendPiece: lambda effect: self._send(effect, effect.begin, effect.end),
            ExpectManifest: lambda effect: self._expect(effect.transfer, 0, 0),
            ExpectPiece: lambda effect: self._expect(effect.transfer, effect.begin, effect.end),
            AdoptState: lambda _: self._adopt(),
            DropState: lambda _: self._drop(),
        }

    def freeze(self, value: Any, step: int) -> None:
        """Training reached a boundary and somebody wants the state."""
        world = self._peer.world
        payload = Payload(value, "")
        if self._peer.hostile:
            payload = Payload(world.workload.spoil(value), self._peer.hostile)
        nbytes = world.workload.state_bytes or world.workload.snapshot_bytes
        text = repr(value).encode()
        chunks = range(-(-nbytes // CHUNK_BYTES))
        digests = tuple(blake2b(b"%d %b" % (index, text), digest_size=DIGEST_BYTES).digest() for index in chunks)
        state = FrozenState(payload, step, nbytes, digests)
        self._version += 1
        self.frozen[self._version] = state
        if len(self.frozen) > 1:
            world.checkers.fail("I3", self._peer, f"holds {len(self.frozen)} frozen states; one is enough")
        self._peer.handle(StateFrozen(self._version, step, state.manifest_bytes, nbytes))

    def discard(self, key: TransferKey) -> None:
        """What is under way under this key is not wanted any more."""
        self._awaited.pop(key, None)

    def arrived(self, key: TransferKey, part: StatePart) -> None:
        """Takes what was expected, and tells the protocol; drops what was not."""
        expected = self._awaited.pop(key, None)
        if expected is not None:
            self._peer.take(self._checked(key, part, *expected))

    def _checked(self, key: TransferKey, part: StatePart, begin: int, end: int) -> Event:
        state = part.state
        if not part.end:
            if state.payload.fault == "size":
                return SnapshotRejected(key, "size")
            self._source = state
            return ManifestReceived(key, CHUNK_BYTES, state.digests)
        if (part.begin, part.end) != (begin, end):
            self._peer.world.checkers.fail("driver contract", self._peer, f"{key} brings {part}, not [{begin}, {end})")
        for index in range(begin // CHUNK_BYTES, -(-end // CHUNK_BYTES)):
            self._chunks[index] = state.digests[index]
        self.piece_bytes_received += end - begin
        return SnapshotReceived(key)

    def _send(self, effect: SendManifest | SendPiece, begin: int, end: int) -> None:
        state = self.frozen.get(effect.version)
        peer, checkers = self._peer, self._peer.world.checkers
        if state is None:
            checkers.fail("driver contract", peer, f"sends of state {effect.version}, which is not frozen")
        nbytes = end - begin if end else state.manifest_bytes
        part = StatePart(state, begin, end)
        if not peer.world.network.send_snapshot(peer, effect.address, effect.transfer, part, nbytes):
            checkers.fail("driver contract", peer, f"sends a state to {effect.address} without a data link")

    def _expect(self, key: TransferKey, begin: int, end: int) -> None:
        if key in self._awaited:
            self._peer.world.checkers.fail("driver contract", self._peer, f"expects {key} twice")
        self._awaited[key] = (begin, end)

    def _adopt(self) -> None:
        peer, source = self._peer, self._source
        held = [self._chunks.get(index) for index in range(len(source.digests))] if source is not None else []
        if source is None or held != [*source.digests]:
            peer.world.checkers.fail("I1", peer, "adopts a state of which not every chunk is here")
        self._drop()
        if source.payload.fault or not peer.world.workload.is_finite(source.payload.value):
            peer.world.clock.at(peer.world.clock.now + TURN_S, self._tell, AdoptionFailed("non-finite"))
            return
        peer.world.checkers.adopted(peer, source.payload)
        peer.training.add_adoption(source.payload.value, source.step)

    def _tell(self, event: Event) -> None:
        if self._peer.alive:
            self._peer.take(event)

    def _drop(self) -> None:
        self._source = None
        self._chunks.clear()
