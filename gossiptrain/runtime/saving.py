"""Writes a peer's checkpoints while it trains: when they are due, in the background, and never to training's cost.

A disk that is full or cannot be written costs the checkpoint: it is recorded, said once, and tried again when the next is
due; the older checkpoints stay.
"""

from __future__ import annotations

import logging
import threading
import time

from gossiptrain.errors import GossipTrainError
from gossiptrain.intervals import Interval
from gossiptrain.runtime.checkpoint import Checkpoints, Saved
from gossiptrain.runtime.keeper import Freeze, FrozenState, Keeper
from gossiptrain.runtime.recorder import Recorder

log = logging.getLogger("gossiptrain")


class Saving:
    """The checkpoints of a peer that trains.

    Args:
        name: the peer's.
        every: how often; None only on demand.
        step: where training begins.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        keeper: Keeper,
        recorder: Recorder,
        *,
        name: str,
        every: Interval | None,
        step: int,
    ) -> None:
        self._name, self._checkpoints, self._every = name, checkpoints, every
        self._keeper, self._recorder = keeper, recorder
        self._last_step = step
        self._last_s = time.monotonic()
        self._is_under_way = False
        self._has_warned = False

    # The training thread

    def at_step(self, step: int) -> None:
        """Has a checkpoint written if it is time, unless the last one is still being written."""
        now = time.monotonic()
        every = self._every
        if every is None or self._is_under_way or not every.is_due(step, self._last_step, now - self._last_s):
            return
        self._is_under_way, self._last_step, self._last_s = True, step, now
        self._keeper.want(Freeze(with_frozen=True, done=lambda result: self._save(result, None)))

    def now(self, step: int, wait: bool) -> None:
        """Writes a checkpoint of this very step.

        Args:
            wait: return only when it is on the disk; else it is written in the background.

        Raises:
            GossipTrainError: with `wait`, if it could not be written; what was there before is untouched.
        """
        attempt = _Attempt()
        self._last_step, self._last_s = step, time.monotonic()
        self._keeper.freeze_now(Freeze(with_frozen=True, done=lambda result: self._save(result, attempt)), step)
        if wait and attempt.wait() is not None:
            raise GossipTrainError(f"{self._name}: no checkpoint was written: {attempt.error}") from attempt.error

    def last(self, step: int) -> None:
        """Training is over: keeps where it ended, if checkpoints are kept at all and this step has none yet."""
        if self._every is not None and step > self._last_step:
            self.now(step, wait=False)

    # The background thread

    def _save(self, result: FrozenState | Exception, attempt: _Attempt | None) -> None:
        error: Exception | None = None
        began_s = time.monotonic()
        try:
            if isinstance(result, Exception):
                raise result
            saved = self._checkpoints.write(result)
            self._tell(saved, len(result.data), time.monotonic() - began_s)
        except Exception as caught:
            error = caught
            self._tell_failure(caught)
        finally:
            self._is_under_way = False
            if attempt is not None:
                attempt.over(error)

    def _tell(self, saved: Saved, nbytes: int, seconds: float) -> None:
        self._has_warned = False
        path = str(saved.data_path)
        self._recorder.record("Checkpoint", step=saved.step, path=path, nbytes=nbytes, seconds=round(seconds, 3))

    def _tell_failure(self, error: Exception) -> None:
        self._recorder.record("CheckpointFailed", reason=f"{type(error).__name__}: {error}")
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "%s: a checkpoint could not be written (%s); training goes on, the older ones stay, the next is tried "
                "when it is due",
                self._name,
                error,
            )


class _Attempt:
    """A checkpoint that somebody may wait for."""

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self.error: Exception | None = None

    def over(self, error: Exception | None) -> None:
        self.error = error
        self._is_over.set()

    def wait(self) -> Exception | None:
        self._is_over.wait()
        return self.error
