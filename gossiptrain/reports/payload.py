"""What the page of a run holds, as plain data for JSON: times in whole ticks, long runs thinned out, a few MB at most."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from gossiptrain.protocol.notices import Exchanged, PeerDied
from gossiptrain.reports.layout import layout
from gossiptrain.reports.record import Array, ProcessRecord, RunRecord
from gossiptrain.reports.story import story
from gossiptrain.reports.timeline import Edge, Suspicion, edges, spectral_gaps, standing, suspected, suspicions

VERSION = 1
TICKS = 20_000
POINTS_MAX = 600
PEER_NUMBERS_MAX = 160_000  # of all peers' own curves together
EXCHANGES_MAX = 24_000
EDGES_MAX = 60_000
BINS_MAX = 240
DOWN, UNKNOWN = "-", "."


def payload(record: RunRecord) -> dict[str, Any]:
    """Returns the page's data. Ticks are `tick_s` seconds; peers are named by their place in "peers"."""
    until_s = max(record.until_s, 1e-6)
    scale = _Scale(until_s, {name: place for place, name in enumerate(record.names())})
    found, doubts = edges(record), suspicions(record)
    mixes = sum(1 for process in record.processes for _ in process.told(Exchanged))
    return {
        "version": VERSION,
        "title": record.title,
        "origin": record.origin,
        "going": record.is_going,
        "remarks": list(record.remarks),
        "settings": [[name, value] for name, value in record.settings.items()],
        "environment": json.loads(msgspec.json.encode(record.environment)),
        "until_s": until_s,
        "tick_s": scale.tick_s,
        "peers": _peers(record, scale, found, doubts),
        "edges": _edges(found, scale),
        "shunned": _shunned(found, doubts, scale),
        "exchanges": _exchanges(record, scale, mixes),
        "exchanges_in_all": mixes,
        "curves": _curves(record),
        "steps": _steps(record),
        "activity": _activity(record),
        "events": [[scale.tick(line.time_s), line.kind, line.text, scale.places(line.peers)] for line in story(record)],
        "faults": [
            [scale.tick(f.began_s), scale.tick(min(f.ended_s, until_s)), f.kind, scale.places(f.peers)]
            for f in record.faults
        ],
    }


class _Scale:
    """Seconds to ticks, names to places."""

    def __init__(self, until_s: float, index: dict[str, int]) -> None:
        self.until_s, self.index = until_s, index
        self.tick_s = until_s / TICKS

    def tick(self, time_s: float) -> int:
        return round(min(max(time_s, 0.0), self.until_s) / self.tick_s)

    def places(self, names: Iterable[str]) -> list[int]:
        return [self.index[name] for name in names if name in self.index]


def _peers(
    record: RunRecord, scale: _Scale, found: Sequence[Edge], doubts: Sequence[Suspicion]
) -> list[dict[str, Any]]:
    names = record.names()
    lasted: dict[tuple[str, str], float] = {}
    for edge in found:
        lasted[edge.a, edge.b] = lasted.get((edge.a, edge.b), 0.0) + edge.ended_s - edge.began_s
    places_N2 = layout(names, ((a, b, seconds) for (a, b), seconds in lasted.items()))
    counted, processes = suspected(record, doubts), _by_name(record)
    died: dict[str, list[float]] = {}
    for process in record.processes:
        for time_s, notice in process.told(PeerDied):
            died.setdefault(notice.peer, []).append(time_s)
    return [
        {
            "name": name,
            "x": round(float(x), 4),
            "y": round(float(y), 4),
            # began, joined, ended (beyond the end while it lives), how it ended, why
            "lives": [_life(process, scale) for process in processes[name]],
            "suspected": _thinned([(scale.tick(t), count) for t, count in counted.get(name, ())]),
            "known_dead": sorted({scale.tick(t) for t in died.get(name, ())})[:64],
        }
        for name, (x, y) in zip(names, places_N2)
    ]


