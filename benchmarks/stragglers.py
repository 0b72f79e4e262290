"""One of four peers is five times slower: what is left of the speed of all?

Four real processes on one machine, started by the project's launcher. Their steps stand for those of devices: some
milliseconds of computing and a sleep, so that two cores are enough for four of them (see `stragglers_peer.py`); the
straggler's steps last five times longer. "Alone" is the same script without any communication, all four at the same time.

- First table: samples a second of all, against the sum of what the four reach alone.
- Second: how equal blocks of local steps last with sync_every="auto", after five blocks, and after five more when a peer
  becomes five times slower on the way (a device that gets hot, a neighbour's process), and when it is as fast as before.
- Third: what pacing itself costs, against a fixed number of steps of the same length, by turns: steps a second, CPU time of
  the training threads (steadier on a busy machine), and the time that it takes in a step and at a boundary, by themselves.

    python benchmarks/stragglers.py [--seconds 20] [--repeats 2] [--only blocks]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import machine, print_table, write_results

from gossiptrain.launchers.local import LaunchConfig, LocalRun

SCRIPT = Path(__file__).with_name("stragglers_peer.py")
PEERS = 4
STRAGGLER, FACTOR = "peer-3", 5.0
STEP_S = 0.04
SAMPLES = 32
WARM_S = 5.0
BLOCKS_TO_SETTLE = 5
STEPS_A_BLOCK = 12


class Contestant(NamedTuple):
    """One way to train together: how the script is told, and how the launcher."""

    name: str
    mode: str
    launch: dict[str, Any]


ALONE = Contestant("alone", "solo", {})
CONTESTANTS = (
    Contestant("gloo DDP, every step", "ddp", {}),
    Contestant("D-PSGD, synchronous, every 4 steps", "gossip", {"mixer": "d_psgd"}),
    Contestant("gossiptrain, every 4 steps", "gossip", {}),
    Contestant('gossiptrain, sync_every="auto"', "gossip", {"sync_every": "auto"}),
)


def main() -> None:
    """Runs all contestants by turns, then the change, then the cost; prints three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run; the first five are not counted")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", choices=("throughput", "blocks", "cost"), help="one table; nothing is written")
    options = parser.parse_args()
    described, began_s = machine(), time.monotonic()
    tables = {
        "throughput": lambda: throughputs(options.seconds, options.repeats),
        "blocks": lambda: equal_blocks(options.repeats),
        "cost": lambda: cost_of_pacing(options.seconds, options.repeats),
    }
    if options.only:
        tables[options.only]()
        return
    figures = {name: measure() for name, measure in tables.items()}
    print(f"{time.monotonic() - began_s:.0f} s in all")
    write_results("stragglers", {"machine": described, **figures})


# One run


def run(contestant: Contestant, seconds: float, **more: object) -> dict[str, dict[str, np.ndarray]]:
    """Returns, by peer, when each step ("times_s") and each block ("blocks_s") ended: seconds since the epoch."""
    given = {"mode": contestant.mode, "seconds": seconds, "step-s": STEP_S, "factor": FACTOR, **more}
    arguments = tuple(word for key, value in given.items() for word in (f"--{key}", str(value)))
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            SCRIPT, arguments, peers=PEERS, run_dir=Path(folder) / "run", threads=1, **contestant.launch
        )
        with LocalRun(config) as local:
            while local.running:
                local.poll(0.1)
        if local.failures:
            raise RuntimeError(f"{contestant.name}: {[(e.name, e.last_words) for e in local.failures]} failed")
        found = {name: np.load(local.folder.path / "times" / f"{name}.npz") for name in local.names}
        return {name: {key: file[key] for key in file.files} for name, file in found.items()}


