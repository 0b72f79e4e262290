"""The data that simulated peers share: what `PeerSampler` does, on counts, and the truth about every sample.

A peer takes chunks from its hand as its loader would, some samples ahead of training, and tells the ledger at the ends of
blocks which chunks are trained. What was trained how often is counted here, beside the protocol, sample by sample.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.data_plan import DataPlan, make_plan
from gossiptrain.protocol.effects import HandChunks, RefuseSharing, WithdrawChunks
from gossiptrain.protocol.events import ChunksTaken, ChunksTrained, SharingBegun
from gossiptrain.protocol.messages import ChunkId

if TYPE_CHECKING:
    from sim.peer import SimulatedPeer

# Of the newest block's speed in the moving estimate.
NEWEST_SHARE = 0.3


class EpochTruth(NamedTuple):
    """One epoch, counted. samples: of the epoch; untrained: in no peer's steps; twice: trained so often too much."""

    epoch: int
    samples: int
    untrained: int
    twice: int


class SharedData:
    """An epoch of data that all peers of a simulation share.

    Attributes:
        plan: how it is cut. batch: samples of a step. ahead: samples that a peer's loader takes before it trains them.
        starved: how often a peer had nothing to train at the end of a block.
    """

    def __init__(self, samples: int, batch: int = 32, chunk_samples: int | None = None, ahead: int = 0) -> None:
        """
        Args:
            samples: in an epoch. batch: at least 1. chunk_samples: None for the default. ahead: 0 or more.

        Raises:
            ConfigurationError: a number is out of range.
        """
        if batch < 1 or ahead < 0:
            raise ConfigurationError(f"batch={batch!r}, ahead={ahead!r}: must be at least 1 and 0")
        self.plan: DataPlan = make_plan(samples, 0, chunk_samples)
        self.batch, self.ahead = batch, ahead
        self.starved = 0
        self._counts: dict[int, np.ndarray] = {}

    def to_dict(self) -> dict[str, int]:
        """Its arguments, as a scenario file holds them."""
        plan = self.plan
        return {"samples": plan.samples, "batch": self.batch, "chunk_samples": plan.chunk_samples, "ahead": self.ahead}

    def prepare(self) -> None:
        """Forgets what was before."""
        self.starved = 0
        self._counts.clear()

    def train(self, chunk: ChunkId, begin: int, end: int) -> None:
        """Counts the samples [begin, end) of a chunk."""
        first = chunk.chunk * self.plan.chunk_samples
        self._of(chunk.epoch)[first + begin : first + end] += 1

    def epochs(self) -> list[int]:
        """The epochs of which anything is trained."""
        return sorted(self._counts)

    def truth(self, epoch: int) -> EpochTruth:
        """Tells how often the samples of an epoch were trained, by peers that died since among others."""
        counts = self._of(epoch)
        twice = int(counts.sum()) - int((counts > 0).sum())
        return EpochTruth(epoch, self.plan.samples, int((counts == 0).sum()), twice)

    def _of(self, epoch: int) -> np.ndarray:
        if epoch not in self._counts:
            self._counts[epoch] = np.zeros(self.plan.samples, dtype=np.int32)
        return self._counts[epoch]


class _Segment(NamedTuple):
    """A chunk whose samples below `trained` are trained."""

    chunk: ChunkId
    trained: int
    size: int


class Sampling:
    """One process's part in the data.

    Attributes:
        carry_out: what is done for each of the ledger's effects.
        trained: samples that this process trained. floor: all epochs below are complete, as this peer knows.
    """

    def __init__(self, peer: SimulatedPeer, data: SharedData | None) -> None:
        self._peer, self._data = peer, data
        self._hand: deque[ChunkId] = deque()
        self._issued: deque[_Segment] = deque()
        self._ahead = 0
        self._rate = 0.0
        self.trained = self.floor = 0
        self.refused = ""
        self.carry_out: dict[type, Any] = {
            HandChunks: self._take_over,
            WithdrawChunks: self._withdraw,
            RefuseSharing: self._refuse,
        }

    def begin(self) -> None:
        """The peer has joined."""
        if self._data is not None:
            self._peer.handle(SharingBegun(self._data.plan))

    def boundary(self, steps: int, seconds: float) -> None:
        """A block has ended: its samples are trained, and chunks that end within them are told of."""
        if self._data is None or self.refused:
            return
        rate = steps * self._data.batch / max(seconds, 1e-9)
        self._rate = rate if not self._rate else (1 - NEWEST_SHARE) * self._rate + NEWEST_SHARE * rate
        finished = self._train(self._data, steps * self._data.batch)
        self._peer.handle(ChunksTrained(tuple(finished), self._rate))
        self._issue(self._data)
        self._check(self._data)

    def _train(self, data: SharedData, count: int) -> list[ChunkId]:
        finished: list[ChunkId] = []
        while count > 0 and (self._issued or self._issue(data, count)):
            chunk, begin, size = self._issued[0]
            end = min(size, begin + count)
            data.train(chunk, begin, end)
            count -= end - begin
            self._ahead -= end - begin
            self.trained += end - begin
            if end == size:
                self._issued.popleft()
                finished.append(chunk)
            else:
                self._issued[0] = _Segment(chunk, end, size)
        data.starved += count > 0
        return finished

    def _issue(self, data: SharedData, at_least: int = 0) -> bool:
        """Takes chunks from the hand, as far ahead as the loader would; says whether there is anything to train."""
        wanted = max(data.ahead, at_least)
        while self._ahead < wanted and self._hand:
            chunk = self._hand.popleft()
            self._issued.append(_Segment(chunk, 0, data.plan.size(chunk.chunk)))
            self._ahead += data.plan.size(chunk.chunk)
            self._peer.handle(ChunksTaken((chunk,)))
        return bool(self._issued)

    def _check(self, data: SharedData) -> None:
        """I11: whoever takes an epoch for complete is right."""
        floor = self._peer.protocol.ledger.state().floor
        for epoch in range(self.floor, floor):
            if data.truth(epoch).untrained:
                detail = f"takes epoch {epoch} for complete; {data.truth(epoch).untrained} samples are not trained"
                self._peer.world.checkers.fail("I11", self._peer, detail)
            self._peer.world.checkers.saw["epoch complete"] += 1
        self.floor = max(self.floor, floor)

    def _take_over(self, effect: HandChunks) -> None:
        self._hand.extend(effect.chunks)

    def _withdraw(self, effect: WithdrawChunks) -> None:
        gone = set(effect.chunks)
        self._hand = deque(chunk for chunk in self._hand if chunk not in gone)

    def _refuse(self, effect: RefuseSharing) -> None:
        self.refused = effect.text
