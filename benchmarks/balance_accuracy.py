"""Virtual time to an accuracy with 32 unequal, changing devices: synchronous all-reduce, fixed local steps, and pacing.

Speeds are log-normal with a spread of 8 between the fastest and the slowest; at 20 s a fifth of the peers change: half
of these take 3 times as long for a step from then on, half a third. Fashion-MNIST (10,000 images), an MLP of 50,890
parameters, 64 samples a step. Two ways of having data: everybody reads all of it, or the eight slowest peers alone hold
three of the ten classes.

- all-reduce: one model; a step lasts as long as the slowest peer's, the exchange itself takes no time.
- rounds: synchronous, 8 local steps each, on the overlay (D-PSGD).
- pairs: asynchronous, 4 local steps, or one.
- paced: asynchronous, sync_every="auto".
- normalised: where data differ, the same with normalise=True.

Each is run with both learning rates and stands with the better one. Accuracies are of the average of all peers' models
on 1,000 images that nobody trains on.

The ceiling is how much sooner the peers can have computed as many gradients as all-reduce had by then, of all data and
of the rare classes, if nobody ever waits and all that is left is to use them as well: who wants to be faster than that
must make more of a gradient than all-reduce does.

    python benchmarks/balance_accuracy.py [--virtual-s 90] [--jobs 2]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import torch
from common import machine, print_table, write_results
from torch import nn

import gossiptrain.data
import sim
from sim.streams import generator

PEERS, SPREAD, FASTEST_S = 32, 8.0, 0.05
BATCH, RATES = 64, (0.1, 0.3)
CHANGE_AT_S, CHANGE = 20.0, 3.0
SLOWEST, RARE = 8, (7, 8, 9)
ALONE = "all-reduce"
CONTESTANTS: dict[str, dict[str, Any]] = {
    ALONE: {},
    "rounds of 8": {"mixer": "d_psgd", "sync_every": 8},
    "pairs, every 4": {"sync_every": 4},
    "pairs, every step": {"sync_every": 1},
    "paced": {"sync_every": "auto"},
    "every step, normalised": {"sync_every": 1, "normalise": True},
    "paced, normalised": {"sync_every": "auto", "normalise": True},
}
DIFFERING = ("every step, normalised", "paced, normalised")
TARGETS = {"all data": (0.78, 0.80, 0.82, 0.83), "rare classes": (0.70, 0.75, 0.78, 0.80)}
LAST = 5


class Run(NamedTuple):
    """One contestant's curve: times in virtual seconds, accuracies, and steps of all peers together."""

    data: str
    name: str
    rate: float
    times_s: list[float]
    accuracy: list[float]
    steps: int


def main() -> None:
    """Prints one table for each way of having data and writes one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--virtual-s", type=float, default=90.0, help="virtual seconds; all-reduce runs four times as long"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "rows": []}
    names = {data: [n for n in CONTESTANTS if data != "all data" or n not in DIFFERING] for data in TARGETS}
    jobs = [(data, name, rate, options.virtual_s) for data in TARGETS for name in names[data] for rate in RATES]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        runs = list(pool.map(run, *zip(*jobs)))
    for data in TARGETS:
        rows = [best([r for r in runs if (r.data, r.name) == (data, name)]) for name in names[data]]
        results["rows"] += show(data, rows)
    print(f"\n{write_results('balance_accuracy', results)}")


def run(data: str, name: str, rate: float, until_s: float) -> Run:
    """Trains one contestant."""
    torch.set_num_threads(1)
    return all_reduce(data, rate, 4 * until_s) if name == ALONE else gossip(data, name, rate, until_s)


def gossip(data: str, name: str, rate: float, until_s: float) -> Run:
    """One of the peer-to-peer contestants, in the simulator."""
    workload = sim.TorchWorkload(
        model(),
        nn.functional.cross_entropy,
        gossiptrain.data.load("fashion-mnist"),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate),
        batch_size=BATCH,
        partition=everything if data == "all data" else rare_with_the_slow,
        evaluation_samples=1,
        step_times=step_times(),
        threads=1,
    )
    simulation = sim.Simulation(PEERS, workload=workload, formed=True, seed=1, observe_every_s=1.0, **CONTESTANTS[name])
    report = simulation.run(until_s)
    times_s = [sample.time_s for sample in report.samples]
    accuracy = [float(sample.values["average_accuracy"]) for sample in report.samples]
    steps = sum(peer.training.steps for peer in simulation.living())
    return Run(data, name, rate, times_s, accuracy, steps)


def all_reduce(data: str, rate: float, until_s: float) -> Run:
    """Every step is the mean gradient of all peers' batches, and lasts as long as the slowest one's."""
    dataset, module, chance = gossiptrain.data.load("fashion-mnist"), model(), generator(1, "all-reduce")
    share = everything if data == "all data" else rare_with_the_slow
    shares = share(dataset.train_y.numpy(), PEERS, chance)
    clocks = [step_times().begin(1, peer) for peer in range(PEERS)]
    found, now_s, step = Run(data, ALONE, rate, [], [], 0), 0.0, 0
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    while now_s < until_s:
        batch = torch.as_tensor(np.concatenate([chance.choice(part, BATCH) for part in shares]))
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(dataset.train_x[batch]), dataset.train_y[batch]).backward()
        optimizer.step()
        now_s += max(clock.block(step, 1, now_s)[0] for clock in clocks)
        step += 1
        with torch.no_grad():
            hits = module(dataset.test_x).argmax(1) == dataset.test_y
        found.times_s.append(now_s)
        found.accuracy.append(float(hits.float().mean()))
    return found._replace(steps=step * PEERS)


def model() -> nn.Module:
    """The same beginning for all."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def speeds() -> np.ndarray:
    """Seconds of a step on each device, [PEERS]."""
    z_N = generator(0, "speeds").standard_normal(PEERS)
    return FASTEST_S * np.exp((z_N - z_N.min()) / np.ptp(z_N) * math.log(SPREAD))


