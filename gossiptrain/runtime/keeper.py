"""Freezes a peer's state: the training thread only copies it, everything else happens on a thread of its own.

    wanted --> measured --memory, background--> copied, training thread, at the end of a step --digests, background--> done

Fresh pages cost ten times a copy, so memory is made ready in the background, once the training thread has said how much it
takes; it copies at a later step. A training thread that does not come by (evaluation, a long compilation) is not waited
for for ever: then the caller is told, and may take the newest published parameters instead.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.fetching import CHUNK_BYTES
from gossiptrain.runtime.manifest import Manifest
from gossiptrain.runtime.staging import as_memoryview, host_bytes
from gossiptrain.runtime.state import Identity, Model, Parts, pack
from gossiptrain.runtime.threads import start_on_one_core

# A copy of less is over before anybody could hear of it.
PAUSE_BYTES_MIN = 256 << 20
PAUSE_S = 30.0
# Of a core's time while memory is made ready, so that training on the same cores is not slowed.
GENTLE_SHARE = 0.03
PAUSE_S_MAX = 0.2

log = logging.getLogger("gossiptrain")


@dataclass(frozen=True, slots=True, eq=False)
class FrozenState:
    """A state that nothing changes any more. data: its bytes, read-only."""

    manifest: Manifest
    data: memoryview


@dataclass(slots=True, eq=False)
class Freeze:
    """Somebody wants the state.

    Attributes:
        with_frozen: parameters that are not trained, too.
        done: is given the state or the reason why there is none, on the background thread.
        overdue_s: when to give up waiting for the training thread (monotonic), and `overdue` what to do then.
        needs: bytes to make ready; 0 while the training thread has not said it, or they are there.
        take: says whether there is room for so many bytes, and takes it.
    """

    with_frozen: bool
    done: Callable[[FrozenState | Exception], None]
    overdue_s: float = float("inf")
    overdue: Callable[[], None] = lambda: None
    buffer: Tensor | None = None
    needs: int = 0
    take: Callable[[int], bool] = lambda nbytes: True


class Keeper:
    """The states of one peer, on their way out.

    Attributes:
        wanted: whether the training thread should call `at_step`; cheap to look at after each step.
        is_training: whether there is training that must not be slowed.
    """

    def __init__(
        self,
        model: Model,
        identity: Identity,
        device: torch.device,
        pausing: Callable[[float], AbstractContextManager[None]] = lambda seconds: nullcontext(),
    ) -> None:
        """
        Args:
            pausing: a context that tells others of a pause of at most so many seconds.
        """
        self._model, self._identity, self._device, self._pausing = model, identity, device, pausing
        self._lock = threading.Lock()
        self._pending: list[Freeze] = []
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.wanted = False
        self.is_training = False

    # Any thread

    def want(self, freeze: Freeze) -> None:
        """Has the state frozen at a next step."""
        with self._lock:
            self._pending.append(freeze)
            self.wanted = True
        self._later(lambda: None)

    def close(self, timeout_s: float) -> None:
        """Finishes what has been copied, gives up the rest, and ends the thread."""
        with self._lock:
            self._pending.clear()
            self.wanted = False
            thread = self._thread
        self._jobs.put(None)
        if thread is not None:
            thread.join(timeout_s)

    # The training thread

    def at_step(self, step: int) -> None:
        """Copies the state for those that want it, as far as memory is ready."""
        with self._lock:
            pending = [freeze for freeze in self._pending if not freeze.needs]
        for freeze in pending:
            try:
                parts = self._model.parts(freeze.with_frozen)
            except ConfigurationError as error:
                if self._drop(freeze):
                    self._later(lambda freeze=freeze, error=error: freeze.done(error))
                continue
            if freeze.buffer is None or freeze.buffer.numel() < parts.nbytes:
                freeze.needs = parts.nbytes
                self._later(lambda freeze=freeze: self._make_room(freeze))
            elif self._drop(freeze):
                self._copy(freeze, freeze.buffer, parts, step)

    def freeze_now(self, freeze: Freeze, step: int) -> None:
        """Copies the state at once, and waits for the memory that it takes.

        Raises:
            ConfigurationError: a tensor cannot be written down.
        """
        parts = self._model.parts(freeze.with_frozen)
        self._copy(freeze, self._room(parts.nbytes), parts, step)

    def _copy(self, freeze: Freeze, buffer: Tensor, parts: Parts, step: int) -> None:
        is_long = parts.nbytes >= PAUSE_BYTES_MIN
        with self._pausing(PAUSE_S) if is_long else nullcontext():
            pack(parts, buffer)
        ready = None
        if self._device.type == "cuda":
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(self._device))
        self._later(lambda: self._finish(freeze, buffer, parts, step, ready))

    def _drop(self, freeze: Freeze) -> bool:
        """Takes a freeze off the list; False when it was given up meanwhile."""
        with self._lock:
            is_pending = freeze in self._pending
            if is_pending:
                self._pending.remove(freeze)
            self.wanted = bool(self._pending)
        return is_pending

    # The background thread

    def describe(self, freeze: Freeze, parts: Parts, data: Tensor, step: int) -> None:
        """Finishes a freeze whose bytes came another way. Any thread."""
        self._later(lambda: self._finish(freeze, data, parts, step, None))

    def _make_room(self, freeze: Freeze) -> None:
        try:
            nbytes = freeze.needs + freeze.needs // 64
            if not freeze.take(nbytes):
                raise MemoryError(f"a state of {nbytes} bytes has no room within max_buffer_mb")
            freeze.buffer = self._room(nbytes, gently=True)
        except (RuntimeError, MemoryError) as error:
            if self._drop(freeze):
                freeze.done(error)
        freeze.needs = 0

    def _room(self, nbytes: int, gently: bool = False) -> Tensor:
        """Returns host memory whose pages are resident; gently, it takes a small part of a core's time for that."""
        if self._device.type == "cuda" or not (gently and self.is_training):
            return host_bytes(max(nbytes, 1), pinned=self._device.type == "cuda")
        room = torch.empty(max(nbytes, 1), dtype=torch.uint8)
        for part in room.split(CHUNK_BYTES):
            began_s = time.perf_counter()
            part.fill_(0)
            time.sleep(min(PAUSE_S_MAX, (time.perf_counter() - began_s) * (1 / GENTLE_SHARE - 1)))
        return room

    def _finish(self, freeze: Freeze, buffer: Tensor, parts: Parts, step: int, ready: Any) -> None:
        freeze.buffer = None  # from here on it is the state's, and lives as long
        try:
            if ready is not None:
                ready.synchronize()
            data = as_memoryview(buffer)[: parts.nbytes].toreadonly()
            state = FrozenState(parts.manifest(self._identity, step, data), data)
        except Exception as error:
            freeze.done(error)
            raise
        freeze.done(state)

    def _later(self, job: Callable[[], None]) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"gossiptrain-states-{self._identity.peer}")
                self._thread.daemon = True
                start_on_one_core(self._thread)
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._look_for_overdue())
            except queue.Empty:
                continue
            if job is None:
                return
            try:
                job()
            except Exception:
                log.exception("%s: a state could not be kept; training goes on", self._identity.peer)
            del job  # it holds the state, and the next one may come in an hour

    def _look_for_overdue(self) -> float | None:
        """Gives up what waited for training too long; returns how long there is nothing more to give up."""
        now = time.monotonic()
        with self._lock:
            late = [freeze for freeze in self._pending if now >= freeze.overdue_s]
            self._pending = [freeze for freeze in self._pending if freeze not in late]
            self.wanted = bool(self._pending)
            next_s = min((freeze.overdue_s for freeze in self._pending), default=float("inf"))
        for freeze in late:
            freeze.overdue()
        return None if next_s == float("inf") else max(0.0, next_s - now)
