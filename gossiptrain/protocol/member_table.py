"""The table of members: a merge that forgets the order in which news came, and what is looked up in it.

What members agree on of each other is its *verdict*, carried by entries that form a join-semilattice: of two entries of
one name the greater (incarnation, boot, state) holds, so merging is commutative, associative and idempotent. What this
peer makes of it is the *state*: a member that is alive for all may be suspect here, since the link to it broke, or busy.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.messages import STATES, MemberEntry, Pace

MEMBERS_MAX = 4096
LIVING = ("alive", "suspect")
_RANKS = {state: rank for rank, state in enumerate(STATES)}


@dataclass(slots=True, eq=False)
class Member:
    """One line of the table: one process under one name. Another process of the same name is another `Member`.

    Attributes:
        verdict: "alive", "suspect", "dead" or "left", as the members agree.
        state: the same as seen here, or "busy"; only an "alive" one is mixed with.
        step: the last it told. heard_s: when it was last heard directly. since_s: since when the verdict stands.
        busy_until_s: until then it said it may be silent.
        link_is_down: the last word of the link to it was bad. has_spoken: it was heard directly, so it knows this peer.
        pace: how fast it trains, by its own word.
        digest: 64 bits for name and boot.
    """

    name: str
    boot: int
    control_address: str
    data_address: str
    state: str = "alive"
    step: int = 0
    caught_up: bool = False
    verdict: str = "alive"
    incarnation: int = 0
    heard_s: float = 0.0
    since_s: float = 0.0
    busy_until_s: float = 0.0
    link_is_down: bool = False
    has_spoken: bool = False
    pace: Pace | None = None
    digest: int = 0

    @property
    def is_living(self) -> bool:
        """Whether the graph is built on it."""
        return self.verdict in LIVING

    def order(self) -> tuple[int, int, int]:
        """The place of its entry among those of its name; the greatest holds."""
        return (self.incarnation, self.boot, _RANKS[self.verdict])

    def entry(self, now: float, accuser: str = "", refused: bool = False) -> MemberEntry:
        """What is told of it to others."""
        return MemberEntry(
            name=self.name,
            boot=self.boot,
            control_address=self.control_address,
            data_address=self.data_address,
            incarnation=self.incarnation,
            state=self.verdict,  # type: ignore[arg-type]
            caught_up=self.caught_up,
            busy_s=max(0.0, self.busy_until_s - now) if self.verdict == "alive" else 0.0,
            accuser=accuser,
            refused=refused,
            pace=self.pace if self.is_living else None,
        )


def order_of(entry: MemberEntry) -> tuple[int, int, int]:
    """The place of an entry among those of its name; the greatest holds."""
    return (entry.incarnation, entry.boot, _RANKS[entry.state])


class MemberTable:
    """All members met or heard of, but for this peer itself; the dead and gone stay for a while as tombstones.

    Attributes:
        version: counts the changes of who lives, and as which process.
        paces_version: counts the changes of how fast they train.
    """

    def __init__(self, own: str, own_boot: int) -> None:
        self._own = own
        self._boots = {own_boot: own}
        self._members: dict[str, Member] = {}
        self._by_address: dict[str, str] = {}
        self._data_addresses: dict[str, int] = {}
        self._living: dict[str, None] = {}
        self._names: tuple[int, tuple[str, ...]] = (-1, ())
        self._paces: tuple[tuple[int, int], tuple[Pace, ...]] = ((-1, -1), ())
        self._others: tuple[int, tuple[str, ...]] = (-1, ())
        self._sorted: list[str] | None = None  # names of the living, once they were asked for
        self._hash = 0
        self.version = self.paces_version = 0
        self.get = self._members.get
        """Returns the member of a name, whatever its state; None for a stranger."""

    def __len__(self) -> int:
        return len(self._members)

    def is_living(self, name: str) -> bool:
        """Says whether a member of this name is living."""
        return name in self._living

    def at(self, address: str) -> Member | None:
        """Returns the living member with this control address."""
        return self._members.get(self._by_address.get(address, ""))

    def has_data_address(self, address: str) -> bool:
        """Says whether a living member has this data address."""
        return address in self._data_addresses

    def others(self) -> list[Member]:
        """Everybody, sorted by name."""
        return [self._members[name] for name in sorted(self._members)]

    def living_others(self) -> tuple[str, ...]:
        """Sorted names of the living, without this peer."""
        if self._others[0] != self.version:
            if self._sorted is None:
                self._sorted = sorted(self._living)
            self._others = (self.version, tuple(self._sorted))
        return self._others[1]

    def living(self) -> tuple[str, ...]:
        """Sorted names of the living, this peer among them."""
        if self._names[0] != self.version:
            names = list(self.living_others())
            insort(names, self._own)
            self._names = (self.version, tuple(names))
        return self._names[1]

    def living_count(self) -> int:
        """How many live, this peer included."""
        return len(self._living) + 1

    def hash(self, own_digest: int) -> int:
        """Hashes who lives, and as which process; equal views have equal hashes, in whatever order they came about.

        Args:
            own_digest: of this peer's own entry.
        """
        return self._hash ^ own_digest

    def paces(self) -> tuple[Pace, ...]:
        """What the living others have told of how fast they train; of those who have steps to tell of."""
        key = (self.version, self.paces_version)
        if self._paces[0] != key:
            members = (self._members[name] for name in self.living_others())
            self._paces = (key, tuple(m.pace for m in members if m.pace is not None and m.pace.step_s > 0))
        return self._paces[1]

    def gone(self) -> list[Member]:
        """The tombstones, in the order of their names' first coming."""
        return [member for member in self._members.values() if not member.is_living]

    def sample(self, count: int, chance: Chance, without: str = "") -> list[Member]:
        """Draws up to so many different living members at random."""
        names = self.living_others()
        picked: dict[str, None] = {}
        for _ in range(3 * count):
            if not names or len(picked) == count:
                break
            name = chance.choice(names)
            if name != without:
                picked[name] = None
        return [self._members[name] for name in picked]

    def put(self, member: Member) -> bool:
        """Enters a member, or another process in place of the one of its name.

        Returns:
            False when the table is full, or when the process (by its boot id) has another name already.
        """
        old = self._members.get(member.name)
        if self._boots.get(member.boot, member.name) != member.name or (old is None and not self._make_room()):
            return False
        if old is not None:
            self._uncount(old)
            del self._boots[old.boot]
        self._boots[member.boot] = member.name
        self._members[member.name] = member
        self._count(member)
        self.version += 1
        return True

    def changed(self, member: Member, verdict: str, incarnation: int, now: float) -> None:
        """Sets a member's verdict and incarnation."""
        was_living = member.is_living
        if verdict not in LIVING:
            self._uncount(member)
        if verdict != member.verdict:
            member.since_s = now
        member.verdict, member.incarnation = verdict, incarnation
        if not was_living:
            self._count(member)
        elif verdict in LIVING:
            self._by_address[member.control_address] = member.name
        self.version += was_living != member.is_living

    def forget_before(self, time_s: float) -> None:
        """Drops tombstones from before a time."""
        for member in [m for m in self._members.values() if not m.is_living and m.since_s < time_s]:
            self._remove(member)

    def _make_room(self) -> bool:
        if len(self._members) < MEMBERS_MAX:
            return True
        gone = next((member for member in self._members.values() if not member.is_living), None)
        if gone is not None:
            self._remove(gone)
        return gone is not None

    def _remove(self, member: Member) -> None:
        del self._members[member.name]
        del self._boots[member.boot]

    def _count(self, member: Member) -> None:
        if member.is_living:
            self._living[member.name] = None
            if self._sorted is not None:
                insort(self._sorted, member.name)
            self._by_address[member.control_address] = member.name
            self._data_addresses[member.data_address] = self._data_addresses.get(member.data_address, 0) + 1
            member.digest = member.digest or digest(member.name, member.boot)
            self._hash ^= member.digest

    def _uncount(self, member: Member) -> None:
        if member.is_living:
            del self._living[member.name]
            if self._sorted is not None:
                del self._sorted[bisect_left(self._sorted, member.name)]
            if self._by_address.get(member.control_address) == member.name:
                del self._by_address[member.control_address]
            self._data_addresses[member.data_address] -= 1
            if not self._data_addresses[member.data_address]:
                del self._data_addresses[member.data_address]
            self._hash ^= member.digest


@lru_cache(MEMBERS_MAX)
def digest(name: str, boot: int) -> int:
    """Returns 64 bits that stand for this process."""
    return int.from_bytes(blake2b(f"{name} {boot}".encode(), digest_size=8).digest(), "little")
