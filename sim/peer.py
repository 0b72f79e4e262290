"""A simulated peer: the real `PeerProtocol`, and a driver that carries its effects out on the virtual network.

The semantics are those of `gossiptrain.runtime.driver` and `gossiptrain.peer`: what arrived is looked at before training's
boundaries, these before deadlines; an exchange's snapshot is pinned until released; what arrives unexpected is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gossiptrain.errors import WireError
from gossiptrain.protocol import wire
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.effects import (
    CancelSnapshot,
    Connect,
    Discard,
    Disconnect,
    ExpectSnapshot,
    Fail,
    Mix,
    Notify,
    Release,
    RunSteps,
    Send,
    SendSnapshot,
)
from gossiptrain.protocol.events import (
    DeadlineReached,
    Event,
    Lane,
    LeaveRequested,
    LinkEvidence,
    MembersKnown,
    MessageReceived,
    SeedsFound,
    SnapshotReceived,
    SnapshotRejected,
    Started,
    StepsCompleted,
)
from gossiptrain.protocol.messages import Envelope, MemberEntry, Message, TransferKey
from gossiptrain.protocol.notices import Joined, Notice
from gossiptrain.protocol.peer_protocol import PeerProtocol
from sim import trace
from sim.bandwidth import Flow
from sim.clock import DEADLINES
from sim.links import Link
from sim.states import StatePart, States
from sim.training_thread import Payload, TrainingThread
from sim.world import World

SEEDS_EVERY_S = 0.5
SPINS_MAX = 1000
# A deadline that is due again at once costs a real thread at least this much.
TURN_S = 1e-4

_encode = msgspec.msgpack.Encoder().encode


class SimulatedPeer:
    """One process of a peer; a restart makes another.

    Attributes:
        host: number of its host. end: "", or how it ended ("crashed", "left", "failed").
        hostile: "", or what is done to its snapshots before they are sent.
        frames_refused: control frames that were no message.
        notices: (virtual seconds, notice), in order.
    """

    def __init__(self, config: ProtocolConfig, host: int, world: World) -> None:
        self.config, self.host, self.world = config, host, world
        self._clock, self._trace, self._network = world.clock, world.trace, world.network
        self.name, self.boot = config.name, config.boot
        self.protocol = PeerProtocol(config)
        self.alive = True
        self.end = ""
        self.began_s = world.clock.now
        self.ended_s = float("inf")
        self.stalled_until_s = 0.0
        self.hostile = ""
        self.frames_refused = 0
        self.notices: list[tuple[float, Notice]] = []
        self.failures: list[Fail] = []
        self._sent: dict[type, list[int]] = {}  # messages and their bytes
        self._snapshots_sent = 0
        self.control_links: dict[str, Link] = {}
        self.data_links: dict[str, Link] = {}
        self.incoming: dict[TransferKey, Flow] = {}
        self.expected: dict[TransferKey, None] = {}
        self.received: dict[TransferKey, Payload] = {}
        self.training = TrainingThread(self)
        self.states = States(self)
        self._mailbox: list[Event] = []
        self._armed_s = self._due_s = float("inf")
        self._spins = (0.0, 0)
        self._last_message: Message | None = None
        self._last_sent: tuple[Envelope, bytes]
        self._carry_out: dict[type, Callable[[Any], None]] = {
            Send: self._send,
            SendSnapshot: self._send_snapshot,
            ExpectSnapshot: self._expect,
            Mix: self._mix,
            Discard: self._discard,
            Release: self._release,
            CancelSnapshot: self._cancel,
            Connect: self._connect,
            Disconnect: self._disconnect,
            RunSteps: self._run_steps,
            Notify: self._notify,
            Fail: self._fail,
            **self.states.carry_out,
            **self.training.sampling.carry_out,
        }

    # Life

    def start(self, known: tuple[MemberEntry, ...] = ()) -> None:
        """Binds, publishes the first snapshot, tells the protocol, and looks for seeds until somebody is found.

        Args:
            known: who is in the run from the beginning.
        """
        self.world.network.listen(self, (self.config.control_address, self.config.data_address))
        self.training.begin()
        self.handle(Started())
        if known:
            self.handle(MembersKnown(known))
        self.handle(StepsCompleted(0, self.training.version, 0))
        self._look_for_seeds(None)

    def stop(self, end: str) -> None:
        """The process ends, for the reason given; its links break."""
        if self.alive:
            self.alive, self.end, self.ended_s = False, end, self.world.clock.now
            self._mailbox.clear()
            self.world.trace.add(self.ended_s, self.host, trace.ENDED, end.encode())
            self.world.network.kill(self)

    def leave(self, reason: str) -> None:
        """Says goodbye and ends."""
        self.handle(LeaveRequested(reason))
        self.stop("left")

    def alter(self, change: Callable[[Message], Message] | None) -> None:
        """Every message goes through `change` before it is sent, for a process of another build; None ends that."""
        altered = lambda effect: self._send(Send(effect.address, change(effect.message)))  # type: ignore[misc]  # noqa: E731
        self._carry_out[Send] = altered if change else self._send

    def stall(self, for_s: float) -> None:
        """The whole process stands still from now on."""
        self.stalled_until_s = self.world.clock.now + for_s
        self.training.delay(for_s)
        self.world.network.stall_changed(self.host)
        self.world.clock.at(self.stalled_until_s, self._resume)

    def living(self) -> tuple[str, ...]:
        """Sorted names of those that this peer's graph is built on."""
        return self.protocol.living()

    def traffic(self) -> dict[str, int]:
        """Messages sent by kind, their "bytes", and "snapshots" with "snapshot_bytes"."""
        snapshot_bytes = self._snapshots_sent * self.world.workload.snapshot_bytes
        sent = {kind.__name__: count for kind, (count, _) in self._sent.items()}
        totals = {
            "bytes": sum(self.bytes_by_kind().values()),
            "snapshots": self._snapshots_sent,
            "snapshot_bytes": snapshot_bytes,
        }
        return dict(sorted((sent | totals).items()))

    def bytes_sent(self) -> int:
        """Bytes of all messages and snapshots sent so far."""
        return sum(size for _, size in self._sent.values()) + self._snapshots_sent * self.world.workload.snapshot_bytes

    def bytes_by_kind(self) -> dict[str, int]:
        """Bytes of the messages sent, by kind."""
        return {kind.__name__: size for kind, (_, size) in self._sent.items()}

    def _resume(self, _: None) -> None:
        """What came in the meantime is looked at before timers are."""
        if not self.alive:
            return
        self.world.network.stall_changed(self.host)
        mailbox, self._mailbox = self._mailbox, []
        for event in mailbox:
            self.handle(event)

    def _look_for_seeds(self, _: None) -> None:
        now = self.world.clock.now
        if not self.alive or (self.protocol.caught_up and len(self.protocol.living()) > 1):
            return
        if now < self.stalled_until_s:
            self.world.clock.at(self.stalled_until_s, self._look_for_seeds)
            return
        if addresses := self.world.seeds(self):
            self.handle(SeedsFound(addresses))
        self.world.clock.at(now + SEEDS_EVERY_S, self._look_for_seeds)

    # Events

    def take_message(self, envelope: Envelope) -> None:
        """A control message arrived at the process, if it still lives."""
        if self._clock.now < self.stalled_until_s:
            self._mailbox.append(MessageReceived(envelope))
        elif self.alive:
            self.handle(MessageReceived(envelope))

    def take_frame(self, frame: bytes) -> None:
        """Bytes arrived that need not be a message: they are decoded as the sockets do it, and counted if refused."""
        try:
            envelope = wire.decode(frame)
        except WireError:
            self.frames_refused += 1
            self.world.checkers.saw["frame refused"] += 1
        else:
            self.take_message(envelope)

    def take_evidence(self, evidence: tuple[str, Lane, str]) -> None:
        """A link went up or down, or an address refused; of links closed meanwhile nothing is told."""
        address, lane, kind = evidence
        if self.alive and address in (self.control_links if lane == "control" else self.data_links):
            self.take(LinkEvidence(address, lane, kind))  # type: ignore[arg-type]

    def take_snapshot(self, key: TransferKey, payload: Payload | StatePart) -> None:
        """The last byte of a snapshot, or of a part of a state, arrived; it is checked before the protocol hears of it."""
        if not self.alive:
            return
        if isinstance(payload, StatePart):
            self.states.arrived(key, payload)
            return
        if key not in self.expected:
            return
        del self.expected[key]
        value, fault = payload
        if fault in ("size", "checksum"):
            self.take(SnapshotRejected(key, fault))
        elif fault or not self.world.workload.is_finite(value):
            self.take(SnapshotRejected(key, "non-finite"))
        else:
            self.received[key] = payload
            self.take(SnapshotReceived(key))

    def take(self, event: Event) -> None:
        """Something happened to the process, if it still lives."""
        if self._clock.now < self.stalled_until_s:
            self._mailbox.append(event)
        else:
            self.handle(event)

    def handle(self, event: Event) -> None:
        """Gives an event to the protocol, carries the effects out, and sets the timer for its next deadline."""
        if not self.alive:
            return
        now = self._clock.now
        kind = trace.EVENT_KINDS[type(event)]
        if kind == trace.BOUNDARY:
            self._trace_boundary(event, now)  # type: ignore[arg-type]
        else:
            self._trace.add(now, self.host, kind)
        protocol = self.protocol
        try:
            effects = protocol.handle(event, now)
            self._due_s = deadline_s = protocol.next_deadline()
        except Exception as error:
            self.world.checkers.protocol_raised(self, event, error)
        if effects:
            carry_out = self._carry_out
            for effect in effects:
                carry_out[type(effect)](effect)
        if deadline_s < self._armed_s and self.alive:
            self._arm(deadline_s, now)

    def _trace_boundary(self, event: StepsCompleted, now: float) -> None:
        self.world.trace.add(now, self.host, trace.BOUNDARY, _encode((event.step, event.version, event.corrections)))
        self.world.checkers.boundary(self)

    def _arm(self, deadline_s: float, now: float) -> None:
        self._armed_s = deadline_s = max(deadline_s, now)
        self.world.clock.at(deadline_s, self._deadline, deadline_s, DEADLINES)

    def _deadline(self, armed_s: float) -> None:
        if armed_s != self._armed_s or not self.alive:
            return
        now = self.world.clock.now
        self._armed_s = float("inf")
        if now < self.stalled_until_s:
            self._arm(self.stalled_until_s, now)
            return
        due_s = self._due_s
        if due_s <= now:
            self._note_spin(now)
            self.handle(DeadlineReached())
            if self._armed_s <= now:
                self._armed_s = float("inf")
                self._arm(now + TURN_S, now)
        elif due_s < float("inf"):
            self._arm(due_s, now)

    def _note_spin(self, now: float) -> None:
        """Counts deadlines that come one turn after the other: a real driver would burn a core."""
        last_s, count = self._spins
        count = count + 1 if now - last_s <= 1.5 * TURN_S else 0
        self._spins = (now, count)
        if count >= SPINS_MAX:
            self.world.checkers.fail("driver contract", self, f"{count} deadlines fell due one right after the other")

    # Effects

    def _send(self, effect: Send) -> None:
        message, address = effect.message, effect.address
        if message is not self._last_message:
            envelope = self.protocol.envelope(message)
            frame = wire.encode(envelope)
            if self.world.checks_wire:
                envelope = wire.decode(frame)
            self._last_message, self._last_sent = message, (envelope, frame)
        envelope, frame = self._last_sent
        size = len(frame) + 1
        sent = self._sent.setdefault(type(message), [0, 0])
        sent[0] += 1
        sent[1] += size
        self._trace.add(self._clock.now, self.host, trace.SENT, address.encode() + frame)
        self._network.send(self, address, envelope, size)

    def _send_snapshot(self, effect: SendSnapshot) -> None:
        payload = self.training.pin(effect.version)
        world = self.world
        if payload is None:
            world.checkers.fail("driver contract", self, f"sends version {effect.version}, which is gone")
        if self.hostile:
            payload = Payload(world.workload.spoil(payload.value), self.hostile)
        size = world.workload.snapshot_bytes
        self._snapshots_sent += 1
        if not world.network.send_snapshot(self, effect.address, effect.transfer, payload, size):
            world.checkers.fail("driver contract", self, f"sends a snapshot to {effect.address} without a data link")

    def _expect(self, effect: ExpectSnapshot) -> None:
        if effect.transfer in self.expected or effect.transfer in self.received:
            self.world.checkers.fail("driver contract", self, f"expects {effect.transfer} twice")
        self.expected[effect.transfer] = None

    def _mix(self, effect: Mix) -> None:
        checkers = self.world.checkers
        own = self.training.snapshots.get(effect.version)
        if own is None or not self.training.pins.get(effect.version):
            checkers.fail("driver contract", self, f"mixes version {effect.version}, which is not pinned")
        missing = [key for key, _ in effect.inbox if key not in self.received]
        if missing:
            checkers.fail("driver contract", self, f"mixes {missing[0]}, which is not here")
        inbox = [(self.received.pop(key), weight) for key, weight in effect.inbox]
        checkers.mixed(self, effect, [payload for payload, _ in inbox])
        values = [(payload.value, weight) for payload, weight in inbox]
        drift = self.training.drift
        if drift is not None and drift.is_due(len(self.training.blocks) + 1):
            drift.mixed(self.world.workload.distance(own.value, values[0][0]))
        self.training.add_correction(self.world.workload.mix(own.value, values))

    def _discard(self, effect: Discard) -> None:
        self.expected.pop(effect.transfer, None)
        self.received.pop(effect.transfer, None)
        self.states.discard(effect.transfer)
        self.world.network.forget(self, effect.transfer)

    def _release(self, effect: Release) -> None:
        if not self.training.release(effect.version):
            self.world.checkers.fail("driver contract", self, f"releases version {effect.version}, which is not pinned")

    def _cancel(self, effect: CancelSnapshot) -> None:
        self.world.network.cancel_snapshot(self, effect.address, effect.transfer)

    def _connect(self, effect: Connect) -> None:
        self.world.network.connect(self, effect.address, effect.lane)

    def _disconnect(self, effect: Disconnect) -> None:
        self.world.network.disconnect(self, effect.address, effect.lane)

    def _run_steps(self, effect: RunSteps) -> None:
        training = self.training
        training.plan_steps, training.plan_scale, training.publishes = effect.steps, effect.scale, effect.publish
        if self.training.is_synchronous:
            self.training.go_on()

    def _notify(self, effect: Notify) -> None:
        notice, now = effect.notice, self.world.clock.now
        self.notices.append((now, notice))
        self.world.trace.add(now, self.host, trace.NOTICE, _encode(notice))
        self.world.checkers.noticed(self, notice)
        if isinstance(notice, Joined):
            self.training.joined()

    def _fail(self, effect: Fail) -> None:
        self.failures.append(effect)
        self.world.checkers.saw[f"failed {effect.kind}"] += 1
        self.stop("failed")
