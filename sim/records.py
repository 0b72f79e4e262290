"""From a simulation's `Report` to the `RunRecord` that simulated and real runs share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gossiptrain.protocol.rewiring import describe
from gossiptrain.reports.record import Blocks, FaultRecord, ProcessRecord, RunRecord, Samples, natural
from sim.faults import Fault

if TYPE_CHECKING:
    from sim.options import Options
    from sim.report import PeerReport, Report, Sample
    from sim.training_thread import Block


def record_of(report: Report) -> RunRecord:
    """Reads a report; the processes come in the peers' natural order, as in a real run's record."""
    started: Counter[str] = Counter()
    processes = []
    for peer in sorted(report.peers, key=lambda peer: (natural(peer.name), peer.began_s)):
        processes.append(_process(peer, started[peer.name]))
        started[peer.name] += 1
    return RunRecord(
        title=f"simulation, seed {report.seed}",
        origin="simulated",
        until_s=report.until_s,
        processes=tuple(processes),
        samples=_samples(report, tuple(sorted(started, key=natural))),
        faults=tuple(_fault(fault) for fault in report.faults if fault.at_s <= report.until_s),
        settings={**report.settings, "trace": report.trace_hash},
        environment=report.environment,
        remarks=("The simulation was interrupted: this is the run so far.",) if report.interrupted else (),
    )


def settings_of(options: Options) -> dict[str, str]:
    """What fixed a run, in words."""
    workload = options.workload
    compute = options.environment.compute if options.environment is not None else None
    return {
        "topology": describe(options.topology),
        "mixer": options.mixer,
        "sync_every": str(options.sync_every),
        "workload": workload.describe(),
        "step times": type(compute or workload.step_times).__name__,
        "snapshot": _size(workload.snapshot_bytes),
        "seed": str(options.seed),
    }


def _process(peer: PeerReport, number: int) -> ProcessRecord:
    return ProcessRecord(
        name=peer.name,
        number=number,
        began_s=peer.began_s,
        ended_s=peer.ended_s,
        end=peer.end,
        reason="; ".join(peer.failures),
        steps=peer.steps,
        blocks=_blocks(peer.blocks),
        notices=peer.notices,
        traffic=peer.traffic,
        counters=peer.counters,
        spent_s=_spent(peer),
        samples=peer.samples,
    )


def _spent(peer: PeerReport) -> dict[str, float]:
    """Time between blocks is waiting: for a round, or for a pause to end. Mixing takes no virtual time."""
    compute_s = sum(block.end_s - block.began_s for block in peer.blocks)
    lasted_s = peer.blocks[-1].end_s - peer.blocks[0].began_s if peer.blocks else 0.0
    return {"compute": compute_s, "mix": 0.0, "wait": max(0.0, lasted_s - compute_s)}


def _blocks(blocks: Sequence[Block]) -> Blocks:
    if not blocks:
        return Blocks.none()
    ended_s, steps, gap_s, began_s = (np.array(column) for column in zip(*blocks))
    return Blocks(began_s, ended_s, steps.astype(np.int64), gap_s)


def _samples(report: Report, peers: tuple[str, ...]) -> Samples:
    """Every moment of observation; a workload without values measures nothing, but bytes are sent all the same."""
    sampled = {sample.time_s: sample for sample in report.samples}
    bytes_sent = dict(report.bytes_sent)
    times_s = sorted({*sampled, *bytes_sent})
    rows = [sampled.get(time_s) for time_s in times_s]
    overall = _columns([row.values if row is not None else {} for row in rows])
    by_peer = _by_peer(rows, peers)
    return Samples(
        time_s=np.array(times_s, dtype=np.float64),
        peers=peers,
        overall=overall,
        by_peer={_shared_name(name, values_TN, overall): values_TN for name, values_TN in by_peer.items()},
        bytes_sent=np.array([bytes_sent.get(time_s, np.nan) for time_s in times_s], dtype=np.float64),
    )


def _by_peer(rows: Sequence[Sample | None], peers: tuple[str, ...]) -> dict[str, np.ndarray]:
    index = {name: column for column, name in enumerate(peers)}
    found: dict[str, np.ndarray] = {}
    for place, row in enumerate(rows):
        if row is None:
            continue
        columns = [index[name] for name in _names(row.hosts)]
        for measure, values in row.per_peer.items():
            values_TN = found.setdefault(measure, np.full((len(rows), len(peers)), np.nan))
            values_TN[place, columns] = values
    return found


def _shared_name(measure: str, values_TN: np.ndarray, overall: dict[str, np.ndarray]) -> str:
    """ "peer_loss" is the band of "loss" where that is the mean over the peers, and a measure of its own elsewhere."""
    name = measure.removeprefix("peer_")
    if name not in overall:
        return measure
    means = Samples(np.empty(0), by_peer={measure: values_TN}).mean(measure)
    return name if np.allclose(means, overall[name], rtol=1e-4, equal_nan=True) else measure


def _columns(rows: Sequence[dict[str, float]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows], dtype=np.float64) for name in names}


def _fault(fault: Fault) -> FaultRecord:
    groups = [", ".join(_names(group)) for group in fault.groups]
    given = {name: value for name, value in fault.options.items() if value not in (False, "", None)}
    options = [name if value is True else f"{name} {value}" for name, value in given.items()]
    text = " | ".join(groups) if groups else ", ".join(options)
    peers = _names([*fault.peers, *(peer for group in fault.groups for peer in group)])
    return FaultRecord(fault.kind, fault.at_s, fault.end_s, tuple(peers), text)


def _names(peers: Iterable[int]) -> list[str]:
    return [f"peer-{peer}" for peer in peers]


def _size(nbytes: int) -> str:
    unit, size = next(
        ((unit, size) for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if nbytes >= size), ("B", 1)
    )
    return f"{nbytes / size:.3g} {unit}"
