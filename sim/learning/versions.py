"""Versions: the state of a peer's training at one moment, which never changes, computed when somebody looks.

A version is computed (it has a row of the arena) or it says what it comes from: a block of local steps after a parent, or
a correction added to a parent. Python's own reference counts say how long it is needed: with the last reference, the
training's, a snapshot's, or that of a version that is still to be computed from it, the row becomes free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.learning.arena import Arena

# A codec rounds a number up by so much at most: bfloat16, with 8 significant bits, the most.
ROUNDED = 1 + 2**-8


class Correction:
    """sum_j w_j (x_j - own) of published versions, not computed.

    Attributes:
        own, inbox: the versions, those of the inbox with their weights.
        is_read: they came over the wire, so that the codec, if there is one, has rounded them all.
    """

    __slots__ = ("inbox", "is_read", "own")

    def __init__(self, own: Version, inbox: Sequence[tuple[Version, float]], is_read: bool = True) -> None:
        self.own, self.inbox, self.is_read = own, tuple(inbox), is_read

    def versions(self) -> tuple[Version, ...]:
        """All versions that it is made of."""
        return (self.own, *(version for version, _ in self.inbox))


class Version:
    """One state: parameters, buffers and what the optimizer keeps.

    Attributes:
        name: equal for equal states of one run, in every mode.
        steps: optimizer steps in it, those of the states it was adopted from included.
        parent: what it comes from; None once computed.
        peer, count: of a block: whose data, and how many steps.
        correction: what is added to the parent; None for a block.
        row: where it lies in the arena; -1 before it is computed.
        loss: mean training loss over its last block; NaN before the first.
        reach: no published number is larger in absolute value; NaN where one is NaN, None while not known.
        kept: what an optimizer keeps that has no columns in the arena (loop mode).
    """

    __slots__ = (
        "__weakref__",
        "arena",
        "correction",
        "count",
        "kept",
        "loss",
        "name",
        "parent",
        "peer",
        "reach",
        "row",
        "steps",
    )

    def __init__(
        self,
        name: str,
        arena: Arena,
        parent: Version | None = None,
        correction: Correction | None = None,
        *,
        peer: int = -1,
        count: int = 0,
    ) -> None:
        self.name, self.arena, self.parent, self.correction = name, arena, parent, correction
        self.peer, self.count = peer, count
        self.row = -1
        self.steps = (parent.steps if parent is not None else 0) + count
        self.loss = float("nan")
        self.reach: float | None = None
        self.kept: Any = None

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def __add__(self, correction: Correction) -> Version:
        """The version with a correction applied, beside the training that it is waiting for."""
        return Version(f"{self.name} corrected", self.arena, self, correction)

    def __del__(self) -> None:
        if self.row >= 0:
            self.arena.free(self.row)

    @property
    def is_computed(self) -> bool:
        """Its numbers are in the arena."""
        return self.row >= 0

    def needs(self) -> tuple[Version, ...]:
        """What must be computed before it."""
        if self.parent is None:
            return ()
        return (self.parent,) if self.correction is None else (self.parent, *self.correction.versions())

    def computed(self, row: int) -> None:
        """Its numbers now are in this row; what it came from is not needed any more."""
        self.bound()
        self.row, self.parent, self.correction = row, None, None

    def unbounded(self) -> list[Version]:
        """Returns the blocks that must be computed before there is a bound on its published numbers."""
        if self.bound() is not None:
            return []
        if self.correction is None:
            return [self]
        return [block for version in self.needs() for block in version.unbounded()]

    def bound(self) -> float | None:
        """Returns a bound on its published numbers without computing it; None if there is none yet.

        x + sum_j w_j (y_j - x') is at most |x| + sum_j |w_j| (|y_j| + |x'|), and a little more where these are rounded.
        """
        if self.reach is None and self.correction is not None and self.parent is not None:
            reaches = [version.bound() for version in (self.parent, *self.correction.versions())]
            if None not in reaches:
                own, mixed, *others = (reach for reach in reaches if reach is not None)
                weights = (weight for _, weight in self.correction.inbox)
                self.reach = own + sum(
                    abs(weight) * ROUNDED * (other + mixed) for weight, other in zip(weights, others)
                )
        return self.reach
