"""Where a peer begins: from its own parameters, from a checkpoint, or from a peer of the run as it is now.

Whoever begins from a checkpoint counts in mixing at once, whoever has neither takes the state of one that does. So a run
whose peers all died goes on where they were, with as many peers as are started now; and nobody who waits for a trained
peer is ever mixed before it has that peer's state.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.notices import Status
from gossiptrain.runtime import checkpoint
from gossiptrain.runtime.state import Model

log = logging.getLogger("gossiptrain")


class Beginning(NamedTuple):
    """How a peer begins: whether from what it has itself, and after how many steps. saved: the checkpoint's file."""

    founder: bool
    step: int = 0
    saved: str = ""


class Wish(NamedTuple):
    """What a peer is told about its beginning.

    Attributes:
        founder: the run begins from its parameters.
        resume: the run's folder whose checkpoints count, or None.
        has_seeds: it may find others.
        look: looks for a peer of the run that trains already.
    """

    name: str
    founder: bool
    resume: Path | None
    has_seeds: bool
    look: Callable[[], Status | None]


def find(wish: Wish, model: Model) -> Beginning:
    """Decides where a peer begins, and restores its model and optimizer if that is a checkpoint.

    A launcher that restarts a process gives it the same part again: so a run that has moved on is joined, whatever it is
    told. Checkpoints count where nobody is further than they are.
    """
    found = wish.look() if wish.founder or wish.resume else None
    if wish.resume is not None:
        return _resume(wish, wish.resume, model, found)
    if wish.founder and found:
        _say_joins(wish.name, found)
    return Beginning(wish.founder and not found)


def _resume(wish: Wish, folder: Path, model: Model, found: Status | None) -> Beginning:
    if found is not None and found.step > checkpoint.newest_step(folder):
        _say_joins(wish.name, found)
        return Beginning(founder=False)
    restored = _restore(wish.name, folder, model)
    if restored is not None:
        return restored
    if wish.has_seeds:
        log.warning("%s: no checkpoint in %s; begins from a peer that has one", wish.name, folder)
        return Beginning(founder=False)
    log.warning("%s: no checkpoint in %s; begins anew", wish.name, folder)
    return Beginning(wish.founder)


def _restore(name: str, folder: Path, model: Model) -> Beginning | None:
    """Restores the newest checkpoint that is whole: this peer's own, else the most advanced of another."""
    for saved in checkpoint.candidates(folder, name):
        try:
            manifest, data = checkpoint.load(saved)
            model.check(manifest)
            fresh = model.adopt(manifest, data)
        except (ConfigurationError, ValueError) as error:
            log.warning("%s: a checkpoint was not used, an older one is tried: %s", name, error)
            continue
        if fresh:
            say_fresh_optimizer(name, manifest.peer, fresh)
        owner = "" if manifest.peer == name else f" of {manifest.peer}"
        log.info("%s: goes on from the checkpoint%s at step %d: %s", name, owner, manifest.step, saved.data_path)
        return Beginning(True, manifest.step, str(saved.data_path))
    return None


def say_fresh_optimizer(name: str, source: str, reason: str) -> None:
    """Warns that an optimizer begins afresh although its parameters do not."""
    log.warning("%s: has the parameters of %s, but its optimizer begins with a fresh state: %s", name, source, reason)


def _say_joins(name: str, found: Status) -> None:
    log.warning("%s: the run is at step %d already (%s); begins from there", name, found.step, found.name)
