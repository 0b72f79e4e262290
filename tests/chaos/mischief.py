"""What a hostile peer does: it speaks the real protocol, is let in as a member, and then sends what it should not.

Its transport is the real one with a few words changed, so that all it says arrives as a peer's own words would.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import zmq

import gossiptrain.peer
from gossiptrain.protocol.messages import ExchangeId, TransferKey
from gossiptrain.transport import ControlFrame, TransportEvent, ZeroMQTransport
from gossiptrain.transport.chunks import ChunkHeader, ControlKind, Payload, encode_header

FOREIGN = 1e6  # a finite value that no honest peer has
FLOOD_BYTES = 8 << 20
KEPT_MAX = 2000
DROPPED_MAX = 5


def prepare(kind: str, run_dir: Path) -> None:
    """Makes the peers of this process hostile. What they did is told by RUN/mischief-done, once they did it."""
    hostile = {cls.__name__.lower(): cls for cls in (Nan, Longer, Truncated, Garbage, Oversize, Replays)}
    hostile[kind].run_dir = run_dir
    gossiptrain.peer.ZeroMQTransport = hostile[kind]


class _Hostile(ZeroMQTransport):
    """Common: a context of its own for raw words, and how it is told that the deed is done."""

    run_dir: Path

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._raw = zmq.Context()
        self._sockets: dict[str, zmq.Socket] = {}
        self._dropped: Counter[str] = Counter()

    def say(self, address: str, *parts: bytes) -> None:
        """Sends raw parts to an inbox; what it does not take within a second is dropped.

        An inbox that takes nothing several times is nobody's any more: a former life's address, still being tried.
        """
        if self._dropped[address] >= DROPPED_MAX:
            return
        socket = self._sockets.get(address)
        if socket is None:
            socket = self._sockets[address] = self._raw.socket(zmq.DEALER)
            socket.linger, socket.sndtimeo = 0, 1000
            socket.connect(address)
        try:
            socket.send_multipart(parts)
        except zmq.Again:
            self._dropped[address] += 1

    def done(self) -> None:
        (self.run_dir / "mischief-done").touch()

    def close(self) -> None:
        super().close()
        self._raw.destroy(linger=0)


class _Corrupts(_Hostile):
    """Sends another snapshot than it should."""

    def changed(self, payload: Any) -> np.ndarray:
        raise AssertionError("each has its own")

    def send_snapshot(self, address: str, key: TransferKey, payload: Any) -> None:
        super().send_snapshot(address, key, self.changed(np.frombuffer(memoryview(payload).cast("B"), np.float32)))
        self.done()


class Nan(_Corrupts):
    """One value of the snapshot is NaN."""

    def changed(self, payload: Any) -> np.ndarray:
        return np.concatenate([payload[:-1], np.array([np.nan], np.float32)])


class Longer(_Corrupts):
    """The snapshot has a value too many, as another model's would."""

    def changed(self, payload: Any) -> np.ndarray:
        return np.full(len(payload) + 1, FOREIGN, np.float32)


class Truncated(_Hostile):
    """Half of a foreign snapshot, and then nothing more."""

    def send_snapshot(self, address: str, key: TransferKey, payload: Any) -> None:
        total = memoryview(payload).nbytes
        half = np.full(total // 8, FOREIGN, np.float32).tobytes()
        self.say(address, encode_header(ChunkHeader(Payload.INLINE, 1, 0, key, 0, total)) + half)
        self.done()


class _Floods(_Hostile):
    """Says what it has prepared to all whom it knows, once it has been a member for a moment."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._begins_at_s = time.monotonic() + 1.5
        self._is_done = False

    def poll(self, timeout_s: float) -> list[TransportEvent]:
        events = super().poll(timeout_s)
        self.look_at(events)
        if not self._is_done and self.is_time() and self.link_addresses():
            self._is_done = True
            for address in set(self.link_addresses()):
                self.attack(address)
            self.done()
        return events

    def is_time(self) -> bool:
        """Whether to begin."""
        return time.monotonic() > self._begins_at_s

    def look_at(self, events: list[TransportEvent]) -> None:
        """Sees what arrives."""

    def attack(self, address: str) -> None:
        raise AssertionError("each has its own")


class Garbage(_Floods):
    """Random bytes of many lengths, some behind a valid beginning, some in many parts."""

    def attack(self, address: str) -> None:
        chance, sent = random.Random(address), 0
        begins = (b"", bytes([ControlKind.MESSAGE]), bytes([ControlKind.CREDIT]), bytes([9]), b"gT\1\0", b"\0\x95\xa4a")
        while sent < FLOOD_BYTES:
            frame = chance.choice(begins) + chance.randbytes(chance.choice((0, 3, 64, 200, 5000, 60000)))
            self.say(address, *([frame] * chance.choice((1, 1, 1, 5))))
            sent += len(frame) + 64
        header = ChunkHeader(Payload.INLINE, 1, 0, TransferKey(1, ExchangeId(2, 3)), 0, 2**63)
        for number in range(2000):
            key = TransferKey(1, ExchangeId(2, number))
            self.say(address, encode_header(header._replace(key=key)) + bytes(16384))


class Oversize(_Floods):
    """Messages above the limit of their lane, each of which breaks the connection."""

    def attack(self, address: str) -> None:
        for _ in range(5):
            self.say(address, bytes([ControlKind.MESSAGE]) + bytes(4 << 20))


class Replays(_Floods):
    """Everything it was told and said first, once RUN/replay is there: to all, three times, with foreign snapshots."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._frames: list[bytes] = []
        self._keys: list[TransferKey] = []
        self._bytes = 0

    def is_time(self) -> bool:
        return (self.run_dir / "replay").exists()

    def send(self, address: str, frame: bytes) -> bool:
        self._keep(frame)
        return super().send(address, frame)

    def send_snapshot(self, address: str, key: TransferKey, payload: Any) -> None:
        if len(self._keys) < KEPT_MAX:
            self._keys.append(key)
        self._bytes = memoryview(payload).nbytes
        super().send_snapshot(address, key, payload)

    def look_at(self, events: list[TransportEvent]) -> None:
        for event in events:
            if isinstance(event, ControlFrame):
                self._keep(event.frame)

    def _keep(self, frame: bytes) -> None:
        if len(self._frames) < KEPT_MAX:
            self._frames.append(frame)

    def attack(self, address: str) -> None:
        foreign = np.full(self._bytes // 4, FOREIGN, np.float32).tobytes()
        # Not the last: an exchange of its own that is still open is its to fill, with whatever is finite.
        frames, keys = list(self._frames), self._keys[:-5]
        # In turns: what an offer of the first time might open, the snapshots after it fill and the next time commits.
        for _ in range(3):
            for frame in frames:
                self.say(address, bytes([ControlKind.MESSAGE]) + frame)
            for key in keys:
                self.say(address, encode_header(ChunkHeader(Payload.INLINE, 1, 0, key, 0, len(foreign))) + foreign)
