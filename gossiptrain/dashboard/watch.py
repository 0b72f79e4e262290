"""Watches a local run to its end: shows it, passes Ctrl-C on, and sums it up."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import FrameType

from gossiptrain.dashboard.events import Storyteller, Watcher
from gossiptrain.dashboard.terminal import Display
from gossiptrain.dashboard.tracebacks import TracebackFilter
from gossiptrain.launchers.local import Exited, LaunchConfig, LocalRun, Printed

POLL_S = 0.1


@dataclass
class Interrupts:
    """Counts the signals that ask this process to end."""

    count: int = 0
    number: int = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.number = number


@dataclass
class Watch:
    """One run and what shows it.

    Attributes:
        run: Started already.
        display: Where it is shown.
        interrupts: What this process was told meanwhile.
    """

    run: LocalRun
    display: Display
    interrupts: Interrupts = field(default_factory=Interrupts)

    def __post_init__(self) -> None:
        folder = self.run.folder
        self.watcher = Watcher({name: folder.events(name) for name in self.run.names}, since=self.run.began)
        self._story = Storyteller(self.run.names)
        self._tracebacks = TracebackFilter()
        self._join_told = bool(self.run.config.join)

    def to_the_end(self, each: Callable[[LocalRun], None] | None = None) -> None:
        """Runs until no peer does. `each` is called several times a second, for owners with plans of their own."""
        with _catch(self.interrupts):
            while self.run.running:
                self.look()
                if each is not None:
                    each(self.run)
            self._see(self.run.poll(0.0))
            self._look_at_events()
            self.display.refresh(list(self.watcher.views.values()), last=True)

    def look(self) -> None:
        """Handles what has happened since the last look, or waits a moment for it."""
        self._obey()
        self._see(self.run.poll(POLL_S))
        for name, lines in self._tracebacks.idle():
            self._show(name, lines)
        self._tell_how_to_join()
        self._look_at_events()
        self.display.refresh(list(self.watcher.views.values()))

    def _obey(self) -> None:
        if self.interrupts.count >= 2:
            self.run.stop(at_once=True)
        elif self.interrupts.count == 1 and not self.run.stopping:
            self._tracebacks.stopping = True
            self.display.note("Ending all peers; once more kills them.", "yellow")
            self.run.stop()

    def _see(self, happened: Sequence[Printed | Exited]) -> None:
        for event in happened:
            if isinstance(event, Printed):
                self._show(event.name, self._tracebacks.feed(event.name, event.lines))
            else:
                self._show(event.name, self._tracebacks.end(event.name))
                self.watcher.views[event.name].state = _state(event)
                if event.failed:
                    self.display.note(f"{event.name} ended after {event.seconds:.1f} s: {event.cause}", "red")

    def _look_at_events(self) -> None:
        for name, event in self.watcher.look():
            sentence = self._story.tell(name, event)
            if sentence is not None and not self.run.stopping:
                self.display.note(sentence, "yellow")

    def _show(self, name: str, lines: Sequence[str]) -> None:
        if lines:
            self.display.peer_lines(name, lines)

    def _tell_how_to_join(self) -> None:
        if self._join_told:
            return
        address = self.run.folder.address(self.run.names[0])
        if address is not None:
            self._join_told = True
            self.display.note(f"Join from another shell: {joining_command(self.run.config, address)}")


def joining_command(config: LaunchConfig, address: str) -> str:
    """Returns the line with which another shell adds a peer to a run; peers must agree on what is not the default."""
    flags = {name: getattr(config, name.replace("-", "_")) for name in ("topology", "mixer", "codec", "sync-every")}
    default = {item.name.replace("_", "-"): item.default for item in fields(LaunchConfig)}
    said = [f"--{flag}={value}" for flag, value in flags.items() if value != default[flag]]
    script = [str(config.script), *config.arguments]
    return shlex.join(["gossiptrain", "launch", "--join", address, *said, *script])


def relative(path: Path) -> str:
    """Returns a path as short as can be typed from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _state(exited: Exited) -> str:
    if exited.returncode == 0:
        return "finished"
    if exited.stopped:
        return "stopped"
    return "killed" if exited.returncode < 0 else "failed"


@contextmanager
def _catch(interrupts: Interrupts) -> Iterator[None]:
    """Counts SIGINT, SIGTERM and SIGHUP instead of dying of them, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = [(number, signal.signal(number, interrupts)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
