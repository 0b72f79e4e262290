"""Starts real peers, hurts them, and reads what they wrote about it. Nothing here sleeps blindly: it polls.

Processes come from a fork server that has torch loaded, so that one costs a tenth of a second instead of seconds; they
share nothing with each other or with the test.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from gossiptrain.runtime.recorder import read_steps
from tests.chaos.peer_process import Plan, run

PATIENCE_S = 60.0
_context = multiprocessing.get_context("forkserver")
# The first optimizer imports torch._dynamo, which takes as long as torch itself.
_context.set_forkserver_preload(["torch._dynamo", "gossiptrain.peer", "tests.chaos.peer_process"])

Event = dict[str, Any]


class Swarm:
    """The peers of one run. A context manager: whatever happens, no process is left behind."""

    def __init__(self, run_dir: Path, **common: Any) -> None:
        """
        Args:
            common: fields of `Plan` that all peers share; `attach` is merged with a peer's own.
        """
        self.run_dir = run_dir
        self._common = common
        self._processes: dict[str, BaseProcess] = {}
        self._former: list[BaseProcess] = []

    def __enter__(self) -> Swarm:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for process in (*self._processes.values(), *self._former):
            with contextlib.suppress(ProcessLookupError):
                if process.is_alive() and process.pid:
                    os.kill(process.pid, signal.SIGCONT)
            process.join(0.1)
            process.kill()
            process.join(10)
        if self._path("forked").exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self._path("forked").read_text()), signal.SIGKILL)

    # Doing

    def start(self, name: str, **plan: Any) -> str:
        """Starts a peer; it finds the others in the run's folder. The first by name founds the run."""
        attach = {
            "seeds": (f"@{self.run_dir / 'peers'}",),
            "founder": name == "peer-0",
            "sync_every": 2,
            **self._common.get("attach", {}),
            **plan.pop("attach", {}),
        }
        made = Plan(name=name, run_dir=self.run_dir, **{**self._common, **plan, "attach": attach})
        process = _context.Process(target=run, args=(made,), name=name)
        process.start()
        if name in self._processes:
            self._former.append(self._processes[name])
        self._processes[name] = process
        return name

    def start_together(self, count: int, **plan: Any) -> list[str]:
        """Starts peer-0, peer-1, ... which wait for each other before their first step."""
        names = [f"peer-{number}" for number in range(count)]
        for number, name in enumerate(names):
            own = {key: value(number) if callable(value) else value for key, value in plan.items()}
            attach = {"wait_for_peers": count, **own.pop("attach", {})}
            self.start(name, **own, attach=attach)
        for name in names:
            self.until(lambda name=name: self.steps(name).size, f"{name} takes a step")
        return names

    def signal(self, name: str, number: signal.Signals) -> float:
        """Sends a signal; returns the time just before, in seconds since the epoch."""
        before_s = time.time()
        os.kill(self.pid(name), number)
        return before_s

    def kill(self, *names: str) -> float:
        """Kills these peers with no warning, all at once; returns the time just before, in seconds since the epoch."""
        before_s = time.time()
        for name in names:
            self.signal(name, signal.SIGKILL)
        return before_s

    def leave(self, name: str) -> None:
        """Ends one peer's loop at its next step and waits until its process is gone."""
        marker = self._path(f"stop-{name}")
        marker.touch()
        assert self.exit_code(name) == 0, self.log(name)
        marker.unlink()

    def stop(self) -> None:
        """Ends the loops of all peers at their next step."""
        self._path("stop").touch()

    def finish(self, *names: str) -> dict[str, int | None]:
        """Stops the run and returns the exit codes of these peers."""
        self.stop()
        for name in names:
            self._processes[name].join(PATIENCE_S)
        return {name: self._processes[name].exitcode for name in names}

    def exit_code(self, name: str) -> int | None:
        """Waits until a peer ends by itself."""
        self._processes[name].join(PATIENCE_S)
        return self._processes[name].exitcode

    # Looking

    def events(self, name: str, kind: str = "", since: float = 0.0, **fields: Any) -> list[Event]:
        """The lines that a peer has written so far, of one kind and with these values."""
        try:
            lines = self._path("events", f"{name}.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        events = [json.loads(line) for line in lines]
        return [
            event
            for event in events
            if kind in ("", event["kind"]) and event["t"] >= since and fields.items() <= event.items()
        ]

    def wait_for(self, name: str, kind: str, since: float = 0.0, **fields: Any) -> Event:
        """Returns the first such event; fails after a generous while."""
        what = f"{name} notes {kind} {fields or ''}"
        return self.until(lambda: self.events(name, kind, since, **fields), what)[0]

    def pid(self, name: str) -> int:
        """The process of a peer."""
        pid = self._processes[name].pid
        assert pid is not None
        return pid

    def address(self, name: str) -> str:
        """Where a peer listens, as it wrote it down; waits until it has."""
        path = self._path("peers", f"{name}.address")
        self.until(path.exists, f"{name} listens")
        return path.read_text().strip()

    def steps(self, name: str) -> np.ndarray:
        """When a peer stepped, in seconds since the epoch."""
        return read_steps(self._path("events", f"{name}.steps"))

    def value(self, name: str) -> float:
        """The mean parameter that a peer reported last; NaN before."""
        progress = self.events(name, "Progress")
        value = progress[-1].get("value") if progress else None
        return float("nan") if value is None else value

    def log(self, name: str) -> str:
        """What a peer printed."""
        path = self._path("logs", f"{name}.log")
        return path.read_text() if path.exists() else ""

    def model(self, name: str) -> np.ndarray:
        """The final parameters of a peer."""
        from safetensors.numpy import load_file

        return load_file(self._path("models", f"{name}.safetensors"))["weight"]

    def until(self, condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
        """Returns the first true value of the condition; when it never comes, fails with what the peers printed."""
        deadline_s = time.monotonic() + patience_s
        while time.monotonic() < deadline_s:
            if value := condition():
                return value
            time.sleep(0.02)
        logs = "\n".join(f"--- {name}\n{self.log(name)[-2000:]}" for name in self._processes)
        raise AssertionError(f"never happened: {what}\n{logs}")

    def pause(self, seconds: float) -> None:
        """Lets the peers train for a while."""
        end_s = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end_s, f"{seconds} s pass", patience_s=seconds + PATIENCE_S)

    def more_steps(self, name: str, count: int) -> None:
        """Waits until a peer has taken this many more steps."""
        before = self.steps(name).size
        self.until(lambda: self.steps(name).size >= before + count, f"{name} takes {count} more steps")

    def _path(self, *parts: str) -> Path:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        return self.run_dir.joinpath(*parts)
