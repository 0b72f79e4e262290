"""The data ledger: an epoch shared by speed, with nobody who hands it out.

Theory of operation. An epoch is cut in chunks. Whose a chunk is follows from who lives and how fast they are
(`chunk_owners`), what is finished is a bitmap that grows (`data_plan.EpochsDone`), and each process tells which chunks it
works on (`chunk_shares`). All three spread by gossip, merge in any order, and bear repetition. Training has a few chunks
ahead in hand, so it never waits: the ledger fills the hand up,

1. with this peer's own chunks of the oldest epoch that is not complete;
2. where it has none left there, with chunks that others, who still have some, give away when asked;
3. with chunks of the next epoch, while it waits for an answer or nobody has any.

When a peer is lost, its chunks are its survivors' from the next look on, those in its hand too, and old epochs come first.
So every chunk is trained at least once while anybody survives. It is trained twice where its first trainer died before the
others heard that it was done, or where views differ: a partition, a hang that was taken for death, a moment after somebody
came. Who hears that another holds a chunk that it has not begun itself lets one of the two have it.

So many epochs may be open at a time as fit a window; who would need one more takes unfinished chunks of the oldest instead,
whoever holds them: a peer that hangs, or that holds chunks without training, delays an epoch but never the run.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, isfinite

import msgspec

from gossiptrain.protocol import messages as m
from gossiptrain.protocol.chunk_shares import ChunkShares
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.data_plan import DataPlan, EpochsDone, LedgerState
from gossiptrain.protocol.effects import Effect, HandChunks, Notify, RefuseSharing, Send, WithdrawChunks
from gossiptrain.protocol.epoch_ends import NEVER_S, EpochEnds
from gossiptrain.protocol.events import ChunksTaken, ChunksTrained, SharingBegun
from gossiptrain.protocol.ledger_gossip import LedgerGossip, Told, plan_of, state_of
from gossiptrain.protocol.member_table import Member, MemberTable
from gossiptrain.protocol.messages import ChunkId
from gossiptrain.protocol.notices import DataStatus, EpochFinished, SharingDiffers

# Ahead of training: enough for so long, since a refill takes the network thread milliseconds, and a gift a round trip.
AHEAD_S = 1.0
AHEAD_CHUNKS_MIN, AHEAD_CHUNKS_MAX = 2, 32
ASK_TIMEOUT_S = 1.0
# A speed is told anew when it has changed by more than this: each time some chunks change hands.
SPEED_CHANGE = 0.15
SPEED_MAX = 1e12
# A part without a plan knows nothing to tell.
NOBODY = m.LedgerNews(0, 0, 0, 0, (), (), False)

MESSAGES = (m.LedgerNews, m.ChunksWanted, m.ChunksGiven)
EVENTS = (SharingBegun, ChunksTaken, ChunksTrained)


class DataLedger:
    """One peer's part in sharing the data; does nothing before `SharingBegun`.

    Attributes:
        plan: how the data are cut, None while none are shared.
    """

    def __init__(self, config: ProtocolConfig, table: MemberTable, count: Callable[[str], None]) -> None:
        """
        Args:
            table: who lives, and as which process; only read.
            count: counts what happens, by name.
        """
        self._config, self._table, self._count = config, table, count
        self._me = m.ChunkHand(config.name, config.boot, 0, 0.0, (), ())
        self._gossip = LedgerGossip(config, table)
        self.plan: DataPlan | None = None
        self._done: EpochsDone
        self._shares: ChunkShares
        self._is_filling, self._is_hand_told = False, True
        self._ahead: dict[ChunkId, None] = {}
        self._gifts: list[ChunkId] = []
        self._tally: dict[int, int] = {}
        self._given: dict[int, int] = {}
        self._asked: tuple[str, int, float] | None = None
        self._have_none: dict[int, set[str]] = {}
        self._ends = EpochEnds()
        self._told_differs: dict[str, None] = {}
        self._table_seen = -1
        self._has_left = False
        self._merges, self._given_way = 0, (-1, -1)

    # The doors

    def happened(self, event: SharingBegun | ChunksTaken | ChunksTrained, now: float) -> list[Effect]:
        """Takes what the training thread tells."""
        match event:
            case SharingBegun(plan, begins):
                return self._begin(plan, begins, now)
            case ChunksTaken(chunks):
                self._take(chunks)
            case ChunksTrained(chunks, samples_per_s):
                self._finish(chunks, samples_per_s, now)
        if self.plan is None:
            return []
        effects = self._follow(now)
        if not self._is_hand_told:
            self._tell_hand()
        return effects

    def told(self, message: m.Message, sender: Member, now: float) -> list[Effect]:
        """Takes one of `MESSAGES` from a member."""
        if self.plan is None:
            wants_word = isinstance(message, m.LedgerNews) and message.wants_reply
            return [Send(sender.control_address, NOBODY)] if wants_word else []
        match message:
            case m.LedgerNews():
                return self._news(message, sender, now)
            case m.ChunksWanted(epoch, count):
                return self._give(epoch, count, sender, now)
            case m.ChunksGiven(epoch, chunks):
                self._receive(epoch, chunks, sender, now)
                return self._follow(now)
        return []

    def speeds(self) -> dict[str, float]:
        """Samples a second of the living who share the data, by name."""
        return self._shares.speeds() if self.plan is not None else {}

    def parts(self) -> dict[str, DataStatus]:
        """Whose the oldest epoch that is not complete is, by name: of all who trained of it, the dead among them."""
        return self._shares.parts(self._done.floor) if self.plan is not None else {}

    def tick(self, now: float) -> list[Effect]:
        """Does what is due: fills the hand, spreads news, tells of finished epochs."""
        if self.plan is None or now < self.next_deadline():
            return []
        return self._follow(now) + self._gossip.push(self._told_of(), now) + self._tell_finished(now)

    def members_changed(self, now: float) -> list[Effect]:
        """Somebody came, went or was replaced: what they held is looked at anew."""
        if self.plan is None or self._has_left or self._table_seen == self._table.version:
            return []
        self._have_none.clear()
        return self._follow(now)

    def leave(self) -> list[Effect]:
        """Tells some others what was done last, and the watchers of epochs whose counts may still lack somebody's.

        What is in this peer's hand is the others' as soon as it has gone.
        """
        if self.plan is None:
            return []
        self._has_left = True
        self._ahead.clear()
        self._shares.mine.clear()
        self._tell_hand()
        return self._gossip.tell_some(self._told_of()) + self._tell_finished(NEVER_S)

    def next_deadline(self) -> float:
        """The next time at which `tick` has something to do."""
        if self.plan is None:
            return NEVER_S
        asked_s = self._asked[2] if self._asked else NEVER_S
        return min(self._gossip.next_deadline(), asked_s, self._ends.next_deadline())

    def state(self) -> LedgerState:
        """What is trained, as far as this peer knows."""
        return self._done.state() if self.plan is not None else LedgerState()

    # Beginning

    def _begin(self, plan: DataPlan, begins: LedgerState | None, now: float) -> list[Effect]:
        self.plan = plan
        self._done = EpochsDone(plan, begins)
        self._shares = ChunkShares(self._me, plan, self._done, self._table)
        effects = self._gossip.begin(self._told_of(), now)
        return effects + self._follow(now)

    def _differs(self, plan: DataPlan, sender: Member) -> list[Effect]:
        """Others share other data. Who has just come is wrong; who shares already says so and goes on."""
        assert self.plan is not None
        mine, theirs = self.plan.describe(), plan.describe()
        effects: list[Effect] = []
        if sender.name not in self._told_differs:
            self._told_differs[sender.name] = None
            self._count("sharing_differs")
            effects.append(Notify(SharingDiffers(sender.name, mine, theirs)))
        if not self._is_filling:
            text = f"dataset, chunk_size, seed or shuffle differ from those of {sender.name}: {mine}; there {theirs}"
            effects.append(RefuseSharing(text))
            self.plan = None
        return effects

    # What others tell

    def _news(self, news: m.LedgerNews, sender: Member, now: float) -> list[Effect]:
        assert self.plan is not None
        plan, told = plan_of(news), self._told_of()
        if plan is not None and plan != self.plan:
            effects = self._differs(plan, sender)
            return effects + (self._gossip.tell_all(told, sender) if news.wants_reply else [])
        self._gossip.answered(sender.name, knows=plan is not None)
        if plan is not None:
            floor = self._done.floor
            changed = self._done.merge(state_of(news))
            if changed:
                self._merges += 1
                self._gossip.note_progress()
                self._note_floor(floor, now)
            for hand in news.hands:
                self._hear_hand(hand, now)
        effects = self._follow(now)
        if news.wants_reply:
            effects += self._gossip.tell_all(self._told_of(), sender)
        return effects

    def _hear_hand(self, hand: m.ChunkHand, now: float) -> None:
        if (hand.name, hand.boot) == (self._me.name, self._me.boot) or not isfinite(hand.samples_per_s):
            return
        if self._shares.take_in(hand, now):
            self._gossip.note_hand((hand.name, hand.boot))

    def _give(self, epoch: int, count: int, sender: Member, now: float) -> list[Effect]:
        """Another has nothing left to do in an epoch: gives it what this peer would come to last."""
        process = (sender.name, sender.boot)
        chunks: list[int] = []
        if self._is_filling and epoch in self._done.open_epochs() and not self._shares.is_new(process):
            chunks = self._shares.to_give(epoch, count)
        for chunk in chunks:
            self._shares.give(ChunkId(epoch, chunk), process, now)
        self._given[epoch] = self._given.get(epoch, 0) + len(chunks)
        return [Send(sender.control_address, m.ChunksGiven(epoch, tuple(chunks)))]

    def _receive(self, epoch: int, chunks: tuple[int, ...], sender: Member, now: float) -> None:
        if self._asked is None or self._asked[:2] != (sender.name, epoch):
            return
        self._asked = None
        if not chunks:
            self._have_none.setdefault(epoch, set()).add(sender.name)
        assert self.plan is not None
        given = {ChunkId(epoch, chunk) for chunk in chunks if chunk < self.plan.chunks}
        self._gifts = [c for c in sorted(given) if not self._done.has(c) and c not in self._shares.mine]

    # What training tells

    def _take(self, chunks: tuple[ChunkId, ...]) -> None:
        if self.plan is None:
            return
        for chunk in chunks:
            self._ahead.pop(chunk, None)
            self._shares.mine[chunk] = None

    def _finish(self, chunks: tuple[ChunkId, ...], samples_per_s: float, now: float) -> None:
        if self.plan is None:
            return
        before = self._me.samples_per_s
        if 0 < samples_per_s < SPEED_MAX and abs(samples_per_s - before) > SPEED_CHANGE * before:
            self._me = msgspec.structs.replace(self._me, samples_per_s=samples_per_s)
            self._tell_hand()
        if not chunks:
            return
        floor = self._done.floor
        for chunk in chunks:
            self._ahead.pop(chunk, None)
            self._shares.mine.pop(chunk, None)
            self._tally[chunk.epoch] = self._tally.get(chunk.epoch, 0) + self.plan.size(chunk.chunk)
            if self._done.has(chunk):
                self._count("chunk_trained_twice")
        if self._done.add(chunks):
            self._gossip.note_progress()
        self._is_hand_told = False
        self._note_floor(floor, now)

    # The hand

    def _follow(self, now: float) -> list[Effect]:
        """After anything that happened: looks at who holds what, gives way, and fills the hand."""
        assert self.plan is not None
        self._table_seen = self._table.version
        if self._shares.look(now):
            self._have_none.clear()
        if self._asked is not None and now >= self._asked[2]:
            self._have_none.setdefault(self._asked[1], set()).add(self._asked[0])
            self._asked = None
        if not self._is_filling:
            self._is_filling = self._gossip.may_begin(now)
            if not self._is_filling:
                return []
        return self._give_way() + self._fill(now)

    def _give_way(self) -> list[Effect]:
        """Withdraws what others have done, or hold with the better right, from what is not begun."""
        known = (self._shares.looks, self._merges)
        if known == self._given_way:  # nothing new was heard
            return []
        self._given_way = known
        lost = [c for c in self._ahead if self._done.has(c) or self._yields(c)]
        if not lost:
            return []
        for chunk in lost:
            del self._ahead[chunk], self._shares.mine[chunk]
        self._tell_hand()
        return [WithdrawChunks(tuple(lost))]

    def _yields(self, chunk: ChunkId) -> bool:
        holder = self._shares.holder(chunk)
        return bool(holder) and not self._shares.precedes(chunk, holder)

    def _fill(self, now: float) -> list[Effect]:
        """Fills the hand up, with what was given first."""
        effects: list[Effect] = []
        new, self._gifts = self._gifts, []
        if new:
            self._given_way = (-1, -1)
        room = self._wanted_ahead() - len(self._ahead)
        self._hold(new)
        while len(new) < room and (chunk := self._next(room - len(new), effects, now)) is not None:
            self._hold([chunk])
            new.append(chunk)
        if new:
            self._tell_hand()
            effects.append(HandChunks(tuple(new), self._shares.share()))
        return effects

    def _hold(self, chunks: list[ChunkId]) -> None:
        for chunk in chunks:
            self._ahead[chunk] = self._shares.mine[chunk] = None

    def _wanted_ahead(self) -> int:
        assert self.plan is not None
        wanted = ceil(AHEAD_S * self._me.samples_per_s / self.plan.chunk_samples)
        return max(AHEAD_CHUNKS_MIN, min(AHEAD_CHUNKS_MAX, wanted))

    def _next(self, room: int, effects: list[Effect], now: float) -> ChunkId | None:
        """Returns what to hand next; asks for a gift on the way where this peer has none left."""
        for epoch in self._done.open_epochs():
            if not self._done.missing(epoch):
                continue
            own = self._shares.own_next(epoch)
            if own is not None:
                return ChunkId(epoch, own)
            if self._ask(epoch, room, effects, now) and self._ahead:
                return None
        return self._oldest_unfinished()

    def _ask(self, epoch: int, room: int, effects: list[Effect], now: float) -> bool:
        """Asks whoever needs longest for the rest of an epoch; says whether an answer is awaited."""
        if self._asked is not None:
            return self._asked[1] == epoch
        none = self._have_none.get(epoch, set())
        left = {
            name: n / self._shares.weight(name) for name, n in self._shares.left_with(epoch).items() if name not in none
        }
        if not left:
            return False
        name = max(sorted(left), key=left.__getitem__)
        member = self._table.get(name)
        if member is None:
            return False
        self._asked = (name, epoch, now + ASK_TIMEOUT_S)
        effects.append(Send(member.control_address, m.ChunksWanted(epoch, min(room, m.HAND_CHUNKS_MAX))))
        return True

    def _oldest_unfinished(self) -> ChunkId | None:
        """The window is used up: others hang with what they hold, so it is trained here, too."""
        epoch = self._done.floor
        for chunk in self._shares.unfinished(epoch):
            self._count("chunk_taken_over")
            self._given_way = (-1, -1)
            return ChunkId(epoch, chunk)
        return None

    def _tell_hand(self) -> None:
        """What this process works on has changed, or what it has done."""
        begun = [chunk for chunk in self._shares.mine if chunk not in self._ahead]
        chunks = (*begun, *self._ahead)[: m.HAND_CHUNKS_MAX]
        trained = tuple(sorted(self._tally.items()))[-m.COUNTS_TOLD_MAX :]
        self._is_hand_told = True
        self._me = msgspec.structs.replace(self._me, version=self._me.version + 1, chunks=chunks, trained=trained)
        self._shares.set_mine(self._me)
        self._gossip.note_hand((self._me.name, self._me.boot))

    def _told_of(self) -> Told:
        assert self.plan is not None
        return Told(self.plan, self._done.state(), self._shares)

    # Epochs that are over

    def _note_floor(self, before: int, now: float) -> None:
        self._ends.complete(range(max(before, self._done.floor - m.COUNTS_TOLD_MAX), self._done.floor), now)

    def _tell_finished(self, now: float) -> list[Effect]:
        assert self.plan is not None
        effects: list[Effect] = []
        for epoch in self._ends.take_old(now):
            self._tally.pop(epoch, None)
        for epoch in self._ends.take_due(now):
            samples, trained = self.plan.samples, self._shares.trained(epoch)
            moved, given = self._shares.moved.pop(epoch, 0), self._given.pop(epoch, 0)
            own = self._tally.get(epoch, 0)
            effects.append(Notify(EpochFinished(epoch, samples, max(0, trained - samples), own, moved, given)))
            self._shares.forget_below(epoch, now)
        if effects:
            self._have_none = {e: names for e, names in self._have_none.items() if e >= self._done.floor}
        return effects