def steps_per_s(times_s: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
    """Returns each peer's speed while all of them trained, but for the beginning."""
    begin_s = max(kept["times_s"][0] for kept in times_s.values()) + WARM_S
    end_s = min(kept["times_s"][-1] for kept in times_s.values())
    speeds = {}
    for name, kept in times_s.items():
        within = kept["times_s"][(kept["times_s"] >= begin_s) & (kept["times_s"] <= end_s)]
        speeds[name] = float((len(within) - 1) / (within[-1] - within[0]))
    return speeds


def cpu_per_step_s(times_s: dict[str, dict[str, np.ndarray]]) -> float:
    """Returns the CPU seconds that a training thread takes for a step, on average of all, but for the beginning."""
    found = []
    for kept in times_s.values():
        first = int(np.searchsorted(kept["times_s"], kept["times_s"][0] + WARM_S))
        found.append(float((kept["cpu_s"][-1] - kept["cpu_s"][first]) / (len(kept["cpu_s"]) - 1 - first)))
    return statistics.fmean(found)


# Throughput


def throughputs(seconds: float, repeats: int) -> list[dict[str, Any]]:
    """Prints the first table; returns its rows."""
    shares: dict[str, list[float]] = {contestant.name: [] for contestant in CONTESTANTS}
    samples: dict[str, list[float]] = {contestant.name: [] for contestant in (ALONE, *CONTESTANTS)}
    slowest: list[float] = []
    for repeat in range(repeats):
        alone = steps_per_s(run(ALONE, seconds, straggler=STRAGGLER))
        samples[ALONE.name].append(SAMPLES * sum(alone.values()))
        slowest.append(PEERS * min(alone.values()) / sum(alone.values()))
        for contestant in CONTESTANTS:
            total = sum(steps_per_s(run(contestant, seconds, straggler=STRAGGLER)).values())
            samples[contestant.name].append(SAMPLES * total)
            shares[contestant.name].append(total / sum(alone.values()))
            print(f"{repeat + 1}/{repeats} {contestant.name}: {shares[contestant.name][-1]:.3f}", flush=True)
    rows = [
        {
            "contestant": name,
            "samples_per_s": round(statistics.median(samples[name]), 1),
            "share_of_alone": round(statistics.median(found), 3),
            "runs": [round(share, 3) for share in found],
        }
        for name, found in [(ALONE.name, [1.0] * repeats), *shares.items()]
    ]
    rows.append({"contestant": "4 x the slowest, alone", "share_of_alone": round(statistics.median(slowest), 3)})
    print_table(
        f"Four peers, one {FACTOR:g} times slower: samples a second of all (medians of {repeats}; steps of "
        f"{1000 * STEP_S:g} ms on stand-ins for devices)",
        ("contestant", "samples/s", "share of the sum alone", "runs"),
        [(r["contestant"], r.get("samples_per_s", ""), r["share_of_alone"], r.get("runs", "")) for r in rows],
    )
    return rows


# Equal blocks


def equal_blocks(repeats: int) -> list[dict[str, Any]]:
    """Prints the second table; returns its rows."""
    slow_s, fast_s, end_s = 15.0, 40.0, 60.0
    phases = (("from the beginning", 0.0, slow_s), ("one peer slower", slow_s, fast_s), ("fast again", fast_s, end_s))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in phases}
    for _ in range(repeats):
        given = {"straggler": STRAGGLER, "from-s": slow_s, "until-s": fast_s}
        times_s = run(CONTESTANTS[-1], end_s, **given)
        zero_s = statistics.median(float(kept["times_s"][0]) for kept in times_s.values()) - STEP_S
        for name, since_s, until_s in phases:
            found[name].append(settled(times_s, zero_s + since_s, zero_s + until_s))
            print(f"{name}: {found[name][-1]}", flush=True)
    rows = [
        {"phase": name, **{key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}}
        for name, runs in found.items()
    ]
    print_table(
        f"Blocks of local steps after the first {BLOCKS_TO_SETTLE} of each peer (medians of {repeats} runs)",
        ("phase", "block s", "peers' blocks differ by %", "95 % of the time by less than %", "after s"),
        [
            (
                r["phase"],
                r["block_s"],
                f"{100 * r['differ']:.1f}",
                f"{100 * r['differ_95']:.1f}",
                r["settled_s"],
            )
            for r in rows
        ],
    )
    return rows


def settled(times_s: dict[str, dict[str, np.ndarray]], since_s: float, until_s: float) -> dict[str, float]:
    """Returns how much the blocks of a phase differ between peers, without each peer's first ones that ended in it.

    Two blocks are compared when they go on at the same moment: (longest - shortest) / longest, of the four peers. Moments
    are 20 ms apart. settled_s: when the last peer had those first blocks behind it, in seconds of the phase.
    """
    first_s = []
    for kept in times_s.values():
        ends_s = kept["blocks_s"]
        inside = ends_s[ends_s >= since_s]
        first_s.append(float(inside[BLOCKS_TO_SETTLE]))
    last_s = min(float(kept["blocks_s"][kept["blocks_s"] <= until_s][-1]) for kept in times_s.values())
    moments_s = np.arange(max(first_s), last_s, 0.02)
    durations_PT = np.stack([lasting(kept["blocks_s"], moments_s) for kept in times_s.values()])
    differ_T = 1 - durations_PT.min(axis=0) / durations_PT.max(axis=0)
    return {
        "block_s": float(np.median(durations_PT)),
        "differ": float(np.median(differ_T)),
        "differ_95": float(np.quantile(differ_T, 0.95)),
        "settled_s": max(first_s) - since_s,
    }


