"""Carries out what the protocol decides about snapshots: sends, receives, mixes them. The network thread's."""

from __future__ import annotations

import time

from gossiptrain.mixing.base import Mixer
from gossiptrain.protocol.effects import (
    CancelSnapshot,
    Discard,
    Effect,
    ExpectSnapshot,
    Mix,
    Release,
    SendSnapshot,
)
from gossiptrain.protocol.events import SnapshotReceived, SnapshotRejected
from gossiptrain.protocol.messages import TransferKey
from gossiptrain.runtime.link_times import LinkTimes
from gossiptrain.runtime.parameters import ParameterVector, ReceiveBuffer
from gossiptrain.transport import ZeroMQTransport


class SnapshotTraffic:
    """Snapshots on their way, and how far apart they showed peers to be.

    Attributes:
        distance: moving estimate of this peer's distance to the mean of all; None before the first mix.
        exchanges: mixes so far.
    """

    def __init__(self, transport: ZeroMQTransport, vector: ParameterVector, mixer: Mixer, links: LinkTimes) -> None:
        self._transport, self._vector, self._mixer, self._links = transport, vector, mixer, links
        self._receiving: dict[TransferKey, ReceiveBuffer] = {}
        self.distance: float | None = None
        self.exchanges = 0

    def carry_out(self, effect: Effect) -> bool:
        """Carries an effect out; False when it is no business of this part."""
        match effect:
            case SendSnapshot(address, key, version):
                self._transport.send_snapshot(address, key, self._vector.pin(version))
            case ExpectSnapshot(key, address):
                self._links.expects(key, address, time.monotonic())
                buffer = self._receiving[key] = self._vector.receive_buffer()
                self._transport.expect(key, buffer.view, address)
            case Mix(version, inbox):
                self.exchanges += 1
                received = [(self._receiving.pop(key), weight) for key, weight in inbox]
                self._note_distance(self._vector.mix(version, received, self._mixer))
            case Release(version):
                self._vector.release(version)
            case CancelSnapshot(address, key):
                self._transport.cancel_snapshot(address, key)
            case _:
                return False
        return True

    def discard(self, effect: Discard) -> None:
        """Forgets what has been received, or is still expected."""
        self._links.forget(effect.transfer)
        self._transport.forget(effect.transfer)
        if buffer := self._receiving.pop(effect.transfer, None):
            buffer.free()

    def received(self, key: TransferKey) -> SnapshotReceived | SnapshotRejected | None:
        """A snapshot is here: says whether it can be used; None when nobody waits for it any more."""
        self._links.received(key, time.monotonic())
        buffer = self._receiving.get(key)
        if buffer is None:
            return None
        return SnapshotReceived(key) if self._vector.is_finite(buffer) else SnapshotRejected(key, "non-finite")

    def close(self) -> None:
        """Gives all buffers back."""
        for buffer in self._receiving.values():
            buffer.free()
        self._receiving.clear()

    def _note_distance(self, distance: float) -> None:
        """Keeps a moving estimate of the consensus distance: two peers are sqrt(2) times as far apart as each is from
        the mean, when their deviations are independent."""
        estimate = distance / 2**0.5
        self.distance = estimate if self.distance is None else 0.8 * self.distance + 0.2 * estimate
