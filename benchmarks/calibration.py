"""Does a calibrated simulation take as long as the run that it was calibrated from?

Four real processes train a small network on Fashion-MNIST, each on its quarter of the images, once alike and once with a
straggler whose steps take four times longer. `sim.calibrate` fits an environment to each run; the same training simulated
in it (`sim.TorchWorkload`) should bring the average of the peers' parameters to the same accuracies at the same times.

The third line asks "what if": the environment of the run without a straggler, with the last peer made four times slower,
against the real run with one, which the simulation has not seen.

    python benchmarks/calibration.py [--seconds 25] [--repeats 2]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from calibration_peer import BATCH, LR, PEERS, build_model, load_images
from common import machine, print_table, write_results
from torch import nn
from torch.nn import functional

import sim
from gossiptrain.launchers.local import LaunchConfig, LocalRun

SCRIPT = Path(__file__).with_name("calibration_peer.py")
TARGETS = (0.50, 0.60, 0.65)
STRAGGLER, FACTOR = "peer-3", 4.0
OBSERVE_EVERY_S = 0.5
# Accuracies are means over so many observations, 2.5 s: those of single ones go up and down by a hundredth and more.
SMOOTHED_OVER = 5
SEEDS = 2
WAIT_S = 4.0


def main() -> None:
    """Runs and simulates each case by turns, and prints one table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=25.0, help="of training, in each real run")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    described, began_s = machine(), time.monotonic()
    cases: dict[str, list[dict[str, Any]]] = {"four alike": [], "with a straggler": [], "what if a straggler": []}
    for repeat in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            alike, plain = real_run(Path(folder) / "alike", "", options.seconds, repeat)
            slowed, straggler = real_run(Path(folder) / "straggler", STRAGGLER, options.seconds, repeat)
        base = plain.compute
        assert base is not None
        slower = sim.ChangingSteps(base, ((0.0, FACTOR),), peers=(PEERS - 1,))
        for name, real, environment in (
            ("four alike", alike, plain),
            ("with a straggler", slowed, straggler),
            ("what if a straggler", slowed, replace(plain, compute=slower)),
        ):
            simulated = [simulated_curve(environment, options.seconds, 100 * repeat + seed) for seed in range(SEEDS)]
            cases[name].append(compared(real, simulated, environment))
            print(f"{repeat + 1}/{options.repeats} {name}: {cases[name][-1]['ratios']}", flush=True)
    rows = [row(name, target, cases[name]) for name in cases for target in TARGETS]
    print_table(
        f"Seconds until the average of {PEERS} peers reaches an accuracy (medians of {options.repeats} runs)",
        ("case", "accuracy", "real", "simulated", "ratio", "ratios"),
        [
            (*list(r.values())[:2], *(f"{r[key]:.2f}" for key in ("real_s", "simulated_s", "ratio")), r["all"])
            for r in rows
        ],
    )
    print(f"{time.monotonic() - began_s:.0f} s in all")
    write_results("calibration", {"machine": described, "seconds": options.seconds, "rows": rows, "runs": cases})


# The real run

Curve = tuple[np.ndarray, np.ndarray]


def real_run(folder: Path, straggler: str, seconds: float, seed: int) -> tuple[Curve, sim.Environment]:
    """Returns (accuracy of the average over the time since the first step, what was fitted to the run)."""
    arguments = (f"--seconds={seconds}", f"--straggler={straggler}", f"--factor={FACTOR}", f"--seed={seed}")
    config = LaunchConfig(script=SCRIPT, arguments=arguments, peers=PEERS, run_dir=folder, threads=1)
    with LocalRun(config) as run:
        while run.running:
            run.poll(0.5)
        if run.failures:
            raise SystemExit(f"a peer failed: {run.failures[0].cause}")
    kept = [np.load(path) for path in sorted((folder / "curve").glob("*.npz"))]
    first_s = min(np.fromfile(path, "<f8", 1)[0] for path in (folder / "events").glob("*.steps"))
    ends_s = min(peer["times_s"][-1] for peer in kept)
    grid_s = np.arange(max(peer["times_s"][0] for peer in kept), ends_s, OBSERVE_EVERY_S)
    averages_TP = np.mean([_at(peer["times_s"], peer["parameters_TP"], grid_s) for peer in kept], axis=0)
    return (grid_s - first_s, accuracies(averages_TP)), sim.calibrate(folder)


