"""What is still to be computed, and when it is computed together.

Theory of operation. Training, mixing and adopting only make versions that say what they come from. When somebody looks at
one, all corrections whose parts are known are added at once, then all blocks of steps whose beginning is known are taken at
once, and so on in turn until what was asked for is there. Since a peer tells which block it has begun long before it has
ended, nearly all peers have one waiting when the first result is looked at: that is the batch. A look that needs no block
takes none, or the batches would be small.

The order of all this follows from the order of the calls alone, so that the same run is computed in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol
from weakref import ref

from sim.learning.versions import Version

# So many waiting versions a peer are computed even if nobody looks: chains that nobody reads would hold memory.
WAITING_EACH = 4
WAITING_MIN = 256


class Trainer(Protocol):
    """Computes versions whose parts are computed."""

    def train(self, versions: list[Version]) -> None:
        """Takes each version's block of steps; gives it a row, its loss and its reach."""
        ...

    def mix(self, versions: list[Version]) -> None:
        """Adds each version's correction to its parent; gives it a row."""
        ...


class Pending:
    """The versions that are not computed yet, in the order in which they came about.

    Attributes:
        trainer: computes them. batches, blocks: how often blocks were taken together, and how many in all.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.batches = self.blocks = 0
        self._waiting: list[ref[Version]] = []

    def add(self, version: Version, peers: int) -> None:
        """A version came about in a run of so many peers."""
        self._waiting.append(ref(version))
        most = max(WAITING_MIN, WAITING_EACH * peers)
        if len(self._waiting) > 2 * most and len(alive := self._alive()) > most:
            self.compute(alive)

    def compute(self, versions: Iterable[Version]) -> None:
        """Computes these, and whatever can be computed with them at once."""
        wanted = [version for version in versions if not version.is_computed]
        while wanted:
            self._mix_ready()
            wanted = [version for version in wanted if not version.is_computed]
            if wanted:
                self._train_ready()

    def _alive(self) -> list[Version]:
        found = [version for version in (waiting() for waiting in self._waiting) if version is not None]
        found = [version for version in found if not version.is_computed]
        self._waiting = [ref(version) for version in found]
        return found

    def _mix_ready(self) -> None:
        while ready := [version for version in self._alive() if version.correction is not None and _is_ready(version)]:
            self.trainer.mix(ready)

    def _train_ready(self) -> None:
        ready = [version for version in self._alive() if version.correction is None and _is_ready(version)]
        assert ready, "versions come from computed ones"
        self.batches += 1
        self.blocks += len(ready)
        self.trainer.train(ready)


def _is_ready(version: Version) -> bool:
    return all(needed.is_computed for needed in version.needs())
