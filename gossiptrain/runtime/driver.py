"""Carries out what the protocol decides, on real sockets and a real clock, in a thread of its own.

Theory of operation. The network thread owns the transport and the protocol; nobody else touches either. The training
thread hands in `StepsCompleted` through a queue and reads one small `Plan`; it never waits here, but in synchronous
mode at a round's boundary. What arrived is looked at before timers are, so that a peer that stalled drains its mail
before it judges anybody.

If this thread ever fails by a bug, training goes on alone: the failure is logged, kept in `failure`, and raised when
the training loop has ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import structs
from torch import Tensor

from gossiptrain.errors import ConfigurationError, GossipTrainError, PeerStoppedError, WireError
from gossiptrain.mixing.base import Mixer
from gossiptrain.protocol import wire
from gossiptrain.protocol.effects import (
    Connect,
    Discard,
    Disconnect,
    Effect,
    Fail,
    Notify,
    RunSteps,
    Send,
)
from gossiptrain.protocol.events import (
    DeadlineReached,
    DriftMeasured,
    Event,
    LeaveRequested,
    LinkEvidence,
    MessageReceived,
    SeedsFound,
    SnapshotRejected,
    Started,
    StepsCompleted,
    TrafficCounted,
    TugMeasured,
)
from gossiptrain.protocol.notices import Exchanged, Joined, Notice
from gossiptrain.protocol.peer_protocol import PeerProtocol
from gossiptrain.runtime.desk import Desk
from gossiptrain.runtime.link_times import LinkTimes
from gossiptrain.runtime.parameters import ParameterVector
from gossiptrain.runtime.snapshot_traffic import SnapshotTraffic
from gossiptrain.runtime.state_transfer import Fetched, StateTransfers
from gossiptrain.runtime.words import ERRORS, worth_a_warning
from gossiptrain.transport import ControlFrame, Lane, LinkChanged, TransferFailed, TransferReceived, ZeroMQTransport
from gossiptrain.tug import Products

POLL_S_MAX = 0.25
SEEDS_EVERY_S = 0.5
PROGRESS_EVERY_S = 0.5
LEAVE_GRACE_S = 0.5
# Of the exchanges between two reports so many are recorded one by one, so that the log of a long run stays small.
EXCHANGES_RECORDED_MAX = 5

log = logging.getLogger("gossiptrain")


class Plan(NamedTuple):
    """What the training thread is to do next; replaced as a whole, so it is read without a lock. See `RunSteps`."""

    steps: int
    publish: bool
    scale: float = 1.0


class Driver(threading.Thread):
    """The network thread of one peer."""

    def __init__(
        self,
        protocol: PeerProtocol,
        transport: ZeroMQTransport,
        vector: ParameterVector,
        mixer: Mixer,
        *,
        states: Callable[[Driver], StateTransfers],
        seeds: Callable[[], list[str]],
        observe: Callable[[Notice], None],
        report: Callable[[], None],
    ) -> None:
        """
        Args:
            states: makes the part that gives and fetches states.
            seeds: returns the seed addresses known now; asked until somebody is found.
            observe: is given every notice, on the network thread.
            report: is called twice a second, on the network thread.
        """
        super().__init__(name=f"gossiptrain-{protocol.config.name}", daemon=True)
        self._protocol, self._transport, self._vector = protocol, transport, vector
        self._seeds, self._observe, self._report = seeds, observe, report
        self._states = states(self)
        self._links = LinkTimes()
        self.desk = Desk()
        self._snapshots = SnapshotTraffic(transport, vector, mixer, self._links)
        self._from_training: deque[Event | Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._rounds_over = 0
        self._deadline_s = 0.0
        self._goodbye: LeaveRequested | None = None
        self._leave_at_s = 0.0
        self._seeds_at_s = 0.0
        self._report_at_s = 0.0
        self._stopping = False
        self._is_over = False
        self.plan = Plan(protocol.config.pacing.steps, False)
        self.joined = False
        self.is_awaited = True
        """Whether training waits for others to be ready, so that these are counted."""
        self.ready = 0
        self.failure: GossipTrainError | None = None
        self._exchanges_told = 0
        self.members = 1
        self.neighbours: tuple[str, ...] = ()
        self.counters: dict[str, int] = {}

    @property
    def transport(self) -> ZeroMQTransport:
        """The transport, which belongs to this thread."""
        return self._transport

    @property
    def distance(self) -> float | None:
        """Moving estimate of this peer's distance to the mean of all; None before the first mix."""
        return self._snapshots.distance

    @property
    def exchanges(self) -> int:
        """Mixes so far."""
        return self._snapshots.exchanges

    def traffic(self) -> dict[str, int]:
        """Bytes sent and received so far, control messages and snapshots together."""
        return {
            f"bytes_{way}": self.counters.get(f"bytes_{way}", 0) + self.counters.get(f"snapshot_bytes_{way}", 0)
            for way in ("sent", "received")
        }

    def totals(self) -> dict[str, int]:
        """The traffic, and the samples of the shared data that this peer has trained, where it shares any."""
        trained = self.desk.trained
        return self.traffic() if trained is None else {**self.traffic(), "samples_trained": trained}

    def progress(self) -> dict[str, Any]:
        """The network's part of a `Progress` line."""
        return {
            "neighbours": list(self.neighbours),
            "members": self.members,
            "consensus_distance": self.distance,
            "exchanges": self.exchanges,
            **self.totals(),
        }

    def link_times(self, is_last: bool = False) -> list[dict[str, Any]]:
        """Records of how long the links took, every few seconds. For the network thread, and for who outlives it."""
        return self._links.take(time.monotonic(), self._vector.nbytes, is_last)

    # For the training thread

    def completed(self, event: StepsCompleted) -> None:
        """Hands in a boundary. Never waits."""
        if self._is_over:
            return
        self._from_training.append(event)
        if self.plan.publish or event.version is not None:
            self._transport.wake()

    def tell(self, event: Event) -> None:
        """Hands in an event that is not to wait for a boundary. Any thread."""
        self.run_soon(lambda: self._handle(event))

    def tell_at_leisure(self, event: Event) -> None:
        """Hands in an event that may wait a quarter of a second where nobody else lives to hear of it. Any thread."""
        if self.plan.publish:
            self.tell(event)
        elif not self._is_over:
            self._from_training.append(lambda: self._handle(event))

    def run_soon(self, call: Callable[[], None]) -> None:
        """Has the network thread make a call, unless it is over. Any thread."""
        if not self._is_over:
            self._from_training.append(call)
            self._transport.wake()

    def moved(self, movement: Tensor, steps: int) -> None:
        """So far, a norm, did that many local steps move the parameters. For the network thread."""
        if self.distance is not None and self.distance > 0:
            self._handle(DriftMeasured(self.distance, float(movement) / max(1, steps) ** 0.5))

    def tugged(self, products: Products) -> None:
        """So hard did this peer and mixing pull against each other. For the network thread."""
        self._handle(TugMeasured(products.tug()))

    def take_adoption(self) -> Fetched | None:
        """Returns another peer's state that is to take the place of this one's, once."""
        return self._states.take_adoption()

    def wait_for_change(self, timeout_s: float) -> None:
        """Waits until something that a joining or waiting peer looks at may have changed."""
        with self._changed:
            self._changed.wait(timeout_s)

    def wait_for_round(self, number: int, timeout_s: float) -> bool:
        """Waits until this many rounds are over (synchronous mode only); False when time ran out."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._rounds_over >= number or self._is_over or self.failure is not None, timeout_s
            )

    def leave(self, reason: str, timeout_s: float) -> None:
        """Says goodbye and ends the thread."""
        self._from_training.append(LeaveRequested(reason))
        self._transport.wake()
        self.join(timeout_s)

    # The thread

    def run(self) -> None:
        """Polls, handles, carries out, until told to leave."""
        try:
            self._handle(Started())
            while not self._stopping:
                self._turn()
        except Exception as error:
            log.exception("the network thread of %s failed; training goes on alone", self._protocol.config.name)
            self._fail(PeerStoppedError(f"the network thread failed: {type(error).__name__}: {error}"))
            if isinstance(self.failure, PeerStoppedError):
                self.failure.__cause__ = error
        finally:
            self._is_over = True
            self.plan = Plan(self.plan.steps, False)
            self._from_training.clear()
            self.counters = self._count()
            self._transport.close()
            self._snapshots.close()
            self.desk.close(self._protocol.ledger.state())
            self._announce()

    def _turn(self) -> None:
        now = time.monotonic()
        next_s = min(self._deadline_s, self._report_at_s, self._seeds_at_s)
        for event in self._transport.poll(min(max(next_s - now, 0.0), POLL_S_MAX)):
            self._arrived(event)
        now = time.monotonic()
        while self._from_training:
            event = self._from_training.popleft()
            if callable(event):
                event()
            elif not self._is_superseded(event):
                self._take_from_training(event, now)
        self._leave_when_settled(now)
        if now >= self._deadline_s:
            self._handle(DeadlineReached())
        self._deadline_s = self._protocol.next_deadline()
        if self.is_awaited and self.ready != (ready := self._protocol.ready()):
            self.ready = ready
            self._announce()
        if now >= self._seeds_at_s:
            self._look_for_seeds(now)
        if now >= self._report_at_s:
            self._report_at_s = now + PROGRESS_EVERY_S
            self._exchanges_told = 0
            self.counters = self._count()
            self._handle(TrafficCounted(dict(self._transport.counters)))
            self.desk.state = self._protocol.ledger.state()
            self._report()

    def _count(self) -> dict[str, int]:
        return {**self._transport.counters, **self._protocol.counters}

    def _is_superseded(self, event: Event) -> bool:
        """Whether a newer boundary waits that says all this one does; each round of the synchronous mode is answered."""
        newer = self._from_training[0] if self._from_training else None
        both = isinstance(event, StepsCompleted) and isinstance(newer, StepsCompleted)
        return both and self._protocol.config.kind == "pair"

    def _take_from_training(self, event: Event, now: float) -> None:
        if isinstance(event, LeaveRequested):
            self._goodbye, self._leave_at_s = event, now + LEAVE_GRACE_S
        else:
            self._handle(self._with_held_version(event))

    def _leave_when_settled(self, now: float) -> None:
        """Lets the exchange that is open end first, for a moment: cut off, it might count on the other end only."""
        if self._goodbye is not None and (now >= self._leave_at_s or not self._protocol.is_exchanging()):
            self._handle(self._goodbye)

    def _with_held_version(self, event: Event) -> Event:
        """Names the newest snapshot, which training may have published since; it is held until the next boundary.

        Where training is just writing over the one of this boundary, the newest held is an older one, which lacks the
        corrections that the event tells of: there is none to give until the next boundary, which is at hand.
        """
        if not isinstance(event, StepsCompleted) or event.version is None:
            return event
        latest = self._vector.latest()
        held = latest.version if latest is not None and latest.version >= event.version else None
        return structs.replace(event, version=held)

    def _look_for_seeds(self, now: float) -> None:
        if self.members > 1 and self.joined:
            self._seeds_at_s = float("inf")
            return
        self._seeds_at_s = now + SEEDS_EVERY_S
        if addresses := self._seeds():
            self._handle(SeedsFound(tuple(addresses)))

    def _handle(self, event: Event) -> None:
        for effect in self._protocol.handle(event, time.monotonic()):
            self._carry_out(effect)
        if isinstance(event, LeaveRequested):
            self._stopping = True

    def _arrived(self, event: ControlFrame | LinkChanged | TransferReceived | TransferFailed) -> None:
        match event:
            case ControlFrame(frame):
                try:
                    envelope = wire.decode(frame)
                except WireError as error:
                    self._transport.counters["bad_message"] += 1
                    log.debug("dropped a control frame: %s", error)
                    return
                self._links.hears(envelope.sender, envelope.message, time.monotonic())
                self._handle(MessageReceived(envelope))
            case LinkChanged(address, lane, kind):
                self._handle(LinkEvidence(address, lane, kind))
            case TransferReceived(key) if self._states.expects(key):
                self._handle(self._states.received(key))
            case TransferReceived(key):
                if (found := self._snapshots.received(key)) is not None:
                    self._handle(found)
            case TransferFailed(key, reason):
                self._handle(SnapshotRejected(key, reason))

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send(address, message):
                self._links.sends(address, message, time.monotonic())
                self._transport.send(address, wire.encode(self._protocol.envelope(message)))
            case Discard(key):
                self._snapshots.discard(effect)
                self._states.discard(key)
            case Connect(address, lane):
                self._connect(address, lane)
            case Disconnect(address, lane):
                self._transport.disconnect(address, lane)
            case RunSteps(steps, publish, scale):
                self.plan = Plan(steps, publish, scale)
                self._rounds_over += self._protocol.config.kind == "round"
                self._announce()
            case Notify(notice):
                self._told(notice)
            case Fail(kind, text):
                self._fail(ERRORS[kind](text))
            case _ if not (self._snapshots.carry_out(effect) or self.desk.carry_out(effect)):
                self._states.carry_out(effect)
                self._announce()

    def _connect(self, address: str, lane: Lane) -> None:
        """Opens a link. What is no address was a stranger's claim, or a typing error that passed for a host's name."""
        try:
            self._transport.connect(address, lane)
        except ConfigurationError as error:
            self._transport.counters["bad_address"] += 1
            if self._transport.counters["bad_address"] == 1:
                log.warning("%s: no link is opened: %s", self._protocol.config.name, error)

    def _told(self, notice: Notice) -> None:
        self.neighbours = self._protocol.neighbours()
        self.members = len(self._protocol.living())
        if text := worth_a_warning(notice):
            log.warning("%s: %s", self._protocol.config.name, text)
        if isinstance(notice, Joined):
            self.joined = True
        self._exchanges_told += isinstance(notice, Exchanged)
        if not isinstance(notice, Exchanged) or self._exchanges_told <= EXCHANGES_RECORDED_MAX:
            self._observe(notice)
        self._announce()

    def _fail(self, error: GossipTrainError) -> None:
        self.failure = self.failure or error
        self._announce()

    def _announce(self) -> None:
        with self._changed:
            self._changed.notify_all()