def _at(times_s: np.ndarray, parameters_TP: np.ndarray, grid_s: np.ndarray) -> np.ndarray:
    """A peer's parameters at given times: between two that were kept, on the line between them."""
    place = np.clip(np.searchsorted(times_s, grid_s), 1, len(times_s) - 1)
    share_T1 = ((grid_s - times_s[place - 1]) / (times_s[place] - times_s[place - 1]))[:, None]
    return (1 - share_T1) * parameters_TP[place - 1] + share_T1 * parameters_TP[place]


@torch.no_grad()
def accuracies(parameters_TP: np.ndarray) -> np.ndarray:
    """The share of the test images that parameters classify right, float64 [T]."""
    images, model = load_images(), build_model()
    found = []
    for row_P in parameters_TP:
        nn.utils.vector_to_parameters(torch.from_numpy(row_P.astype(np.float32)), model.parameters())
        found.append(float((model(images.test_x).argmax(1) == images.test_y).float().mean()))
    return np.array(found)


# The simulated one


def simulated_curve(environment: sim.Environment, seconds: float, seed: int) -> Curve:
    """The same training in the calibrated environment."""
    images = load_images()
    workload = sim.TorchWorkload(
        build_model(),
        functional.cross_entropy,
        images,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=LR),
        batch_size=BATCH,
        evaluation_samples=32,
        partition=lambda labels, peers, chance: [np.arange(peer, len(labels), peers) for peer in range(peers)],
    )
    # Real peers do not begin before they have found each other; here their training stands still for that long.
    waiting = sim.FaultSchedule()
    for peer in range(PEERS):
        waiting = waiting.pause(peer, at_s=0.05, for_s=WAIT_S)
    simulation = sim.Simulation(
        PEERS,
        workload=workload,
        environment=environment,
        seed=seed,
        founders=PEERS,
        start_within_s=0.01,
        faults=waiting,
        observe_every_s=OBSERVE_EVERY_S,
    )
    report = simulation.run(WAIT_S + seconds)
    first_s = min(_first_step_s(peer) for peer in report.peers)
    samples = [sample for sample in report.samples if "average_accuracy" in sample.values and sample.peers == PEERS]
    times_s = np.array([sample.time_s - first_s for sample in samples])
    return times_s, np.array([sample.values["average_accuracy"] for sample in samples])


def _first_step_s(peer: sim.PeerReport) -> float:
    """When a peer's first step ended: so many usual steps before the end of its first block."""
    first, second = peer.blocks[:2]
    return first.end_s - (first.steps - 1) * (second.end_s - first.end_s) / second.steps


# Both


def compared(real: Curve, simulated: list[Curve], environment: sim.Environment) -> dict[str, Any]:
    """The times to each target, really and as the median over the simulations' seeds, and their ratios."""
    real_s = [reached_s(real, target) for target in TARGETS]
    simulated_s = [statistics.median(reached_s(curve, target) for curve in simulated) for target in TARGETS]
    ratios = [round(b / a, 3) for a, b in zip(real_s, simulated_s, strict=True)]
    return {"environment": environment.name, "real_s": real_s, "simulated_s": simulated_s, "ratios": ratios}


def reached_s(curve: Curve, target: float) -> float:
    """When the accuracy first rises above a target, on the line between two measurements; NaN when it never does."""
    kernel = np.ones(SMOOTHED_OVER) / SMOOTHED_OVER
    times_s, values = (np.convolve(row, kernel, "valid") for row in curve)
    above = np.flatnonzero(values >= target)
    if not len(above):
        return float("nan")
    first = int(above[0])
    if first == 0:
        return float(times_s[0])
    share = (target - values[first - 1]) / (values[first] - values[first - 1])
    return float(times_s[first - 1] + share * (times_s[first] - times_s[first - 1]))


def row(name: str, target: float, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table: medians over the repeats."""
    place = TARGETS.index(target)
    ratios = [run["ratios"][place] for run in runs]
    return {
        "case": name,
        "accuracy": target,
        "real_s": statistics.median(run["real_s"][place] for run in runs),
        "simulated_s": statistics.median(run["simulated_s"][place] for run in runs),
        "ratio": statistics.median(ratios),
        "all": " ".join(f"{ratio:.2f}" for ratio in ratios),
    }


if __name__ == "__main__":
    main()
