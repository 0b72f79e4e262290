"""Data shared by speed: what is trained twice or never when peers die and come, and what sharing costs.

- First table: 32 simulated peers (the protocol's own code, the loaders' look-ahead, log-normal speeds) train an epoch in
  which two die and one joins. Every sample is counted, also those that the dead had trained and never told of. Chunks that
  changed hands stand against those that had to: what the dead had not finished, and the newcomer's share by its speed.
- Second: four real processes do so, one is killed and one joins (`balance_real.py`); what each trained stands in files.
- Third: what a step pays for `PeerSampler` beside torch's `RandomSampler`, in CPU time of the whole process.

    python benchmarks/balance.py [--seeds 5] [--runs 3] [--only simulated|real|cost]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import balance_real
import torch
from common import RESULTS, machine, print_table, write_results
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import gossiptrain as gt
import sim
from gossiptrain.protocol.chunk_shares import ChunkShares
from gossiptrain.protocol.messages import ChunkId
from gossiptrain.protocol.notices import EpochFinished

PEERS = 32
SAMPLES, BATCH, AHEAD = 131_072, 32, 64
STEP_S, SPREAD = 0.5, 0.5
# Deaths and the join strike the second epoch, when all know each other's speeds, at these parts of it.
EPOCH = 1
DEATHS_AT, JOIN_AT = {5: 0.25, 9: 0.4}, 0.5
LOOK_EVERY_S = 2.0
MICRO_SAMPLES, MICRO_BATCH = 200_000, 32
MICRO_TURNS, MICRO_STEPS, MICRO_STEP_S = 25, 100, 0.003


class Counts(NamedTuple):
    """One run's epoch: see the table's columns."""

    seed: int
    untrained: int
    twice: int
    twice_told: int
    moved: int
    least: float


def main() -> None:
    """Prints the tables and writes one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="simulated runs")
    parser.add_argument("--runs", type=int, default=3, help="runs of real processes")
    parser.add_argument("--only", choices=("simulated", "real", "cost"), help="one table; the others' figures stay")
    options = parser.parse_args()
    results: dict[str, Any] = json.loads((RESULTS / "balance.json").read_text()) if options.only else {}
    results["machine"] = machine()
    if options.only in (None, "simulated"):
        results["deaths_and_a_join"] = deaths_and_a_join(options.seeds)
    if options.only in (None, "real"):
        results["real_kill_and_join"] = kill_and_join(options.runs)
    if options.only in (None, "cost"):
        results["cost_of_sharing"] = cost_of_sharing()
    print(f"\n{write_results('balance', results)}")


def deaths_and_a_join(seeds: int) -> list[dict[str, Any]]:
    """Simulates the epoch for some seeds, prints the table and returns its rows."""
    rows = [one_run(seed) for seed in range(seeds)]
    title = f"An epoch of {SAMPLES:,} samples, {PEERS} simulated peers, two deaths and one join"
    columns = ("seed", "never trained", "trained twice", "told of that", "chunks moved", "had to move")
    cells = [
        (
            row.seed,
            row.untrained,
            f"{row.twice} ({row.twice / SAMPLES:.2%})",
            row.twice_told,
            row.moved,
            f"{row.least:.0f}",
        )
        for row in rows
    ]
    print_table(title, columns, cells)
    return [row._asdict() for row in rows]


def kill_and_join(runs: int) -> list[dict[str, Any]]:
    """Runs real processes, prints the table and returns its rows."""
    rows = [balance_real.one_run(number) for number in range(runs)]
    samples = balance_real.SAMPLES
    title = f"An epoch of {samples:,} samples, 4 real processes, one killed and one joining"
    columns = ("run", "never trained", "trained twice", "told of that", "chunks moved", "had to move", "epoch s")
    cells = [
        (
            row.run,
            row.untrained,
            f"{row.twice} ({row.twice / samples:.2%})",
            row.twice_told,
            row.moved,
            f"{row.least:.0f}",
            f"{row.epoch_s:.0f}",
        )
        for row in rows
    ]
    print_table(title, columns, cells)
    return [row._asdict() for row in rows]


