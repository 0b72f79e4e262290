"""`calibrate`: fits an `Environment` to a real run, so that "what if" can be asked for that very cluster.

environment = sim.calibrate("runs/2026-03-01-image_classifier")
sim.Simulation(64, environment=environment).run(600)        # what if there were 64 such peers?

What is fitted from what:

- Steps: the times between two steps of a peer (RUN/events/NAME.steps), a distribution a peer; see `MeasuredSteps`. What the
  training loop does beside the step counts with it, as it does in the run. Where rounds are waited for (the synchronous
  mode), the interval that spans the boundary is left out, since the simulation adds the wait itself.
- Delays: round trips of pings (`LinkTimes` records). A simulated one lasts d (2 + j (U + U')), with delay d, jitter j
  and two uniform numbers; its 10th and 50th percentiles give d of each pair; j is the median over the pairs.
- Bandwidths and overhead: from expecting a snapshot to its last byte a simulated one takes d (2 + j U), an overhead, and
  size / bandwidth. All snapshots of a run are equally large, so that the two cannot be told apart from them. Below
  `SMALL_BYTES` a snapshot is a few packets, and the rest of its time is what handling it takes: the median is the
  overhead, and bandwidths stay the simulator's own. From there on the rest is bytes: the bandwidth of a pair is what makes
  its median time right, and the fastest tenth of a host's snapshots gives its uplink and downlink, a lower bound where
  nothing filled them.

Durations at one peer only are used, never clocks of two. Peers beyond the measured ones are each like one of these, drawn.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gossiptrain.errors import ConfigurationError
from sim.environment import Environment
from sim.measured_steps import MeasuredSteps
from sim.network_options import NetworkOptions

STEPS_MIN = 20
JITTER_MAX = 10.0
MBPS_MAX = 1e6
SMALL_BYTES = 256 * 1024
# The 10th percentile of the sum of two uniform numbers in [0, 1]; its median is 1.
SUM_10 = math.sqrt(0.2)

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run's events hold.

    Attributes:
        steps_s: by peer's name, in the order of names, the times between its steps, float64 [steps].
        round_trips_s: by (who asked, who answered). snapshots_s: by (sender, receiver), from expecting to having one.
        snapshot_bytes: size of a snapshot, 0 where none was recorded.
        left_out: peers that took too few steps.
    """

    steps_s: dict[str, np.ndarray]
    round_trips_s: dict[Pair, list[float]] = field(default_factory=dict)
    snapshots_s: dict[Pair, list[float]] = field(default_factory=dict)
    snapshot_bytes: int = 0
    left_out: tuple[str, ...] = ()


def calibrate(run_folder: str | Path, network: NetworkOptions | None = None) -> Environment:
    """Fits an environment to a real run; see the module's text for how.

    Args:
        run_folder: what `gossiptrain launch` calls the run folder; holds events/NAME.jsonl and events/NAME.steps.
        network: taken instead of fitting one, for runs that recorded no links.

    Returns:
        Compute and network; nobody comes or goes. Its name tells from how much it was fitted.

    Raises:
        ConfigurationError: there are no such files, or too little in them.
    """
    measured = read(run_folder)
    names = list(measured.steps_s)
    if network is None:
        network = fit_network(measured)
    counts = [sum(map(len, found.values())) for found in (measured.round_trips_s, measured.snapshots_s)]
    steps = sum(map(len, measured.steps_s.values()))
    text = f"calibrated from {Path(run_folder).name}: {len(names)} peers, {steps} steps, {counts[0]} round trips, "
    text += f"{counts[1]} snapshots of {measured.snapshot_bytes} bytes"
    text += f"; without {', '.join(measured.left_out)}" if measured.left_out else ""
    return Environment(MeasuredSteps.fit(list(measured.steps_s.values())), network, name=text)


