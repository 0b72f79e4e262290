"""Synchronous neighbourhood rounds (D-PSGD, Lian et al. 2017), the reference that everybody compares with.

Theory of operation. At each boundary a peer begins a round: it offers its snapshot to every neighbour and waits for
theirs. An edge is committed when this peer holds the neighbour's snapshot and knows that the neighbour holds its own;
an edge is skipped when the neighbour is gone, refuses, aborts or is late at the deadline, and then by both ends, its
weight going to self (bilateral abort: the weights stay symmetric, so the mean stays). When every edge is committed or
skipped the round is mixed with Metropolis-Hastings weights w_ij = 1 / (1 + max(d_i, d_j)), each end told the other's
degree in the offer, and training goes on.

Each direction of an edge is an exchange of its own: (my boot, round) names the snapshot that I asked for. An offer
for a round that this peer has not reached waits; one for a round that is over is refused with the own round number,
and the late peer jumps ahead to it at its next boundary.

As in `exchange`, a peer that has said `Received` is in doubt: the neighbour may have committed the edge. At the deadline
it skips only the edges that it is not in doubt about, asks about the others, and waits for the answer up to once more
the time-out: training waits here, so doubt cannot last as it may between pairs. A neighbour that is suspect is skipped
at once, but where this peer is in doubt and the link to it is up: then it is asked, and has a moment to answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gossiptrain.protocol.budget import Line
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.effects import (
    CancelSnapshot,
    Connect,
    Discard,
    Effect,
    ExpectSnapshot,
    Mix,
    Notify,
    Release,
    RunSteps,
    Send,
    SendSnapshot,
)
from gossiptrain.protocol.member_table import MEMBERS_MAX, Member
from gossiptrain.protocol.messages import Abort, Accept, ExchangeId, Offer, Received, Reject, TransferKey
from gossiptrain.protocol.notices import Exchanged, ExchangeFailed, SnapshotRefused
from gossiptrain.protocol.pacer import Plan

NEVER_S = float("inf")
ASK_AGAIN_S = 2.0
# Nobody is carried further ahead than this by another's word, so that there are always numbers left to count on with.
ROUND_CLAIMED_MAX = (1 << 31) - 1


@dataclass(slots=True)
class _Edge:
    """One neighbour in the current round."""

    partner: Member
    degree: int = 0
    sent: bool = False
    holds_theirs: bool = False
    they_hold_mine: bool = False
    skipped: str = ""
    answers_by_s: float = NEVER_S

    def is_in_doubt(self) -> bool:
        return self.sent and self.holds_theirs and not self.is_settled()

    def is_committed(self) -> bool:
        return self.holds_theirs and self.they_hold_mine and not self.skipped

    def is_settled(self) -> bool:
        return bool(self.skipped) or self.is_committed()


@dataclass(slots=True)
class _Round:
    number: int
    version: int
    degree: int
    began_s: float
    deadline_s: float
    doubt_ends_s: float
    edges: dict[str, _Edge] = field(default_factory=dict)


class NeighbourhoodRounds:
    """Runs one round at each boundary; see the module's text.

    Attributes:
        number: of the present round. plan: what training does until the next boundary.
    """

    def __init__(
        self, config: ProtocolConfig, member: Callable[[str], Member | None], line: Line | None = None
    ) -> None:
        """
        Args:
            line: this peer's line out; None for one of its own.
        """
        self._config = config
        self._line = line or Line(config.limits)
        self._member = member
        self._round: _Round | None = None
        self.number = 0
        self.plan = Plan(config.pacing.steps)
        self._number_seen = 0
        self._waiting: dict[str, Offer] = {}
        self._committed: dict[int, int] = {}
        self._takes_part = config.founder
        self._is_ready = config.founder

    def caught_up(self) -> None:
        """This peer has taken a member's parameters: it will take part from its next boundary on."""
        self._is_ready = True

    def takes(self, offer: Offer) -> bool:
        """Says whether the offer is well formed for this part."""
        return offer.kind == "round" and offer.exchange.number == offer.round <= ROUND_CLAIMED_MAX

    def advance(self, now: float) -> list[Effect]:
        """A boundary opens the next round, or the latest that others are known to be in.

        One still open (the training thread did not wait for its end) is given up.
        """
        effects = self.close_all(now)
        self.number = max(self.number + 1, self._number_seen)
        return effects

    def stand_aside(self) -> list[Effect]:
        """This peer has not caught up: training goes on, and no round is counted."""
        return [self._go()]

    def begin(self, version: int | None, neighbours: tuple[str, ...], now: float) -> list[Effect]:
        """The training thread waits at a boundary with this snapshot: begin the round that `advance` opened."""
        self._takes_part = True
        trusted = [m for name in neighbours if (m := self._member(name)) and m.state == "alive"]
        trusted = self._affordable(trusted, now)
        if not trusted or version is None:
            return [*self._answer_waiting(now), self._go()]
        timeout_s = self._config.exchange.round_timeout_s
        current = _Round(self.number, version, len(trusted), now, now + timeout_s, now + 2 * timeout_s)
        self._round = current
        effects: list[Effect] = []
        for partner in trusted:
            current.edges[partner.name] = _Edge(partner)
            effects += [
                Connect(partner.data_address, "data"),
                ExpectSnapshot(self._theirs(partner), partner.control_address),
                Send(partner.control_address, Offer(self._asked(), "round", self.number, current.degree)),
            ]
        return effects + self._answer_waiting(now)

    def offered(self, offer: Offer, sender: Member, now: float) -> list[Effect]:
        """A neighbour is at this round's boundary and wants this peer's snapshot.

        A newcomer that has not yet reached a boundary lets nobody wait, but for the first round of all: peers that begin
        together need not reach it together.
        """
        begins_with_others = self._is_ready and offer.round == 1
        if not self._takes_part and not begins_with_others:
            return [Send(sender.control_address, Reject(offer.exchange, "unready", 0))]
        self._number_seen = max(self._number_seen, offer.round)
        current = self._round
        if offer.round > self.number:
            self._waiting[sender.name] = offer
            return self._passed_by(sender.name, now)
        if current is None or offer.round < self.number:
            return [Send(sender.control_address, Reject(offer.exchange, "over", self.number))]
        edge = current.edges.get(sender.name)
        if edge is None or edge.skipped or edge.partner.boot != sender.boot:
            return [Send(sender.control_address, Reject(offer.exchange, "stranger", self.number))]
        if edge.sent:
            return []
        edge.sent, edge.degree = True, offer.degree
        key = TransferKey(self._config.boot, offer.exchange)
        self._line.spend(sender.data_address, self._config.snapshot_bytes, now)
        return [SendSnapshot(sender.data_address, key, current.version)]

    def rejected(self, reject: Reject, sender: Member, now: float) -> list[Effect]:
        """A neighbour will not take part in this round."""
        if reject.round <= ROUND_CLAIMED_MAX:
            self._number_seen = max(self._number_seen, reject.round)
        edge = self._round.edges.get(sender.name) if self._round else None
        if edge is None or edge.is_in_doubt() or reject.exchange != self._asked():
            return []
        return self._skip(sender.name, reject.reason, now)

    def snapshot_received(self, key: TransferKey, now: float) -> list[Effect]:
        """A neighbour's snapshot is here, whole and finite."""
        edge = self._edge_of(key)
        if edge is None or edge.skipped:
            return [Discard(key)]
        edge.holds_theirs = True
        return [
            Send(edge.partner.control_address, Received(key.exchange, again=False)),
            *self._finish_if_settled(now),
        ]

    def snapshot_rejected(self, key: TransferKey, reason: str, now: float) -> list[Effect]:
        """A neighbour's snapshot cannot be used: both ends skip the edge."""
        edge = self._edge_of(key)
        if edge is None or edge.skipped:
            return [Discard(key)]
        name = edge.partner.name
        return [Notify(SnapshotRefused(name, reason)), *self._skip(name, reason, now, tell=True)]

    def accepted(self, accept: Accept, sender: Member, now: float) -> list[Effect]:
        """Nobody accepts a round: its offers are answered with snapshots."""
        return []

    def received(self, message: Received, sender: Member, now: float) -> list[Effect]:
        """A neighbour holds this peer's snapshot of this round, or asks whether the edge was committed."""
        number = message.exchange.number
        edge = self._round.edges.get(sender.name) if self._round and self._round.number == number else None
        if edge is not None and not edge.is_settled() and edge.partner.boot == sender.boot:
            edge.they_hold_mine = edge.sent
            return self._finish_if_settled(now)
        if not message.again:
            return []
        mine = ExchangeId(self._config.boot, number)
        committed = (edge is not None and edge.is_committed()) or self._committed.get(sender.boot) == number
        answer = Received(mine, again=False) if committed else Abort(mine, "not open here")
        return [Send(sender.control_address, answer)]

    def aborted(self, message: Abort, sender: Member, now: float) -> list[Effect]:
        """A neighbour skips the edge between us in this round."""
        waiting = self._waiting.get(sender.name)
        if waiting is not None and waiting.exchange == message.exchange:
            del self._waiting[sender.name]
        current = self._round
        if current is None or message.exchange not in (
            self._asked(),
            ExchangeId(sender.boot, current.number),
        ):
            return []
        return self._skip(sender.name, message.reason, now)

    def peer_lost(self, name: str, gone: bool, now: float) -> list[Effect]:
        """A member became suspect, dead, left, or came back as another process: training does not wait for it.

        With one exception: where it may have committed already, and no link broke, it is asked, and waited for a moment:
        the suspicion may be hearsay. No longer, for the others wait for this peer meanwhile.
        """
        edge = self._round.edges.get(name) if self._round else None
        if not gone and edge is not None and edge.is_in_doubt() and not edge.partner.link_is_down:
            edge.answers_by_s = min(edge.answers_by_s, now + ASK_AGAIN_S)
            return [self._ask_again(edge)]
        self._waiting.pop(name, None)
        return self._skip(name, "the partner is gone" if gone else "the partner is suspect", now)

    def tick(self, now: float) -> list[Effect]:
        """At the deadline, skip what is not settled, ask about what is in doubt, and go on."""
        current = self._round
        if current is None:
            return []
        effects = self._give_up_suspects(current, now)
        if self._round is not current or now < current.deadline_s:
            return effects
        for name, edge in sorted(current.edges.items()):
            if edge.is_in_doubt() and now < current.doubt_ends_s:
                effects.append(self._ask_again(edge))
            elif not edge.is_settled():
                effects += self._skip(name, "late", now, tell=True)
        current.deadline_s = min(now + ASK_AGAIN_S, current.doubt_ends_s)
        return effects

    def close_all(self, now: float) -> list[Effect]:
        """This peer leaves, or goes on without waiting: skip every open edge, which ends the round."""
        names = sorted(self._round.edges) if self._round else []
        return [effect for name in names for effect in self._skip(name, "leaving", now, tell=True)]

    def busy_with(self) -> set[str]:
        """Names of the partners of the current round."""
        return set(self._round.edges) if self._round else set()

    def is_idle(self) -> bool:
        """Says whether no round is open."""
        return self._round is None

    def next_deadline(self) -> float:
        """When `tick` has something to do in the current round."""
        if self._round is None:
            return NEVER_S
        return min(self._round.deadline_s, *(edge.answers_by_s for edge in self._round.edges.values()))

    # How it is done

    def _affordable(self, partners: list[Member], now: float) -> list[Member]:
        """Leaves those out that this peer's bandwidth and memory have no room for: the others skip these edges, too."""
        others = [(partner.name, partner.data_address) for partner in partners]
        found = self._line.affordable(
            self._config.name,
            others,
            nbytes=self._config.snapshot_bytes,
            turn=self.number,
            timeout_s=self._config.exchange.round_timeout_s,
            now=now,
        )
        return [partner for partner in partners if partner.name in found]

    def _asked(self) -> ExchangeId:
        return ExchangeId(self._config.boot, self.number)

    def _theirs(self, partner: Member) -> TransferKey:
        return TransferKey(partner.boot, self._asked())

    def _edge_of(self, key: TransferKey) -> _Edge | None:
        if self._round is None or key.exchange != self._asked():
            return None
        return next((e for e in self._round.edges.values() if e.partner.boot == key.sender_boot), None)

    def _answer_waiting(self, now: float) -> list[Effect]:
        """Answers everybody who waited for this round, also those that this peer's graph does not pair it with."""
        effects: list[Effect] = []
        for name in sorted(name for name, offer in self._waiting.items() if offer.round <= self.number):
            offer = self._waiting.pop(name)
            if sender := self._member(name):
                effects += self.offered(offer, sender, now)
        return effects

    def _passed_by(self, name: str, now: float) -> list[Effect]:
        """This neighbour is in a later round, so for it the edge of the current one is settled; but how?"""
        edge = self._round.edges.get(name) if self._round else None
        if edge is not None and edge.is_in_doubt():
            return [self._ask_again(edge)]
        return self._skip(name, "it is in a later round", now)

    def _give_up_suspects(self, current: _Round, now: float) -> list[Effect]:
        """Skips those that were suspect, asked, and have said nothing; who has spoken up since is waited for as ever."""
        effects: list[Effect] = []
        for name, edge in sorted(current.edges.items()):
            if now < edge.answers_by_s:
                continue
            edge.answers_by_s = NEVER_S
            if edge.partner.state == "suspect":
                effects += self._skip(name, "the partner is suspect", now)
        return effects

    def _ask_again(self, edge: _Edge) -> Send:
        return Send(edge.partner.control_address, Received(self._asked(), again=True))

    def _skip(self, name: str, reason: str, now: float, tell: bool = False) -> list[Effect]:
        edge = self._round.edges.get(name) if self._round else None
        if edge is None or edge.is_settled():
            return []
        edge.skipped = reason
        effects: list[Effect] = [Discard(self._theirs(edge.partner))]
        if edge.sent:
            theirs = ExchangeId(edge.partner.boot, self.number)
            key = TransferKey(self._config.boot, theirs)
            effects.append(CancelSnapshot(edge.partner.data_address, key))
        if tell:
            effects.append(Send(edge.partner.control_address, Abort(self._asked(), reason)))
        effects.append(Notify(ExchangeFailed(name, reason)))
        return effects + self._finish_if_settled(now)

    def _finish_if_settled(self, now: float) -> list[Effect]:
        current = self._round
        if current is None or not all(edge.is_settled() for edge in current.edges.values()):
            return []
        self._round = None
        mixed = {name: edge for name, edge in sorted(current.edges.items()) if not edge.skipped}
        sent = sum(edge.sent for edge in current.edges.values())
        effects: list[Effect] = []
        if mixed:
            inbox = tuple(
                (self._theirs(edge.partner), 1.0 / (1 + max(current.degree, edge.degree))) for edge in mixed.values()
            )
            for edge in mixed.values():
                self._committed.pop(edge.partner.boot, None)
                self._committed[edge.partner.boot] = current.number
            while len(self._committed) > MEMBERS_MAX:
                del self._committed[next(iter(self._committed))]
            effects += [Mix(current.version, inbox), Notify(Exchanged(tuple(mixed), now - current.began_s))]
        effects += [Release(current.version)] * sent
        return [*effects, self._go()]

    def _go(self) -> RunSteps:
        return RunSteps(self.plan.steps, publish=True, scale=self.plan.scale)
