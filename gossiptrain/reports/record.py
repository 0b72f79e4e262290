"""`RunRecord`: what a run showed, whether it was simulated or real; everything that a report draws is read from here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from gossiptrain.protocol.notices import Joined, Notice
from gossiptrain.reports.reporting import Reporting

Array = npt.NDArray[np.float64]
Kind = TypeVar("Kind", bound=Notice)

ENDS = ("", "finished", "left", "stopped", "failed", "crashed")


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """The blocks of local steps of one process, in order; all arrays are [B].

    Attributes:
        began_s, ended_s: when the first step began and the last was done, in seconds of the run.
        steps: optimizer steps. gap_s: the longest time between two of its steps, the one from the block before included.
    """

    began_s: Array
    ended_s: Array
    steps: npt.NDArray[np.int64]
    gap_s: Array

    @staticmethod
    def none() -> Blocks:
        """No block at all."""
        return Blocks(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64), np.empty(0))

    def steps_until(self, times_s: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Steps of the blocks that had ended at each time, [T]."""
        done = np.concatenate([[0], np.cumsum(self.steps)])
        return done[np.searchsorted(self.ended_s, np.asarray(times_s), side="right")]


@dataclass(frozen=True, slots=True, eq=False)
class ProcessRecord:
    """One process of a peer; a restart makes another of the same name.

    Attributes:
        name: the peer's. number: 0 for its first process, 1 for the next.
        began_s, ended_s: its life in seconds of the run; infinity while it lives.
        joined_s: since when it counts in mixing; infinity if it never did.
        end: one of `ENDS`; "" while it lives. reason: in words, where there is more to say.
        first_step: steps behind the state that it began from. steps: optimizer steps that it took itself.
        samples: samples of the shared data that it trained; None where it shared none.
        spent_s: seconds of training by what they went into: "compute", "mix", "wait".
        notices: (seconds, notice), in order. traffic, counters: totals by name.
    """

    name: str
    number: int
    began_s: float
    ended_s: float
    end: str
    reason: str
    steps: int
    blocks: Blocks
    notices: tuple[tuple[float, Notice], ...]
    first_step: int = 0
    traffic: Mapping[str, int] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    spent_s: Mapping[str, float] = field(default_factory=dict)
    samples: int | None = None
    joined_s: float = field(init=False)

    def __post_init__(self) -> None:
        joined_s = next((time_s for time_s, _ in self.told(Joined)), float("inf"))
        object.__setattr__(self, "joined_s", joined_s)

    def told(self, *kinds: type[Kind]) -> Iterator[tuple[float, Kind]]:
        """The notices of some kinds with their times, in order."""
        return ((time_s, notice) for time_s, notice in self.notices if isinstance(notice, kinds))

    def bytes_sent(self) -> int:
        """Bytes of messages and snapshots."""
        return self.traffic.get("bytes", 0) + self.traffic.get("snapshot_bytes", 0)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Measures over time: T moments, N peers.

    Attributes:
        time_s: [T], ascending. peers: names of the columns, [N].
        overall: one value a moment over the living peers, [T], by measure ("consensus_distance", "loss", ...).
        by_peer: [T, N] by measure; NaN where a peer had no value, such as before its start.
        bytes_sent: [T], of all peers together since the run's beginning; NaN where it is not known.
    """

    time_s: Array
    peers: tuple[str, ...] = ()
    overall: Mapping[str, Array] = field(default_factory=dict)
    by_peer: Mapping[str, Array] = field(default_factory=dict)
    bytes_sent: Array = field(default_factory=lambda: np.empty(0))

    def measures(self) -> tuple[str, ...]:
        """Names of what was measured, losses first."""
        names = dict.fromkeys([*self.by_peer, *self.overall])
        return tuple(sorted(names, key=lambda name: (_rank(name), list(names).index(name))))

    def mean(self, measure: str) -> Array:
        """A measure over the run, [T]: as it was recorded for all, else the mean over the peers that had a value."""
        if measure in self.overall:
            return self.overall[measure]
        values_TN = self.by_peer[measure]
        count = np.isfinite(values_TN).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(count > 0, np.nansum(values_TN, axis=1) / count, np.nan)

    def band(self, measure: str, low: float = 0.1, high: float = 0.9) -> tuple[Array, Array] | None:
        """Quantiles over the peers, two arrays [T]; None where peers were not measured one by one."""
        if measure not in self.by_peer:
            return None
        values_TN = self.by_peer[measure]
        result = np.full((2, len(values_TN)), np.nan)
        some = np.isfinite(values_TN).any(1)
        if some.any():
            result[:, some] = np.nanquantile(values_TN[some], [low, high], axis=1)
        return result[0], result[1]


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """Something that was done to the run on purpose: its kind, when it began and was over, and to whom."""

    kind: str
    began_s: float
    ended_s: float
    peers: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord(Reporting):
    """A run as far as it went. Times are seconds since its beginning, virtual ones where it was simulated.

    Attributes:
        title: names the run for people. origin: "simulated" or "real".
        until_s: how far it went. is_going: a real run that had not ended when it was read.
        processes: every process, in the peers' natural order and in the order of their starts.
        settings: what fixed the run, in words, by name ("topology", "mixer", "seed", ...).
        environment: the simulated cluster, or the recorded machine, as plain data.
        remarks: what a reader should know about what is missing.
    """

    title: str
    origin: Literal["simulated", "real"]
    until_s: float
    processes: tuple[ProcessRecord, ...]
    samples: Samples
    faults: tuple[FaultRecord, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    is_going: bool = False

    def record(self) -> RunRecord:
        """Itself: what `Reporting` asks for."""
        return self

    def names(self) -> tuple[str, ...]:
        """The peers, each once, in natural order ("peer-2" before "peer-10")."""
        return tuple(sorted({process.name for process in self.processes}, key=natural))

    def living_at(self, time_s: float) -> list[ProcessRecord]:
        """The processes that lived at a time."""
        return [process for process in self.processes if process.began_s <= time_s < process.ended_s]

    def mixing_at(self, time_s: float) -> list[ProcessRecord]:
        """Those of them that counted in mixing."""
        return [process for process in self.living_at(time_s) if process.joined_s <= time_s]

    def steps_at(self, times_s: npt.ArrayLike) -> Array:
        """Steps of the living peers on average, with those of the state that each began from, [T]; NaN with nobody."""
        times = np.asarray(times_s, dtype=np.float64)
        total, living = np.zeros(len(times)), np.zeros(len(times))
        for process in self.processes:
            lives = (process.began_s <= times) & (times < process.ended_s)
            total += np.where(lives, process.first_step + process.blocks.steps_until(times), 0)
            living += lives
        return np.where(living > 0, total / np.maximum(living, 1), np.nan)


def natural(name: str) -> tuple[object, ...]:
    """A sorting key under which numbers within names count as numbers."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name))


def _rank(measure: str) -> int:
    order = ("loss", "accuracy", "consensus_distance", "train_loss")
    return order.index(measure) if measure in order else len(order)
