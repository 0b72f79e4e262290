"""From the folder of a real run to its `RunRecord`: what each peer noticed, when it stepped, how it ended.

A peer that is started again goes on writing the same files; a new process is known by its own clock, which begins
anew. Times are brought to seconds since the earliest line of any peer; peers on several hosts keep the difference of
their hosts' clocks.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.notices import Notice, Paced
from gossiptrain.reports.record import Array, Blocks, FaultRecord, ProcessRecord, RunRecord, Samples, natural

SILENT_S = 10.0  # a peer of a going run reports twice a second; one that is silent for so long has vanished
PEER_SAYS = ("t", "elapsed_s", "kind", "step", "longest_gap_s", "neighbours", "members", "exchanges")
PEER_SAYS += ("compute_s", "mix_s", "wait_s", "samples_trained")
FIRST_BLOCK_STEPS = 4  # where `sync_every` is a time or "auto"
MOMENTS_MAX = 2000
NEXT_PROCESS_S = 0.1  # nobody starts a process again within it
STOOD_STEPS = 3  # a gap of so many usual ones, and STOOD_S, is no step but a pause
STOOD_S = 0.02
TRAFFIC_FROM = {"bytes": "bytes_sent", "snapshot_bytes": "snapshot_bytes_sent"}

Line = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Life:
    """The lines and step times (absolute, float64 [S]) of one process."""

    name: str
    number: int
    lines: list[Line]
    steps: Array

    def began(self) -> float:
        """When its recorder began, in seconds since the epoch."""
        return self.lines[0]["t"] - self.lines[0].get("elapsed_s", 0.0)

    def last(self) -> float:
        """The latest moment it is known to have lived."""
        return max(self.lines[-1]["t"], float(self.steps[-1]) if len(self.steps) else 0.0)


def open_run(path: Path | str) -> RunRecord:
    """Opens the folder of a real run, ended or not.

    Raises:
        ConfigurationError: there is no such folder, it is none of a run, or no peer has recorded anything in it.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ConfigurationError(
            f"run={str(path)!r}: no such folder; name a run's folder, such as runs/DATE-TIME-SCRIPT"
        )
    logs = sorted((folder / "events").glob("*.jsonl"), key=lambda log: natural(log.stem))
    if not logs:
        is_run = (folder / "config.json").exists()
        what = "no peer of this run has recorded anything" if is_run else "is not the folder of a run"
        raise ConfigurationError(f"run={str(path)!r}: {what}; there is no events/NAME.jsonl in it")
    lives = [life for log in logs for life in _lives(log)]
    if not lives:
        raise ConfigurationError(f"run={str(path)!r}: the events of its {len(logs)} peers are empty")
    config, summary = _json(folder / "config.json"), _json(folder / "summary.json")
    return _record(folder, lives, config, summary)


def _record(folder: Path, lives: list[_Life], config: Line, summary: Line) -> RunRecord:
    zero = min(life.began() for life in lives)
    newest = max(life.last() for life in lives)
    is_going = not summary and time.time() - newest < SILENT_S
    given = str(config.get("sync_every") or 1)
    steps = int(given) if given.isdecimal() else FIRST_BLOCK_STEPS
    ends = summary.get("peers", {})
    latest = {life.name: life.number for life in lives}
    processes = []
    for life in lives:
        is_latest = latest[life.name] == life.number
        end, reason = _end(life, ends.get(life.name, {}) if is_latest else {}, is_going and is_latest, newest)
        processes.append(_process(life, zero, end, reason, steps))
    remarks = ("The run was still going when it was read: this is the run so far.",) if is_going else ()
    if not summary and not is_going:
        remarks = ("There is no summary.json: how peers ended is told from their own last words.",)
    return RunRecord(
        title=folder.resolve().name,
        origin="real",
        until_s=newest - zero,
        processes=tuple(processes),
        samples=_samples(lives, zero, newest - zero),
        faults=_kills(processes),
        settings=_settings(config),
        environment={key: config[key] for key in ("command", "python", "platform", "versions") if key in config},
        remarks=remarks,
        is_going=is_going,
    )