def _life(process: ProcessRecord, scale: _Scale) -> list[Any]:
    joined_s, ended_s = process.joined_s, process.ended_s
    return [
        scale.tick(process.began_s),
        scale.tick(joined_s) if math.isfinite(joined_s) else TICKS + 1,
        scale.tick(ended_s) if math.isfinite(ended_s) else TICKS + 1,
        process.end,
        process.reason[:300],
    ]


def _by_name(record: RunRecord) -> dict[str, list[ProcessRecord]]:
    found: dict[str, list[ProcessRecord]] = {}
    for process in record.processes:
        found.setdefault(process.name, []).append(process)
    return found


def _thinned(changes: list[tuple[int, int]]) -> list[int]:
    """The last change of each tick, as [tick, count, tick, count, ...]."""
    last = dict(changes)
    return [number for change in last.items() for number in change]


def _edges(found: Sequence[Edge], scale: _Scale) -> list[int]:
    """[a, b, from, until, whether both ends said so, ...]; the longest, where there are too many."""
    rows = [
        (scale.index[edge.a], scale.index[edge.b], scale.tick(edge.began_s), scale.tick(edge.ended_s), int(edge.mutual))
        for edge in found
        if edge.a in scale.index and edge.b in scale.index
    ]
    rows = [row for row in rows if row[3] > row[2]]
    if len(rows) > EDGES_MAX:
        rows = sorted(sorted(rows, key=lambda row: row[2] - row[3])[:EDGES_MAX], key=lambda row: row[2])
    return [number for row in rows for number in row]


def _shunned(found: Sequence[Edge], doubts: Sequence[Suspicion], scale: _Scale) -> list[int]:
    """[a, b, from, until, ...] of neighbours of which one suspected the other."""
    pairs = {(edge.a, edge.b) for edge in found}
    rows = []
    for doubt in doubts:
        pair = (doubt.by, doubt.of) if (doubt.by, doubt.of) in pairs else (doubt.of, doubt.by)
        if pair in pairs and scale.tick(doubt.ended_s) > scale.tick(doubt.began_s):
            rows.append((*scale.places(pair), scale.tick(doubt.began_s), scale.tick(doubt.ended_s)))
    return [number for row in sorted(rows, key=lambda row: row[2] - row[3])[:EDGES_MAX] for number in row]


def _exchanges(record: RunRecord, scale: _Scale, mixes: int) -> list[int]:
    """[peer, partner, tick of the offer, tick of the mix, ...], every k-th where there are too many."""
    every = math.ceil(max(1, mixes) / EXCHANGES_MAX)
    rows: list[tuple[int, int, int, int]] = []
    for process in record.processes:
        place = scale.index[process.name]
        for time_s, notice in list(process.told(Exchanged))[::every]:
            for partner in scale.places(notice.partners)[:8]:
                rows.append((place, partner, scale.tick(time_s - notice.seconds), scale.tick(time_s)))
    rows.sort(key=lambda row: row[3])
    return [number for row in rows[:: math.ceil(max(1, len(rows)) / EXCHANGES_MAX)] for number in row]


def _curves(record: RunRecord) -> list[dict[str, Any]]:
    samples = record.samples
    rows = rows_of(len(samples.time_s), POINTS_MAX)
    curves = []
    for measure in samples.measures():
        if not np.isfinite(samples.mean(measure)).any():
            continue
        curve: dict[str, Any] = {"name": measure, "log": is_logarithmic(measure), "time_s": short(samples.time_s[rows])}
        curve["mean"] = short(samples.mean(measure)[rows])
        band = samples.band(measure)
        if band is not None:
            curve |= {"low": short(band[0][rows]), "high": short(band[1][rows])}
            curve |= _own_curves(record, measure, max(1, len(samples.by_peer)))
        curves.append(curve)
    times_s, gaps = spectral_gaps(record)
    if len(times_s):
        gap = {"name": "spectral_gap", "log": False, "steps": True, "time_s": short(times_s, 6), "mean": short(gaps)}
        curves.append(gap)
    return curves


