"""To whom this peer passes news: those it talks to anyway, so that gossip opens no links of its own.

In a group of a thousand a member drawn at random is one to whom no link is open nine times out of ten, and opening one
costs more than the news. So in groups above `LATELY_MAX` members the listeners are drawn from the neighbours and from
those that this peer has lately pinged or been pinged by. As the targets of pings are random members, these form a random
directed graph that is renewed by two edges a peer and second, on which rumours spread as fast as among random members. A
newcomer, whom few know yet, hears through its neighbours: one listener of each round is one.
"""

from __future__ import annotations

from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.member_table import Member, MemberTable

LATELY_MAX = 64


class Correspondents:
    """The members talked to lately; the oldest makes room for the newest."""

    def __init__(self, table: MemberTable, chance: Chance) -> None:
        self._table, self._chance = table, chance
        self._ring: list[str] = []
        self._place: dict[str, int] = {}
        self._next = 0

    def met(self, name: str) -> None:
        """A ping was sent to a member, or answered."""
        if name in self._place:
            return
        if len(self._ring) < LATELY_MAX:
            self._ring.append("")
        place, self._next = self._next, (self._next + 1) % LATELY_MAX
        self._place.pop(self._ring[place], None)
        self._ring[place] = name
        self._place[name] = place

    def around(self, neighbours: tuple[str, ...], others: int = 0) -> list[Member]:
        """Returns the living neighbours, and so many living members drawn at random."""
        found = {name: member for name in neighbours if (member := self._table.get(name)) and member.is_living}
        found.update({member.name: member for member in self._table.sample(others, self._chance)})
        return list(found.values())

    def listeners(self, count: int, neighbours: tuple[str, ...]) -> list[Member]:
        """Draws up to so many different living members to tell news to."""
        if self._table.living_count() <= LATELY_MAX or not self._ring:
            return self._table.sample(count, self._chance)
        picked: dict[str, None] = {}
        for attempt in range(3 * count):
            if len(picked) == count:
                break
            names = neighbours if neighbours and attempt % count == 0 else self._ring
            name = self._chance.choice(names)
            if self._table.is_living(name):
                picked[name] = None
        return [member for name in picked if (member := self._table.get(name))]
