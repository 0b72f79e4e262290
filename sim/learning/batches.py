"""Which samples a peer's step sees: a function of (seed, peer, step) alone, in every mode and on every machine.

A peer's samples come in one endless row of epochs, each a new permutation of its share; step s takes the `batch_size` from
s * batch_size on. So nothing is left out, and a batch may reach from one epoch into the next; of a share that is smaller
than a batch, a batch holds samples more than once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.streams import generator

Numbers = npt.NDArray[np.int64]
# Epochs are drawn together for about so many steps: making a generator costs more than a permutation.
STEPS_DRAWN = 64


class Batches:
    """The batches of all peers.

    Attributes:
        shares: sample numbers of each peer; peers beyond them begin again at the first.
        batch_size: samples of a batch.
    """

    def __init__(self, seed: int, shares: Sequence[Numbers], batch_size: int) -> None:
        self.shares, self.batch_size = shares, batch_size
        self._seed = seed
        self._drawn: dict[int, tuple[int, Numbers]] = {}

    def take(self, peer: int, step: int, steps: int) -> Numbers:
        """Returns the sample numbers of some steps, [steps, batch_size], from the one after `step` steps on."""
        position, end = step * self.batch_size, (step + steps) * self.batch_size
        pieces = []
        while position < end:
            chunk, offset = divmod(position, self._chunk_length(peer))
            piece = self._chunk(peer, chunk)[offset : offset + end - position]
            pieces.append(piece)
            position += len(piece)
        joined = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return joined.reshape(steps, self.batch_size)

    def _share(self, peer: int) -> Numbers:
        return self.shares[peer % len(self.shares)]

    def _epochs(self, peer: int) -> int:
        return max(1, -(-STEPS_DRAWN * self.batch_size // len(self._share(peer))))

    def _chunk_length(self, peer: int) -> int:
        return self._epochs(peer) * len(self._share(peer))

    def _chunk(self, peer: int, chunk: int) -> Numbers:
        known = self._drawn.get(peer)
        if known is None or known[0] != chunk:
            chance = generator(self._seed, "batches", peer, chunk)
            epochs = np.tile(self._share(peer), (self._epochs(peer), 1))
            known = self._drawn[peer] = (chunk, chance.permuted(epochs, axis=1).reshape(-1))
        return known[1]
