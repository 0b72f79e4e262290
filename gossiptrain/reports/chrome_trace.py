"""A run in Chrome's trace format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

"Trace Event Format", Google 2016: complete events ("X") for what lasts, instants ("i") for what happens, counters ("C") for
measures, metadata ("M") for names. Each peer is a process of three threads: training, exchanges, and what it noticed about
others. Times are microseconds since the run's beginning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gossiptrain.protocol.notices import (
    Exchanged,
    ExchangeFailed,
    Joined,
    PeerDied,
    PeerJoined,
    PeerLeft,
    PeerRecovered,
    PeerSuspected,
)
from gossiptrain.reports.record import ProcessRecord, RunRecord
from gossiptrain.reports.timeline import standing

TRAINING, EXCHANGES, MEMBERS = 1, 2, 3
RUN = 0  # of faults and measures, which are nobody's own
_THREADS = {TRAINING: "training", EXCHANGES: "exchanges", MEMBERS: "members"}
_SETTLES = (PeerRecovered, PeerDied, PeerLeft, PeerJoined)

Event = dict[str, Any]


def chrome_trace(record: RunRecord) -> dict[str, Any]:
    """Returns {"traceEvents": [...], ...} as the format wants it."""
    return {"traceEvents": list(events(record)), "displayTimeUnit": "ms", "otherData": dict(record.settings)}


def write(record: RunRecord, path: Path) -> None:
    """Writes it event by event: long runs have millions."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit":"ms","otherData":')
        json.dump(dict(record.settings), file)
        file.write(',"traceEvents":[')
        for number, event in enumerate(events(record)):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(event, separators=(",", ":"), allow_nan=False))
        file.write("\n]}\n")


def events(record: RunRecord) -> Iterator[Event]:
    """Every event of the trace."""
    pids = {name: pid for pid, name in enumerate(record.names(), start=RUN + 1)}
    yield _named("process_name", RUN, 0, record.title)
    for name, pid in pids.items():
        yield _named("process_name", pid, 0, name)
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
        for tid, thread in _THREADS.items():
            yield _named("thread_name", pid, tid, thread)
    stood = standing(record)
    for process in record.processes:
        pid = pids[process.name]
        yield from _life(process, pid, record.until_s)
        yield from _training(process, pid)
        yield from _exchanges(process, pid)
        yield from _members(process, pid, record.until_s)
    for name, spans in stood.items():
        for began_s, ended_s in spans:
            yield _span("stands still", (pids[name], MEMBERS), began_s, min(ended_s, record.until_s), kind="fault")
    yield from _faults(record)
    yield from _measures(record)


def _life(process: ProcessRecord, pid: int, until_s: float) -> Iterator[Event]:
    again = f" (process {process.number})" if process.number else ""
    yield _instant(f"starts{again}", (pid, TRAINING), process.began_s, kind="life")
    if process.ended_s <= until_s:
        yield _instant(
            process.end or "ended", (pid, TRAINING), process.ended_s, kind="life", args={"reason": process.reason}
        )


def _training(process: ProcessRecord, pid: int) -> Iterator[Event]:
    """Blocks, and what lies between them: waiting."""
    blocks = process.blocks
    steps = process.first_step + np.cumsum(blocks.steps)
    before_s = float("inf")
    for began_s, ended_s, count, step in zip(blocks.began_s, blocks.ended_s, blocks.steps, steps):
        if began_s - before_s > 1e-9:
            yield _span("wait", (pid, TRAINING), before_s, began_s, kind="wait")
        yield _span(f"{count} steps", (pid, TRAINING), began_s, ended_s, kind="compute", args={"step": int(step)})
        before_s = ended_s


