"""What goes wrong, and when: a `FaultSchedule` is written by chaining, read from TOML, or drawn from a seed.

faults = FaultSchedule().crash(peer=3, at_s=60).partition([range(16)], at_s=120, for_s=30)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gossiptrain.errors import ConfigurationError
from sim.tables import call, nearest

Peer = int | str


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `peers` are numbers as of the start ("peer-3" is 3); joiners are numbered on in the order of their time.

    Attributes:
        kind: a key of `KINDS`.
        at_s: when it begins, in seconds of the run.
        for_s: how long it lasts; 0 for what happens at once and stays.
        peers: whom it strikes.
        groups: the sides of a partition; peers in no group form one more.
        options: the rest, by name.
    """

    kind: str
    at_s: float
    for_s: float = 0.0
    peers: tuple[int, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def end_s(self) -> float:
        """When it is over."""
        return self.at_s + self.for_s


# Keys of each kind in TOML besides kind and at_s, as `FaultSchedule`'s method takes them: required, then optional.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "crash": (("peer",), ("silent",)),
    "restart": (("peer",), ("boot",)),
    "crash_loop": (("peer",), ("times", "every_s")),
    "stall": (("peer", "for_s"), ()),
    "pause": (("peer", "for_s"), ()),
    "leave": (("peer",), ()),
    "join": ((), ("count",)),
    "partition": (("groups", "for_s"), ()),
    "one_way": (("source", "target", "for_s"), ()),
    "slow_link": (("peer", "for_s"), ("mbps_factor", "extra_latency_s")),
    "flapping": (("peer", "for_s"), ("period_s", "up_share")),
    "swizzle": (("peers", "for_s"), ("seed",)),
    "hostile": (("peer", "for_s"), ("payload",)),
    "fail_slow": (("peer", "for_s"), ("factor",)),
    "starve": (("peer", "for_s"), ("share", "period_s")),
    "flip_flop": (("peer", "for_s"), ("period_s", "direction")),
    "reset": (("peer",), ()),
    "address_change": (("peer",), ()),
    "garble": (("peer", "for_s"), ("how", "share")),
    "replay": (("peer", "for_s"), ("share", "later_s")),
    "slander": (("peer", "for_s"), ()),
    "impostor": (("peer",), ()),
    "stranger": ((), ("differs",)),
    "rolling_restart": (("peers",), ("every_s", "down_s", "graceful")),
}
PAYLOADS = ("nan", "size", "checksum")
GARBLINGS = ("corrupt", "truncate", "oversize")
STRANGERS = ("run", "model", "mixer", "version")


