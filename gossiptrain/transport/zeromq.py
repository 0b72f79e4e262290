"""The transport: two inboxes, two links to each neighbour, and one thread that owns them all.

Control messages and snapshots have separate connections, so that a hundred megabytes never stand in front of a ping.
Each peer listens on two ROUTER sockets that never send, and opens two DEALER sockets to each neighbour that never receive;
routing ids stay unset, so a restarted peer is heard at once. Who a peer is stands in its messages.

Theory of operation. `poll` waits for input on any socket and works in passes; each pass looks at control messages first,
then takes a bounded number of chunks, then looks at the links. Taking chunks gives credit back, over the control lane;
credit lets a link send on. So the bytes under way to a peer, on either side, never pass `TransportConfig.credit_bytes`.

Two seams. A secured transport gives each socket a CURVE key in `sockets.py` and seals payloads where `snapshots_out` cuts
and `snapshots_in` places them. Shared memory is one more kind of payload in a chunk (`chunks.Payload`); another path, such
as CUDA's own between processes, would be the next.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import zmq

from gossiptrain.errors import WireError
from gossiptrain.protocol.messages import TransferKey
from gossiptrain.transport.chunks import ControlKind, decode_credit
from gossiptrain.transport.config import (
    CONTROL_FRAME_BYTES_MAX,
    TransportConfig,
    is_loopback,
    join_address,
    split_address,
)
from gossiptrain.transport.events import ControlFrame, Lane, TransportEvent
from gossiptrain.transport.links import ControlLink, Link
from gossiptrain.transport.poll_set import PollSet
from gossiptrain.transport.shared_memory import IS_AVAILABLE
from gossiptrain.transport.snapshots_in import SnapshotReceiver
from gossiptrain.transport.snapshots_out import DataLink, Transfer
from gossiptrain.transport.sockets import open_inbox, reachable_address
from gossiptrain.transport.throttle import Throttle
from gossiptrain.transport.wakeup import Wakeup

# Work of one pass: enough to keep the sockets busy, little enough that control messages wait some milliseconds at most.
_CONTROL_FRAMES_PER_PASS = 256
_CHUNKS_PER_PASS = 64
_SNAPSHOT_BYTES_PER_PASS = 4 << 20

_MESSAGE_PREFIX = bytes([ControlKind.MESSAGE])
_CREDIT_KINDS = frozenset(ControlKind) - {ControlKind.MESSAGE}


def _as_bytes(buffer: Any, name: str) -> np.ndarray:
    view = memoryview(buffer)
    if not view.contiguous or not view.nbytes:
        raise ValueError(
            f"{name}: has {view.nbytes} bytes, contiguous={view.contiguous}; give a contiguous buffer, not empty"
        )
    return np.frombuffer(view.cast("B"), dtype=np.uint8)


class ZeroMQTransport:
    """Carries control frames and snapshots between this peer and others.

    One thread calls everything; only `wake` may be called from others. Nothing blocks but `poll`, and `close` for
    `linger_s`. Processes forked while a transport lives would hold its port and hide its death, unless a `ForkGuard` is
    held.

    Args:
        config: addresses and bounds.
        boot: this process's boot id.

    Attributes:
        control_address, data_address: where others reach this peer.
        counters: what was sent and received, and one counter for each way in which input was rejected.

    Raises:
        AddressInUseError: somebody listens at `config.listen`.
        ConfigurationError: it is not an address of this machine.
    """

    def __init__(self, config: TransportConfig, boot: int) -> None:
        self.counters: Counter[str] = Counter()
        self._config = config
        self._throttle = Throttle(config.max_mbps)
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 16384)
        self._links: dict[tuple[str, Lane], Link] = {}
        # Numbers begin anywhere, so that credit meant for this peer's last incarnation fits no link.
        self._numbers = itertools.count(boot)
        self._links_by_number: dict[int, DataLink] = {}
        self._happened: deque[TransportEvent] = deque()
        self._is_closed = False
        try:
            self._control_inbox = open_inbox(self._context, config, "control", config.listen)
            self.control_address = reachable_address(self._control_inbox, config)
            host, _ = split_address(config.listen)
            self._data_inbox = open_inbox(self._context, config, "data", join_address(host, 0))
            self.data_address = reachable_address(self._data_inbox, config)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._wakeup = Wakeup()
        self._receiver = SnapshotReceiver(config, self.counters, self._send_control)
        self._polled = PollSet()
        self._polled.add(self._control_inbox, self._read_control)
        self._polled.add(self._wakeup.reader.fileno(), self._read_wakeup)
        self._polled.add(self._data_inbox, self._read_data)
        self._is_woken = False

    def connect(self, address: str, lane: Lane) -> None:
        """Opens a link, unless there is one. It is kept up until `disconnect`.

        Raises:
            ConfigurationError: the address is not of the form tcp://HOST:PORT, or nothing that can be connected to.
        """
        if (address, lane) in self._links:
            return
        split_address(address)
        link = self._open_link(address, lane)
        self._links[address, lane] = link
        self._polled.add(link.monitor.socket, lambda: self._read_monitor(link))

    def link_addresses(self) -> list[str]:
        """The addresses that links are open to."""
        return [address for address, _ in list(self._links)]

    def disconnect(self, address: str, lane: Lane) -> None:
        """Closes a link, if there is one, and drops what waits on it.

        Control frames sent while it was up have `linger_s` to leave, without anybody waiting for it: the last word
        before a disconnect is often the reason for it.
        """
        link = self._links.pop((address, lane), None)
        if link is None:
            return
        self._forget_link(link)
        link.close(self._linger_ms(link))

    def send(self, address: str, frame: bytes) -> bool:
        """Sends a frame of at most 64 KiB on the control lane, in order; it waits until the link is up.

        Returns:
            False when there is no link, its queue is full, or the frame is too long; each is counted.
        """
        if len(frame) > CONTROL_FRAME_BYTES_MAX:
            self.counters["control_oversize"] += 1
            return False
        return self._send_control(address, _MESSAGE_PREFIX + frame)

    def send_snapshot(self, address: str, key: TransferKey, payload: Any) -> None:
        """Sends a snapshot over the data link; without a link it is counted and dropped.

        One snapshot is under way on a link and one waits; a newer one takes the place of the one that waits. The one
        under way ends when the receiver has it or says that it no longer wants it, when it is cancelled, or when the
        link breaks.

        Args:
            payload: a contiguous buffer of at least one byte. It must not change until the receiver has confirmed the
                exchange, or the transfer is cancelled.

        Raises:
            ValueError: the payload is empty or not contiguous.
        """
        data = _as_bytes(payload, "payload")
        link = self._links.get((address, "data"))
        if not isinstance(link, DataLink):
            self.counters["no_link"] += 1
            return
        link.offer(Transfer(key, data))

    def cancel_snapshot(self, address: str, key: TransferKey) -> None:
        """Stops sending a snapshot, if it is still under way; its payload is not read again."""
        link = self._links.get((address, "data"))
        if isinstance(link, DataLink):
            link.cancel(key)

    def expect(self, key: TransferKey, buffer: memoryview, credit_address: str) -> None:
        """Makes ready to receive a snapshot of exactly the buffer's size.

        Args:
            buffer: writable, contiguous; the transport's until `TransferReceived`, `TransferFailed` or `forget`.
            credit_address: the sender's control address; needs a control link.

        Raises:
            ValueError: the buffer is read-only, empty or not contiguous.
        """
        self._happened.extend(self._receiver.expect(key, _as_bytes(buffer, "buffer"), credit_address))

    def forget(self, key: TransferKey) -> None:
        """No longer expects the snapshot; its buffer is the caller's again and its sender is told when more of it comes."""
        self._receiver.forget(key)

    def wake(self) -> None:
        """Makes `poll` return soon. May be called from any thread, at any time; many calls at once are one."""
        self._wakeup.wake()

    def poll(self, timeout_s: float) -> list[TransportEvent]:
        """Sends and receives until something happened, `wake` was called, or the time is over.

        Args:
            timeout_s: longest wait in seconds; 0 looks once.

        Returns:
            What happened, in order; empty after a wake or the time-out. What other peers send never raises.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            wait_s = 0.0 if self._happened else max(0.0, deadline - time.monotonic())
            self._pass(math.ceil(1000 * min(wait_s, self._throttled_s())))
            self._push_throttled()
            if self._happened or self._is_woken or time.monotonic() >= deadline:
                self._is_woken = False
                events = list(self._happened)
                self._happened.clear()
                return events

    def close(self) -> None:
        """Closes all sockets; control messages already sent have at most `linger_s` to leave. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        for link in self._links.values():
            if link.lane == "control":
                link.push()
            link.close(self._linger_ms(link))
        self._receiver.close()
        self._control_inbox.close(0)
        self._data_inbox.close(0)
        self._wakeup.close()
        self._context.term()

    def _open_link(self, address: str, lane: Lane) -> Link:
        if lane == "control":
            return ControlLink(self._context, self._config, address, self.counters)
        number = next(self._numbers) % 2**32
        host, _ = split_address(address)
        is_same_host = is_loopback(host) or host == split_address(self.data_address)[0]
        shares = is_same_host and self._config.shared_memory and IS_AVAILABLE
        link = DataLink(
            self._context,
            self._config,
            address,
            self.counters,
            number=number,
            shares_memory=shares,
            throttle=self._throttle,
        )
        self._links_by_number[number] = link
        return link

    def _forget_link(self, link: Link) -> None:
        self._polled.remove(link.monitor.socket)
        self._polled.remove(link.socket)
        if link.probe.socket is not None:
            self._polled.remove(link.probe.socket.fileno())
        self._links_by_number = {n: other for n, other in self._links_by_number.items() if other is not link}
        if link.lane == "control":
            self._receiver.drop_segment(link.address)

    def _linger_ms(self, link: Link) -> int:
        return int(1000 * self._config.linger_s) if link.lane == "control" else 0

    def _pass(self, timeout_ms: int) -> None:
        outputs: dict[Any, Callable[[], None]] = {}
        for link in self._links.values():
            if link.is_blocked:
                outputs[link.socket] = link.push
            if link.probe.socket is not None:
                outputs[link.probe.socket.fileno()] = partial(self._finish_probe, link)
        for handler in self._polled.wait(timeout_ms, outputs):
            handler()

    def _throttled_s(self) -> float:
        """Returns in how many seconds the next chunk that waits for the bandwidth budget may go."""
        if not self._throttle.is_waiting:
            return math.inf
        waiting = [link.throttled_bytes for link in self._links_by_number.values() if link.throttled_bytes]
        return self._throttle.wait_s(min(waiting), time.monotonic()) if waiting else math.inf

    def _push_throttled(self) -> None:
        if not self._throttle.is_waiting:
            return
        for link in list(self._links_by_number.values()):
            if link.throttled_bytes:
                link.push()

    def _read_wakeup(self) -> None:
        self._wakeup.clear()
        self._is_woken = True

    def _read_monitor(self, link: Link) -> None:
        changes = link.observe()
        self._happened.extend(changes)
        if link.lane == "control" and any(change.kind == "down" for change in changes):
            self._receiver.drop_segment(link.address)

    def _finish_probe(self, link: Link) -> None:
        self._happened.extend(link.finish_probe())

    def _read_control(self) -> None:
        for _ in range(_CONTROL_FRAMES_PER_PASS):
            try:
                _, *parts = self._control_inbox.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(parts) != 1:
                self.counters["multipart"] += 1
            else:
                self._take_control(parts[0])

    def _take_control(self, frame: bytes) -> None:
        self.counters["bytes_received"] += len(frame)
        kind = frame[0] if frame else -1
        if kind == ControlKind.MESSAGE:
            self._happened.append(ControlFrame(frame[1:]))
        elif kind in _CREDIT_KINDS:
            self._take_credit(kind, frame)
        else:
            self.counters["unknown_control_kind"] += 1

    def _take_credit(self, kind: int, frame: bytes) -> None:
        try:
            credit = decode_credit(frame)
        except WireError:
            self.counters["bad_credit"] += 1
            return
        link = self._links_by_number.get(credit.link)
        if link is None:
            self.counters["stale_credit"] += 1
        elif kind == ControlKind.CREDIT:
            link.confirm(credit)
        elif kind == ControlKind.NO_SHARED_MEMORY:
            link.stop_sharing(credit)
        else:
            link.withdraw(credit)

    def _read_data(self) -> None:
        enough = self.counters["snapshot_bytes_received"] + _SNAPSHOT_BYTES_PER_PASS
        for _ in range(_CHUNKS_PER_PASS):
            try:
                _, *parts = self._data_inbox.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._take_chunk(parts)
            if self.counters["snapshot_bytes_received"] >= enough:
                break
        self._receiver.give_credit()

    def _take_chunk(self, parts: list[zmq.Frame]) -> None:
        if len(parts) != 1:
            self.counters["multipart"] += 1
            return
        self.counters["bytes_received"] += len(parts[0])
        event = self._receiver.accept(parts[0].buffer)
        if event is not None:
            self._happened.append(event)

    def _send_control(self, address: str, frame: bytes) -> bool:
        link = self._links.get((address, "control"))
        if not isinstance(link, ControlLink):
            self.counters["no_link"] += 1
            return False
        return link.send(frame)
