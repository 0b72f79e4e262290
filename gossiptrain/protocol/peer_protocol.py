"""The peer's whole mind: one door in (`handle`), effects out. All control flow between the parts reads here.

The parts never call each other. After every event the same three questions are asked, in this order: who is lost
(close what is open with them), who is living (lay the graph anew when that has changed and rested), what is to be done
next. Last, links are opened for what is to be sent.
"""

from __future__ import annotations

from gossiptrain.protocol import data_ledger, exchanges, notices
from gossiptrain.protocol import messages as m
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.control_links import LINKING, ControlLinks
from gossiptrain.protocol.data_links import DataLinks
from gossiptrain.protocol.effects import Effect, Fail, Notify, RunSteps, Send
from gossiptrain.protocol.events import (
    AdoptionFailed,
    BlockTiming,
    BusyAnnounced,
    DeadlineReached,
    DriftMeasured,
    Event,
    FreezeFailed,
    LeaveRequested,
    LinkEvidence,
    ManifestReceived,
    MembersKnown,
    MessageReceived,
    SeedsFound,
    SnapshotReceived,
    SnapshotRejected,
    Started,
    StateFrozen,
    StepsCompleted,
    TrafficCounted,
    TugMeasured,
)
from gossiptrain.protocol.exchanges import Exchanges
from gossiptrain.protocol.handshake import run_tag
from gossiptrain.protocol.introductions import Introductions
from gossiptrain.protocol.member_table import Member
from gossiptrain.protocol.membership import Membership
from gossiptrain.protocol.pacer import Pacer
from gossiptrain.protocol.rewiring import Rewiring
from gossiptrain.protocol.view import others_ready, view_of

