"""One process of `stragglers.py`: a small network whose steps last as long as those of a given device would.

What a step computes takes some milliseconds here; the rest of its time is slept, between the forward and the backward pass,
so that two cores can stand for four devices: what comes after the forward pass (gradients, communication, the optimizer) is
not hidden by the sleep. The time of each step is kept, the training thread's CPU time at it, and each end of a block of
local steps.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

import gossiptrain as gt

SAMPLES = 32
WIDTH = 256


def main() -> None:
    """Trains for a while in one of the modes, and writes RUN/times/NAME.npz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("solo", "ddp", "gossip"), required=True)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--step-s", type=float, default=0.04)
    parser.add_argument("--straggler", default="", help="this peer's steps take --factor times longer ...")
    parser.add_argument("--factor", type=float, default=5.0)
    parser.add_argument("--from-s", type=float, default=0.0, help="... from so many seconds after the beginning")
    parser.add_argument("--until-s", type=float, default=float("inf"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    name, run_dir = os.environ["GOSSIPTRAIN_NAME"], Path(os.environ["GOSSIPTRAIN_RUN_DIR"])
    number, peers = int(name.removeprefix("peer-")), int(os.environ["GOSSIPTRAIN_PEERS"])
    model: nn.Module = nn.Sequential(
        nn.Linear(784, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)
    )
    if options.mode == "ddp":
        dist.init_process_group("gloo", init_method=f"file://{run_dir}/store", rank=number, world_size=peers)
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    peer = gt.attach(model, optimizer) if options.mode == "gossip" else None
    with peer or contextlib.nullcontext():
        kept = train(model, optimizer, peer, options, number=number, is_straggler=name == options.straggler)
    if options.mode == "ddp":
        with contextlib.suppress(RuntimeError):  # another one may have ended first
            dist.destroy_process_group()
    (run_dir / "times").mkdir(exist_ok=True)
    arrays: Any = {key: np.array(values) for key, values in kept.items()}
    np.savez(run_dir / "times" / f"{name}.npz", **arrays)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    peer: gt.Peer | None,
    options: Any,
    *,
    number: int,
    is_straggler: bool,
) -> dict[str, list[float]]:
    """Returns when each step ended ("times_s") and each block ("blocks_s"), since the epoch; and "cpu_s" at each step."""
    # Each its own data, never the same twice: so peers drift apart as they do in real training.
    chance = torch.Generator().manual_seed(number)
    times_s: list[float] = []
    blocks_s: list[float] = []
    cpu_s: list[float] = []
    blocks, begin_s = 0, time.monotonic()
    is_over = torch.zeros(1)
    while not is_over.item():
        began_s = time.monotonic()
        is_slow = is_straggler and options.from_s <= began_s - begin_s < options.until_s
        ends_s = began_s + options.step_s * (options.factor if is_slow else 1.0)
        x, y = torch.randn(SAMPLES, 784, generator=chance), torch.randint(0, 10, (SAMPLES,), generator=chance)
        loss = functional.cross_entropy(model(x), y)
        time.sleep(max(0.0, ends_s - time.monotonic()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times_s.append(time.time())
        cpu_s.append(time.thread_time())
        if peer is not None and peer.block_count != blocks:
            blocks = peer.block_count
            blocks_s.append(times_s[-1])
        is_over.fill_(time.monotonic() - begin_s >= options.seconds)
        if options.mode == "ddp" and len(times_s) % 10 == 0:
            dist.all_reduce(is_over, dist.ReduceOp.MAX)  # all end together, or the others wait for ever
        elif options.mode == "ddp":
            is_over.zero_()
    return {"times_s": times_s, "cpu_s": cpu_s, "blocks_s": blocks_s}


if __name__ == "__main__":
    main()
