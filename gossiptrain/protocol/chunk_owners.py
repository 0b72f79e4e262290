"""Weighted rendezvous hashing: who works on a chunk, as a pure function of the peers and their speeds.

Each peer draws, for each chunk of each epoch, a number u in (0, 1) from a hash that all can compute; the chunk is for the
peer with the highest -w / ln u (Thaler, Ravishankar 1998; weights by the logarithmic method of Schindelhauer, Schomaker
2005). A peer of weight w then gets a share w / sum w, on average. When a peer goes, its chunks move and no other; when one
comes or gets faster, chunks move to it and to nobody else. -ln u is exponential: the smallest (-ln u) / w wins the race.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import shake_128
from math import log


@lru_cache(maxsize=256)
def lots(order: int, epoch: int, name: str, chunks: int) -> tuple[float, ...]:
    """Returns a peer's -ln u for each chunk, all at least 0; the same on every peer. The lower, the more the chunk is its.

    Args:
        order: of the data plan.
    """
    drawn = shake_128(f"{order} {epoch} {name}".encode()).digest(8 * chunks)
    numbers = (int.from_bytes(drawn[at : at + 8], "little") >> 11 for at in range(0, 8 * chunks, 8))
    return tuple(-log((number + 0.5) * 2.0**-53) for number in numbers)


@lru_cache(maxsize=32)
def owners(order: int, epoch: int, chunks: int, weights: tuple[tuple[str, float], ...]) -> Mapping[str, int]:
    """Returns the chunks of each peer, as bits; equal scores go to the peer named first.

    Args:
        weights: names with their positive weights, sorted, at least one.
    """
    best, whose = [float("inf")] * chunks, [0] * chunks
    for place, (name, weight) in enumerate(weights):
        slowness = 1.0 / weight
        for chunk, lot in enumerate(lots(order, epoch, name, chunks)):
            score = lot * slowness
            if score < best[chunk]:
                best[chunk], whose[chunk] = score, place
    owned = [0] * len(weights)
    for chunk, place in enumerate(whose):
        owned[place] |= 1 << chunk
    return {name: bits for (name, _), bits in zip(weights, owned)}