def _exchanges(process: ProcessRecord, pid: int) -> Iterator[Event]:
    """An exchange may begin before the one before is over, so they are asynchronous spans ("b", "e")."""
    for number, (time_s, notice) in enumerate(process.told(Exchanged)):
        same = {"name": f"exchange with {', '.join(notice.partners)}", "cat": "exchange", "pid": pid, "tid": EXCHANGES}
        same["id"] = f"{pid}/{process.number}/{number}"
        yield {**same, "ph": "b", "ts": _us(time_s - notice.seconds)}
        yield {**same, "ph": "e", "ts": _us(time_s)}
    for time_s, notice in process.told(ExchangeFailed):
        name = f"no exchange with {notice.partner}"
        yield _instant(name, (pid, EXCHANGES), time_s, kind="exchange", args={"reason": notice.reason})


def _members(process: ProcessRecord, pid: int, until_s: float) -> Iterator[Event]:
    """Suspicions overlap, so they are asynchronous spans ("b", "e"); everything else is an instant."""
    suspected: dict[str, float] = {}
    end_s = min(process.ended_s, until_s)
    for time_s, notice in process.notices:
        if isinstance(notice, PeerSuspected):
            suspected.setdefault(notice.peer, time_s)
        elif isinstance(notice, _SETTLES) and notice.peer in suspected:
            yield from _suspicion(pid, notice.peer, suspected.pop(notice.peer), time_s)
        if not isinstance(notice, (Exchanged, ExchangeFailed, PeerSuspected)):
            fields = msgspec.to_builtins(notice)
            about = fields.get("peer", "")
            name = f"{fields.pop('kind')} {about}".strip()
            tid = TRAINING if isinstance(notice, Joined) else MEMBERS
            yield _instant(name, (pid, tid), time_s, kind="notice", args=fields)
    for peer, since_s in suspected.items():
        yield from _suspicion(pid, peer, since_s, max(since_s, end_s))


def _suspicion(pid: int, peer: str, began_s: float, ended_s: float) -> Iterator[Event]:
    same = {"name": f"suspects {peer}", "cat": "suspicion", "id": f"{pid}/{peer}/{began_s}", "pid": pid, "tid": MEMBERS}
    yield {**same, "ph": "b", "ts": _us(began_s)}
    yield {**same, "ph": "e", "ts": _us(ended_s)}


def _faults(record: RunRecord) -> Iterator[Event]:
    for number, fault in enumerate(record.faults):
        args = {"peers": list(fault.peers), "details": fault.text}
        if fault.ended_s <= fault.began_s:
            yield _instant(fault.kind, (RUN, 1), fault.began_s, kind="fault", args=args, scope="g")
            continue
        same = {"name": fault.kind, "cat": "fault", "id": f"fault {number}", "pid": RUN, "tid": 1}
        yield {**same, "ph": "b", "ts": _us(fault.began_s), "args": args}
        yield {**same, "ph": "e", "ts": _us(min(fault.ended_s, record.until_s))}


def _measures(record: RunRecord) -> Iterator[Event]:
    samples = record.samples
    for measure in samples.measures():
        for time_s, value in zip(samples.time_s, samples.mean(measure)):
            if np.isfinite(value):
                args = {measure: float(value)}
                yield {"ph": "C", "name": measure, "pid": RUN, "tid": 0, "ts": _us(float(time_s)), "args": args}


def _named(what: str, pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _span(
    name: str, place: tuple[int, int], began_s: float, ended_s: float, *, kind: str, args: Event | None = None
) -> Event:
    began_us = _us(began_s)
    lasts_us = round(max(0.0, _us(ended_s) - began_us), 3)
    pid, tid = place
    event = {"ph": "X", "name": name, "cat": kind, "pid": pid, "tid": tid, "ts": began_us, "dur": lasts_us}
    return {**event, "args": args} if args else event


def _instant(
    name: str, place: tuple[int, int], time_s: float, *, kind: str, args: Event | None = None, scope: str = "t"
) -> Event:
    pid, tid = place
    event = {"ph": "i", "s": scope, "name": name, "cat": kind, "pid": pid, "tid": tid, "ts": _us(time_s)}
    return {**event, "args": args} if args else event


def _us(time_s: float) -> float:
    return round(1e6 * float(time_s), 3)
