"""News on their way: what this peer still has to pass on, the untold first.

Epidemic dissemination as in SWIM (Das et al. 2002, section 4.1): every piece of news rides on messages that are sent
anyway, and on gossip of its own while there is any; each peer tells it a number of times that grows with log n, so that
all members have it with high probability. A newer word about the same member takes the place of the older.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gossiptrain.protocol.messages import MemberEntry


@dataclass(slots=True)
class _Piece:
    """One piece of news; None when a newer word has taken its place."""

    entry: MemberEntry | None
    told: int = 0


class Dissemination:
    """The queue of news: what is new enters in front, what was told goes to the end, and out when told often enough."""

    def __init__(self) -> None:
        self._queue: deque[_Piece] = deque()
        self._pieces: dict[str, _Piece] = {}

    def __len__(self) -> int:
        return len(self._pieces)

    def has_some(self) -> bool:
        """Says whether there is anything to be told."""
        return bool(self._pieces)

    def add(self, entry: MemberEntry) -> None:
        """Has this told to others; what was to be told of the same member before is dropped."""
        self.drop(entry.name)
        piece = self._pieces[entry.name] = _Piece(entry)
        self._queue.appendleft(piece)

    def drop(self, name: str) -> None:
        """Forgets the news about a member."""
        if (piece := self._pieces.pop(name, None)) is not None:
            piece.entry = None

    def take(self, count: int, limit: int) -> tuple[MemberEntry, ...]:
        """Returns up to `count` pieces of news for one message; what was told `limit` times is dropped."""
        if not self._pieces:
            self._queue.clear()
            return ()
        taken: list[MemberEntry] = []
        told: list[_Piece] = []
        while self._queue and len(taken) < count:
            piece = self._queue.popleft()
            if piece.entry is None:
                continue
            taken.append(piece.entry)
            piece.told += 1
            if piece.told < limit:
                told.append(piece)
            else:
                del self._pieces[piece.entry.name]
        self._queue.extend(told)
        return tuple(taken)
