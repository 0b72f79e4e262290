"""How the data ledger's knowledge spreads: epidemic push of what is new, a rare comparison of everything, and a beginning.

Everything told merges (bits by OR, hands by version), so messages may be lost, repeated and overtaken. Pushes go to a few
random sharers at a time and only while there is something new; the comparison with one random member every few seconds
finds what pushes missed, and those who have come, or come back from beyond a partition.
"""

from __future__ import annotations

from typing import NamedTuple

from gossiptrain.protocol import messages as m
from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.chunk_shares import ChunkShares, Process
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.data_plan import DataPlan, LedgerState
from gossiptrain.protocol.effects import Effect, Send
from gossiptrain.protocol.member_table import Member, MemberTable

# Gossip periods between two pushes: a chunk lasts longer than that.
PERIODS = 2
# A piece of news rides on so many pushes of each peer, to `gossip_fanout` others each: a member misses all with e^-6.
REPEATS = 2
COMPARE_EVERY_S = 2.0
# Per member above this many, comparisons get rarer, since each tells of everybody.
COMPARE_MEMBERS = 64
BEGIN_ASKS = 3
# A beginner that nobody answers goes on as the first; that costs the others' finished chunks being trained again.
BEGIN_TIMEOUT_S = 2.0
# Of a control frame's 64 KiB; the bits of all open epochs have at most 12 KiB.
HANDS_BYTES_MAX = 32_000
HAND_BYTES, CHUNK_BYTES, COUNT_BYTES = 48, 12, 20


class Told(NamedTuple):
    """What there is to tell."""

    plan: DataPlan
    state: LedgerState
    shares: ChunkShares