def step_times() -> sim.ChangingSteps:
    """Their speeds, and how a fifth of them change."""
    rows = sim.TraceSteps(tuple((float(step_s),) for step_s in speeds()))
    changing = [int(peer) for peer in generator(0, "changing").permutation(PEERS)[: PEERS // 5]]
    slower, faster = changing[::2], changing[1::2]
    base = sim.ChangingSteps(rows, ((CHANGE_AT_S, CHANGE),), tuple(slower))
    return sim.ChangingSteps(base, ((CHANGE_AT_S, 1 / CHANGE),), tuple(faster))


def everything(labels: np.ndarray, peers: int, chance: np.random.Generator) -> list[np.ndarray]:
    """All samples for everybody."""
    return [np.arange(len(labels)) for _ in range(peers)]


def rare_with_the_slow(labels: np.ndarray, peers: int, chance: np.random.Generator) -> list[np.ndarray]:
    """The slowest peers share three classes, the others the rest, in equal parts at random."""
    slow = set(np.argsort(speeds())[-SLOWEST:].tolist())
    is_rare = np.isin(labels, RARE)
    groups = (chance.permutation(np.flatnonzero(~is_rare)), chance.permutation(np.flatnonzero(is_rare)))
    parts = [iter(np.array_split(group, count)) for group, count in zip(groups, (peers - SLOWEST, SLOWEST))]
    return [np.sort(next(parts[peer in slow])) for peer in range(peers)]


def best(runs: Sequence[Run]) -> Run:
    """The run with the learning rate that gets furthest; the targets in turn, then the accuracy at the end."""
    return min(runs, key=lambda r: ([time_to(r, t) for t in reversed(TARGETS[r.data])], -final(r)))


def time_to(found: Run, target: float) -> float:
    """Virtual seconds until the accuracy is first reached; infinity if it never is."""
    return next((t for t, accuracy in zip(found.times_s, found.accuracy) if accuracy >= target), math.inf)


def final(found: Run) -> float:
    """Mean of the last accuracies."""
    return float(np.mean(found.accuracy[-LAST:]))


def soonest(data: str, until_s: float) -> float:
    """When peers that never wait have computed as many gradients of the data in question as all-reduce by this time."""
    clocks = [step_times().begin(1, peer) for peer in range(PEERS)]
    meant = range(PEERS) if data == "all data" else [int(peer) for peer in np.argsort(speeds())[-SLOWEST:]]
    now_s, step = 0.0, 0
    while now_s < until_s:
        now_s += max(clock.block(step, 1, now_s)[0] for clock in clocks)
        step += 1
    ends_s = sorted(end_s for peer in meant for end_s in ends_of(clocks[peer], until_s))
    return ends_s[min(len(ends_s), step * len(meant)) - 1]


def ends_of(clock: Any, until_s: float) -> list[float]:
    """The ends of the steps of a device that is never idle."""
    ends_s = [0.0]
    while ends_s[-1] < until_s:
        ends_s.append(ends_s[-1] + clock.block(len(ends_s) - 1, 1, ends_s[-1])[0])
    return ends_s[1:]


def show(data: str, rows: Sequence[Run]) -> list[dict[str, Any]]:
    """Prints one table; returns its rows."""
    targets, alone = TARGETS[data], rows[0]
    cells, found = [], []
    ceilings = [(time_to(alone, target), soonest(data, time_to(alone, target))) for target in targets]
    ceiling = ["ceiling", "", *(f"{soon_s:.0f} s ({at_s / soon_s:.1f}x)" for at_s, soon_s in ceilings), "", ""]
    for row in rows:
        times_s = [time_to(row, target) for target in targets]
        against = [time_to(alone, target) / time_s for target, time_s in zip(targets, times_s)]
        texts = [f"{t:.0f} s ({a:.1f}x)" if math.isfinite(t) else "-" for t, a in zip(times_s, against)]
        cells.append([row.name, row.rate, *texts, f"{final(row):.3f} at {row.times_s[-1]:.0f} s", f"{row.steps:,}"])
        reached = {str(target): round(t, 1) if math.isfinite(t) else None for target, t in zip(targets, times_s)}
        found.append(
            {"data": data, "name": row.name, "lr": row.rate, "time_to_s": reached, "final": round(final(row), 4)}
        )
        found[-1] |= {"until_s": round(row.times_s[-1], 1), "steps": row.steps}
    cells.append(ceiling)
    soonest_s = {str(target): round(soon_s, 1) for target, (_, soon_s) in zip(targets, ceilings)}
    found.append({"data": data, "name": "ceiling", "time_to_s": soonest_s})
    columns = ["", "lr", *(f"{target:.0%}" for target in targets), "end", "steps of all"]
    print_table(f"{data}: virtual seconds to an accuracy (and all-reduce's over it)", columns, cells)
    return found


if __name__ == "__main__":
    main()
