"""Outgoing snapshots: cut into chunks, sent as credit allows; behind the one under way, only the latest waits.

Credit is what bounds memory. libzmq counts messages, not bytes, and would take a whole model for a receiver that reads
nothing; here at most `credit_bytes` are under way that the receiver has not confirmed, on either side. A bandwidth budget
(`throttle`) holds chunks back that would go over the network; shared memory is no part of it.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import NamedTuple

import numpy as np
import zmq
from crc32c import crc32c

from gossiptrain.protocol.messages import TransferKey
from gossiptrain.transport.chunks import HEADER_BYTES, ChunkHeader, Credit, Payload, encode_header
from gossiptrain.transport.config import TransportConfig
from gossiptrain.transport.links import Link
from gossiptrain.transport.shared_memory import Segment
from gossiptrain.transport.throttle import Throttle


class Transfer:
    """A snapshot on its way.

    Attributes:
        payload: its bytes, uint8 [total]; not to change until all are sent.
        sent: bytes handed to libzmq or written to shared memory.
        credited: bytes that the receiver has confirmed; at most `sent`.
    """

    __slots__ = ("credited", "key", "payload", "sent")

    def __init__(self, key: TransferKey, payload: np.ndarray) -> None:
        self.key = key
        self.payload = payload
        self.sent = 0
        self.credited = 0

    @property
    def is_sent(self) -> bool:
        return self.sent == len(self.payload)

    @property
    def is_confirmed(self) -> bool:
        return self.credited == len(self.payload)


class _Window(NamedTuple):
    """How much of a transfer may be under way without being confirmed, and in pieces of what size."""

    chunk_bytes: int
    credit_bytes: int

    def is_open(self, transfer: Transfer) -> bool:
        """Whether one more chunk may be sent."""
        return transfer.sent - transfer.credited + self.chunk_bytes <= self.credit_bytes


_SLOTS = 4


class DataLink(Link):
    """A link for snapshots.

    `_current` stays until it is confirmed; over TCP only until it is sent, when another waits. A slot of the shared
    segment is written again only when its credit is there; a transfer that ends before leaves the segment to its receiver.

    Attributes:
        throttled_bytes: what the chunk takes that waits for the bandwidth budget; 0 while none does. Call `push` when it
            may go.
    """

    def __init__(
        self,
        context: zmq.Context,
        config: TransportConfig,
        address: str,
        counters: Counter[str],
        *,
        number: int,
        shares_memory: bool,
        throttle: Throttle,
    ) -> None:
        self._throttle = throttle
        self.throttled_bytes = 0
        self._checksum = config.checksum
        self._number = number
        self._shares_memory = shares_memory
        self._tcp_window = _Window(throttle.chunk_bytes(config.chunk_bytes), throttle.credit_bytes(config.credit_bytes))
        slot_bytes = config.segment_bytes // _SLOTS
        self._window = _Window(slot_bytes, _SLOTS * slot_bytes) if shares_memory else self._tcp_window
        self._segment: Segment | None = None
        self._current: Transfer | None = None
        self._waiting: Transfer | None = None
        self._frame = np.empty(0, dtype=np.uint8)
        super().__init__(context, config, "data", address, counters)

    def offer(self, transfer: Transfer) -> None:
        """Sends the transfer, after the one under way; one that still waits is dropped for it."""
        if self._waiting is not None:
            self.counters["transfers_replaced"] += 1
        self._waiting = transfer
        self.push()

    def cancel(self, key: TransferKey) -> None:
        """Stops sending the transfer; its payload is not read again."""
        if self._waiting is not None and self._waiting.key == key:
            self._waiting = None
        if self._current is not None and self._current.key == key:
            self._end_current()
            self.push()

    def confirm(self, credit: Credit) -> None:
        """Takes a receiver's word on how far it has come."""
        transfer = self._current
        if transfer is None or transfer.key != credit.key or not transfer.credited < credit.received <= transfer.sent:
            self.counters["stale_credit"] += 1
            return
        transfer.credited = credit.received
        self.push()

    def stop_sharing(self, credit: Credit) -> None:
        """The receiver cannot open the segment: everything it lacks is sent over the socket, from now on always.

        Said of an earlier transfer it means nothing: that one's segment is closed.
        """
        transfer = self._current
        is_current = transfer is not None and transfer.key == credit.key and credit.received <= transfer.sent
        if transfer is None or not is_current or not self._shares_memory:
            self.counters["stale_credit"] += 1
            return
        self._send_over_tcp()
        transfer.sent = transfer.credited = credit.received
        self.push()

    def withdraw(self, credit: Credit) -> None:
        """The receiver has ended the transfer."""
        if self._current is None or self._current.key != credit.key:
            self.counters["stale_credit"] += 1
            return
        self.counters["transfers_unwanted"] += 1
        self._end_current()
        self.push()

    def push(self) -> None:
        self.is_blocked = False
        self.throttled_bytes = 0
        while self.is_up:
            transfer = self._current
            if transfer is not None and self._makes_way(transfer):
                self._end_current()
                transfer = None
            if transfer is None:
                if self._waiting is None:
                    return
                transfer, self._waiting = self._waiting, None
                self._current = transfer
            if transfer.is_sent or not self._window.is_open(transfer):
                return
            if not self._send_chunk(transfer):
                self.is_blocked = not self.throttled_bytes
                return

    def drop_waiting(self) -> None:
        self.counters["transfers_lost"] += (self._waiting is not None) + (
            self._current is not None and not self._current.is_confirmed
        )
        self._waiting = None
        self._end_current()

    def close(self, linger_ms: int = 0) -> None:
        self._current = self._waiting = None
        self._drop_segment()
        super().close(linger_ms)

    def _makes_way(self, transfer: Transfer) -> bool:
        is_overtaken = transfer.is_sent and self._waiting is not None and not self._shares_memory
        return transfer.is_confirmed or is_overtaken

    def _end_current(self) -> None:
        if self._current is not None and self._current.credited < self._current.sent:
            self._drop_segment()
        self._current = None

    def _send_over_tcp(self) -> None:
        self._shares_memory = False
        self._window = self._tcp_window
        self._drop_segment()

    def _drop_segment(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _send_chunk(self, transfer: Transfer) -> bool:
        segment = self._open_segment()
        chunk = transfer.payload[transfer.sent : transfer.sent + self._window.chunk_bytes]
        cost = HEADER_BYTES + len(chunk) if segment is None else 0
        if cost and not self._throttle.take(cost, time.monotonic()):
            self.throttled_bytes = cost
            return False
        header = ChunkHeader(
            payload=Payload.INLINE if segment is None else Payload.SHARED,
            link=self._number,
            checksum=crc32c(chunk.data) if self._checksum else 0,
            key=transfer.key,
            offset=transfer.sent,
            total=len(transfer.payload),
        )
        is_taken = self._send_inline(header, chunk) if segment is None else self._send_shared(header, chunk, segment)
        if is_taken:
            transfer.sent += len(chunk)
            self.counters["snapshot_bytes_sent"] += len(chunk)
        elif cost:
            self._throttle.give_back(cost)
        return is_taken

    def _open_segment(self) -> Segment | None:
        if self._shares_memory and self._segment is None:
            try:
                self._segment = Segment(self._window.credit_bytes)
            except OSError:
                self._send_over_tcp()
        return self._segment

    def _send_shared(self, header: ChunkHeader, chunk: np.ndarray, segment: Segment) -> bool:
        start = header.offset % self._window.credit_bytes
        slot = segment.write(start, chunk)
        return self.try_send(encode_header(header) + slot.encode())

    def _send_inline(self, header: ChunkHeader, chunk: np.ndarray) -> bool:
        if not len(self._frame):
            self._frame = np.empty(HEADER_BYTES + self._window.chunk_bytes, dtype=np.uint8)
        end = HEADER_BYTES + len(chunk)
        self._frame[:HEADER_BYTES] = np.frombuffer(encode_header(header), dtype=np.uint8)
        np.copyto(self._frame[HEADER_BYTES:end], chunk)
        return self.try_send(self._frame.data[:end])
