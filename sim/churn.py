"""Who comes and goes: rates, sessions and traces that become a `FaultSchedule` for given peers, seed and length.

Each peer's life is drawn from a stream of its own, so that a longer run, or one of more peers, begins like the shorter.
All times in seconds.
"""

from __future__ import annotations

import csv
import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gossiptrain.errors import ConfigurationError
from sim.faults import Fault, FaultSchedule
from sim.step_times import check_positive
from sim.streams import generator
from sim.tables import nearest

HOUR_S = 3600.0
# What a trace may call the two.
WORDS = {"crash": "down", "down": "down", "leave": "leave", "restart": "up", "up": "up", "join": "join"}


@dataclass(frozen=True, slots=True)
class Change:
    """One peer's state changes ("down", "leave", "up"), or a new peer comes ("join"); in order of time."""

    at_s: float
    peer: int
    kind: str

    def __lt__(self, other: Change) -> bool:
        return (self.at_s, self.peer) < (other.at_s, other.peer)


class Churn(ABC):
    """Who comes and goes. Instances hold options only; `schedule` draws."""

    silent: bool
    keep_up: int

    @abstractmethod
    def changes(self, peers: int, seed: int, until_s: float) -> Iterator[Change]:
        """Yields the changes in (0, until_s) in order of time, as they would be if all could happen."""

    def schedule(
        self, peers: int, seed: int, until_s: float, begin_s: float = 1.0, spared: Collection[int] = ()
    ) -> FaultSchedule:
        """Draws who comes and goes in a run.

        Args:
            peers: how many start; all are up at first.
            seed: fixes everything.
            until_s: length of the run.
            begin_s: nothing happens before, so that all have started; what is drawn is that much later.
            spared: peers that stay, since other faults are written for them.

        Returns:
            Crashes, restarts, leaves and joins. Whoever would leave fewer than `keep_up` peers up stays.

        Raises:
            ConfigurationError: a number is out of range, or a trace names a peer that does not exist.
        """
        if peers < 1 or not 0 < until_s < math.inf or not begin_s >= 0:
            raise ConfigurationError(
                f"peers={peers!r}, until_s={until_s!r}, begin_s={begin_s!r}: must be at least 1, positive, not negative"
            )
        later = (
            Change(change.at_s + begin_s, change.peer, change.kind) for change in self.changes(peers, seed, until_s)
        )
        happening = (change for change in later if change.at_s < until_s and change.peer not in spared)
        return FaultSchedule(_faults(happening, peers, self))