def _own_curves(record: RunRecord, measure: str, measures: int) -> dict[str, Any]:
    """Every peer's own curve, coarser the more there are; left out where they would have no shape."""
    samples = record.samples
    points = min(POINTS_MAX, PEER_NUMBERS_MAX // (measures * max(1, len(samples.peers))))
    if points < 20:
        return {}
    rows = rows_of(len(samples.time_s), points)
    index = {name: column for column, name in enumerate(samples.peers)}
    columns_NT = [samples.by_peer[measure][rows, index[name]] if name in index else [] for name in record.names()]
    return {"own_time_s": short(samples.time_s[rows]), "own": [short(column, 4) for column in columns_NT]}


def _steps(record: RunRecord) -> dict[str, Any]:
    """Steps of each peer's latest process over time, counted on from the state that it began from."""
    times_s = np.linspace(0.0, record.until_s, min(120, max(20, PEER_NUMBERS_MAX // max(1, len(record.names())))))
    by_name = _by_name(record)
    rows = []
    for name in record.names():
        steps_T = np.zeros(len(times_s))
        for process in by_name[name]:
            began = times_s >= process.began_s
            steps_T = np.where(began, process.first_step + process.blocks.steps_until(times_s), steps_T)
        rows.append([int(steps) for steps in steps_T])
    return {"time_s": short(times_s), "own": rows}


def _activity(record: RunRecord) -> dict[str, Any]:
    """Each peer's share of each bin of time that it computed, as a digit 0-9; `DOWN` while it did not live."""
    bins = BINS_MAX if len(record.names()) <= 300 else BINS_MAX // 2
    bounds_s = np.linspace(0.0, max(record.until_s, 1e-6), bins + 1)
    stood, by_name = standing(record), _by_name(record)
    rows = []
    for name in record.names():
        computed_s, lived_s = np.zeros(bins), np.zeros(bins)
        for process in by_name[name]:
            end_s = min(process.ended_s, record.until_s)
            lived_s += _overlap(np.array([process.began_s]), np.array([end_s]), bounds_s)
            computed_s += _overlap(process.blocks.began_s, process.blocks.ended_s, bounds_s)
        if name in stood:
            held = np.array(stood[name])
            computed_s = np.maximum(0.0, computed_s - _overlap(held[:, 0], held[:, 1], bounds_s))
        share = np.clip(computed_s / np.maximum(lived_s, 1e-12), 0, 1)
        is_down = lived_s < 0.25 * (bounds_s[1] - bounds_s[0])
        rows.append("".join(DOWN if down else str(round(9 * float(part))) for down, part in zip(is_down, share)))
    return {"bins": bins, "rows": rows}


def _overlap(begins_s: Array, ends_s: Array, bounds_s: Array) -> Array:
    """Seconds of intervals, which do not overlap each other, within each bin, [bins]."""
    order = np.argsort(begins_s)
    begins_s, ends_s = begins_s[order], ends_s[order]
    lengths_s = np.concatenate([[0.0], np.cumsum(ends_s - begins_s)])
    place = np.searchsorted(begins_s, bounds_s, side="right")
    open_s = np.where(place > 0, np.maximum(0.0, np.append(ends_s, 0.0)[place - 1] - bounds_s), 0.0)
    return np.diff(lengths_s[place] - open_s)


def is_logarithmic(measure: str) -> bool:
    """Measures that fall by powers: distances and errors."""
    return any(word in measure for word in ("distance", "error"))


def rows_of(length: int, most: int) -> np.ndarray:
    """Places of at most so many of a series, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int)) if length else np.arange(0)


def short(values: Iterable[float], digits: int = 5) -> list[float | None]:
    """Numbers with few digits; None, JSON's null, for what is not finite."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in map(float, values)]
