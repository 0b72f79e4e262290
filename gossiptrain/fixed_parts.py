"""The part of a data set that is one peer's for the whole run, for experiments with unequal data."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gossiptrain.errors import ConfigurationError
from gossiptrain.launchers import env
from gossiptrain.partitions import partition as share_out

ARGUMENTS = {"iid": "", "dirichlet": "alpha", "shards": "shards", "column": "column"}


class FixedPart(NamedTuple):
    """What `PeerSampler` is told of a peer's fixed part; nothing at all where there is none."""

    partition: str | None = None
    alpha: float | None = None
    shards: int | None = None
    column: Any = None
    labels: Any = None
    part: tuple[int, int] | None = None

    def of(self, dataset: Any, seed: int, peer: str) -> np.ndarray:
        """Returns the numbers of this peer's samples, int64, sorted; all peers' parts together are the data set.

        Args:
            seed: fixes all parts. peer: its name, from which follows which part is its own where that is not said.

        Raises:
            ConfigurationError: an argument cannot work; the message says which, and what is accepted.
        """
        argument = self._argument()
        spec = (self.partition, getattr(self, argument)) if argument else self.partition
        place = self._place(peer)
        needs_labels = self.partition in ("dirichlet", "shards")
        labels = self._labels_of(dataset) if needs_labels else np.zeros(len(dataset))
        if len(labels) != len(dataset):
            raise ConfigurationError(f"labels: has {len(labels)} entries; must have one a sample, {len(dataset)}")
        parts = share_out(spec, labels, place[1], np.random.Generator(np.random.Philox(seed)))
        return parts[place[0]]

    def _argument(self) -> str:
        """The name of the one argument that the partition takes, or ""."""
        argument = ARGUMENTS.get(self.partition or "")
        if argument is None:
            raise ConfigurationError(
                f"partition={self.partition!r}: must be one of {', '.join(ARGUMENTS)}; or None, without alpha, shards, "
                "column, labels and part, to share each epoch"
            )
        for name in ("alpha", "shards", "column"):
            if name != argument and getattr(self, name) is not None:
                raise ConfigurationError(
                    f"{name}={getattr(self, name)!r}: partition={self.partition!r} does not take it"
                )
        if argument and getattr(self, argument) is None:
            raise ConfigurationError(f"partition={self.partition!r}: needs {argument}")
        return argument

    def _place(self, peer: str) -> tuple[int, int]:
        place = self.part or env.place_among(peer)
        if place is None or not 0 <= place[0] < place[1]:
            raise ConfigurationError(
                f"part={place!r}: must be (which part is this peer's, how many there are), the first from 0 and below the "
                f"second; else a launcher says it, or {env.PREFIX}PEERS for a peer whose name ends with its number"
            )
        return place

    def _labels_of(self, dataset: Any) -> np.ndarray:
        labels = self.labels
        if labels is None:
            tensors = getattr(dataset, "tensors", (None,))
            labels = getattr(dataset, "targets", getattr(dataset, "labels", tensors[-1]))
        if labels is None:
            raise ConfigurationError(
                f"labels: {type(dataset).__name__} has no targets, labels or tensors; give one class a sample"
            )
        return np.asarray(labels)
