"""Runs a simulation so that a person can wait for it: progress on the terminal or in a notebook, and a clean Ctrl-C.

It looks at the wall clock, as only it and `soak` do here: what happens in a simulation never depends on that.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.simulation import Simulation

SLICE_EVENTS = 1000
SHOWN_AFTER_S = 1.5
SHOWN_EVERY_S = 0.25
BAR_CHARACTERS = 24
# A simulation makes millions of small objects that live for ever and hardly any garbage that only a collection finds.
COLLECTS_AFTER = (50_000, 50, 50)


def drive(simulation: Simulation, until_s: float, shows: bool | None = None) -> bool:
    """Lets everything happen up to a time; returns False when Ctrl-C ended it before.

    Args:
        shows: whether to show progress once the run has taken 1.5 seconds; None: where somebody can see it, that is on
            a terminal or in a notebook.
    """
    line = _Line(simulation, until_s) if (_somebody_looks() if shows is None else shows) else None
    with _rare_collections(), _interrupts() as interrupted:
        try:
            while not simulation.clock.run(until_s, SLICE_EVENTS):
                if interrupted:
                    return False
                if line is not None:
                    line.look()
        finally:
            if line is not None:
                line.end()
    return True


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Python looks for cyclic garbage less often: with 1,000 peers that takes a seventh of the time, to find nothing."""
    before = gc.get_threshold()
    gc.set_threshold(*(max(*pair) if before[0] else 0 for pair in zip(COLLECTS_AFTER, before)))
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Ctrl-C is noted, so that no event is cut in two; the second one interrupts whatever is going on."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: Any) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


class _Line:
    """One line that is written again and again."""

    def __init__(self, simulation: Simulation, until_s: float) -> None:
        self._simulation, self._until_s = simulation, until_s
        self._began_at_s, self._from_s, self._events = time.monotonic(), simulation.now, simulation.clock.count
        self._next_at_s = self._began_at_s + SHOWN_AFTER_S
        self._width = 0

    def look(self) -> None:
        """Writes the line, if it is time."""
        now_s = time.monotonic()
        if now_s >= self._next_at_s:
            self._next_at_s = now_s + SHOWN_EVERY_S
            self._write(self._text(now_s - self._began_at_s))

    def end(self) -> None:
        """Writes it for the last time, if it was ever written."""
        if self._width:
            self._write(self._text(time.monotonic() - self._began_at_s))
            print(file=sys.stderr, flush=True)

    def _text(self, took_s: float) -> str:
        clock, until_s = self._simulation.clock, self._until_s
        done = (clock.now - self._from_s) / max(until_s - self._from_s, 1e-9)
        filled = round(done * BAR_CHARACTERS)
        bar = "#" * filled + "." * (BAR_CHARACTERS - filled)
        left = f", about {_duration(took_s * (1 - done) / done)} to go" if 0 < done < 1 else ""
        rate = (clock.count - self._events) / max(took_s, 1e-9)
        speed = (clock.now - self._from_s) / max(took_s, 1e-9)
        return (
            f"[{bar}] {clock.now:,.1f} of {until_s:,g} virtual s, {speed:.3g}x real time, {rate:,.0f} events/s, "
            f"{len(self._simulation.living())} peers live{left}"
        )

    def _write(self, text: str) -> None:
        print(f"\r{text.ljust(self._width)}", end="", file=sys.stderr, flush=True)
        self._width = len(text)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _somebody_looks() -> bool:
    kernel = sys.modules.get("IPython")
    return sys.stderr.isatty() or (kernel is not None and "IPKernelApp" in getattr(kernel.get_ipython(), "config", {}))
