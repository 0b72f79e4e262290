"""Carries out what the protocol decides about states: frozen ones that are given, and the one that is fetched.

All of it on the network thread, but for `take_adoption`, by which the training thread gets a fetched state.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gossiptrain.errors import ConfigurationError
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
    Event,
    FreezeFailed,
    ManifestReceived,
    SnapshotReceived,
    SnapshotRejected,
    StateFrozen,
)
from gossiptrain.protocol.fetching import CHUNK_BYTES, Piece
from gossiptrain.protocol.messages import TransferKey
from gossiptrain.runtime import manifest as m
from gossiptrain.runtime import state
from gossiptrain.runtime.keeper import Freeze, FrozenState, Keeper
from gossiptrain.runtime.limits import StateRoom
from gossiptrain.runtime.manifest import Manifest
from gossiptrain.runtime.parameters import ParameterVector
from gossiptrain.runtime.staging import as_memoryview
from gossiptrain.transport import ZeroMQTransport

# How long a newcomer waits for a training thread that is not stepping, before it is given the parameters alone.
PATIENCE_S = 20.0
PATIENCE_AT_REST_S = 0.5
PATIENCE_STEPS = 5


class Fetched(NamedTuple):
    """A whole state of another peer. data: [nbytes] uint8 on the host."""

    source: str
    manifest: Manifest
    data: Tensor


class _Awaited(NamedTuple):
    """What is expected: a manifest into `room`, of a state of so many bytes; or a piece."""

    room: memoryview | None
    state_bytes: int
    piece: Piece | None


class StateTransfers:
    """The states that a peer gives and fetches.

    Args:
        post: hands an event to the driver, from any thread. run_soon: a call, for the network thread.
        step_s: tells how many steps training has taken and how long one takes on average, in seconds.
        room: of the states that are frozen; None has no limit.
    """

    def __init__(
        self,
        transport: ZeroMQTransport,
        vector: ParameterVector,
        model: state.Model,
        keeper: Keeper,
        *,
        post: Callable[[Event], None],
        run_soon: Callable[[Callable[[], None]], None],
        step_s: Callable[[], tuple[int, float]],
        room: StateRoom | None = None,
    ) -> None:
        self._transport, self._vector, self._model, self._keeper = transport, vector, model, keeper
        self._post, self._run_soon, self._step_s = post, run_soon, step_s
        self._room = room or StateRoom()
        self._version = 0
        self._frozen: dict[int, tuple[FrozenState, bytes]] = {}
        self._owners: dict[int, Freeze] = {}
        self._awaited: dict[TransferKey, _Awaited] = {}
        self._manifest: Manifest | None = None
        self._data: Tensor | None = None
        self._fetched: Fetched | None = None

    def take_adoption(self) -> Fetched | None:
        """Returns a state that is to be adopted, once. Training thread."""
        fetched, self._fetched = self._fetched, None
        return fetched

    def carry_out(self, effect: Effect) -> None:
        """Does what an effect about states says; others are none of its business."""
        match effect:
            case FreezeState():
                self._freeze()
            case ThawState(version):
                self._frozen.pop(version, None)
                if (owner := self._owners.pop(version, None)) is not None:
                    self._room.give_back(owner)
            case SendManifest(address, key, version):
                self._transport.send_snapshot(address, key, self._frozen[version][1])
            case SendPiece(address, key, version, begin, end):
                self._transport.send_snapshot(address, key, self._frozen[version][0].data[begin:end])
            case ExpectManifest(key, address, nbytes, state_bytes):
                room = memoryview(bytearray(nbytes))
                self._awaited[key] = _Awaited(room, state_bytes, None)
                self._transport.expect(key, room, address)
            case ExpectPiece(key, address, begin, end):
                assert self._data is not None
                self._awaited[key] = _Awaited(None, 0, Piece(begin, end))
                self._transport.expect(key, as_memoryview(self._data)[begin:end], address)
            case AdoptState(source):
                assert self._manifest is not None
                assert self._data is not None
                self._fetched = Fetched(source, self._manifest, self._data)
                self._manifest = self._data = None
            case DropState():
                self._manifest = self._data = None

    def expects(self, key: TransferKey) -> bool:
        """Says whether a manifest or a piece is expected under this key."""
        return key in self._awaited

    def discard(self, key: TransferKey) -> None:
        """What is expected under this key is not wanted any more."""
        self._awaited.pop(key, None)

    def received(self, key: TransferKey) -> Event:
        """Looks at what arrived; returns what the protocol is to be told."""
        awaited = self._awaited.pop(key)
        if awaited.piece is not None:
            return self._piece(key, awaited.piece)
        assert awaited.room is not None
        try:
            manifest = m.decode(awaited.room)
            self._model.check(manifest)
            if manifest.nbytes != awaited.state_bytes:
                raise ConfigurationError(f"nbytes={manifest.nbytes}: {awaited.state_bytes} were promised")
            self._data = _resized(self._data, manifest.nbytes)
        except (ConfigurationError, RuntimeError, MemoryError):
            return SnapshotRejected(key, "manifest")
        self._manifest = manifest
        return ManifestReceived(key, manifest.chunk_bytes, manifest.all_digests())

    def _piece(self, key: TransferKey, piece: Piece) -> Event:
        assert self._manifest is not None
        assert self._data is not None
        view = as_memoryview(self._data)
        for at in range(piece.begin, piece.end, CHUNK_BYTES):
            chunk = view[at : min(at + CHUNK_BYTES, piece.end)]
            if m.digest_of(chunk) != self._manifest.digest(at // CHUNK_BYTES):
                return SnapshotRejected(key, "digest")
        return SnapshotReceived(key)

    def _freeze(self) -> None:
        steps, step_s = self._step_s()
        patience_s = max(PATIENCE_S, PATIENCE_STEPS * step_s) if steps else PATIENCE_AT_REST_S
        freeze = Freeze(with_frozen=False, done=lambda result: self._done(freeze, result))
        freeze.take = lambda nbytes: self._take_anew(freeze, nbytes)
        freeze.overdue_s = time.monotonic() + patience_s
        freeze.overdue = lambda: self._run_soon(lambda: self._give_parameters(freeze))
        self._keeper.want(freeze)

    def _take_anew(self, freeze: Freeze, nbytes: int) -> bool:
        """Takes room for a freeze: a state that has grown meanwhile is made room for again. The keeper's thread."""
        self._room.give_back(freeze)
        return self._room.take(freeze, nbytes)

    def _done(self, freeze: Freeze, result: FrozenState | Exception) -> None:
        """On the keeper's thread."""
        if isinstance(result, Exception):
            self._room.give_back(freeze)
            why = "no room within max_buffer_mb" if isinstance(result, MemoryError) else type(result).__name__
            self._post(FreezeFailed(f"the state cannot be frozen: {why}"))
            return
        text = m.encode(result.manifest)
        self._run_soon(lambda: self._keep(freeze, result, text))

    def _keep(self, freeze: Freeze, frozen: FrozenState, text: bytes) -> None:
        self._version += 1
        self._owners[self._version] = freeze
        self._frozen[self._version] = (frozen, text)
        self._post(StateFrozen(self._version, frozen.manifest.step, len(text), len(frozen.data)))

    def _give_parameters(self, freeze: Freeze) -> None:
        """Training does not come by: give what it has published last."""
        latest = self._vector.latest()
        if latest is None:
            self._room.give_back(freeze)
            self._post(FreezeFailed("nothing is published"))
            return
        freeze.buffer = None
        if not self._take_anew(freeze, 2 * self._vector.full_bytes):
            self._post(FreezeFailed("the parameters cannot be frozen: no room within max_buffer_mb"))
            return
        tensors = state.named(self._vector.views(self._vector.copy_of(latest.version)))
        steps, _ = self._step_s()
        lacks = "its training was not stepping, so that only its parameters could be had" if steps else ""
        parts = state.Parts.of(tensors, lacks_optimizer=lacks)
        data = torch.empty(parts.nbytes, dtype=torch.uint8)
        state.pack(parts, data)
        self._keeper.describe(freeze, parts, data, steps)


def _resized(data: Tensor | None, nbytes: int) -> Tensor:
    """Returns room for a state; what has been fetched of another stays at its place, as far as there is room."""
    if data is not None and data.numel() == nbytes:
        return data
    room = torch.empty(nbytes, dtype=torch.uint8)
    if data is not None:
        kept = min(nbytes, data.numel())
        room[:kept] = data[:kept]
    return room
