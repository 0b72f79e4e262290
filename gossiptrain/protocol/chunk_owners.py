"""Weighted rendezvous hashing: who works on a chunk, as a pure function of the peers and their speeds.

Each peer draws, for each chunk of each epoch, a number u in (0, 1) from a hash that all can compute; the chunk is for the
peer with the highest -w / ln u (Thaler, Ravishankar 1998; weights by the logarithmic method of Schindelhauer, Schomaker
2005). A peer of weight w then gets a share w / sum w, on average. When a peer goes, its chunks move and no other; when one
comes or gets faster, chunks move to it and to nobody else. -ln u is exponential: the smallest (-ln u) / w wins the race.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import shake_128
from math import log

# Lots are drawn by the block, since a hash gives so many at once.
BLOCK = 64
# When fewer chunks than one in so many look for another owner, drawing each lot anew is cheaper than drawing all.
FEW = 128
_LOG_OF_ALL = 64 * log(2)
_IS_LITTLE = memoryview(b"\1" + bytes(7)).cast("Q")[0] == 1


@lru_cache(maxsize=128)
def lots(order: int, epoch: int, name: str, chunks: int) -> tuple[float, ...]:
    """Returns a peer's -ln u for each chunk, all at least 0; the same on every peer. The lower, the more the chunk is its.

    Args:
        order: of the data plan.
    """
    drawn = [lot for first in range(0, chunks, BLOCK) for lot in _block(order, epoch, name, first // BLOCK)]
    return tuple(drawn[:chunks])


def _block(order: int, epoch: int, name: str, number: int) -> list[float]:
    drawn = shake_128(f"{order} {epoch} {number} {name}".encode()).digest(8 * BLOCK)
    # -ln u of u = (number + 1/2) / 2^64.
    return [_LOG_OF_ALL - log(number + 0.5) for number in _numbers(drawn)]


def _numbers(drawn: bytes) -> Iterable[int]:
    """Reads 64-bit numbers, the lowest byte first; where that is the machine's own order it is read as it is."""
    if _IS_LITTLE:
        return memoryview(drawn).cast("Q")
    return [int.from_bytes(drawn[at : at + 8], "little") for at in range(0, len(drawn), 8)]


class Owners:
    """Whose each chunk of an epoch is. A change of one peer costs as much as its own chunks, however many peers there are.

    Attributes:
        weights: positive, by name. owned: the chunks of each peer, as bits.
    """

    def __init__(self, order: int, epoch: int, chunks: int) -> None:
        self._key = (order, epoch)
        self._best, self._whose = [float("inf")] * chunks, [""] * chunks
        self.weights: Mapping[str, float] = {}
        self.owned: Mapping[str, int] = {}

    def share(self, weights: Mapping[str, float]) -> None:
        """Works out the owners for these weights; of equal scores the one of the smaller name wins.

        Args:
            weights: positive, of at least one peer.
        """
        before, best, whose = self.weights, self._best, self._whose
        slower = {name for name, weight in before.items() if weights.get(name, 0.0) < weight}
        orphans = [chunk for chunk, name in enumerate(whose) if name in slower]
        for chunk in orphans:
            best[chunk], whose[chunk] = float("inf"), ""
        self.weights = dict(weights)
        is_few = len(orphans) * FEW < len(best)
        for name, weight in weights.items():
            if before.get(name) != weight and name not in slower:
                self._offer(name, range(len(best)), is_few=False)
            elif orphans:
                self._offer(name, orphans, is_few)
        owned = dict.fromkeys(weights, 0)
        for chunk, name in enumerate(whose):
            owned[name] |= 1 << chunk
        self.owned = owned

    def _offer(self, name: str, chunks: list[int] | range, is_few: bool) -> None:
        """Gives a peer those of the chunks for which its score is the best."""
        best, whose, slowness = self._best, self._whose, 1.0 / self.weights[name]
        (order, epoch), count = self._key, len(best)
        drawn = () if is_few else lots(order, epoch, name, count)
        for chunk in chunks:
            lot = _block(order, epoch, name, chunk // BLOCK)[chunk % BLOCK] if is_few else drawn[chunk]
            score = lot * slowness
            if score < best[chunk] or whose[chunk] == name or (score == best[chunk] and name < whose[chunk]):
                best[chunk], whose[chunk] = score, name
