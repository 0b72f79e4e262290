"""News on their way: what this peer still has to pass on, the least told first.

Epidemic dissemination as in SWIM (Das et al. 2002, section 4.1): every piece of news rides on messages that are sent
anyway, and on gossip of its own while there is any; each peer tells it a number of times that grows with log n, so that
all members have it with high probability. A newer word about the same member takes the place of the older.
"""

from __future__ import annotations

from gossiptrain.protocol.messages import MemberEntry


class Dissemination:
    """The queue of news, in buckets by how often each was told; taking from it costs nothing but what is taken."""

    def __init__(self) -> None:
        self._buckets: list[dict[str, MemberEntry]] = [{}]
        self._told: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._told)

    def add(self, entry: MemberEntry) -> None:
        """Has this told to others; what was to be told of the same member before is dropped."""
        self.drop(entry.name)
        self._told[entry.name] = 0
        self._buckets[0][entry.name] = entry

    def drop(self, name: str) -> None:
        """Forgets the news about a member."""
        if (told := self._told.pop(name, None)) is not None:
            del self._buckets[told][name]

    def take(self, count: int, limit: int) -> tuple[MemberEntry, ...]:
        """Returns up to `count` pieces of news for one message; what was told `limit` times is dropped."""
        if not self._told:
            return ()
        taken: list[MemberEntry] = []
        moves: list[tuple[str, int]] = []
        for told, bucket in enumerate(self._buckets):
            for name, entry in bucket.items():
                if len(taken) == count:
                    break
                taken.append(entry)
                moves.append((name, told))
        for name, told in moves:
            self._move(name, told, limit)
        return tuple(taken)

    def _move(self, name: str, told: int, limit: int) -> None:
        entry = self._buckets[told].pop(name)
        if told + 1 >= limit:
            del self._told[name]
            return
        if told + 1 == len(self._buckets):
            self._buckets.append({})
        self._buckets[told + 1][name] = entry
        self._told[name] = told + 1