def _lives(log: Path) -> list[_Life]:
    """Cuts a peer's log where a process's own clock begins anew; threads that note at once go back by a moment only."""
    pieces: list[list[Line]] = []
    began = elapsed_s = float("-inf")
    for raw in log.read_bytes().splitlines():
        line = _line(raw)
        if line is None:
            continue
        before_s, elapsed_s = elapsed_s, line.get("elapsed_s", 0.0)
        begins = line["t"] - elapsed_s
        if not pieces or (elapsed_s < before_s and begins > began + NEXT_PROCESS_S):
            began = begins
            pieces.append([])
        pieces[-1].append(line)
    steps = _step_times(log.with_suffix(".steps"))
    starts = [piece[0]["t"] - piece[0].get("elapsed_s", 0.0) for piece in pieces]
    bounds = [*np.searchsorted(steps, starts), len(steps)]
    return [
        _Life(log.stem, number, piece, steps[bounds[number] : bounds[number + 1]])
        for number, piece in enumerate(pieces)
    ]


def _line(raw: bytes) -> Line | None:
    """None for what is no whole line: a process may have been killed while it wrote."""
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) and {"t", "kind"} <= line.keys() else None


def _step_times(path: Path) -> Array:
    """Seconds since the epoch, float64 [S]; the file may be growing, and may end in half a number."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return np.empty(0)
    return np.sort(np.frombuffer(data[: len(data) // 8 * 8], dtype="<f8"))


def _end(life: _Life, exited: Mapping[str, Any], is_going: bool, newest: float) -> tuple[str, str]:
    finished = next((line for line in reversed(life.lines) if line["kind"] == "Finished"), None)
    if finished is not None:
        if finished.get("ok"):
            return "finished", ""
        left = next((line for line in reversed(life.lines) if line["kind"] == "Left"), {})
        return "failed", str(left.get("reason") or exited.get("cause") or "")
    if exited:
        end = "stopped" if exited.get("stopped") else "crashed" if exited.get("returncode", 0) < 0 else "failed"
        return end, str(exited.get("cause", ""))
    if is_going and newest - life.last() < SILENT_S:
        return "", ""
    return "crashed", "it said nothing more"


def _process(life: _Life, zero: float, end: str, reason: str, first_steps: int) -> ProcessRecord:
    final = next((line for line in reversed(life.lines) if line["kind"] == "Finished"), {})
    progress = [line for line in life.lines if line["kind"] == "Progress"]
    last_said = final or (progress[-1] if progress else {})
    sent, counters = int(last_said.get("bytes_sent") or 0), final.get("counters") or {}
    snapshots = int(counters.get("snapshot_bytes_sent", 0))
    began_s = life.began() - zero
    notices = tuple((line["t"] - zero, notice) for line in life.lines if (notice := _notice(line)) is not None)
    return ProcessRecord(
        name=life.name,
        number=life.number,
        began_s=began_s,
        ended_s=life.last() - zero if end else float("inf"),
        end=end,
        reason=reason,
        steps=len(life.steps),
        blocks=_blocks(life.steps - zero, began_s, _sizes(first_steps, notices)),
        notices=notices,
        first_step=max(0, int(last_said.get("step") or 0) - len(life.steps)) if final else _first_step(progress),
        traffic={"bytes": sent - snapshots, "snapshot_bytes": snapshots},
        counters=counters,
        spent_s={part: float(last_said.get(f"{part}_s") or 0.0) for part in ("compute", "mix", "wait")},
        samples=last_said.get("samples_trained"),
    )


def _first_step(progress: list[Line]) -> int:
    """The step that the process's own count began at, where it did not live to tell the last: the least it ever told."""
    return int(min((line.get("step") or 0 for line in progress), default=0))


def _sizes(first_steps: int, notices: Iterable[tuple[float, Notice]]) -> list[tuple[float, int]]:
    """Since when (seconds) blocks have had so many steps."""
    paced = [(time_s, notice.steps) for time_s, notice in notices if isinstance(notice, Paced)]
    return [(float("-inf"), first_steps), *paced]


def _beginnings(steps_s: Array, sizes: list[tuple[float, int]]) -> list[int]:
    """The numbers of the steps that blocks begin with, where nothing stood still."""
    found, at = [], 0
    since_s = [time_s for time_s, _ in sizes]
    while at < len(steps_s):
        found.append(at)
        at += max(1, sizes[bisect_right(since_s, steps_s[at]) - 1][1])
    return found