def one_run(seed: int) -> Counts:
    """Runs without faults to learn when the epoch is, then with them, and counts."""
    quiet = simulation(seed, sim.FaultSchedule())
    begins_s, ends_s = (run_until(quiet, lambda run, e=e: floor_of(run) >= e) for e in (EPOCH, EPOCH + 1))
    at_s = {peer: begins_s + part * (ends_s - begins_s) for peer, part in DEATHS_AT.items()}
    join_s = begins_s + JOIN_AT * (ends_s - begins_s)
    faults = sim.FaultSchedule().join(join_s)
    for peer, time_s in at_s.items():
        faults = faults.crash(peer, time_s)
    run = simulation(seed, faults)
    data, least = run._world.data, 0.0
    assert data is not None
    for peer, time_s in at_s.items():
        run.run(time_s - 0.001)
        least += unfinished(shares_of(run), f"peer-{peer}", data)
    run.run(join_s + 4.0)
    newcomer = run.process(PEERS)
    shares = shares_of(run)
    free = sum(shares.left_with(EPOCH).values())
    least += free * shares.weight(newcomer.name) / sum(shares.weight(name) for name in [*shares.others(), "peer-0"])
    run_until(run, lambda run: finished(run) is not None)
    told = finished(run)
    assert told is not None
    truth = data.truth(EPOCH)
    return Counts(seed, truth.untrained, truth.twice, told.trained_twice, told.moved, least)


def simulation(seed: int, faults: sim.FaultSchedule) -> sim.Simulation:
    """The peers, who know each other from the beginning."""
    steps = sim.LogNormalSteps(STEP_S, between=SPREAD, within=0.05)
    data = sim.SharedData(SAMPLES, BATCH, ahead=AHEAD)
    return sim.Simulation(
        PEERS, formed=True, seed=seed, faults=faults, data=data, workload=sim.TimedWorkload(4_000_000, steps)
    )


def run_until(run: sim.Simulation, condition: Callable[[sim.Simulation], bool]) -> float:
    """Runs until the condition holds; returns the time, in virtual seconds."""
    run.run(run.now + LOOK_EVERY_S)
    while not condition(run):
        run.run(run.now + LOOK_EVERY_S)
    return run.now


def floor_of(run: sim.Simulation) -> int:
    """The epochs that the first peer knows to be complete."""
    return run.process(0).protocol.ledger.state().floor


def finished(run: sim.Simulation) -> EpochFinished | None:
    """What the first peer told at the end of the epoch."""
    notices = [notice for _, notice in run.process(0).notices if isinstance(notice, EpochFinished)]
    return next((notice for notice in notices if notice.epoch == EPOCH), None)


def shares_of(run: sim.Simulation) -> ChunkShares:
    """The first peer's view of who works on what."""
    return run.process(0).protocol.ledger._shares


def unfinished(shares: ChunkShares, name: str, data: sim.SharedData) -> int:
    """How many chunks of the epoch a peer holds or owns and has not finished, as another sees it."""
    held = [chunk for chunk in range(data.plan.chunks) if shares.holder(ChunkId(EPOCH, chunk)) == name]
    return len(held) + shares.left_with(EPOCH).get(name, 0)


def cost_of_sharing() -> dict[str, float]:
    """Measures what a step pays for its sampler, prints the table and returns microseconds of CPU time.

    All threads of the process count, the network thread's work for the ledger too; each peer is alone in its run. The steps
    themselves sleep. Two peers take turns of some steps each, one with either sampler, so that what else runs on the
    machine strikes both alike; the cost is the median difference between two turns that follow one another.
    """
    dataset = TensorDataset(torch.zeros(MICRO_SAMPLES, 1))
    plain, shared = gt.attach(torch.nn.Linear(1, 1), name="plain"), gt.attach(torch.nn.Linear(1, 1), name="shared")
    with plain, shared:
        turns = (
            turns_us(plain, DataLoader(dataset, batch_size=MICRO_BATCH, sampler=RandomSampler(dataset))),
            turns_us(shared, DataLoader(dataset, batch_size=MICRO_BATCH, sampler=gt.PeerSampler(dataset, shared))),
        )
        pairs = list(islice(zip(*turns, strict=True), 1, MICRO_TURNS + 1))
    plain_us, cost_us = (
        statistics.median(values) for values in ([one for one, _ in pairs], [two - one for one, two in pairs])
    )
    rows = [("RandomSampler", f"{plain_us:.0f}"), ("PeerSampler pays more", f"{cost_us:.0f}")]
    rows.append(("that is, of a step of 10 ms", f"{cost_us / 1e4:.2%}"))
    print_table(f"What a step of {MICRO_BATCH} samples and its loader pay, microseconds of CPU time", ("", "us"), rows)
    return {"random_sampler_us": plain_us, "peer_sampler_pays_us": cost_us, "of_a_step_of_10_ms": cost_us / 1e4}


def turns_us(peer: gt.Peer, loader: DataLoader) -> Iterator[float]:
    """Takes some steps of nothing but sleep a turn; yields the process's CPU time of one, in microseconds."""
    batches = iter(loader)
    while True:
        began_s = time.process_time()
        for _ in islice(batches, MICRO_STEPS):
            time.sleep(MICRO_STEP_S)
            peer.step()
        yield 1e6 * (time.process_time() - began_s) / MICRO_STEPS


if __name__ == "__main__":
    main()
