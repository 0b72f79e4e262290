"""Orders that every process computes alike: hashes of (seed, purpose, id) in place of a random generator.

Sorting by such a hash is a random permutation of the ids in which the relative order of two ids depends on nothing but
themselves (rendezvous hashing; Thaler & Ravishankar 1998). When a member leaves, the order of all others stays, which is
what keeps the re-wired overlay close to the old one. Python's own `hash()` is salted per process and cannot be used.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

ALL_PAIRS_MAX = 96  # ids; above it, all n*(n-1)/2 pairs cost more than a re-wiring may take
KEYS_MAX = 32  # keys whose ranks are remembered: an overlay's rings
RANKS_MAX = 16_384  # names remembered under each
PARTNER_RINGS = 4  # rings that propose partners above that size: 8 candidates for each id


def encode(part: Any) -> bytes:
    """Returns bytes that differ for parts that differ in value or kind (1 and "1" are two ids).

    Raises:
        ValueError: The part is no int, str, bytes or tuple of these.
    """
    if isinstance(part, str):
        body, kind = part.encode(), b"s"
    elif isinstance(part, bytes):
        body, kind = part, b"b"
    elif isinstance(part, tuple):
        body, kind = b"".join(map(encode, part)), b"t"
    elif hasattr(part, "__index__"):  # int and numpy's integers
        body, kind = str(int(part)).encode(), b"i"
    else:
        raise ValueError(f"an id or seed must be int, str, bytes or a tuple of these; got {part!r}")
    return kind + len(body).to_bytes(4, "big") + body


def digest(*parts: Any) -> int:
    """Returns a 64-bit hash of the parts, the same in every process and on every machine."""
    return int.from_bytes(blake2b(encode(parts), digest_size=8).digest(), "big")


def ordered(ids: Iterable[Hashable], *key: Any) -> list[Any]:
    """Returns the ids in the pseudo-random order that `key` (seed, purpose, ...) gives."""
    prefix = encode(key)
    hasher = blake2b(prefix, digest_size=8)
    known: dict[Any, tuple[bytes, bytes]] = _known_ranks(prefix)
    if len(known) > RANKS_MAX:
        known.clear()
    items = list(ids)
    if any(type(item) is not str for item in items):
        return sorted(items, key=lambda item: _rank(hasher, item))
    for item in items:
        if item not in known:
            known[item] = _rank(hasher, item)
    return sorted(items, key=known.__getitem__)


def _rank(prefix: Any, item: Hashable) -> tuple[bytes, bytes]:
    hasher, code = prefix.copy(), encode(item)
    hasher.update(code)
    return hasher.digest(), code


@lru_cache(maxsize=KEYS_MAX)
def _known_ranks(prefix: bytes) -> dict[Any, tuple[bytes, bytes]]:
    """Returns the ranks of names known under a key, to be added to: from one view to the next almost all stay."""
    return {}


def ring_edges(order: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Returns the edges of the cycle through `order`."""
    return list(zip(order, [*order[1:], *order[:1]], strict=True))


def ordered_pairs(ids: Sequence[Any], *key: Any) -> list[tuple[Any, Any]]:
    """Returns pairs of distinct ids in the pseudo-random order that `key` gives.

    Up to `ALL_PAIRS_MAX` ids these are all pairs. Above, they are the neighbours on `PARTNER_RINGS` seeded rings, so that
    the cost grows with n and not with its square; a leaving id still disturbs only the few pairs around it.
    """
    if len(ids) <= ALL_PAIRS_MAX:
        pairs = set(combinations(sorted(ids), 2))
    else:
        rings = (ring_edges(ordered(ids, *key, "partners", r)) for r in range(PARTNER_RINGS))
        pairs = {(min(edge), max(edge)) for ring in rings for edge in ring}
    return ordered(pairs, *key, "pairs")


def raw_words(count: int, *key: Any) -> npt.NDArray[np.uint64]:
    """Returns `count` random 64-bit words that `key` names.

    The words come straight from the Philox generator (Salmon et al. 2011), whose stream numpy promises to keep; the
    distributions built on it may change between numpy versions.
    """
    return np.random.Philox(key=digest(*key)).random_raw(count)


def uniforms(count: int, *key: Any) -> npt.NDArray[np.float64]:
    """Returns `count` floats, uniform in [0, 1), that `key` names."""
    return (raw_words(count, *key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def shuffled(count: int, *key: Any) -> list[int]:
    """Returns the numbers 0..count-1 in the pseudo-random order that `key` names."""
    return np.argsort(raw_words(count, *key), kind="stable").tolist()