def _blocks(steps_s: Array, began_s: float, sizes: list[tuple[float, int]]) -> Blocks:
    """Groups steps by the numbers that blocks had, and cuts where training stood still.

    A block begins where the one before ended, or a usual step before its first is done if training stood still.
    """
    if not len(steps_s):
        return Blocks.none()
    gaps_s = np.diff(steps_s, prepend=steps_s[0])
    gaps_s[0] = min(steps_s[0] - began_s, float(np.median(gaps_s[1:]))) if len(steps_s) > 1 else 0.0
    usual_s = float(np.median(gaps_s))
    stood = gaps_s > STOOD_STEPS * usual_s + STOOD_S
    firsts = np.unique(np.concatenate([_beginnings(steps_s, sizes), np.flatnonzero(stood)]).astype(np.int64))
    lasts = np.append(firsts[1:], len(steps_s)) - 1
    begins_s = np.concatenate([[steps_s[0] - gaps_s[0]], steps_s[lasts[:-1]]])
    pauses_s = np.where(stood[firsts], gaps_s[firsts] - usual_s, 0.0)
    return Blocks(begins_s + pauses_s, steps_s[lasts], lasts - firsts + 1, np.maximum.reduceat(gaps_s, firsts))


def _notice(line: Line) -> Notice | None:
    """The protocol's notice in a line; None for what the runtime added, and for kinds of a later version."""
    try:
        return msgspec.convert(line, Notice)
    except msgspec.ValidationError:
        return None


def _samples(lives: Iterable[_Life], zero: float, until_s: float) -> Samples:
    """Brings what peers said twice a second to common moments; between two of them the earlier one holds."""
    lives = list(lives)
    peers = tuple(sorted({life.name for life in lives}, key=natural))
    progress = [(life, [line for line in life.lines if line["kind"] in ("Progress", "Finished")]) for life in lives]
    moments = int(np.clip(2 * until_s, 2, MOMENTS_MAX))
    time_s = np.linspace(0.0, until_s, moments)
    names = dict.fromkeys(
        key
        for _, lines in progress
        for line in lines
        if line["kind"] == "Progress"
        for key, value in line.items()
        if key not in (*PEER_SAYS, "bytes_sent", "bytes_received") and isinstance(value, (int, float))
    )
    by_peer = {name: np.full((moments, len(peers)), np.nan) for name in names}
    bytes_sent = np.zeros(moments)
    for life, lines in progress:
        column, ended_s = peers.index(life.name), life.last() - zero
        for name, values_TN in by_peer.items():
            held, is_alive = _held(lines, name, zero, time_s), time_s <= ended_s
            values_TN[:, column] = np.where(is_alive & np.isfinite(held), held, values_TN[:, column])
        bytes_sent += np.nan_to_num(_held(lines, "bytes_sent", zero, time_s))
    return Samples(time_s, peers, {}, by_peer, bytes_sent)


def _held(lines: list[Line], name: str, zero: float, time_s: Array) -> Array:
    """The latest value of a field at each moment, [T]; NaN before the first."""
    said = [(line["t"] - zero, line[name]) for line in lines if isinstance(line.get(name), (int, float))]
    if not said:
        return np.full(len(time_s), np.nan)
    at_s, values = np.array(said, dtype=np.float64).T
    place = np.searchsorted(at_s, time_s, side="right")
    return np.concatenate([[np.nan], values])[place]


def _kills(processes: list[ProcessRecord]) -> tuple[FaultRecord, ...]:
    """Whoever ended without a word was killed by somebody."""
    ended = [process for process in processes if process.end == "crashed"]
    return tuple(FaultRecord("killed", p.ended_s, p.ended_s, (p.name,), p.reason) for p in ended)


def _settings(config: Line) -> dict[str, str]:
    settings = {
        key: str(config[key]) for key in ("topology", "mixer", "codec", "sync_every") if config.get(key) is not None
    }
    if config.get("script"):
        settings["script"] = " ".join([Path(config["script"]).name, *map(str, config.get("arguments", ()))])
    if config.get("started"):
        settings["started"] = str(config["started"])
    return settings


def _json(path: Path) -> Line:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
