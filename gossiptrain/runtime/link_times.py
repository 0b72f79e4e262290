"""How long the links take, seen from the network thread: round trips of pings and snapshots on their way.

What a run records of them (`LinkTimes` in RUN/events/NAME.jsonl) is what `sim.calibrate` fits latencies and bandwidths
from. Only durations at this peer are used, so that clocks that differ between hosts do no harm.

A round trip goes from handing a `Ping` to the transport until its `Ack` is looked at. A snapshot's time goes from the
moment it is expected, when the offer or the acceptance leaves, until its last byte is here: one round trip, and the
transfer itself. Both include what the threads on both sides take to get to it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

from gossiptrain.protocol.messages import Ack, Message, Ping, TransferKey

# Often enough that a killed peer's records are nearly whole, seldom enough to be a few lines a minute.
EVERY_S = 5.0
PENDING_MAX = 256
SAMPLES_MAX = 32


class LinkTimes:
    """Collects durations by partner and gives them out as records. For the network thread only; bounded.

    Between two calls of `take` at most `SAMPLES_MAX` durations of each kind and partner are kept.
    """

    def __init__(self) -> None:
        self._pings: OrderedDict[int, tuple[str, float]] = OrderedDict()
        self._snapshots: OrderedDict[TransferKey, tuple[str, float]] = OrderedDict()
        self._names: dict[str, str] = {}
        self._taken_s = -math.inf
        self._round_trips_s: dict[str, list[float]] = {}
        self._transfers_s: dict[str, list[float]] = {}

    def sends(self, address: str, message: Message, now: float) -> None:
        """A message is handed to the transport."""
        if type(message) is Ping:
            _keep(self._pings, message.number, (address, now))

    def hears(self, sender: str, message: Message, now: float) -> None:
        """A message has arrived. An answer tells whose address it was that the ping went to."""
        if type(message) is not Ack:
            return
        address, sent_s = self._pings.pop(message.number, (None, 0.0))
        if address is not None:
            self._names[address] = sender
            _sample(self._round_trips_s, address, now - sent_s)

    def expects(self, key: TransferKey, address: str, now: float) -> None:
        """A snapshot is expected from a member, by its control address."""
        _keep(self._snapshots, key, (address, now))

    def received(self, key: TransferKey, now: float) -> None:
        """The last byte of a snapshot is here."""
        address, since_s = self._snapshots.pop(key, (None, 0.0))
        if address is not None:
            _sample(self._transfers_s, address, now - since_s)

    def forget(self, key: TransferKey) -> None:
        """A snapshot is no longer expected."""
        self._snapshots.pop(key, None)

    def take(self, now: float, snapshot_bytes: int, is_last: bool = False) -> list[dict[str, Any]]:
        """Returns one record a partner of whom there is news: its name and durations in seconds.

        Args:
            snapshot_bytes: size of each snapshot, which goes into the records.
            is_last: give out what there is, also when the last records are younger than `EVERY_S`.
        """
        if not is_last and now < self._taken_s + EVERY_S:
            return []
        self._taken_s = now
        addresses = sorted({*self._round_trips_s, *self._transfers_s} & self._names.keys())
        records = [
            {
                "peer": self._names[address],
                "round_trips_s": self._round_trips_s.pop(address, []),
                "snapshots_s": self._transfers_s.pop(address, []),
                "snapshot_bytes": snapshot_bytes,
            }
            for address in addresses
        ]
        if len(self._names) > PENDING_MAX:
            self._names.clear()
        return records


def _keep(pending: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    pending[key] = value
    if len(pending) > PENDING_MAX:
        pending.popitem(last=False)


def _sample(samples_s: dict[str, list[float]], address: str, seconds: float) -> None:
    kept = samples_s.get(address)
    if kept is None and len(samples_s) < PENDING_MAX:
        kept = samples_s[address] = []
    if kept is not None and len(kept) < SAMPLES_MAX:
        kept.append(round(seconds, 6))