def read(run_folder: str | Path) -> Measured:
    """Reads the events of a run; see `calibrate`."""
    folder = Path(run_folder) / "events"
    names = sorted((path.stem for path in folder.glob("*.steps")), key=_natural)
    if not names:
        raise ConfigurationError(f"run_folder={str(run_folder)!r}: has no events/NAME.steps; is it a run's folder?")
    steps_s, round_trips_s, snapshots_s, sizes = {}, {}, {}, []
    for name in names:
        lines = list(_lines(folder / f"{name}.jsonl"))
        steps_s[name] = _intervals_s(folder / f"{name}.steps", lines, name)
        for line in lines:
            if line.get("kind") == "LinkTimes":
                round_trips_s.setdefault((name, line["peer"]), []).extend(line["round_trips_s"])
                snapshots_s.setdefault((line["peer"], name), []).extend(line["snapshots_s"])
                sizes.append(line["snapshot_bytes"])
    few = tuple(name for name, row_s in steps_s.items() if len(row_s) < STEPS_MIN)
    enough = {name: row_s for name, row_s in steps_s.items() if name not in few}
    if not enough:
        raise ConfigurationError(
            f"run_folder={str(run_folder)!r}: no peer took more than {STEPS_MIN} steps; train longer"
        )
    return Measured(enough, round_trips_s, snapshots_s, max(sizes, default=0), few)


def fit_network(measured: Measured) -> NetworkOptions:
    """Fits delays and bandwidths of the links between the measured peers.

    Raises:
        ConfigurationError: nothing was recorded of links between them.
    """
    names = list(measured.steps_s)
    if len(names) < 2:
        return NetworkOptions()
    fits = {pair: _fit_delay(both) for pair, both in _both_ways(measured, names).items() if len(both) >= 2}
    if not fits:
        raise ConfigurationError(
            "run_folder: no round trips (LinkTimes) were recorded between its peers: the run was too short, or made by an "
            "older version; give network=NetworkOptions(...) to fit steps alone"
        )
    jitter = float(np.clip(np.median([j for _, j in fits.values()]), 0.0, JITTER_MAX))
    typical_s = float(np.median([delay_s for delay_s, _ in fits.values()]))
    delays_s = {pair: fits[pair][0] if pair in fits else typical_s for pair in _pairs(names)}
    known: dict[str, Any] = {"latency_s": _matrix(names, delays_s, 0.0), "jitter": round(jitter, 4), "extends": True}
    if measured.snapshot_bytes < SMALL_BYTES:
        return NetworkOptions(**known, snapshot_overhead_s=_overhead_s(measured, delays_s, jitter))
    typical_mbps, fast_mbps = _rates_mbps(measured, delays_s, jitter)
    if not typical_mbps:
        return NetworkOptions(**known)
    middle = float(np.median(list(typical_mbps.values())))
    whole_mbps = {pair: typical_mbps.get(pair, middle) for pair in _pairs(names, both=True)}
    return NetworkOptions(
        **known,
        pair_mbps=_matrix(names, whole_mbps, MBPS_MAX),
        uplink_mbps=tuple(_most(fast_mbps, 0, name, middle) for name in names),
        downlink_mbps=tuple(_most(fast_mbps, 1, name, middle) for name in names),
    )


def _fit_delay(round_trips_s: Sequence[float]) -> tuple[float, float]:
    """Returns (one-way delay d, jitter j) such that d (2 + j (U + U')) has these 10th and 50th percentiles."""
    low_s, middle_s = (float(value) for value in np.percentile(round_trips_s, (10, 50)))
    spread_s = (middle_s - low_s) / (1 - SUM_10)  # d j
    delay_s = (middle_s - spread_s) / 2
    # Tails heavier than the model has: the most jitter that it knows, and the median as it was.
    if delay_s <= 0 or spread_s > JITTER_MAX * delay_s:
        return middle_s / (2 + JITTER_MAX), JITTER_MAX
    return delay_s, spread_s / delay_s


