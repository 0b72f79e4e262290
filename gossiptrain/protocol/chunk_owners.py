"""Weighted rendezvous hashing: who works on a chunk, as a pure function of the peers and their speeds.

Each peer draws, for each chunk of each epoch, a number u in (0, 1) from a hash that all can compute; the chunk is for the
peer with the highest -w / ln u (Thaler, Ravishankar 1998; weights by the logarithmic method of Schindelhauer, Schomaker
2005). A peer of weight w then gets a share w / sum w, on average. When a peer goes, its chunks move and no other; when one
comes or gets faster, chunks move to it and to nobody else. -ln u is exponential: the smallest (-ln u) / w wins the race.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from math import log

# Lots are drawn by the block, since a hash gives so many at once.
BLOCK = 8
# When fewer chunks than one in so many look for another owner, drawing each lot anew is cheaper than drawing all.
FEW = 16


@lru_cache(maxsize=128)
def lots(order: int, epoch: int, name: str, chunks: int) -> tuple[float, ...]:
    """Returns a peer's -ln u for each chunk, all at least 0; the same on every peer. The lower, the more the chunk is its.

    Args:
        order: of the data plan.
    """
    drawn = [lot for first in range(0, chunks, BLOCK) for lot in _block(order, epoch, name, first // BLOCK)]
    return tuple(drawn[:chunks])


def _block(order: int, epoch: int, name: str, number: int) -> list[float]:
    drawn = blake2b(f"{order} {epoch} {number} {name}".encode(), digest_size=8 * BLOCK).digest()
    numbers = (int.from_bytes(drawn[at : at + 8], "little") >> 11 for at in range(0, 8 * BLOCK, 8))
    return [-log((number + 0.5) * 2.0**-53) for number in numbers]


class Owners:
    """Whose each chunk of an epoch is. A change of one peer costs as much as its own chunks, however many peers there are.

    Attributes:
        weights: positive, by name. owned: the chunks of each peer, as bits.
    """

    def __init__(self, order: int, epoch: int, chunks: int) -> None:
        self._key = (order, epoch)
        self._best: list[tuple[float, str]] = [(float("inf"), "")] * chunks
        self.weights: Mapping[str, float] = {}
        self.owned: Mapping[str, int] = {}

    def share(self, weights: Mapping[str, float]) -> None:
        """Works out the owners for these weights; of equal scores the one of the smaller name wins.

        Args:
            weights: positive, of at least one peer.
        """
        before, best = self.weights, self._best
        slower = {name for name, weight in before.items() if weights.get(name, 0.0) < weight}
        orphans = [chunk for chunk, (_, name) in enumerate(best) if name in slower]
        for chunk in orphans:
            best[chunk] = (float("inf"), "")
        self.weights = dict(weights)
        is_few = len(orphans) * FEW < len(best)
        for name, weight in weights.items():
            if before.get(name) != weight and name not in slower:
                self._offer(name, range(len(best)), is_few=False)
            elif orphans:
                self._offer(name, orphans, is_few)
        owned = dict.fromkeys(weights, 0)
        for chunk, (_, name) in enumerate(best):
            owned[name] |= 1 << chunk
        self.owned = owned

    def _offer(self, name: str, chunks: list[int] | range, is_few: bool) -> None:
        """Gives a peer those of the chunks for which its score is the best."""
        best, slowness = self._best, 1.0 / self.weights[name]
        (order, epoch), count = self._key, len(best)
        drawn = () if is_few else lots(order, epoch, name, count)
        for chunk in chunks:
            lot = _block(order, epoch, name, chunk // BLOCK)[chunk % BLOCK] if is_few else drawn[chunk]
            offer = (lot * slowness, name)
            if offer < best[chunk] or best[chunk][1] == name:
                best[chunk] = offer