@dataclass(frozen=True, slots=True)
class RateChurn(Churn):
    """Peers crash, come back and join at constant rates: exponential times, as of memoryless failures.

    Attributes:
        crashes_per_hour: of each peer that is up.
        down_s: mean time until it is started again, exponential; infinity: never.
        joins_per_hour: new peers, all together (Poisson).
        silent: the host goes dark with the process, so that nothing tells of it.
        keep_up: at least so many stay up, at least 1.
        faster: all rates are so many times higher than written, to see years in minutes; `down_s` is not changed.
    """

    crashes_per_hour: float = 0.0
    down_s: float = 60.0
    joins_per_hour: float = 0.0
    silent: bool = False
    keep_up: int = 1
    faster: float = 1.0

    def __post_init__(self) -> None:
        for name in ("crashes_per_hour", "joins_per_hour"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: must be a number, not negative")
        if not self.down_s > 0:
            raise ConfigurationError(f"down_s={self.down_s!r}: must be a positive number of seconds, or infinity")
        _check_common(self.keep_up, self.faster)

    def changes(self, peers: int, seed: int, until_s: float) -> Iterator[Change]:
        joins = list(_arrivals(generator(seed, "joins"), self.joins_per_hour * self.faster / HOUR_S, until_s))
        lives = [self._life(seed, peer, 0.0, until_s) for peer in range(peers)]
        lives += [self._life(seed, peers + number, at_s, until_s) for number, at_s in enumerate(joins)]
        comings = (Change(at_s, peers + number, "join") for number, at_s in enumerate(joins))
        return heapq.merge(comings, *lives)

    def _life(self, seed: int, peer: int, at_s: float, until_s: float) -> Iterator[Change]:
        chance = generator(seed, "churn", peer)
        per_s = self.crashes_per_hour * self.faster / HOUR_S
        while per_s:
            at_s += float(chance.exponential(1 / per_s))
            yield Change(at_s, peer, "down")
            at_s += float(chance.exponential(self.down_s)) if self.down_s < math.inf else math.inf
            if at_s >= until_s:
                return
            yield Change(at_s, peer, "up")


@dataclass(frozen=True, slots=True)
class WeibullChurn(Churn):
    """Sessions: each peer is up for a Weibull time, down for another, and so on; shape below 1 is heavy-tailed.

    Attributes:
        up_shape, up_scale_s: k and lambda of the time up; its mean is lambda Gamma(1 + 1 / k).
        down_shape, down_scale_s: of the time down.
        group_size, group_share: peers in turn form groups (of a rack, of a spot market), and with this probability one
            that goes takes those of its group that are up with it; 1 and 0: each for itself.
        silent, keep_up: as for `RateChurn`.
        faster: times up and down are so many times shorter than written.
    """

    up_shape: float
    up_scale_s: float
    down_shape: float
    down_scale_s: float
    group_size: int = 1
    group_share: float = 0.0
    silent: bool = False
    keep_up: int = 1
    faster: float = 1.0

    def __post_init__(self) -> None:
        check_positive(
            up_shape=self.up_shape,
            up_scale_s=self.up_scale_s,
            down_shape=self.down_shape,
            down_scale_s=self.down_scale_s,
        )
        if self.group_size < 1 or not 0 <= self.group_share <= 1:
            raise ConfigurationError(
                f"group_size={self.group_size!r}, group_share={self.group_share!r}: must be at least 1, and in [0, 1]"
            )
        _check_common(self.keep_up, self.faster)

    def changes(self, peers: int, seed: int, until_s: float) -> Iterator[Change]:
        """Walks from change to change, since one that goes may cut the sessions of others short."""
        chances = [generator(seed, "churn", peer) for peer in range(peers)]
        together = generator(seed, "churn together")
        is_up = [True] * peers
        next_s = [self._lasts_s(chance, True) for chance in chances]
        while (at_s := min(next_s)) < until_s:
            first = next_s.index(at_s)
            for peer in self._gone_with(first, is_up, together):
                is_up[peer] = not is_up[peer]
                next_s[peer] = at_s + self._lasts_s(chances[peer], is_up[peer])
                yield Change(at_s, peer, "up" if is_up[peer] else "down")

    def _gone_with(self, first: int, is_up: list[bool], together: np.random.Generator) -> list[int]:
        if not is_up[first] or self.group_share == 0 or together.random() >= self.group_share:
            return [first]
        start = first - first % self.group_size
        return [peer for peer in range(start, min(start + self.group_size, len(is_up))) if is_up[peer]]

    def _lasts_s(self, chance: np.random.Generator, up: bool) -> float:
        shape, scale_s = (self.up_shape, self.up_scale_s) if up else (self.down_shape, self.down_scale_s)
        return scale_s * float(chance.weibull(shape)) / self.faster


@dataclass(frozen=True, slots=True)
class TraceChurn(Churn):
    """What was recorded: (time in seconds, peer, event) in any order.

    Attributes:
        events: the event is "down" (or "crash"), "up" (or "restart"), "leave", or "join", whose peer is the newcomer's
            number: the first is numbered as many as start.
        silent, keep_up: as for `RateChurn`; 0 lets even the last one go, as the trace says.
        faster: times are so many times shorter than written.
    """

    events: tuple[tuple[float, int, str], ...]
    silent: bool = False
    keep_up: int = 0
    faster: float = 1.0

    def __post_init__(self) -> None:
        for at_s, peer, word in self.events:
            if not 0 <= at_s < math.inf:
                raise ConfigurationError(f"events: time {at_s!r} of peer {peer}: must be seconds, not negative")
            if word not in WORDS:
                raise ConfigurationError(f"events: {word!r} of peer {peer} is not known{nearest(word, WORDS)}")
        if not self.faster > 0 or self.keep_up < 0:
            raise ConfigurationError(
                f"faster={self.faster!r}, keep_up={self.keep_up!r}: must be positive, not negative"
            )

    @staticmethod
    def read(path: str | Path, **options: float) -> TraceChurn:
        """Reads a CSV file with the columns time (seconds), peer (number, or "peer-3") and event; others are ignored.

        Raises:
            ConfigurationError: the file cannot be read or a line of it not understood; the message names the line.
        """
        try:
            with Path(path).open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except OSError as error:
            raise ConfigurationError(f"trace {str(path)!r} cannot be read: {error.strerror or error}") from error
        return TraceChurn(tuple(_event(row, line, path) for line, row in enumerate(rows, 2)), **options)  # type: ignore[arg-type]

    def changes(self, peers: int, seed: int, until_s: float) -> Iterator[Change]:
        changes = sorted(Change(at_s / self.faster, peer, WORDS[word]) for at_s, peer, word in self.events)
        newcomer = peers
        for change in changes:
            newcomer += change.kind == "join"
            if not 0 <= change.peer < newcomer:
                raise ConfigurationError(
                    f"trace: peer {change.peer} does not exist at {change.at_s:g} s; there are 0 to {newcomer - 1} then"
                )
            yield change


def _check_common(keep_up: int, faster: float) -> None:
    if keep_up < 1 or not 0 < faster < math.inf:
        raise ConfigurationError(f"keep_up={keep_up!r}, faster={faster!r}: must be at least 1, and positive")


def _arrivals(chance: np.random.Generator, per_s: float, until_s: float) -> Iterator[float]:
    at_s = 0.0
    while per_s and (at_s := at_s + float(chance.exponential(1 / per_s))) < until_s:
        yield at_s


def _event(row: dict[str, str], line: int, path: str | Path) -> tuple[float, int, str]:
    try:
        peer = (row["peer"] or "").strip().removeprefix("peer-")
        return float(row["time"]), int(peer), (row["event"] or "").strip()
    except KeyError as error:
        raise ConfigurationError(f"trace {str(path)!r}: has no column {error}; needed are time, peer, event") from error
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"trace {str(path)!r}, line {line}: {error}; needed are time, peer, event") from error


def _faults(changes: Iterable[Change], peers: int, churn: Churn) -> Iterator[Fault]:
    """Turns changes into faults: what is so already happens not again, and `keep_up` peers stay up."""
    up, known = set(range(peers)), peers
    numbers: dict[int, int] = {}
    for change in changes:
        at_s = round(change.at_s, 3)
        if change.kind == "join":
            numbers[change.peer] = known
            up.add(known)
            known += 1
            yield Fault("join", at_s, options={"count": 1})
            continue
        peer = change.peer if change.peer < peers else numbers.get(change.peer, -1)
        if change.kind == "up" and peer in range(known) and peer not in up:
            up.add(peer)
            yield Fault("restart", at_s, peers=(peer,), options={"boot": "new"})
        elif change.kind != "up" and peer in up and len(up) > churn.keep_up:
            up.discard(peer)
            options = {} if change.kind == "leave" else {"silent": churn.silent}
            yield Fault("leave" if change.kind == "leave" else "crash", at_s, peers=(peer,), options=options)
