"""What training costs in the simulator: peers' steps computed together against one peer after the other, and whole runs.

Rows, each by its name on the command line (all by default):

    steps       peer-steps a CPU-second of four models at 16 to 1,000 peers, in the mode that is chosen and in the loop
    rounds      node-rounds a second, of CPU and by the clock, of 100 nodes beside a plain loop over the nodes, as gossip
                simulators do it, and beside gossipy where it is installed (`pip install gossipy-dfl`)
    thousand    1,000 asynchronous peers, 1,000 local steps each, with churn: wall time and peak memory. They know each
                other from the beginning, take 20 steps a second and exchange every 10 steps with a neighbour on the
                overlay; each second one of them is killed and a newcomer joins
    protocol    events a second without values, and their share of a simulation that trains
    trace       the hash of the trace in two runs, two processes and both modes

Steps are counted by CPU-second, all threads together, since a machine that does other things as well would show less by the
clock; rounds and the row of a thousand peers have both. The plain loop computes in one thread, faster than in several for a
model this small. The loop's speed does not depend on the number of peers, so it is measured on at most 32 of them.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import RESULTS, machine, print_table, write_results
from gossipy_rounds import node_rounds, others
from torch import Tensor, nn

import sim
from gossiptrain.data import load

BUDGET_S = 0.5
WARM_UPS = 2
LOOP_PEERS = 32
BLOCK_STEPS = 4  # the default of `sync_every`
SMALL = ("logistic regression", "MLP 64-128-10")


class TinyTransformer(nn.Module):
    """Two layers over 32 characters, 32 features: 27,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(96, 32), nn.Parameter(torch.zeros(32, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 96)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embed(tokens) + self.place))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn() -> nn.Module:
    body = (nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *body, nn.Flatten(), nn.Linear(256, 10))


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], str]:
    """64 features and 10 classes: scikit-learn's digits where installed, else Fashion-MNIST shrunk to 8 x 8."""
    try:
        data, name = load("digits"), "digits"
        train_x, test_x = data.train_x, data.test_x
    except Exception:
        data, name = load("fashion-mnist"), "Fashion-MNIST, 8 x 8"
        train_x, test_x = (F.adaptive_avg_pool2d(x, 8) for x in (data.train_x, data.test_x))
    return (train_x.flatten(1), data.train_y), (test_x.flatten(1), data.test_y), name


