"""What a newcomer costs the peer that gives it its state: the donor's steps per second with and without one fetching.

The donor trains on one core with one torch thread, its network thread beside it; newcomers come one after the other on
another core, fetch the whole state (parameters, Adam's moments, step count) and leave. The donor's own step times are
read for the time of each fetch and for the quiet time before it, so that a noisy machine hurts both alike. "CPU s" is what
the donor's other threads used for each newcomer beyond what they use anyway: it says what is taken from training at most.

    python benchmarks/joining.py [--joins 7] [--quiet-s 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import machine, print_table, write_results

WIDTHS = (784, 2048, 2048, 10)
MEGABITS_PER_S = {"200 Mbit/s (default)": 200.0, "400 Mbit/s": 400.0, "1,600 Mbit/s": 1600.0}
PATIENCE_S = 120.0


def main() -> None:
    """Runs all paces over both paths and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--joins", type=int, default=7, help="newcomers, one after the other")
    parser.add_argument("--quiet-s", type=float, default=3.0, help="seconds between two newcomers")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(json.loads(options.worker))
        return
    described, rows, cells = machine(), [], []
    for pace, mbps in MEGABITS_PER_S.items():
        for shared_memory in (True, False):
            row = {"pace": pace, "path": "shared memory" if shared_memory else "TCP"}
            row |= measure(mbps, shared_memory, options.joins, options.quiet_s)
            rows.append(row)
            speeds = (f"{row['steps_per_s_quiet']:.1f}", f"{row['steps_per_s_fetching']:.1f}", f"{row['ratio']:.3f}")
            times = (f"{row['fetch_s']:.2f}", f"{row['longest_step_ms']:.0f}", f"{row['other_threads_cpu_s']:.2f}")
            cells.append((pace, row["path"], f"{row['state_mb']:.0f}", *speeds, *times))
    print_table(
        "A donor's steps per second while a newcomer fetches its state (medians over newcomers)",
        ("pace", "path", "state MB", "steps/s quiet", "fetching", "ratio", "fetch s", "longest step ms", "CPU s"),
        cells,
    )
    write_results("joining", {"machine": described, "joins": options.joins, "rows": rows})


def measure(mbps: float, shared_memory: bool, joins: int, quiet_s: float) -> dict[str, Any]:
    """Lets newcomers fetch a donor's state, one after the other; returns medians over them."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        task = {"run_dir": folder, "mbps": mbps, "shared_memory": shared_memory}
        donor = _start({**task, "core": cores[0], "name": "donor"})
        newcomers = None
        try:
            _until(lambda: len(_steps(folder)) > 20, "the donor trains")
            more = {"core": cores[1 % len(cores)], "name": "newcomer", "joins": joins, "quiet_s": quiet_s}
            time.sleep(quiet_s)
            idle = _other_threads_s(donor.pid)
            time.sleep(quiet_s)
            idle_share = (_other_threads_s(donor.pid) - idle) / quiet_s
            before, began_s = _other_threads_s(donor.pid), time.monotonic()
            newcomers = _start({**task, **more})
            newcomers.wait(joins * (quiet_s + PATIENCE_S))
            seconds = time.monotonic() - began_s
            extra_s = (_other_threads_s(donor.pid) - before - idle_share * seconds) / joins
            Path(folder, "stop").touch()
            donor.wait(PATIENCE_S)
            return {**_compare(folder, joins, quiet_s), "other_threads_cpu_s": extra_s}
        finally:
            for process in (donor, newcomers):
                if process is not None:
                    process.kill()
                    process.wait()


def _compare(folder: str, joins: int, quiet_s: float) -> dict[str, Any]:
    steps = _steps(folder)
    quiet, fetching, ratios, gaps, lasted_s = [], [], [], [], []
    state_bytes = 0
    for number in range(joins):
        lines = Path(folder, "events", f"newcomer-{number}.jsonl").read_text().splitlines()
        (event,) = (line for line in map(json.loads, lines) if line["kind"] == "StateFetched")
        end_s, began_s = event["t"], event["t"] - event["seconds"]
        before = _rate(steps, began_s - 0.8 * quiet_s, began_s - 0.1 * quiet_s)
        during = _rate(steps, began_s, end_s)
        if before is None or during is None:
            continue  # the machine stood still
        quiet.append(before)
        fetching.append(during)
        ratios.append(during / before)
        around = steps[(steps > began_s - 0.5) & (steps < end_s + 0.5)]
        gaps.append(float(np.diff(around).max()))
        lasted_s.append(event["seconds"])
        state_bytes = event["nbytes"]
    return {
        "state_mb": state_bytes / 1e6,
        "steps_per_s_quiet": statistics.median(quiet),
        "steps_per_s_fetching": statistics.median(fetching),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "fetch_s": statistics.median(lasted_s),
        "longest_step_ms": 1000 * statistics.median(gaps),
    }


def _other_threads_s(pid: int) -> float:
    """CPU seconds of all threads of a process but its main one, which trains."""
    threads = psutil.Process(pid).threads()
    return sum(thread.user_time + thread.system_time for thread in threads if thread.id != pid)


def _rate(steps: np.ndarray, begin_s: float, end_s: float) -> float | None:
    """Steps per second, counted between the first and the last step inside; None for too few."""
    inside = steps[(steps >= begin_s) & (steps <= end_s)]
    if len(inside) < 10:
        return None
    return (len(inside) - 1) / float(inside[-1] - inside[0])


def _steps(folder: str) -> np.ndarray:
    from gossiptrain.runtime.recorder import read_steps

    return read_steps(Path(folder, "events", "donor.steps"))


def _start(task: dict[str, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--worker", json.dumps(task)])


def _until(condition: Any, what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(what)
        time.sleep(0.05)


# In the child processes


def work(task: dict[str, Any]) -> None:
    """The donor trains until the run is stopped; newcomers join, one after the other, and leave at once."""
    os.sched_setaffinity(0, {task["core"]})
    import torch

    torch.set_num_threads(1)
    if task["name"] == "donor":
        model, optimizer, peer = attach(task, "donor")
        inputs, labels = torch.randn(8, WIDTHS[0]), torch.randint(0, WIDTHS[-1], (8,))
        with peer:
            while not Path(task["run_dir"], "stop").exists():
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
        return
    for number in range(task["joins"]):
        time.sleep(task["quiet_s"])
        with attach(task, f"newcomer-{number}")[2]:
            pass


def attach(task: dict[str, Any], name: str) -> tuple[Any, Any, Any]:
    """Returns model, optimizer and peer."""
    import itertools

    import torch
    from torch import nn

    import gossiptrain as gt

    layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(WIDTHS)]
    model = nn.Sequential(*itertools.chain.from_iterable(layers))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    peer = gt.attach(
        model,
        optimizer,
        name=name,
        run_dir=task["run_dir"],
        seeds=[f"@{task['run_dir']}/peers"],
        founder=name == "donor",
        exchange=gt.ExchangeConfig(state_mbps=task["mbps"]),
        transport=gt.TransportConfig(shared_memory=task["shared_memory"]),
    )
    return model, optimizer, peer


if __name__ == "__main__":
    main()