REASON_CHARACTERS_MAX = 1024
STRANGERS_SAY = (m.Hello, m.Refuse, m.StatusRequest)
CARRY_NEWS = (m.Gossip, m.Ping, m.Ack, m.PingRequest)


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
        self._rewiring = Rewiring(config.topology, config.name, config.seed, config.membership)
        self._links = ControlLinks(self._membership.knows_address, self._membership.introduction)
        self._data_links = DataLinks(self._membership.get, self._links)
        self._run = run_tag(config)
        self._exchanges = Exchanges(config, self._membership.get, self._count)
        self._catching_up, self._rounds = self._exchanges.catching_up, self._exchanges.rounds
        self.ledger = data_ledger.DataLedger(config, self._membership.table, self._count)
        self._step = 0
        self._is_round, self._joins = config.kind == "round", config.expects_seeds and not config.founder
        self._pacer = Pacer(config.pacing, self._is_round)
        self._wanted = (self._pacer.plan, False)
        self._leaving = False
        self._failed = False
        self._version_seen = self._membership.table.version
        self._neighbours: tuple[tuple[int, int], tuple[str, ...]] = ((-1, -1), ())
        self._traffic: dict[str, int] = {}
        self.counters: dict[str, int] = {}

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Takes one event at a time `now` (seconds of any clock that never goes back) and says what to do."""
        self._membership.note_own_stall(now)
        was_caught_up = self._catching_up.done
        effects = self._take(event, now)
        if not self._failed:
            effects += self._follow_members(now)
            if not self._catching_up.done:
                effects += self._seek_parameters(now)
        if not was_caught_up and self._catching_up.done:
            self._rounds.caught_up()
            self._membership.caught_up(now)
        if effects:
            self._see(effects)
            return self._links.mind(effects, now)
        return effects

    def _see(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, LINKING):
                self._data_links.note(effect)
            elif isinstance(effect, Notify) and isinstance(effect.notice, notices.Exchanged):
                self._pacer.exchanged(effect.notice.seconds)
            elif isinstance(effect, Fail):
                self._failed = True

    def envelope(self, message: m.Message) -> m.Envelope:
        """Returns what a `Send` of this message puts on the link."""
        return m.Envelope(self.config.name, self.config.boot, message, self._run)

    def next_deadline(self) -> float:
        """The time at which `DeadlineReached` is due, if nothing else happens first; infinity for never."""
        if self._leaving or self._failed:
            return float("inf")
        next_s = min(self._membership.next_deadline(), self._rewiring.due_s, self._exchanges.next_deadline())
        if not self._introductions.is_quiet():
            next_s = min(next_s, self._introductions.next_deadline())
        if not self._catching_up.is_quiet():
            next_s = min(next_s, self._catching_up.next_deadline(len(self._membership.table) > 0))
        if self.ledger.plan is not None:
            next_s = min(next_s, self.ledger.next_deadline())
        if self._is_joining():
            next_s = min(next_s, self._introductions.joining_ends_s())
        return next_s

    @property
    def caught_up(self) -> bool:
        """Whether this peer counts in mixing: it founded the run or has taken a member's parameters."""
        return self._catching_up.done

    def is_idle(self) -> bool:
        """Whether no exchange is open and no correction waits to be applied."""
        return self._exchanges.is_idle()

    def is_exchanging(self) -> bool:
        """Whether an exchange is open: one that is cut off now may be committed by the other end alone."""
        return bool(self._exchanges.busy_with())

    def living(self) -> tuple[str, ...]:
        """Sorted names of the members that the graph is built on, this peer among them."""
        return self._membership.living()

    def ready(self) -> int:
        """How many peers are ready and on the graph, or were, itself included: who has gone again is not waited for."""
        return self.caught_up + others_ready(self._membership, self._rewiring.topology)

    def members(self) -> list[Member]:
        """Everybody else this peer knows of, the dead and gone among them, sorted by name; not to be changed."""
        return self._membership.others()

    def neighbours(self) -> tuple[str, ...]:
        """Names of those this peer exchanges with at present."""
        topology = self._rewiring.topology
        key = (topology.epoch, 0 if topology.schedule is None else self._exchanges.round_number())
        if self._neighbours[0] != key:
            self._neighbours = (key, topology.neighbours(key[1]))
        return self._neighbours[1]

    def status(self, now: float) -> notices.Status:
        """Returns this peer's whole view."""
        return view_of(
            self.config,
            self._membership,
            self._pacer,
            speeds=self.ledger.speeds(),
            parts=self.ledger.parts(),
            topology=self._rewiring.topology,
            neighbours=set(self.neighbours()),
            counters={**self._traffic, **self.counters},
            step=self._step,
            caught_up=self.caught_up,
            now=now,
        )

    # Events

    def _take(self, event: Event, now: float) -> list[Effect]:
        if self._leaving or self._failed:
            return []
        if isinstance(event, MessageReceived):  # the most frequent first
            return self._message(event.envelope, now)
        if isinstance(event, DeadlineReached):
            return self._tick(now)
        if isinstance(event, data_ledger.EVENTS):
            return self.ledger.happened(event, now)
        match event:
            case StepsCompleted():
                return self._boundary(event, now)
            case SnapshotReceived(key):
                return self._exchanges.part_for(key.exchange).snapshot_received(key, now)
            case SnapshotRejected(key, reason):
                self._count(f"snapshot_{reason}")
                return self._exchanges.part_for(key.exchange).snapshot_rejected(key, reason, now)
            case LinkEvidence(address, lane, kind):
                # Snapshots that cannot be sent show in their exchange; only the control lane tells of life and death.
                return self._membership.link_evidence(address, kind, now) if lane == "control" else []
            case Started():
                self._introductions.start(now)
                return self._catching_up.start()
            case SeedsFound(addresses):
                unknown = tuple(a for a in addresses if not self._membership.knows_address(a))
                return self._introductions.greet(unknown, now)
            case MembersKnown(members):
                return self._membership.know(members, now)
            case BusyAnnounced(seconds):
                return self._membership.busy(min(max(seconds, 0.0), m.BUSY_S_MAX), now)
            case DriftMeasured() | TugMeasured():
                self._pacer.measured(event)
                return []
            case TrafficCounted(counters):
                self._traffic = counters
                return []
            case LeaveRequested(reason):
                return self._leave(reason, now)
            case StateFrozen() | FreezeFailed() | ManifestReceived() | AdoptionFailed():
                return self._catching_up.happened(event, now)

    def _boundary(self, event: StepsCompleted, now: float) -> list[Effect]:
        self._step, version, corrections = event.step, event.version, event.corrections
        self._membership.stepped(event.step)
        effects = self._repace(event.timing, now) if event.timing is not None else []
        effects += self._catching_up.boundary(version, corrections)
        self._exchanges.pairs.boundary(version if self.caught_up else None, corrections)
        if not self._is_round or event.step == 0:
            return effects
        if not self.caught_up:
            return effects + self._rounds.stand_aside()
        effects += self._rounds.advance(now)
        return effects + self._rounds.begin(version, self.neighbours(), now)

    def _repace(self, timing: BlockTiming, now: float) -> list[Effect]:
        """Works out how many steps come next, from this peer's own speed and what the living others have told of theirs."""
        self._pacer.block(timing)
        if not self.config.pacing.adapts:
            return []
        if told := self._pacer.tell(self._membership.table.living_count(), now):
            self._membership.paced(told, now)
        notice = self._pacer.reckon(self._membership.table.paces())
        self._rounds.plan = self._pacer.plan
        return [Notify(notice)] if notice is not None else []

    def _tick(self, now: float) -> list[Effect]:
        effects = self._membership.tick(now)
        if not self._introductions.is_quiet():
            effects += self._introductions.tick(now)
        effects += self._exchanges.tick(now)
        if self.ledger.plan is not None:
            effects += self.ledger.tick(now)
        if self._data_links.is_time_to_tidy(now):
            needed = self._exchanges.busy_with() | self._rewiring.former_neighbours(now)
            effects += self._data_links.tidy(needed, now)
        if self._is_joining():
            failure = self._introductions.give_up_joining(now)
            self._failed = bool(failure)
            effects += failure
        return effects

    def _leave(self, reason: str, now: float) -> list[Effect]:
        effects = self._exchanges.close_all(now) + self.ledger.leave()
        goodbye = m.Leave(reason[:REASON_CHARACTERS_MAX])
        effects += [Send(other.control_address, goodbye) for other in self._membership.told_of_leaving()]
        self._leaving = True
        return [*effects, Notify(notices.Left(reason, self._step))]

    # Messages

    def _message(self, envelope: m.Envelope, now: float) -> list[Effect]:
        message = envelope.message
        if envelope.boot == self.config.boot:
            return []
        if isinstance(message, STRANGERS_SAY):
            return self._stranger_message(envelope, now)
        heard = self._membership.hear(envelope, now)
        sender = self._membership.get(envelope.sender)
        if heard is None or sender is None:
            self._count("message_from_stranger")
            return []
        if isinstance(message, exchanges.MESSAGES):
            return heard + self._exchanges.message(message, sender, now)
        if isinstance(message, data_ledger.MESSAGES):
            return heard + self.ledger.told(message, sender, now)
        if isinstance(message, CARRY_NEWS) and message.updates:
            heard += self._membership.news(message.updates, sender, now)
        return heard + self._member_message(message, sender, now)

    def _stranger_message(self, envelope: m.Envelope, now: float) -> list[Effect]:
        match envelope.message:
            case m.Hello() as hello:
                return self._hello_from(envelope, hello, now)
            case m.Refuse() as refuse:
                return self._refused(envelope, refuse, now)
            case m.StatusRequest(reply_to):
                return self._tell_status(reply_to, now)
        return []

    def _member_message(self, message: m.Message, sender: Member, now: float) -> list[Effect]:
        match message:
            case m.Ping():
                return self._membership.answer_ping(sender, message, now)
            case m.Ack():
                return self._membership.answered(sender, message, now)
            case m.PingRequest():
                return self._membership.asked_to_ping(sender, message, now)
            case m.PingResult():
                return self._membership.result(message, now)
            case m.Sync():
                return self._membership.take_list(sender, message, now)
            case m.Gossip():
                return []
            case m.Leave(reason):
                return self._membership.left(sender.name, reason, now)
            case m.StateReady() | m.PieceWanted():
                if (effects := self._catching_up.told(message, sender, now)) is not None:
                    return effects
        self._count("message_unexpected")
        return []

    def _hello_from(self, envelope: m.Envelope, hello: m.Hello, now: float) -> list[Effect]:
        name = envelope.sender
        if name == self.config.name:
            holder = self.config.control_address
        else:
            member = self._membership.holder(name, envelope.boot)
            if member and not self._membership.has_answered_claim(name, envelope.boot):
                self._count("hello_contested")
                return self._membership.ask(member)
            holder = member.control_address if member else None
        refuse = self._introductions.judge(hello, holder, name)
        if refuse is not None:
            self._count(f"hello_refused_{refuse.kind}")
            return self._introductions.turn_away(refuse, envelope, hello, holder or "", now)
        effects = self._membership.admit(name, envelope.boot, hello, now)
        return effects + self._introductions.welcome(hello, self._membership.lists(now, wants_reply=False))

    def _refused(self, envelope: m.Envelope, refuse: m.Refuse, now: float) -> list[Effect]:
        effects = self._introductions.refused(envelope, refuse, self._membership.table.living_count() == 1, now)
        self._failed = any(isinstance(effect, Fail) for effect in effects)
        return effects

    def _tell_status(self, reply_to: str, now: float) -> list[Effect]:
        effects = self._introductions.say_once(reply_to, m.StatusReply(self.status(now).to_json()), now)
        if not effects:
            self._count("status_refused")
        return effects

    # After each event

    def _follow_members(self, now: float) -> list[Effect]:
        """Closes exchanges with lost members and lays the graph anew when the living have changed."""
        effects: list[Effect] = []
        table, rewiring, pairs = self._membership.table, self._rewiring, self._exchanges.pairs
        for name, gone in self._membership.take_lost():
            effects += self._exchanges.peer_lost(name, gone, now)
        if self.ledger.plan is not None:
            effects += self.ledger.members_changed(now)
        if self._version_seen != table.version:
            self._version_seen = table.version
            rewiring.view_changed(table.living_count(), now)
        if now >= rewiring.due_s and rewiring.rewire(self._membership.living(), now):
            pairs.turn = 0
            effects += self._lay_links()
        if self._leaving or self._is_round:
            return effects
        if pairs.is_free():
            effects += pairs.begin(self._partners(now), now)
        wanted = (self._pacer.plan, table.living_count() > 1)
        if wanted != self._wanted:
            self._wanted = wanted
            effects.append(RunSteps(wanted[0].steps, wanted[1], wanted[0].scale))
        return effects

    def _partners(self, now: float) -> tuple[str, ...]:
        """The neighbours, and for a moment after a re-wiring also the former ones, who may not know yet."""
        former = self._rewiring.former_neighbours(now)
        return tuple(sorted(former.union(self.neighbours()))) if former else self.neighbours()

    def _lay_links(self) -> list[Effect]:
        effects = self._data_links.rewired(self._rewiring.topology, self._exchanges.round_number())
        self._membership.neighbours = self._data_links.around
        return effects

    def _seek_parameters(self, now: float) -> list[Effect]:
        """A newcomer takes a member's parameters before it counts in mixing."""
        if self.caught_up or self._leaving or not self._catching_up.may_seek(now):
            return []
        is_first = self.config.name == self._membership.living()[0]
        return self._catching_up.seek(self._membership.others(), is_first, now)

    # Small things

    def _is_joining(self) -> bool:
        return self._joins and not len(self._membership.table)

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1
