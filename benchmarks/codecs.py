"""What codecs bring over slow lines, what their rounding costs, and how fast they write and read.

Speed: a vector of 100 MB written and read again by one core, beside a plain copy of it.

Training: 16 simulated peers with the data of a few classes each (Dirichlet, alpha 0.3), Fashion-MNIST, an MLP of 50,890
parameters, steps of 50 ms, exchanges every 4 steps. On the slow line a float32 snapshot takes four blocks of steps to send,
as one of 100 MB does at 100 Mbit/s where steps last a quarter of a second; on the fast one it takes no time, and only the
rounding is left. Accuracies are of the average of all peers' models on 1,000 images that nobody trains on, and of the peers
themselves; medians of three seeds.

    python benchmarks/codecs.py [--virtual-s 60] [--jobs 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from typing import Any

import torch
from common import machine, print_table, write_results
from torch import nn

import gossiptrain.data
import sim
from gossiptrain.compression import known_codecs
from gossiptrain.compression.registry import codec_of

PEERS, SEEDS, BLOCK_S = 16, (1, 2, 3), 4 * 0.05
NUMBERS = 50_890
SLOW_MBPS = NUMBERS * 32e-6 / (4 * BLOCK_S)
LINES = {"slow": SLOW_MBPS, "fast": 10_000.0}
TARGETS = (0.75, 0.78, 0.80)
LAST = 5


def main() -> None:
    """Prints two tables and writes one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--virtual-s", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    options = parser.parse_args()
    described = machine()
    speeds = speed()
    print_table(
        "100 MB of float32, one core",
        ("codec", "bytes", "write ms", "read ms", "a copy ms"),
        [[*s.values()] for s in speeds],
    )
    work = [(*each, options.virtual_s) for each in product(LINES, known_codecs(), SEEDS)]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        runs = list(pool.map(train, work))
    rows = []
    for line, codec in product(LINES, known_codecs()):
        rows.append(summary([run for run in runs if (run["line"], run["codec"]) == (line, codec)]))
    print_table(
        f"{PEERS} peers, {options.virtual_s:g} virtual s; slow: {SLOW_MBPS:.3g} Mbit/s",
        [*(f"s to {target:.0%}" if isinstance(target, float) else target for target in rows[0])],
        [list(row.values()) for row in rows],
    )
    write_results("codecs", {"machine": described, "speed": speeds, "rows": rows, "runs": runs})


def speed() -> list[dict[str, Any]]:
    """Times writing and reading, in turns with a copy."""
    torch.set_num_threads(1)
    x, out = torch.randn(25_000_000), torch.zeros(25_000_000)
    found = []
    for name in known_codecs():
        codec = codec_of(name)
        if codec is None:
            continue
        data = torch.zeros(codec.encoded_bytes(len(x), x.dtype), dtype=torch.uint8)
        ways: dict[str, Callable[[], Any]] = {
            "write_ms": lambda codec=codec, data=data: codec.encode(x, data),
            "read_ms": lambda codec=codec, data=data: codec.decode(data, out),
            "copy_ms": lambda: out.copy_(x),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(9):
            for way, do in ways.items():
                begin = time.perf_counter()
                do()
                times[way].append(1e3 * (time.perf_counter() - begin))
        medians = {way: round(statistics.median(each), 1) for way, each in times.items()}
        found.append({"codec": name, "bytes": data.numel(), **medians})
    return found


def train(work: tuple[str, str, int, float]) -> dict[str, Any]:
    """Simulates one run."""
    line, codec, seed, virtual_s = work
    torch.manual_seed(seed)
    images = gossiptrain.data.load("fashion-mnist")
    workload = sim.TorchWorkload(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)),
        nn.functional.cross_entropy,
        images,
        partition=("dirichlet", 0.3),
        batch_size=32,
        evaluation_samples=256,
        step_times=sim.LogNormalSteps(0.05, 0.2, 0.05),
        threads=1,
        codec=codec,
    )
    mbps = LINES[line]
    simulation = sim.Simulation(
        PEERS,
        workload=workload,
        seed=seed,
        formed=True,
        sync_every=4,
        network=sim.NetworkOptions(latency_s=0.02, uplink_mbps=mbps, downlink_mbps=mbps),
    )
    report = simulation.run(virtual_s)
    samples = report.samples
    return {
        "line": line,
        "codec": codec,
        "seed": seed,
        "times_s": [round(sample.time_s, 3) for sample in samples],
        "average": [round(float(sample.values["average_accuracy"]), 4) for sample in samples],
        "each": [round(float(sample.values["accuracy"]), 4) for sample in samples],
        "distance": [round(float(sample.values["consensus_distance"]), 4) for sample in samples],
        "exchanges": sum(peer.exchanges() for peer in report.peers) / PEERS,
        "sent_mb": sum(peer.traffic["snapshot_bytes"] for peer in report.peers) / PEERS / 1e6,
    }


def summary(runs: Sequence[dict[str, Any]]) -> dict[Any, Any]:
    """One row: medians over the seeds."""

    def median(value: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(value(run) for run in runs)

    def last(name: str) -> float:
        return median(lambda run: statistics.fmean(run[name][-LAST:]))

    return {
        "line": runs[0]["line"],
        "codec": runs[0]["codec"],
        **{target: round(median(lambda run, t=target: reached(run, t)), 1) for target in TARGETS},
        "average at the end": round(last("average"), 4),
        "each at the end": round(last("each"), 4),
        "distance": round(last("distance"), 3),
        "exchanges a peer": round(median(lambda run: run["exchanges"])),
        "MB sent a peer": round(median(lambda run: run["sent_mb"]), 1),
    }


def reached(run: dict[str, Any], target: float) -> float:
    """When the average's accuracy first was there to stay for two samples, in virtual seconds; infinite if never."""
    pairs = zip(run["times_s"], run["average"], run["average"][1:])
    return next((at_s for at_s, one, two in pairs if min(one, two) >= target), float("inf"))


if __name__ == "__main__":
    main()
