"""What the processes of the chaos tests run: one small peer, told by a `Plan` what to train and for how long."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import gossiptrain as gt
from tests.chaos import mischief
from tests.chaos.network import enter


@dataclass(frozen=True)
class Plan:
    """One peer.

    Attributes:
        name, run_dir: as `attach` takes them; peers of one run find each other in the run's folder.
        value: every parameter begins with it.
        target, lr: each step moves the parameters towards the target: w <- w - lr (w - target).
        width: parameters of the model.
        pace_s: what a step costs, in seconds.
        steps: ends the loop, unless the file RUN/stop does so before.
        attach: further arguments of `attach`.
        forks: "child" forks a process that outlives this one; "loader" trains from a DataLoader with a forked worker.
        poison_after: after this many steps the parameters are NaN.
        network: the network namespace that the process lives in, by name; "" stays in the machine's own.
        mischief: what the process does to the others; see `mischief`.
        hog: once RUN/hog is there, takes memory until it is stopped.
        shared: samples of a data set that all share, in batches of 8; each step's are written to RUN/data/NAME-PID.
    """

    name: str
    run_dir: Path
    value: float = 0.0
    target: float = 0.0
    lr: float = 0.0
    width: int = 64
    pace_s: float = 0.005
    steps: int = 1_000_000
    attach: dict[str, Any] = field(default_factory=dict)
    forks: str = ""
    poison_after: int | None = None
    network: str = ""
    mischief: str = ""
    hog: bool = False
    shared: int = 0


def run(plan: Plan) -> None:
    """Trains as planned. What is printed goes to RUN/logs/NAME.log."""
    log = plan.run_dir / "logs" / f"{plan.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    if plan.network:
        enter(plan.network)
    torch.set_num_threads(1)
    model = torch.nn.Linear(plan.width, 1, bias=False)
    torch.nn.init.constant_(model.weight, plan.value)
    optimizer = torch.optim.SGD(model.parameters(), lr=plan.lr)
    peer = gt.attach(model, optimizer, name=plan.name, run_dir=plan.run_dir, **plan.attach)
    if plan.mischief:
        mischief.prepare(plan.mischief, plan.run_dir)
    with peer:
        _fork(plan)
        _train(plan, model.weight, optimizer, peer)


def _train(plan: Plan, weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, peer: gt.Peer) -> None:
    stops = (plan.run_dir / "stop", plan.run_dir / f"stop-{plan.name}")
    targets = _shared(plan, peer) if plan.shared else _targets(plan)
    taken: list[bytes] = []
    while peer.step_count < plan.steps and not any(stop.exists() for stop in stops):
        target = next(targets)
        optimizer.zero_grad()
        (0.5 * ((weight - target) ** 2).sum()).backward()
        optimizer.step()
        if plan.poison_after is not None and peer.step_count >= plan.poison_after:
            with torch.no_grad():
                weight.fill_(float("nan"))
        if plan.hog and (plan.run_dir / "hog").exists():
            taken.append(b"\1" * (32 << 20))
        peer.record(value=weight.detach().mean().clone())
        time.sleep(plan.pace_s)


def _targets(plan: Plan) -> Any:
    if plan.forks != "loader":
        while True:
            yield torch.tensor(plan.target)
    numbers = torch.utils.data.TensorDataset(torch.full((64,), plan.target))
    loader = torch.utils.data.DataLoader(numbers, num_workers=1, multiprocessing_context="fork")
    while True:
        for (target,) in loader:
            yield target[0]


def _shared(plan: Plan, peer: gt.Peer) -> Any:
    """Yields the target for each batch of this peer's part, once it is written down what is in the batch."""
    dataset = torch.utils.data.TensorDataset(torch.arange(plan.shared))
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, sampler=gt.PeerSampler(dataset, peer))
    folder = plan.run_dir / "data"
    folder.mkdir(exist_ok=True)
    with (folder / f"{plan.name}-{os.getpid()}").open("ab", buffering=0) as file:
        while True:
            for (samples,) in loader:
                file.write(samples.to(torch.int32).numpy().tobytes())
                yield torch.tensor(plan.target)


def _fork(plan: Plan) -> None:
    """Forks a process that idles until the run is stopped, whatever becomes of its parent."""
    if plan.forks != "child":
        return
    pid = os.fork()
    if pid == 0:
        while not (plan.run_dir / "stop").exists():
            time.sleep(0.05)
        os._exit(0)
    (plan.run_dir / "forked").write_text(str(pid))