class FaultSchedule:
    """Faults in order of time. Each method adds one and returns the schedule, which is otherwise not changed."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.faults: tuple[Fault, ...] = tuple(sorted(faults, key=lambda fault: fault.at_s))

    # What can go wrong

    def crash(self, peer: Peer, at_s: float, silent: bool = False) -> FaultSchedule:
        """The process dies (kill -9); with `silent` its host goes dark too, so that nothing tells of it."""
        return self._add("crash", at_s, peers=(peer,), silent=silent)

    def restart(self, peer: Peer, at_s: float, boot: str = "new") -> FaultSchedule:
        """A peer that crashed or left begins again under its name, from scratch.

        Args:
            boot: "new" draws another boot id, as every process does; "same" keeps the old one, as a virtual machine set
                back to a snapshot might: the protocol does not promise anything for that.
        """
        if boot not in ("new", "same"):
            raise ConfigurationError(f'boot={boot!r}: must be "new" or "same"')
        return self._add("restart", at_s, peers=(peer,), boot=boot)

    def crash_loop(self, peer: Peer, at_s: float, times: int = 5, every_s: float = 3.0) -> FaultSchedule:
        """The process dies and is started again half a period later, so many times."""
        if times < 1 or not every_s > 0:
            raise ConfigurationError(f"times={times!r}, every_s={every_s!r}: must be at least 1 and positive")
        return self._add("crash_loop", at_s, times * every_s, peers=(peer,), times=times, every_s=every_s)

    def stall(self, peer: Peer, at_s: float, for_s: float) -> FaultSchedule:
        """The whole process stands still (SIGSTOP, a C call that holds the interpreter); its kernel keeps its links."""
        return self._add("stall", at_s, for_s, peers=(peer,))

    def pause(self, peer: Peer, at_s: float, for_s: float) -> FaultSchedule:
        """Training stands still (checkpoint, compilation) while the network thread goes on."""
        return self._add("pause", at_s, for_s, peers=(peer,))

    def leave(self, peer: Peer, at_s: float) -> FaultSchedule:
        """A peer says goodbye and ends."""
        return self._add("leave", at_s, peers=(peer,))

    def join(self, at_s: float, count: int = 1) -> FaultSchedule:
        """New peers come, under new names on new hosts."""
        if count < 1:
            raise ConfigurationError(f"count={count!r}: must be at least 1")
        return self._add("join", at_s, count=count)

    def partition(self, groups: Iterable[Iterable[Peer]], at_s: float, for_s: float) -> FaultSchedule:
        """Nothing passes between the groups; peers named in none form one more group."""
        sides = tuple(tuple(_number(peer) for peer in group) for group in groups)
        named = [peer for side in sides for peer in side]
        if not sides or not all(sides) or len(named) != len(set(named)):
            raise ConfigurationError(f"groups={sides!r}: must be one or more groups without a common peer, none empty")
        return self._add("partition", at_s, for_s, groups=sides)

    def one_way(self, source: Peer, target: Peer, at_s: float, for_s: float) -> FaultSchedule:
        """Nothing passes from source to target, while the other direction is open."""
        return self._add("one_way", at_s, for_s, peers=(source, target))

    def slow_link(
        self, peer: Peer, at_s: float, for_s: float, mbps_factor: float = 0.1, extra_latency_s: float = 0.0
    ) -> FaultSchedule:
        """The peer's uplink and downlink get slower by the factor, and every message takes longer."""
        if not 0 < mbps_factor <= 1 or extra_latency_s < 0:
            raise ConfigurationError(
                f"mbps_factor={mbps_factor!r}, extra_latency_s={extra_latency_s!r}: must be in (0, 1] and not negative"
            )
        options = {"mbps_factor": mbps_factor, "extra_latency_s": extra_latency_s}
        return self._add("slow_link", at_s, for_s, peers=(peer,), **options)

    def flapping(
        self, peer: Peer, at_s: float, for_s: float, period_s: float = 2.0, up_share: float = 0.5
    ) -> FaultSchedule:
        """The peer's link goes down and comes back, once a period."""
        if not period_s > 0 or not 0 < up_share < 1:
            raise ConfigurationError(f"period_s={period_s!r}, up_share={up_share!r}: must be positive and in (0, 1)")
        return self._add("flapping", at_s, for_s, peers=(peer,), period_s=period_s, up_share=up_share)

    def swizzle(self, peers: Iterable[Peer], at_s: float, for_s: float, seed: int = 0) -> FaultSchedule:
        """A random part of these peers is cut off one by one and released in another random order."""
        return self._add("swizzle", at_s, for_s, peers=tuple(peers), seed=seed)

    def hostile(self, peer: Peer, at_s: float, for_s: float, payload: str = "nan") -> FaultSchedule:
        """The peer's snapshots are not finite ("nan"), of another length ("size") or damaged on their way ("checksum")."""
        _one_of("payload", payload, PAYLOADS)
        return self._add("hostile", at_s, for_s, peers=(peer,), payload=payload)

    def fail_slow(self, peer: Peer, at_s: float, for_s: float, factor: float = 5.0) -> FaultSchedule:
        """The device slows down: a step takes so many times longer; nothing else is wrong."""
        if not factor >= 1:
            raise ConfigurationError(f"factor={factor!r}: must be at least 1")
        return self._add("fail_slow", at_s, for_s, peers=(peer,), factor=factor)

    def starve(self, peer: Peer, at_s: float, for_s: float, share: float = 0.1, period_s: float = 0.1) -> FaultSchedule:
        """The process has this share of each period (a container's quota) and stands still for the rest."""
        if not 0 < share < 1 or not period_s > 0:
            raise ConfigurationError(f"share={share!r}, period_s={period_s!r}: must be in (0, 1) and positive")
        return self._add("starve", at_s, for_s, peers=(peer,), share=share, period_s=period_s)

    def flip_flop(
        self, peer: Peer, at_s: float, for_s: float, period_s: float = 40.0, direction: str = "in"
    ) -> FaultSchedule:
        """For the first half of each period nothing passes to the peer ("in") or from it ("out"); the other way is open."""
        _one_of("direction", direction, ("in", "out"))
        if not period_s > 0:
            raise ConfigurationError(f"period_s={period_s!r}: must be a positive number of seconds")
        return self._add("flip_flop", at_s, for_s, peers=(peer,), period_s=period_s, direction=direction)

    def reset(self, peer: Peer, at_s: float) -> FaultSchedule:
        """All connections of the peer break at once, whatever is on them, and are opened again."""
        return self._add("reset", at_s, peers=(peer,))

    def address_change(self, peer: Peer, at_s: float) -> FaultSchedule:
        """The host gets another address under the same name: its connections lead nowhere until keepalive finds it."""
        return self._add("address_change", at_s, peers=(peer,))

    def garble(self, peer: Peer, at_s: float, for_s: float, how: str = "corrupt", share: float = 0.2) -> FaultSchedule:
        """A share of the peer's control messages arrives damaged ("corrupt"), cut off ("truncate") or far too long."""
        _one_of("how", how, GARBLINGS)
        _share("share", share)
        return self._add("garble", at_s, for_s, peers=(peer,), how=how, share=share)

    def replay(self, peer: Peer, at_s: float, for_s: float, share: float = 0.2, later_s: float = 30.0) -> FaultSchedule:
        """A share of the peer's control messages arrives once more up to `later_s` later, whoever lives by then."""
        _share("share", share)
        if not later_s > 0:
            raise ConfigurationError(f"later_s={later_s!r}: must be a positive number of seconds")
        return self._add("replay", at_s, for_s, peers=(peer,), share=share, later_s=later_s)

    def slander(self, peer: Peer, at_s: float, for_s: float) -> FaultSchedule:
        """The peer adds to its news that others, who live, are dead."""
        return self._add("slander", at_s, for_s, peers=(peer,))

    def impostor(self, peer: Peer, at_s: float) -> FaultSchedule:
        """Another process, on another host, joins under the name of this living peer."""
        return self._add("impostor", at_s, peers=(peer,))

    def stranger(self, at_s: float, differs: str = "run") -> FaultSchedule:
        """A process of another "run", "model", "mixer" or protocol "version" tries to join."""
        _one_of("differs", differs, STRANGERS)
        return self._add("stranger", at_s, differs=differs)

    def rolling_restart(
        self, peers: Iterable[Peer], at_s: float, every_s: float = 30.0, down_s: float = 5.0, graceful: bool = True
    ) -> FaultSchedule:
        """One peer after the other leaves (or is killed) and comes back; written down as the faults that it is made of."""
        if not 0 < down_s < every_s:
            raise ConfigurationError(f"every_s={every_s!r}, down_s={down_s!r}: must be positive, the second smaller")
        schedule = self
        for place, peer in enumerate(peers):
            down_at_s = at_s + place * every_s
            schedule = schedule.leave(peer, down_at_s) if graceful else schedule.crash(peer, down_at_s)
            schedule = schedule.restart(peer, down_at_s + down_s)
        return schedule

    # Reading and checking

    @staticmethod
    def random(seed: int, peers: int, until_s: float, **rates: Any) -> FaultSchedule:
        """Draws a schedule; see `random_faults.draw`."""
        from sim.random_faults import draw

        return FaultSchedule(draw(seed, peers, until_s, **rates))

    @staticmethod
    def from_rows(rows: Sequence[Mapping[str, Any]]) -> FaultSchedule:
        """Reads what stands under [[faults]] in a scenario.

        Raises:
            ConfigurationError: an unknown kind or key (the nearest known one is named), or a value out of range.
        """
        schedule = FaultSchedule()
        for place, row in enumerate(rows, 1):
            kind = row.get("kind")
            if kind not in KINDS:
                raise ConfigurationError(f"faults[{place}]: kind={kind!r} is not known{nearest(str(kind), KINDS)}")
            required, optional = KINDS[kind]
            accepted = ("at_s", *required, *optional)
            for key in row:
                if key != "kind" and key not in accepted:
                    raise ConfigurationError(f"faults[{place}] ({kind}): {key!r} is not known{nearest(key, accepted)}")
            missing = [key for key in ("at_s", *required) if key not in row]
            if missing:
                raise ConfigurationError(f"faults[{place}] ({kind}): {missing[0]!r} is missing")
            given = {key: value for key, value in row.items() if key != "kind"}
            schedule = call(getattr(schedule, kind), given, f"faults[{place}] ({kind})")
        return schedule

    def to_rows(self) -> list[dict[str, Any]]:
        """Returns what `from_rows` reads."""
        return [_row(fault) for fault in self.faults]

    def joiners(self) -> int:
        """How many new peers come in all."""
        return sum(fault.options["count"] for fault in self.faults if fault.kind == "join")

    def guests(self) -> int:
        """How many processes come that must not be let in: impostors and strangers."""
        return sum(fault.kind in ("impostor", "stranger") for fault in self.faults)

    def end_s(self) -> float:
        """When the last fault is over."""
        return max((fault.end_s for fault in self.faults), default=0.0)

    def check(self, peers: int) -> FaultSchedule:
        """Returns the schedule if it can happen to so many peers.

        Raises:
            ConfigurationError: a peer does not exist, is down when it is to be hurt, or is hurt twice at once.
        """
        from sim.fault_checks import check

        check(self.faults, peers, self.joiners())
        return self

    def _add(
        self, kind: str, at_s: float, for_s: float = 0.0, peers: Iterable[Peer] = (), groups: Any = (), **options: Any
    ) -> FaultSchedule:
        if not at_s >= 0 or at_s == float("inf"):
            raise ConfigurationError(f"at_s={at_s!r}: must be a number of seconds, not negative")
        lasts = "for_s" in KINDS[kind][0]
        if (lasts and not for_s > 0) or for_s == float("inf"):
            raise ConfigurationError(f"for_s={for_s!r}: must be a positive number of seconds")
        numbers = tuple(_number(peer) for peer in peers)
        return FaultSchedule((*self.faults, Fault(kind, float(at_s), float(for_s), numbers, groups, options)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FaultSchedule) and self.faults == other.faults

    def __hash__(self) -> int:
        return hash(tuple((fault.kind, fault.at_s) for fault in self.faults))

    def __len__(self) -> int:
        return len(self.faults)

    def __repr__(self) -> str:
        return f"FaultSchedule({list(self.faults)!r})"


def _one_of(name: str, value: str, accepted: Sequence[str]) -> None:
    if value not in accepted:
        raise ConfigurationError(f"{name}={value!r}: must be one of {', '.join(accepted)}")


def _share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ConfigurationError(f"{name}={value!r}: must be above 0 and at most 1")


def _number(peer: Peer) -> int:
    """Returns a peer's number from it or from its name."""
    if isinstance(peer, int) and not isinstance(peer, bool):
        return peer
    if isinstance(peer, str) and peer.startswith("peer-") and peer[5:].isdecimal():
        return int(peer[5:])
    raise ConfigurationError(f'peer={peer!r}: must be a number such as 3, or a name such as "peer-3"')


def _row(fault: Fault) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": fault.kind, "at_s": fault.at_s}
    required, _ = KINDS[fault.kind]
    for key in required:
        if key == "for_s":
            row[key] = fault.for_s
        elif key == "groups":
            row[key] = [list(group) for group in fault.groups]
        elif key == "peers":
            row[key] = list(fault.peers)
        else:
            row[key] = fault.peers[1 if key == "target" else 0]
    return {**row, **fault.options}
