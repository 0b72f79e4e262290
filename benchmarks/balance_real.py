"""The part of `balance.py` with real processes: four peers share an epoch, one is killed in it and one joins.

Each writes down what was in each of its steps, so that samples are counted from files and not from what peers believe.
Before the kill a survivor is asked for its view of who has what (`gossiptrain status`): what the dead one had left had to
move; so had the newcomer's part of what was left when it came, by its speed among the others'.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import gossiptrain as gt
from gossiptrain.errors import GossipTrainError
from gossiptrain.protocol.notices import DataStatus, Status
from gossiptrain.runtime.recorder import read_steps
from gossiptrain.runtime.status import ask

SAMPLES, BATCH = 65_536, 32
# The fifth is the newcomer, which has its process ready.
STEPS_S = (0.010, 0.010, 0.015, 0.030, 0.010)
KILLED, NEWCOMER = "peer-1", "peer-4"
# When all know each other's speeds.
EPOCH = 1
KILL_AT, JOIN_AT = 0.25, 0.5
PATIENCE_S = 300.0
LOOK_EVERY_S = 0.02


class Row(NamedTuple):
    """One run's epoch: see the table of `balance.py`. Epochs last so many seconds."""

    run: int
    untrained: int
    twice: int
    twice_told: int
    moved: int
    least: float
    epoch_s: float


class Numbers(Dataset):
    """Samples that are their own numbers."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, number: int) -> int:
        return number


class Marked(gt.PeerSampler):
    """Yields epoch x SAMPLES + sample, so that steps know the epoch of what they train."""

    def _samples_of(self, piece: Any, plan: Any) -> list[int]:
        return [piece.chunk.epoch * SAMPLES + sample for sample in super()._samples_of(piece, plan)]


def train(number: int, run_dir: Path) -> None:
    """What each process runs, until RUN/stop is there."""
    torch.set_num_threads(1)
    name = f"peer-{number}"
    model = torch.nn.Linear(64, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    options: dict[str, Any] = {"name": name, "run_dir": run_dir, "founder": number == 0}
    if name != NEWCOMER:
        options["wait_for_peers"] = len(STEPS_S) - 1
    peer = gt.attach(model, optimizer, seeds=(f"@{run_dir / 'peers'}",), **options)
    loader = DataLoader(Numbers(), batch_size=BATCH, sampler=Marked(Numbers(), peer))
    (run_dir / f"ready-{name}").touch()
    wait_for(lambda: name != NEWCOMER or (run_dir / "join").exists(), "the newcomer is let in")
    with peer, (run_dir / f"{name}.samples").open("wb", buffering=0) as file:
        while not (run_dir / "stop").exists():
            for samples in loader:
                began_s = time.monotonic()
                model(torch.randn(len(samples), 64)).square().mean().backward()
                time.sleep(max(0.0, STEPS_S[number] - (time.monotonic() - began_s)))
                optimizer.step()
                optimizer.zero_grad()
                file.write(samples.numpy().astype("<i8").tobytes())
                if (run_dir / "stop").exists():
                    break


def one_run(number: int) -> Row:
    """Runs the peers and counts."""
    with tempfile.TemporaryDirectory() as folder, processes(Path(folder)):
        run_dir = Path(folder)
        began_s = until_part(run_dir, EPOCH, 0.0)
        until_part(run_dir, EPOCH, KILL_AT)
        least = float(parts(run_dir)[KILLED].left)
        running[KILLED].kill()
        until_part(run_dir, EPOCH, JOIN_AT)
        (run_dir / "join").touch()
        wait_for(lambda: len(read_steps(run_dir / "events" / f"{NEWCOMER}.steps")), "the newcomer takes a step")
        least += newcomers_part(run_dir)
        told = wait_for(lambda: finished(run_dir), "the epoch is over")
        ended_s = time.monotonic()
        (run_dir / "stop").touch()
        for name, process in running.items():
            process.join(PATIENCE_S)
            if name != KILLED and process.exitcode != 0:
                raise RuntimeError(f"{name} ended with {process.exitcode}")
        counts = counted(run_dir)
    twice = int(counts.sum()) - int((counts > 0).sum())
    return Row(number, int((counts == 0).sum()), twice, told["trained_twice"], told["moved"], least, ended_s - began_s)


running: dict[str, BaseProcess] = {}


@contextlib.contextmanager
def processes(run_dir: Path) -> Iterator[None]:
    """Starts all, and leaves none behind."""
    context = multiprocessing.get_context("spawn")
    running.clear()
    try:
        for number in range(len(STEPS_S)):
            process = context.Process(target=train, args=(number, run_dir))
            process.start()
            running[f"peer-{number}"] = process
        wait_for(lambda: len(list(run_dir.glob("ready-*"))) == len(STEPS_S), "all processes are ready")
        yield
    finally:
        for process in running.values():
            process.kill()
            process.join()


def parts(run_dir: Path) -> dict[str, DataStatus]:
    """Whose the epoch at hand is, as the first peer sees it."""

    def look() -> Status | None:
        with contextlib.suppress(GossipTrainError, OSError):
            return ask((run_dir / "peers" / "peer-0.address").read_text().strip(), timeout_s=1.0)
        return None

    status = wait_for(look, "the first peer answers")
    return {peer.name: peer.data for peer in (status, *status.members) if peer.data is not None}


def until_part(run_dir: Path, epoch: int, part: float) -> float:
    """Waits until so much of an epoch is trained; returns the time, in seconds of a monotonic clock."""

    def is_so() -> bool:
        known = parts(run_dir)
        at = max((data.epoch for data in known.values()), default=-1)
        return at > epoch or (at == epoch and sum(data.trained for data in known.values()) >= part * SAMPLES)

    wait_for(is_so, f"{part:.0%} of epoch {epoch} are trained")
    return time.monotonic()


def newcomers_part(run_dir: Path) -> float:
    """How many of the chunks that are left are the newcomer's, by what its speed is to be among the others'."""
    wait_for(lambda: NEWCOMER in parts(run_dir), "the newcomer shares the data")
    left = sum(data.left for data in parts(run_dir).values())
    speeds = {f"peer-{number}": 1 / step_s for number, step_s in enumerate(STEPS_S) if f"peer-{number}" != KILLED}
    return left * speeds[NEWCOMER] / sum(speeds.values())


def finished(run_dir: Path) -> dict[str, Any] | None:
    """What the first peer told at the end of the epoch."""
    for line in (run_dir / "events" / "peer-0.jsonl").read_text().splitlines():
        if '"EpochFinished"' in line and (told := json.loads(line))["epoch"] == EPOCH:
            return told
    return None


def counted(run_dir: Path) -> np.ndarray:
    """How often each sample of the epoch was in a step, of the killed peer among others."""
    numbers = np.concatenate([np.fromfile(path, dtype="<i8") for path in run_dir.glob("*.samples")])
    return np.bincount(numbers[numbers // SAMPLES == EPOCH] % SAMPLES, minlength=SAMPLES)


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Returns the first true value of a condition.

    Raises:
        TimeoutError: it did not come true within some minutes.
    """
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        if value := condition():
            return value
        time.sleep(LOOK_EVERY_S)
    raise TimeoutError(f"never happened: {what} (process {os.getpid()})")