class LedgerGossip:
    """Whom to tell what, and when."""

    def __init__(self, config: ProtocolConfig, table: MemberTable) -> None:
        self._table = table
        self._chance = Chance(config.seed, config.name, config.boot, "data ledger")
        self._period_s = PERIODS * config.membership.gossip_period_s
        self._fanout = config.membership.gossip_fanout
        self._progress_left = 0
        self._hands_left: dict[Process, int] = {}
        self._push_s = self._compare_s = self._begin_s = 0.0
        self._awaited: set[str] = set()
        self._has_begun = False

    # Beginning

    def begin(self, told: Told, now: float) -> list[Effect]:
        """Asks a few members what is trained already."""
        asked = self._some(self._table.living_others(), BEGIN_ASKS)
        self._awaited = {member.name for member in asked}
        self._begin_s, self._compare_s = now + BEGIN_TIMEOUT_S, now + COMPARE_EVERY_S
        return [effect for member in asked for effect in self._whole(told, member, wants_reply=True)]

    def answered(self, name: str, knows: bool) -> None:
        """A member told what it knows, or that it shares no data."""
        self._awaited.discard(name)
        self._has_begun |= knows

    def may_begin(self, now: float) -> bool:
        """Says whether somebody has told what is trained already, or nobody will."""
        self._has_begun |= not self._awaited or now >= self._begin_s
        return self._has_begun

    # News

    def note_progress(self) -> None:
        """Chunks are finished that were not."""
        self._progress_left = REPEATS

    def note_hand(self, process: Process) -> None:
        """A process's word has changed."""
        self._hands_left[process] = REPEATS

    def next_deadline(self) -> float:
        """When to push or to compare next, or to begin without an answer."""
        has_news = self._progress_left or self._hands_left
        next_s = min(self._compare_s, self._push_s) if has_news else self._compare_s
        return next_s if self._has_begun else min(next_s, self._begin_s)

    def push(self, told: Told, now: float) -> list[Effect]:
        """Tells a few others what is new, if that is due, and now and then one everything."""
        if not self._table.living_others():
            self._compare_s, self._push_s = now + COMPARE_EVERY_S, now + self._period_s
            self._progress_left, self._hands_left = 0, {}
            return []
        effects: list[Effect] = []
        if now >= self._compare_s:
            members = self._table.living_count()
            self._compare_s = now + COMPARE_EVERY_S * max(1.0, members / COMPARE_MEMBERS)
            for member in self._some(self._table.living_others(), 1):
                effects += self._whole(told, member, wants_reply=True)
        if (self._progress_left or self._hands_left) and now >= self._push_s:
            self._push_s = now + self._period_s
            effects += self.tell_some(told)
        return effects

    def tell_some(self, told: Told) -> list[Effect]:
        """Tells a few random sharers what is new."""
        news, taken = self._news(told)
        receivers = self._some(told.shares.others(), self._fanout)
        if not receivers:
            return []
        self._progress_left = max(0, self._progress_left - 1)
        for process in taken:
            self._hands_left[process] -= 1
            if self._hands_left[process] <= 0:
                del self._hands_left[process]
        return [Send(member.control_address, news) for member in receivers]

    def tell_all(self, told: Told, member: Member) -> list[Effect]:
        """Tells a member everything, in answer to its question."""
        return self._whole(told, member, wants_reply=False)

    # Messages

    def _some(self, names: list[str] | tuple[str, ...], count: int) -> list[Member]:
        left, chosen = list(names), []
        while left and len(chosen) < count:
            member = self._table.get(left.pop(self._chance.below(len(left))))
            if member is not None and member.is_living:
                chosen.append(member)
        return chosen

    def _news(self, told: Told) -> tuple[m.LedgerNews, list[Process]]:
        hands, processes, room = [], [], HANDS_BYTES_MAX
        # Those told of least often so far come first, and again later: they were put in again when they changed.
        for process in sorted(self._hands_left, key=self._hands_left.__getitem__, reverse=True):
            hand = told.shares.hands.get(process)
            room -= _bytes(hand) if hand else 0
            if room < 0 or len(hands) == m.HANDS_TOLD_MAX:
                break
            processes.append(process)
            if hand is not None:
                hands.append(hand)
        return _message(told, tuple(hands), wants_reply=False), processes

    def _whole(self, told: Told, member: Member, wants_reply: bool) -> list[Effect]:
        parts: list[list[m.ChunkHand]] = [[]]
        room = HANDS_BYTES_MAX
        for _, hand in sorted(told.shares.hands.items()):
            room -= _bytes(hand)
            if room < 0 or len(parts[-1]) == m.HANDS_TOLD_MAX:
                parts.append([])
                room = HANDS_BYTES_MAX - _bytes(hand)
            parts[-1].append(hand)
        # The answer is asked for once, with the last: it then leaves out nothing that was told.
        last = len(parts) - 1
        return [
            Send(member.control_address, _message(told, tuple(part), wants_reply and place == last))
            for place, part in enumerate(parts)
        ]


def plan_of(news: m.LedgerNews) -> DataPlan | None:
    """Returns how the sender cuts its data; None where it shares none."""
    if not news.samples or not news.chunk_samples:
        return None
    return DataPlan(news.samples, news.chunk_samples, news.order)


def state_of(news: m.LedgerNews) -> LedgerState:
    """Returns what the sender knows to be trained."""
    return LedgerState(news.floor, tuple((epoch, int.from_bytes(bits, "little")) for epoch, bits in news.done))


def _message(told: Told, hands: tuple[m.ChunkHand, ...], wants_reply: bool) -> m.LedgerNews:
    plan, state, _ = told
    nbytes = -(-plan.chunks // 8)
    done = tuple((epoch, bits.to_bytes(nbytes, "little")) for epoch, bits in state.done[: m.EPOCHS_TOLD_MAX])
    return m.LedgerNews(plan.samples, plan.chunk_samples, plan.order, state.floor, done, hands, wants_reply)


def _bytes(hand: m.ChunkHand) -> int:
    """An upper bound of what a hand takes in a message."""
    name = len(hand.name.encode())
    return HAND_BYTES + name + CHUNK_BYTES * len(hand.chunks) + COUNT_BYTES * len(hand.trained)