def text() -> tuple[Tensor, Tensor]:
    tokens = load("stdlib-text").train[: 33 * 2000].long().view(2000, 33)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def of_tokens(scores: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(scores.transpose(1, 2), targets)


def models() -> dict[str, tuple[Callable[[], nn.Module], Any, Any]]:
    train, _, _ = digits()
    return {
        "logistic regression": (lambda: nn.Linear(64, 10), F.cross_entropy, train),
        "MLP 64-128-10": (mlp, F.cross_entropy, train),
        "CNN 8-16, 8 x 8": (cnn, F.cross_entropy, train),
        "transformer, 2 layers": (TinyTransformer, of_tokens, text()),
    }


# Peer-steps a second


def peer_steps(workload: sim.TorchWorkload, peers: int) -> float:
    """Returns steps of all peers a CPU-second, the best of at least three repetitions in about `BUDGET_S`.

    The first two are not counted: memory is taken and batches are drawn for the first time then, and with 1,000 peers
    a single repetition takes as long as the budget.
    """
    peers = min(peers, LOOP_PEERS) if workload.choice.mode == "loop" else peers
    workload.prepare(peers, seed=0)
    for peer in range(peers):
        workload.begin(0, peer)
    rates: list[float] = []
    began_s = time.process_time()
    while len(rates) < WARM_UPS + 3 or time.process_time() - began_s < BUDGET_S:
        start_s = time.process_time()
        for peer in range(peers):
            workload.train(peer, BLOCK_STEPS)
        for peer in range(peers):
            workload.vector(workload.publish(peer))
        lasted_s = time.process_time() - start_s
        rates.append(peers * BLOCK_STEPS / lasted_s)
    return max(rates[WARM_UPS:])


def steps_rows(sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    rows = []
    for name, (make, loss, data) in models().items():
        chosen = sim.TorchWorkload(make, loss, data)
        loop = sim.TorchWorkload(make, loss, data, mode="loop")
        for peers in sizes:
            of_loop, of_chosen = peer_steps(loop, peers), peer_steps(chosen, peers)
            of_loop = max(of_loop, peer_steps(loop, peers))  # again: the other programs of a machine come and go
            if chosen.choice.mode == "loop":
                of_chosen = of_loop = max(of_loop, of_chosen)
            row = {"model": name, "peers": peers, "mode": chosen.choice.mode, "loop": of_loop, "chosen": of_chosen}
            rows.append({**row, "ratio": of_chosen / of_loop})
            print(f"  {name}, {peers} peers: loop {of_loop:,.0f}, {row['mode']} {of_chosen:,.0f}", flush=True)
    columns = ("model", "peers", "loop /s", "chosen mode", "chosen /s", "ratio")
    cells = [
        (r["model"], r["peers"], f"{r['loop']:,.0f}", r["mode"], f"{r['chosen']:,.0f}", f"{r['ratio']:.1f}")
        for r in rows
    ]
    print_table(
        "Peer-steps a CPU-second, batch 32 (aim: never below 0.9; 5 for the first two from 64 peers on)", columns, cells
    )
    return rows


# Node-rounds a second


class PlainLoop:
    """Gossip learning as simulators do it: a module and an optimizer a node; a round is 5 steps and an average of two."""

    def __init__(self, nodes: int, data: tuple[Tensor, Tensor], steps: int) -> None:
        torch.manual_seed(0)
        self._chance = np.random.default_rng(0)
        self._models = [mlp() for _ in range(nodes)]
        self._optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in self._models]
        self._shares = np.array_split(self._chance.permutation(len(data[0])), nodes)
        self._data, self._steps = data, steps

    def round(self) -> None:
        for node, (model, optimizer) in enumerate(zip(self._models, self._optimizers)):
            for _ in range(self._steps):
                numbers = torch.from_numpy(self._chance.choice(self._shares[node], 32))
                optimizer.zero_grad()
                F.cross_entropy(model(self._data[0][numbers]), self._data[1][numbers]).backward()
                optimizer.step()
            self._average(model, self._models[self._chance.integers(len(self._models))])

    @torch.no_grad()
    def _average(self, one: nn.Module, other: nn.Module) -> None:
        for x, y in zip(one.parameters(), other.parameters()):
            x.add_(y).div_(2)


def rounds_row(nodes: int, until_s: float) -> dict[str, Any]:
    train, _, name = digits()
    plain = PlainLoop(nodes, train, steps=5)
    torch.set_num_threads(1)  # faster for models this small
    plain.round()
    rounds = 3
    plain_cpu_s, plain_wall_s = timed(lambda: [plain.round() for _ in range(rounds)])
    of_plain, plain_by_clock = nodes * rounds / plain_cpu_s, nodes * rounds / plain_wall_s
    workload = sim.TorchWorkload(mlp, F.cross_entropy, train, step_times=sim.LogNormalSteps(0.1, 0.2, 0.05))
    simulation = sim.Simulation(nodes, workload=workload, sync_every=5, observe_every_s=5.0, **formed())
    cpu_s, wall_s = timed(lambda: simulation.run(until_s))
    blocks = sum(len(peer.blocks) for peer in simulation.report().peers)
    of_sim, by_clock = blocks / cpu_s, blocks / wall_s
    of_gossipy = node_rounds(nodes, 5, mlp, train)
    title = f"Node-rounds a second: {nodes} nodes, MLP 64-128-10 on {name}, 5 steps a round (aim: 8 times)"
    row = {"plain": of_plain, "sim": of_sim, "ratio": of_sim / of_plain, "gossipy": of_gossipy}
    row |= {"plain_by_clock": plain_by_clock, "sim_by_clock": by_clock, "ratio_by_clock": by_clock / plain_by_clock}
    said = of_gossipy if isinstance(of_gossipy, str) else f"{of_gossipy:,.0f}"
    cells = [
        ("of CPU", f"{of_plain:,.0f}", said, f"{of_sim:,.0f}", f"{row['ratio']:.1f}"),
        ("by the clock", f"{plain_by_clock:,.0f}", "", f"{by_clock:,.0f}", f"{row['ratio_by_clock']:.1f}"),
    ]
    print_table(
        title, ("seconds", "plain loop", "gossipy", "sim, protocol and start included", "sim / plain loop"), cells
    )
    return row


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Does it and returns the seconds of CPU, of all threads, and by the clock."""
    began_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - cpu_s, time.perf_counter() - began_s


# Whole simulations


def formed() -> dict[str, Any]:
    """All peers begin as members of one run, where the simulator can."""
    return {"formed": True} if "formed" in inspect.signature(sim.Simulation).parameters else {"founders": 1}


def churn(peers: int, until_s: float, share: float) -> sim.FaultSchedule:
    """So many of the peers crash, and as many join, at even times in between."""
    faults, count = sim.FaultSchedule(), int(share * peers)
    for index in range(count):
        at_s = 2.0 + (until_s - 4.0) * index / count
        faults = faults.crash(int(index * peers / count), at_s).join(at_s + 0.5)
    return faults


def thousand(peers: int, steps: int) -> dict[str, Any]:
    """Runs in a process of its own, so that its peak memory is its own."""
    train, test, _ = digits()
    data = (train[0].repeat(4, 1), train[1].repeat(4))
    until_s = 0.05 * steps * 1.05
    workload = sim.TorchWorkload(
        mlp, F.cross_entropy, data, evaluate=test, step_times=sim.LogNormalSteps(0.05, 0.1, 0.05)
    )
    began_s, cpu_s = time.perf_counter(), time.process_time()
    simulation = sim.Simulation(
        peers,
        workload=workload,
        sync_every=10,
        observe_every_s=10.0,
        seed=7,
        faults=churn(peers, until_s, 0.05),
        **formed(),
    )
    report = simulation.run(until_s)
    return {
        "peers": peers,
        "virtual_s": until_s,
        "steps": sum(peer.steps for peer in report.peers),
        "exchanges": sum(peer.exchanges() for peer in report.peers),
        "events": report.events,
        "wall_s": time.perf_counter() - began_s,
        "cpu_s": time.process_time() - cpu_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "average_accuracy": report.samples[-1].values["average_accuracy"],
        "trace_hash": report.trace_hash,
    }


def thousand_row(peers: int, steps: int) -> dict[str, Any]:
    row = in_process(f"thousand({peers}, {steps})")
    columns = ("peers", "steps", "exchanges", "events", "wall s", "CPU s", "peak MB", "accuracy of the average")
    figures = [f"{row[name]:,}" for name in ("peers", "steps", "exchanges", "events")]
    cells = [
        (*figures, f"{row['wall_s']:.0f}", f"{row['cpu_s']:.0f}", row["peak_mb"], f"{row['average_accuracy']:.3f}")
    ]
    print_table(
        f"{peers} asynchronous peers, {steps} steps each, 5 % crash and join (aim: 150 s, 4,096 MB)", columns, cells
    )
    return row


def in_process(call: str) -> dict[str, Any]:
    """Evaluates a call of this module in a new process, with another hash seed."""
    code = f"import json, simulator; print('RESULT', json.dumps(simulator.{call}))"
    folder = Path(__file__).parent
    path = os.pathsep.join([str(folder), str(folder.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.split("RESULT", 1)[1])


def protocol_row(peers: int, until_s: float) -> dict[str, Any]:
    train, test, _ = digits()
    steps = sim.LogNormalSteps(0.05, 0.2, 0.05)
    trains = sim.TorchWorkload(mlp, F.cross_entropy, train, evaluate=test, step_times=steps)
    figures = {}
    for name, workload in (("trains", trains), ("protocol", sim.TimedWorkload(trains.snapshot_bytes, steps))):
        simulation = sim.Simulation(peers, workload=workload, sync_every=10, **formed())
        simulation.run(2.0)  # the start
        began_s, events = time.process_time(), simulation.clock.count
        report = simulation.run(until_s)
        figures[name] = (time.process_time() - began_s, report.events - events)
    share = figures["protocol"][0] / figures["trains"][0]
    row = {
        "peers": peers,
        "protocol_events_per_s": figures["protocol"][1] / figures["protocol"][0],
        "protocol_cpu_s": figures["protocol"][0],
        "training_cpu_s": figures["trains"][0],
        "share": share,
    }
    print_table(
        f"The protocol's share: {peers} peers, MLP 64-128-10, exchanges every 10 steps (aim: under 20 %)",
        ("events a CPU-second without values", "CPU s without values", "CPU s with training", "share"),
        [
            (
                f"{row['protocol_events_per_s']:,.0f}",
                f"{row['protocol_cpu_s']:.1f}",
                f"{row['training_cpu_s']:.1f}",
                f"{share:.0%}",
            )
        ],
    )
    return row


def traced(mode: str) -> dict[str, Any]:
    train, test, _ = digits()
    workload = sim.TorchWorkload(mlp, F.cross_entropy, train, evaluate=test, mode=mode)
    report = sim.Simulation(12, workload=workload, seed=5, faults=churn(12, 12.0, 0.25)).run(12.0)
    return {"hash": report.trace_hash, "accuracy": report.samples[-1].values["average_accuracy"]}


def trace_row() -> dict[str, Any]:
    runs = {"first": traced("auto"), "again": traced("auto"), "loop": traced("loop")}
    runs["another process"] = in_process("traced('auto')")
    equal = len({run["hash"] for run in runs.values()}) == 1
    cells = [(name, run["hash"], f"{run['accuracy']:.4f}") for name, run in runs.items()]
    print_table(f"The trace's hash is {'equal' if equal else 'NOT EQUAL'}", ("run", "hash", "accuracy"), cells)
    return {"equal": equal, **runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="steps, rounds, ...: only these are measured and written anew")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer peers and shorter runs; writes no results",
    )
    options = parser.parse_args()
    quick = options.quick
    rows: dict[str, Callable[[], Any]] = {
        "trace": trace_row,
        "steps": lambda: steps_rows((16, 64) if quick else (16, 64, 256, 1000)),
        "rounds": lambda: others(rounds_row(100, 4.0 if quick else 15.0)),
        "protocol": lambda: protocol_row(64 if quick else 256, 6.0 if quick else 12.0),
        "thousand": lambda: thousand_row(100, 100) if quick else thousand_row(1000, 1000),
    }
    unknown = [name for name in options.rows if name not in rows]
    if unknown:
        parser.error(f"unknown rows {unknown}; known: {', '.join(rows)}")
    path = RESULTS / "simulator.json"
    results: dict[str, Any] = json.loads(path.read_text()) if options.rows and path.is_file() else {}
    for name in options.rows or rows:
        described = machine()
        results[name] = {"machine": described, "figures": rows[name]()}
        if not quick:
            write_results("simulator", results)


if __name__ == "__main__":
    main()