def lasting(ends_s: np.ndarray, moments_s: np.ndarray) -> np.ndarray:
    """Returns the durations of the blocks that go on at these moments, [T]; the last one's where none does any more."""
    after = np.clip(np.searchsorted(ends_s, moments_s), 1, len(ends_s) - 1)
    return np.diff(ends_s)[after - 1]


# What pacing costs


def cost_of_pacing(seconds: float, repeats: int) -> dict[str, Any]:
    """Prints the third table; returns its figures. All peers are alike here: both ways take as many steps a block.

    Not in it is how far a block moved the parameters, which "auto" measures now and then: `runtime.blocks` spends 0.5 % of
    the time on that at most.
    """
    paced = Contestant("paced", "gossip", {"sync_every": f"{round(1000 * STEPS_A_BLOCK * STEP_S)}ms"})
    constant = Contestant("fixed", "gossip", {"sync_every": STEPS_A_BLOCK})
    adaptive, fixed, cpu_s = [], [], []
    for repeat in range(2 * repeats):
        found = {each.name: run(each, seconds) for each in ((paced, constant) if repeat % 2 else (constant, paced))}
        adaptive.append(sum(steps_per_s(found["paced"]).values()))
        fixed.append(sum(steps_per_s(found["fixed"]).values()))
        cpu_s.append((cpu_per_step_s(found["paced"]), cpu_per_step_s(found["fixed"])))
    lost = [1 - one / other for one, other in zip(adaptive, fixed)]
    per_step_us, per_block_us = micro_costs()
    lost_cpu = statistics.median((one - other) / STEP_S for one, other in cpu_s)
    of_step = 1e-6 * (per_step_us + per_block_us / STEPS_A_BLOCK) / STEP_S
    print_table(
        f"What pacing costs (medians of {2 * repeats}; blocks of {STEPS_A_BLOCK} steps of {1000 * STEP_S:g} ms)",
        ("", f"paced, {paced.launch['sync_every']}", "fixed", "lost %"),
        [
            (
                "steps/s of four peers",
                f"{statistics.median(adaptive):.2f}",
                f"{statistics.median(fixed):.2f}",
                f"{100 * statistics.median(lost):.2f}",
            ),
            (
                "CPU ms of a training thread a step",
                f"{1e3 * statistics.median(one for one, _ in cpu_s):.3f}",
                f"{1e3 * statistics.median(other for _, other in cpu_s):.3f}",
                f"{100 * lost_cpu:.3f}",
            ),
            (f"{per_step_us:.2f} us a step, {per_block_us:.1f} us a block", "", "", f"{100 * of_step:.3f}"),
        ],
    )
    return {
        "steps_per_s_paced": adaptive,
        "steps_per_s_fixed": fixed,
        "lost": lost,
        "cpu_s_per_step": cpu_s,
        "lost_cpu": lost_cpu,
        "us_per_step": per_step_us,
        "us_per_block": per_block_us,
        "share_of_a_step": of_step,
    }


def micro_costs() -> tuple[float, float]:
    """Returns the microseconds of the clock in a step, and at the end of a block of 16 with the pacer's reckoning."""
    from gossiptrain.protocol.messages import Pace
    from gossiptrain.protocol.pacer import Pacer
    from gossiptrain.protocol.pacing import PacingConfig
    from gossiptrain.runtime.blocks import StepClock

    clock, pacer = StepClock(), Pacer(PacingConfig("auto"), is_synchronous=False)
    others = [Pace(STEP_S, 1.0, 0.0, 0.0)] * (PEERS - 1)
    per_step_s, per_block_s = [], []
    for _ in range(2000):
        began_s = time.perf_counter()
        for _ in range(16):
            clock.step(time.monotonic())
        stepped_s = time.perf_counter()
        pacer.block(clock.block())
        pacer.tell(PEERS, began_s)
        pacer.reckon(others)
        per_step_s.append((stepped_s - began_s) / 16)
        per_block_s.append(time.perf_counter() - stepped_s)
    return 1e6 * statistics.median(per_step_s), 1e6 * statistics.median(per_block_s)


if __name__ == "__main__":
    main()
