"""The peer's whole mind: one door in (`handle`), effects out. All control flow between the parts reads here.

The parts never call each other. After every event the same three questions are asked, in this order: who is lost
(close what is open with them), who is living (lay the graph anew if they changed), what is to be done next.
"""

from __future__ import annotations

from gossiptrain.protocol import messages as m
from gossiptrain.protocol import notices
from gossiptrain.protocol.catching_up import CatchingUp, StateEvent
from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.effects import Connect, Disconnect, Effect, Fail, Notify, RunSteps, Send
from gossiptrain.protocol.events import (
    BusyAnnounced,
    DeadlineReached,
    Event,
    LeaveRequested,
    LinkEvidence,
    MessageReceived,
    SeedsFound,
    SnapshotReceived,
    SnapshotRejected,
    Started,
    StepsCompleted,
)
from gossiptrain.protocol.exchange import PairExchange
from gossiptrain.protocol.introductions import Introductions
from gossiptrain.protocol.membership import Member, Membership
from gossiptrain.protocol.open_exchange import PULL_NUMBERS
from gossiptrain.protocol.rewiring import Rewiring, describe
from gossiptrain.protocol.rounds import NeighbourhoodRounds

REASON_CHARACTERS_MAX = 1024


class PeerProtocol:
    """Decides everything a peer does on the network; touches no clock, socket, thread or tensor.

    The same config and the same events at the same times give the same effects.
    """

    def __init__(self, config: ProtocolConfig) -> None:
        """
        Raises:
            ConfigurationError: the topology is unknown, empty or disconnected.
        """
        self.config = config
        self._membership = Membership(config)
        self._introductions = Introductions(
            config, self._membership.knows_address, lambda: (self._step, self.caught_up)
        )
        self._rewiring = Rewiring(config.topology, config.name, config.seed)
        self._catching_up = CatchingUp(config, self._count)
        chance = Chance(config.seed, config.name, config.boot)
        self._pairs = PairExchange(config, chance, self._membership.get)
        self._rounds = NeighbourhoodRounds(config, self._membership.get)
        self._exchanging = (self._catching_up, self._pairs, self._rounds)
        self._step = 0
        self._publish = False
        self._leaving = False
        self._failed = False
        self._last_seen: dict[str, Member] = {}
        self._around: tuple[str, ...] = ()
        self._data_links: set[str] = set()
        self._changes_seen = -1
        self._neighbours: tuple[tuple[int, int], tuple[str, ...]] = ((-1, -1), ())
        self.counters: dict[str, int] = {}

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Takes one event at a time `now` (seconds of any clock that never goes back) and says what to do."""
        self._membership.note_own_stall(now)
        was_caught_up = self.caught_up
        effects = self._take(event, now)
        if not self._failed:
            effects += self._follow_members(now)
            effects += self._seek_parameters(now)
        if self.caught_up and not was_caught_up:
            self._rounds.caught_up()
            effects += self._membership.tell_caught_up(self._step)
        self._note_links(effects)
        return effects

    def next_deadline(self) -> float:
        """The time at which `DeadlineReached` is due, if nothing else happens first; infinity for never."""
        if self._leaving or self._failed:
            return float("inf")
        times_s = [
            self._membership.next_deadline(),
            self._introductions.next_deadline(),
            self._catching_up.next_deadline(bool(self._membership.others())),
            self._pairs.next_deadline(),
            self._rounds.next_deadline(),
        ]
        if self._is_joining():
            times_s.append(self._introductions.joining_ends_s())
        return min(times_s)

    @property
    def caught_up(self) -> bool:
        """Whether this peer counts in mixing: it founded the run or has taken a member's parameters."""
        return self._catching_up.done

    def is_idle(self) -> bool:
        """Whether no exchange is open and no correction waits to be applied."""
        return all(part.is_idle() for part in self._exchanging)

    def is_exchanging(self) -> bool:
        """Whether an exchange is open: one that is cut off now may be committed by the other end alone."""
        return any(part.busy_with() for part in self._exchanging)

    def living(self) -> tuple[str, ...]:
        """Sorted names of the members that the graph is built on, this peer among them."""
        return self._membership.living()

    def ready(self) -> int:
        """How many peers are ready or were, itself included: one that has gone again is not waited for."""
        return self.caught_up + sum(other.caught_up for other in self._membership.others())

    def neighbours(self) -> tuple[str, ...]:
        """Names of those this peer exchanges with at present."""
        key = (self._rewiring.topology.epoch, self._round_number())
        if self._neighbours[0] != key:
            self._neighbours = (key, self._rewiring.topology.neighbours(key[1]))
        return self._neighbours[1]

    def status(self, now: float) -> notices.Status:
        """Returns this peer's whole view."""
        around = set(self.neighbours())
        members = tuple(
            notices.MemberStatus(
                name=other.name,
                address=other.control_address,
                state=other.state,
                step=other.step,
                silent_s=round(self._membership.silence_s(other.name, now), 3),
                neighbour=other.name in around,
            )
            for other in self._membership.others()[:256]
        )
        config = self.config
        return notices.Status(
            name=config.name,
            run_id=config.run_id,
            step=self._step,
            epoch=self._rewiring.topology.epoch,
            caught_up=self.caught_up,
            topology=describe(config.topology),
            mixer=config.mixer,
            members=members,
            counters=dict(sorted(self.counters.items())),
        )

    # Events

    def _take(self, event: Event, now: float) -> list[Effect]:
        if self._leaving or self._failed or isinstance(event, BusyAnnounced):
            return []
        if isinstance(event, StateEvent):
            return self._catching_up.happened(event, now)
        match event:
            case Started():
                return self._start(now)
            case SeedsFound(addresses):
                unknown = tuple(a for a in addresses if not self._membership.knows_address(a))
                return self._introductions.greet(unknown, now, are_seeds=True)
            case MessageReceived(envelope):
                return self._message(envelope, now)
            case SnapshotReceived(key):
                return self._part_for(key.exchange).snapshot_received(key, now)
            case SnapshotRejected(key, reason):
                self._count(f"snapshot_{reason}")
                return self._part_for(key.exchange).snapshot_rejected(key, reason, now)
            case StepsCompleted(step, version, corrections):
                return self._boundary(step, version, corrections, now)
            case LinkEvidence(address, lane, kind):
                return self._evidence(address, lane, kind, now)
            case DeadlineReached():
                return self._tick(now)
            case LeaveRequested(reason):
                return self._leave(reason, now)

    def _start(self, now: float) -> list[Effect]:
        self._introductions.start(now)
        return self._catching_up.start()

    def _evidence(self, address: str, lane: str, kind: str, now: float) -> list[Effect]:
        """Snapshots that cannot be sent show in their exchange; only the control lane tells of life and death."""
        return self._membership.link_evidence(address, kind, self._step, now) if lane == "control" else []

    def _boundary(self, step: int, version: int | None, corrections: int, now: float) -> list[Effect]:
        self._step = step
        effects = self._catching_up.boundary(version, corrections)
        self._pairs.boundary(version if self.caught_up else None, corrections)
        if self.config.kind != "round" or step == 0:
            return effects
        if not self.caught_up:
            return effects + self._rounds.stand_aside()
        effects += self._rounds.advance(now)
        return effects + self._rounds.begin(version, self.neighbours(), now)

    def _tick(self, now: float) -> list[Effect]:
        effects = self._membership.tick(self._step, now) + self._introductions.tick(now)
        for part in self._exchanging:
            effects += part.tick(now)
        effects += self._close_loose_links()
        if self._is_joining():
            failure = self._introductions.give_up_joining(now)
            self._failed = bool(failure)
            effects += failure
        return effects

    def _leave(self, reason: str, now: float) -> list[Effect]:
        effects = [effect for part in self._exchanging for effect in part.close_all(now)]
        for other in self._membership.others():
            if other.state in ("alive", "suspect"):
                effects.append(Send(other.control_address, m.Leave(reason[:REASON_CHARACTERS_MAX])))
        self._leaving = True
        return [*effects, Notify(notices.Left(reason, self._step))]

    # Messages

    def _message(self, envelope: m.Envelope, now: float) -> list[Effect]:
        message = envelope.message
        if envelope.boot == self.config.boot:
            return []
        match message:
            case m.Hello():
                return self._hello_from(envelope, message, now)
            case m.Refuse():
                return self._refused(envelope, message, now)
            case m.StatusRequest(reply_to):
                return self._tell_status(reply_to, now)
        heard = self._membership.hear(envelope, now)
        sender = self._membership.get(envelope.sender)
        if heard is None or sender is None:
            self._count("message_from_stranger")
            return []
        return heard + self._member_message(message, sender, now)

    def _member_message(self, message: m.Message, sender: Member, now: float) -> list[Effect]:
        match message:
            case m.Ping():
                self._membership.progress(sender.name, message.step)
                return self._membership.answer_ping(sender.name, message, self._step, self.caught_up)
            case m.Ack():
                self._membership.progress(sender.name, message.step, message.caught_up)
                if message.view_hash != self._membership.view_hash():
                    return [Send(sender.control_address, entries) for entries in self._membership.entries()]
                return []
            case m.Members(entries):
                others = [e for e in entries if e.name != self.config.name]
                unknown = tuple(e.control_address for e in others if not self._membership.knows(e.name, e.boot))
                return self._introductions.greet(unknown, now, are_seeds=False)
            case m.Leave(reason):
                return self._membership.left(sender.name, reason)
            case m.Offer() | m.Accept() | m.Reject() | m.Received() | m.Abort():
                return self._exchange_message(message, sender, now)
            case m.StateReady() | m.PieceWanted():
                if (effects := self._catching_up.told(message, sender, now)) is not None:
                    return effects
        self._count("message_unexpected")
        return []

    def _exchange_message(
        self, message: m.Offer | m.Accept | m.Reject | m.Received | m.Abort, sender: Member, now: float
    ) -> list[Effect]:
        part = self._part_for(message.exchange)
        match message:
            case m.Offer():
                if message.exchange.initiator_boot != sender.boot or not part.takes(message):
                    self._count("offer_unexpected")
                    return [Send(sender.control_address, m.Reject(message.exchange, "busy", 0))]
                return part.offered(message, sender, now)
            case m.Accept():
                return part.accepted(message, sender, now)
            case m.Reject():
                return part.rejected(message, sender, now)
            case m.Received():
                return part.received(message, sender, now)
            case m.Abort():
                return part.aborted(message, sender, now)

    def _hello_from(self, envelope: m.Envelope, hello: m.Hello, now: float) -> list[Effect]:
        name = envelope.sender
        if name == self.config.name:
            holder = self.config.control_address
        else:
            holder = self._membership.address_of_holder(name, envelope.boot)
            if holder and not self._membership.has_answered_claim(name, envelope.boot):
                self._count("hello_contested")
                return self._membership.ask(name, self._step)
        refuse = self._introductions.judge(hello, holder, name)
        if refuse is not None:
            self._count(f"hello_refused_{refuse.kind}")
            return self._introductions.turn_away(refuse, envelope, hello, holder or "", now)
        effects = self._membership.admit(name, envelope.boot, hello, now)
        return effects + self._introductions.welcome(hello, self._membership.entries())

    def _refused(self, envelope: m.Envelope, refuse: m.Refuse, now: float) -> list[Effect]:
        effects = self._introductions.refused(envelope, refuse, not self._others_living(), now)
        self._failed = any(isinstance(effect, Fail) for effect in effects)
        return effects

    def _tell_status(self, reply_to: str, now: float) -> list[Effect]:
        effects = self._introductions.say_once(reply_to, m.StatusReply(self.status(now).to_json()), now)
        if not effects:
            self._count("status_refused")
        return effects

    # After each event

    def _follow_members(self, now: float) -> list[Effect]:
        """Closes exchanges with lost members and lays the graph anew when the living changed."""
        effects: list[Effect] = []
        if self._changes_seen != self._membership.changes:
            self._changes_seen = self._membership.changes
            effects += self._drop_lost(now)
            if self._rewiring.rewire(self._membership.living()):
                effects += self._open_links()
        if self._leaving or self.config.kind == "round":
            return effects
        effects += self._pairs.begin(self.neighbours(), now)
        publish = self._others_living()
        if publish != self._publish:
            self._publish = publish
            effects.append(RunSteps(self.config.sync_every, publish))
        return effects

    def _drop_lost(self, now: float) -> list[Effect]:
        """Closes what is open with those who are gone, or not to be waited for."""
        effects: list[Effect] = []
        seen = {other.name: other for other in self._membership.others()}
        for name, before in self._last_seen.items():
            after = seen.get(name)
            gone = after is None or after.boot != before.boot or after.state in ("dead", "left")
            suspected = before.state == "alive" and after is not None and after.state == "suspect"
            if suspected or (gone and before.state in ("alive", "suspect")):
                for part in self._exchanging:
                    effects += part.peer_lost(name, gone, now)
            if after is not None and after.state == "dead" and before.state != "dead":
                self._introductions.look_for(after.control_address, now)
        self._last_seen = seen
        return effects

    def _open_links(self) -> list[Effect]:
        topology = self._rewiring.topology
        self._around = topology.all_neighbours()
        effects: list[Effect] = []
        if topology.fallback_reason:
            effects.append(Notify(notices.TopologyFailed(topology.fallback_reason)))
        for name in self._around:
            if member := self._membership.get(name):
                effects.append(Connect(member.data_address, "data"))
        neighbours = topology.neighbours(self._round_number())
        effects.append(Notify(notices.Rewired(topology.epoch, len(topology.members), neighbours)))
        return effects

    def _close_loose_links(self) -> list[Effect]:
        """Closes the data links that neither the graph nor an open exchange needs any more."""
        needed = {name for part in self._exchanging for name in part.busy_with()}.union(self._around)
        members = [member for name in needed if (member := self._membership.get(name))]
        loose = self._data_links - {member.data_address for member in members}
        return [Disconnect(address, "data") for address in sorted(loose)]

    def _note_links(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Connect) and effect.lane == "data":
                self._data_links.add(effect.address)
            elif isinstance(effect, Disconnect) and effect.lane == "data":
                self._data_links.discard(effect.address)

    def _seek_parameters(self, now: float) -> list[Effect]:
        """A newcomer takes a member's parameters before it counts in mixing."""
        if self.caught_up or self._leaving:
            return []
        is_first = self.config.name == self._membership.living()[0]
        return self._catching_up.seek(self._membership.others(), is_first, now)

    # Small things

    def _is_joining(self) -> bool:
        config = self.config
        return config.expects_seeds and not config.founder and not self._membership.others()

    def _others_living(self) -> bool:
        return len(self._membership.living()) > 1

    def _round_number(self) -> int:
        return self._rounds.number if self.config.kind == "round" else self._pairs.turn

    def _part_for(self, exchange: m.ExchangeId) -> CatchingUp | PairExchange | NeighbourhoodRounds:
        """Rounds and pairs number their exchanges from below, pulls from `PULL_NUMBERS`."""
        if exchange.number >= PULL_NUMBERS:
            return self._catching_up
        return self._rounds if self.config.kind == "round" else self._pairs

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1