def _both_ways(measured: Measured, names: Sequence[str]) -> dict[Pair, list[float]]:
    """Round trips by pair in the order of names, whoever of the two asked."""
    found = measured.round_trips_s
    return {(a, b): [*found.get((a, b), ()), *found.get((b, a), ())] for a, b in _pairs(names)}


def _overhead_s(measured: Measured, delays_s: dict[Pair, float], jitter: float) -> float:
    """What the median snapshot took beside its delays, over the pairs; 0 where none was timed."""
    found = []
    for (sender, receiver), times_s in measured.snapshots_s.items():
        delay_s = delays_s.get((sender, receiver), delays_s.get((receiver, sender)))
        if delay_s is not None and times_s:
            found.append(float(np.median(times_s)) - delay_s * (2 + jitter / 2))
    return round(max(0.0, float(np.median(found))), 7) if found else 0.0


def _rates_mbps(measured: Measured, delays_s: dict[Pair, float], jitter: float) -> tuple[dict, dict]:
    """Returns by (sender, receiver) the bandwidth at the median time of a snapshot, and at the fastest tenth."""
    typical, fast = {}, {}
    for (sender, receiver), times_s in measured.snapshots_s.items():
        delay_s = delays_s.get((sender, receiver), delays_s.get((receiver, sender)))
        if delay_s is not None and times_s:
            low_s, middle_s = (float(value) for value in np.percentile(times_s, (10, 50)))
            typical[sender, receiver] = _mbps(measured.snapshot_bytes, middle_s - delay_s * (2 + jitter / 2))
            fast[sender, receiver] = _mbps(measured.snapshot_bytes, low_s - delay_s * (2 + jitter / 10))
    return typical, fast


def _mbps(size: int, seconds: float) -> float:
    return round(min(8e-6 * size / seconds, MBPS_MAX), 3) if seconds > 0 else MBPS_MAX


def _most(fast_mbps: dict[Pair, float], place: int, name: str, otherwise: float) -> float:
    return max((rate for pair, rate in fast_mbps.items() if pair[place] == name), default=otherwise)


def _pairs(names: Sequence[str], both: bool = False) -> list[Pair]:
    return [(a, b) for i, a in enumerate(names) for j, b in enumerate(names) if i < j or (both and i > j)]


def _matrix(names: Sequence[str], values: dict[Pair, float], own: float) -> tuple[tuple[float, ...], ...]:
    def value(a: str, b: str) -> float:
        return own if a == b else round(values[a, b] if (a, b) in values else values[b, a], 7)

    return tuple(tuple(value(a, b) for b in names) for a in names)


# Reading


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of an event log, which may be growing or end in half a line."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def _intervals_s(path: Path, lines: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    """The times between two steps of one process; none across a restart, none across a wait for a round."""
    data = path.read_bytes()
    times_s = np.frombuffer(data[: len(data) // 8 * 8], dtype="<f8")
    starts_s = [line["t"] for line in lines if line.get("kind") == "Joined"]
    settings = next((line for line in lines if line.get("kind") == "Settings"), {})
    processes = np.split(times_s, np.searchsorted(times_s, sorted(starts_s)))
    return np.concatenate([_of_process(process_s, settings, name) for process_s in processes])


def _of_process(times_s: np.ndarray, settings: dict[str, Any], name: str) -> np.ndarray:
    rows_s = np.diff(times_s)
    if settings.get("pace") == "round":
        given = str(settings["sync_every"])
        every = int(given) if given.isdecimal() else 0
        if every < 2:
            raise ConfigurationError(
                f"{name}: waits for a round after each step, or after changing numbers of steps (sync_every={given}), so "
                "that its steps' own times cannot be told from the waiting; calibrate from a run with a fixed "
                "sync_every of 2 or more, or of the mixer ad_psgd"
            )
        rows_s = rows_s[np.arange(1, len(rows_s) + 1) % every != 0]
    return rows_s[rows_s > 0]


def _natural(name: str) -> list[tuple[int, str]]:
    """Orders peer-10 after peer-9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
