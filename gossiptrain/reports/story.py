"""The log of a run for people: what many peers noticed within a moment becomes one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gossiptrain.protocol.notices import (
    Joined,
    PeerDied,
    PeerRecovered,
    PeerRefused,
    PeerSuspected,
    SnapshotRefused,
    StateFetched,
    TopologyFailed,
)
from gossiptrain.reports.record import ProcessRecord, RunRecord
from gossiptrain.reports.timeline import rewirings

EVENTS_MAX = 3000
TOGETHER_S = 5.0  # what peers noticed about one peer, with less than this between two of them, is one line
APART_S = 1.0  # between two groups of peers that start
CROWD_MIN = 8
_TOLD = {
    PeerSuspected: ("suspected", "suspected by"),
    PeerDied: ("dead", "taken for dead by"),
    PeerRecovered: ("recovered", "heard again by"),
    PeerRefused: ("refused", "refused by"),
    SnapshotRefused: ("refused", "snapshots not used by"),
}
# What is left out first where there is too much to tell.
_IMPORTANT = (
    "fault",
    "crashed",
    "end",
    "dead",
    "start",
    "suspected",
    "refused",
    "failed",
    "joined",
    "rewired",
    "recovered",
)


@dataclass(frozen=True, slots=True)
class Happening:
    """One line: when, a kind for its colour ("fault", "start", "dead", ...), what to say, and the peers it is about."""

    time_s: float
    kind: str
    text: str
    peers: tuple[str, ...] = ()


def story(record: RunRecord, most: int = EVENTS_MAX) -> list[Happening]:
    """Tells the run in order of time, in at most so many lines; the least important are left out."""
    lines = [*_faults(record), *_crowds(list(_lives(record))), *_noticed(record), *_rewired(record)]
    if len(lines) > most:
        lines = sorted(lines, key=lambda line: (_IMPORTANT.index(line.kind), line.time_s))[:most]
    return sorted(lines, key=lambda line: (line.time_s, _IMPORTANT.index(line.kind)))


def _faults(record: RunRecord) -> Iterator[Happening]:
    for fault in record.faults:
        if record.origin == "real":
            continue  # a real run's are read from how its peers ended, which is told below
        lasts_s = fault.ended_s - fault.began_s
        who = f" {_some(fault.peers)}" if fault.peers else ""
        lasts = f" for {lasts_s:g} s" if 0 < lasts_s < float("inf") else ""
        details = f" ({fault.text})" if fault.text else ""
        yield Happening(fault.began_s, "fault", f"{fault.kind.replace('_', ' ')}{who}{lasts}{details}", fault.peers)


def _lives(record: RunRecord) -> Iterator[Happening]:
    # That a fault took effect at once is no news of its own.
    told = record.faults if record.origin == "simulated" else ()
    struck = {(peer, fault.began_s) for fault in told for peer in fault.peers}
    for process in record.processes:
        again = " again" if process.number else ""
        yield Happening(process.began_s, "start", f"{process.name} starts{again}", (process.name,))
        for time_s, notice in process.told(Joined):
            source = f", beginning from {notice.source}" if notice.source else ""
            yield Happening(time_s, "joined", f"{process.name} mixes{source}", (process.name,))
        for time_s, notice in process.told(StateFetched):
            text = f"{process.name} took the state of step {notice.step:,} from {notice.peer} in {notice.seconds:.2f} s"
            yield Happening(time_s, "joined", text, (process.name, notice.peer))
        for time_s, notice in process.told(TopologyFailed):
            yield Happening(time_s, "failed", f"{process.name}: {notice.reason}", (process.name,))
        if process.end and (process.name, process.ended_s) not in struck:
            why = f": {process.reason}" if process.reason else ""
            kind = "crashed" if process.end in ("crashed", "failed") else "end"
            yield Happening(process.ended_s, kind, f"{process.name} {process.end}{why}", (process.name,))


def _crowds(lines: list[Happening]) -> Iterator[Happening]:
    """Many peers that start, or begin to mix, within a moment are one line."""
    for kind, says in (("start", "start"), ("joined", "begin to mix")):
        for group in _groups(sorted((line for line in lines if line.kind == kind), key=lambda line: line.time_s)):
            if len(group) <= CROWD_MIN:
                yield from group
                continue
            peers = list(dict.fromkeys(line.peers[0] for line in group))
            lasts_s = group[-1].time_s - group[0].time_s
            text = f"{len(peers)} peers {says} within {lasts_s:.2g} s, {peers[0]} first"
            yield Happening(group[0].time_s, kind, text, tuple(peers[:1]))
    yield from (line for line in lines if line.kind not in ("start", "joined"))


def _groups(lines: list[Happening]) -> Iterator[list[Happening]]:
    group: list[Happening] = []
    for line in lines:
        if group and line.time_s - group[-1].time_s > APART_S:
            yield group
            group = []
        group.append(line)
    if group:
        yield group


def _noticed(record: RunRecord) -> Iterator[Happening]:
    told: dict[tuple[str, type], list[tuple[float, ProcessRecord, str]]] = {}
    for process in record.processes:
        for time_s, notice in process.told(*_TOLD):
            told.setdefault((notice.peer, type(notice)), []).append((time_s, process, getattr(notice, "reason", "")))
    for (peer, kind), found in told.items():
        found.sort(key=lambda item: item[0])
        group: list[tuple[float, ProcessRecord, str]] = []
        for item in [*found, None]:
            if group and (item is None or item[0] - group[-1][0] > TOGETHER_S):
                yield _together(peer, kind, group)
                group = []
            if item is not None:
                group.append(item)


def _together(peer: str, kind: type, group: list[tuple[float, ProcessRecord, str]]) -> Happening:
    label, says = _TOLD[kind]
    by = list(dict.fromkeys(process.name for _, process, _ in group))
    first_s, last_s = group[0][0], group[-1][0]
    within = f" within {last_s - first_s:.2g} s" if len(by) > 1 and last_s > first_s else ""
    who = by[0] if len(by) == 1 else f"{len(by)} peers{within}, {by[0]} first"
    why = f": {group[0][2]}" if group[0][2] else ""
    return Happening(first_s, label, f"{peer} {says} {who}{why}", (peer, by[0]))


def _rewired(record: RunRecord) -> Iterator[Happening]:
    for first_s, last_s, count in rewirings(record):
        within = f" within {last_s - first_s:.2g} s" if last_s > first_s else ""
        yield Happening(first_s, "rewired", f"graph laid anew, {count} time{'s' * (count > 1)}{within}")


def _some(peers: tuple[str, ...], most: int = 4) -> str:
    return (
        ", ".join(peers) if len(peers) <= most else f"{', '.join(peers[: most - 1])} and {len(peers) - most + 1} more"
    )
