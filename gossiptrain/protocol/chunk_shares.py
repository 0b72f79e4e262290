"""Who works on which chunk, as one peer sees it: what processes say they hold, and whose the rest is by their speeds.

Three kinds of knowledge meet here. *Hands*: each process tells which chunks it works on; the highest version of its word
holds, and a hand is void when its process is dead, has left, or was replaced. *Owners*: each chunk in nobody's hand belongs
to the peer that weighted rendezvous hashing names among those whose hands are known and who live. *Gifts*: chunks that this
peer has given to another, which has not told of them yet.

Only a chunk's owner takes it or gives it away, so peers of one view never take the same. They work on their chunks in the
order of their own lots: those first that are most surely theirs, whoever may come; those last that would go elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from gossiptrain.protocol.chunk_owners import Owners, lots
from gossiptrain.protocol.data_plan import DataPlan, EpochsDone, bits_of, each_of
from gossiptrain.protocol.member_table import MemberTable
from gossiptrain.protocol.messages import ChunkHand, ChunkId
from gossiptrain.protocol.notices import DataStatus

# A hand of somebody not known as a member yet counts so long: news of the member are on their way.
STRANGER_S = 10.0
# A gift that its receiver does not tell of by then did not arrive.
GIFT_S = 5.0
# Hands of the dead are kept, for the counts in them; no more of them than this.
HANDS_MAX = 8192

Process = tuple[str, int]


class _Gift(NamedTuple):
    receiver: Process
    until_s: float


class ChunkShares:
    """One peer's view of who works on what.

    Attributes:
        hands: the last word of each process, this one's among them.
        mine: the chunks that this peer works on now or next.
        looks: how often it was worked out anew who holds what.
        moved: chunks that changed hands in each open epoch because peers went, came or changed speed.
    """

    def __init__(self, me: ChunkHand, plan: DataPlan, done: EpochsDone, table: MemberTable) -> None:
        self._me: Process = (me.name, me.boot)
        self._plan, self._done, self._table = plan, done, table
        self.hands: dict[Process, ChunkHand] = {self._me: me}
        self.mine: dict[ChunkId, None] = {}
        self.looks = 0
        self.moved: dict[int, int] = {}
        self._heard_s: dict[Process, float] = {}
        self._gifts: dict[ChunkId, _Gift] = {}
        self._weights: dict[str, float] = {}
        self._owners: dict[int, Owners] = {}
        self._mine: dict[int, list[int]] = {}
        self._told_bits: dict[Process, dict[int, int]] = {}
        self._held: dict[int, dict[str, int]] = {}
        self._in_hands: dict[int, int] = {}
        self._is_stale = True
        self._table_seen = -1
        self._look_s = 0.0

    # What becomes known

    def take_in(self, hand: ChunkHand, now: float) -> bool:
        """Takes a process's word, if it is newer than what is known."""
        process = (hand.name, hand.boot)
        known = self.hands.get(process)
        if process == self._me or (known is not None and known.version >= hand.version):
            return False
        if known is None:
            if len(self.hands) >= HANDS_MAX:
                return False
            self._heard_s[process] = now
        self.hands[process] = hand
        bits = self._told_bits[process] = {}
        for epoch, chunk in hand.chunks:
            bits[epoch] = bits.get(epoch, 0) | 1 << chunk
        self._is_stale = True
        return True

    def set_mine(self, hand: ChunkHand) -> None:
        """Takes this process's own word."""
        self._is_stale |= hand.samples_per_s != self.hands[self._me].samples_per_s
        self.hands[self._me] = hand

    def is_new(self, process: Process) -> bool:
        """Says whether nothing was heard of a process so far."""
        return process not in self.hands

    def give(self, chunk: ChunkId, receiver: Process, now: float) -> None:
        """Notes a chunk as another's, whose word of it is on its way."""
        self._gifts[chunk] = _Gift(receiver, now + GIFT_S)
        self._look_s = min(self._look_s, now + GIFT_S)

    def look(self, now: float) -> bool:
        """Works out anew who holds what and, where who lives or how fast they are has changed, whose the rest is.

        Returns:
            Whether owners have changed.
        """
        if not self._is_stale and self._table_seen == self._table.version and now < self._look_s:
            return False
        self._is_stale, self._table_seen, self._look_s = False, self._table.version, float("inf")
        self.looks += 1
        held_before = self._held
        self._find_held(now)
        self._gifts = {chunk: gift for chunk, gift in self._gifts.items() if self._is_on_its_way(chunk, gift, now)}
        self._look_s = min([self._look_s, *(gift.until_s for gift in self._gifts.values())])
        weights = self._find_weights()
        if weights == self._weights:
            return False
        self._weights, self._mine = weights, {}
        self.moved = {epoch: count for epoch, count in self.moved.items() if epoch >= self._done.floor - 1}
        self._owners = {epoch: owners for epoch, owners in self._owners.items() if epoch >= self._done.floor}
        for epoch, owners in self._owners.items():
            owned = owners.owned
            owners.share(weights)
            moved = self._moved(epoch, owned, held_before.get(epoch, {}))
            self.moved[epoch] = self.moved.get(epoch, 0) + moved
        return True

    def forget_below(self, epoch: int, now: float) -> None:
        """Drops what is known of processes that are gone, once their counts are of older epochs only."""
        gone = [p for p in self.hands if not self.is_living(p) and not self._is_stranger(p, now)]
        for process in gone:
            if all(counted < epoch for counted, _ in self.hands[process].trained):
                del self.hands[process], self._told_bits[process]
                self._heard_s.pop(process, None)

    # What is asked

    def is_living(self, process: Process) -> bool:
        """Says whether this very process is taken for alive."""
        if process == self._me:
            return True
        member = self._table.get(process[0])
        return member is not None and member.is_living and member.boot == process[1]

    def others(self) -> list[str]:
        """Sorted names of the living that share the data, without this peer."""
        return [name for name in sorted(self._weights) if name != self._me[0]]

    def share(self) -> float:
        """This peer's part of an epoch, in (0, 1]."""
        return self._weights[self._me[0]] / sum(self._weights.values())

    def holder(self, chunk: ChunkId) -> str:
        """The name of whoever holds a chunk, or ""."""
        if not self._in_hands.get(chunk.epoch, 0) >> chunk.chunk & 1:
            return ""
        return next(name for name, bits in self._held[chunk.epoch].items() if bits >> chunk.chunk & 1)

    def own_next(self, epoch: int) -> int | None:
        """Returns the chunk of an epoch that this peer is to begin next, or None when none is left."""
        mine, missing, free = self._own_order(epoch), self._done.missing(epoch), self._free(epoch)
        while mine and not missing >> mine[0] & 1:
            del mine[0]
        return next((chunk for chunk in mine if free >> chunk & 1), None)

    def to_give(self, epoch: int, count: int) -> list[int]:
        """Returns up to `count` chunks, and half of them at most, that this peer would come to last in an epoch."""
        free = self._free(epoch)
        mine = [chunk for chunk in self._own_order(epoch) if free >> chunk & 1]
        return mine[len(mine) - min(count, -(-len(mine) // 2)) :]

    def left_with(self, epoch: int) -> Mapping[str, int]:
        """Returns how many chunks of an epoch nobody has begun, by the name of the other that owns them."""
        free = self._free(epoch)
        if not free:
            return {}
        owned = self._owned_in(epoch).items()
        return {name: count for name, bits in owned if name != self._me[0] and (count := (bits & free).bit_count())}

    def unfinished(self, epoch: int) -> Iterator[int]:
        """Yields the chunks of an epoch that others hold or own and have not finished, in the order of this peer's lots."""
        lot = lots(self._plan.order, epoch, self._me[0], self._plan.chunks)
        missing = sorted(each_of(self._done.missing(epoch)), key=lot.__getitem__)
        yield from (chunk for chunk in missing if ChunkId(epoch, chunk) not in self.mine)

    def weight(self, name: str) -> float:
        """A sharing peer's speed; where it is not known, the mean of the others'."""
        return self._weights.get(name, 0.0)

    def trained(self, epoch: int) -> int:
        """Samples of an epoch's finished chunks, as all processes count them together."""
        return sum(count for hand in self.hands.values() for counted, count in hand.trained if counted == epoch)

    def parts(self, epoch: int) -> dict[str, DataStatus]:
        """Returns whose an epoch is, by name: of all who have trained of it or have chunks left."""
        missing, free = self._done.missing(epoch), self._free(epoch)
        left = {name: bits & free for name, bits in self._owned_in(epoch).items()}
        held = {**self._held.get(epoch, {}), self._me[0]: bits_of(c for of, c in self.mine if of == epoch)}
        given = ((gift.receiver[0], 1 << c.chunk) for c, gift in self._gifts.items() if c.epoch == epoch)
        for name, bits in (*held.items(), *given):
            left[name] = left.get(name, 0) | bits & missing
        trained: dict[str, int] = {}
        for (name, _), hand in self.hands.items():
            trained[name] = trained.get(name, 0) + sum(count for of, count in hand.trained if of == epoch)
        parts, plan = {}, self._plan
        for name in sorted(left.keys() | {name for name, count in trained.items() if count}):
            count, bits = trained.get(name, 0), left.get(name, 0)
            share = round((count + plan.samples_in(bits)) / plan.samples, 4)
            parts[name] = DataStatus(epoch, share, count, bits.bit_count())
        return parts

    def precedes(self, chunk: ChunkId, other: str) -> bool:
        """Says whether this peer comes before another for a chunk that both hold."""
        score = [
            lots(self._plan.order, chunk.epoch, name, self._plan.chunks)[chunk.chunk] / (self.weight(name) or 1.0)
            for name in (self._me[0], other)
        ]
        return (score[0], self._me[0]) < (score[1], other)

    # How it is worked out

    def _is_on_its_way(self, chunk: ChunkId, gift: _Gift, now: float) -> bool:
        is_open = now < gift.until_s and not self._done.has(chunk) and self.is_living(gift.receiver)
        held = self._held.get(chunk.epoch, {}).get(gift.receiver[0], 0)
        return is_open and not held >> chunk.chunk & 1

    def _find_held(self, now: float) -> None:
        self._held = {}
        for process in sorted(self._told_bits):
            bits = self._told_bits[process]
            if bits and (self.is_living(process) or self._is_stranger(process, now)):
                for epoch, chunks in bits.items():
                    if missing := chunks & self._done.missing(epoch):
                        held = self._held.setdefault(epoch, {})
                        held[process[0]] = held.get(process[0], 0) | missing
        self._in_hands = {epoch: _union(held) for epoch, held in self._held.items()}

    def _is_stranger(self, process: Process, now: float) -> bool:
        until_s = self._heard_s.get(process, 0.0) + STRANGER_S
        if self._table.get(process[0]) is not None or now >= until_s:
            return False
        self._look_s = min(self._look_s, until_s)
        return True

    def _free(self, epoch: int) -> int:
        """The unfinished chunks of an epoch that nobody holds."""
        free = self._done.missing(epoch) & ~self._in_hands.get(epoch, 0)
        taken = 0
        for chunks in (self.mine, self._gifts):
            for of, chunk in chunks:
                if of == epoch:
                    taken |= 1 << chunk
        return free & ~taken

    def speeds(self) -> dict[str, float]:
        """Samples a second of the living, as they told them; 0 where one has not measured its own yet."""
        return {p[0]: hand.samples_per_s for p, hand in self.hands.items() if self.is_living(p)}

    def _find_weights(self) -> dict[str, float]:
        speeds = self.speeds()
        known = [speed for speed in speeds.values() if speed > 0]
        mean = sum(known) / len(known) if known else 1.0
        return {name: speeds[name] or mean for name in sorted(speeds)}

    def _owned_in(self, epoch: int) -> Mapping[str, int]:
        owners = self._owners.get(epoch)
        if owners is None:
            owners = self._owners[epoch] = Owners(self._plan.order, epoch, self._plan.chunks)
            owners.share(self._weights)
        return owners.owned

    def _own_order(self, epoch: int) -> list[int]:
        mine = self._mine.get(epoch)
        if mine is None:
            self._mine = {e: order for e, order in self._mine.items() if e >= self._done.floor}
            lot = lots(self._plan.order, epoch, self._me[0], self._plan.chunks)
            own = self._owned_in(epoch)[self._me[0]] & self._done.missing(epoch)
            mine = self._mine[epoch] = sorted(each_of(own), key=lot.__getitem__)
        return mine

    def _moved(self, epoch: int, owned: Mapping[str, int], held: Mapping[str, int]) -> int:
        """Counts the unfinished chunks that are another's now, owned or held, than they were; this peer's hand stays."""
        now_owned, now_held = self._owned_in(epoch), self._held.get(epoch, {})
        was_in_hands, is_in_hands = _union(held), _union(now_held)
        of_interest = self._done.missing(epoch) & ~bits_of(c for of, c in self.mine if of == epoch)
        moved = 0
        for name in owned.keys() | held.keys():
            was = owned.get(name, 0) & ~was_in_hands | held.get(name, 0)
            is_now = now_owned.get(name, 0) & ~is_in_hands | now_held.get(name, 0)
            moved |= was & ~is_now & of_interest
        return moved.bit_count()


def _union(sets: Mapping[str, int]) -> int:
    bits = 0
    for more in sets.values():
        bits |= more
    return bits
