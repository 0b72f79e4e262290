"""Several peers in one process, each with a model, a training thread and a network thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import gossiptrain as gt

PATIENCE_S = 60.0
QUICK = gt.MembershipConfig(probe_period_s=0.25, probe_timeout_s=0.2, stall_tolerance_s=20.0, join_timeout_s=30.0)


class Crew:
    """Makes peers of one run and trains them in threads; ends them all, whatever happens."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._peers: list[gt.Peer] = []
        self._threads: list[threading.Thread] = []

    def peer(self, number: int, model: torch.nn.Module, optimizer: Any = None, **settings: Any) -> gt.Peer:
        """Attaches a peer that finds the others in the run's folder; number 0 founds the run."""
        defaults = {
            "name": f"peer-{number}",
            "run_dir": self.run_dir,
            "seeds": (f"@{self.run_dir / 'peers'}",),
            "founder": number == 0,
            "membership": QUICK,
        }
        peer = gt.attach(model, optimizer, **{**defaults, **settings})
        self._peers.append(peer)
        return peer

    def train(self, *jobs: Callable[[], Any]) -> list[Any]:
        """Runs each job in a thread; returns what they returned, or raises the first exception."""
        results: dict[int, Any] = {}
        errors: list[BaseException] = []

        def work(number: int, job: Callable[[], Any]) -> None:
            try:
                results[number] = job()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=item, daemon=True) for item in enumerate(jobs)]
        self._threads += threads
        for thread in threads:
            thread.start()
        deadline_s = time.monotonic() + PATIENCE_S
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        if errors:
            raise errors[0]
        assert len(results) == len(jobs), "a training thread did not end"
        return [results[number] for number in range(len(jobs))]

    def end(self) -> None:
        """Ends peers whose training failed within `with peer:`."""
        for peer in self._peers:
            peer.__exit__(RuntimeError, RuntimeError("the test ended"), None)


@pytest.fixture
def one_core() -> Iterator[None]:
    """Lets torch compute in the calling thread: several peers in one process would fight for the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def crew(tmp_path: Path, one_core: None) -> Iterator[Crew]:
    made = Crew(tmp_path / "run")
    yield made
    made.end()


@pytest.fixture
def until() -> Callable[[Callable[[], Any], str], Any]:
    """Returns the first true value of a condition; fails after a generous while."""

    def wait(condition: Callable[[], Any], what: str) -> Any:
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            if value := condition():
                return value
            time.sleep(0.005)
        raise AssertionError(f"never happened: {what}")

    return wait
