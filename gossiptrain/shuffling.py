"""The order of samples in an epoch: a permutation that can be asked for any part of itself, equal on every machine.

A keyed Feistel network over the smallest even number of bits that hold all positions; results beyond the last sample are
put in again until they fall below it (cycle walking; Black, Rogaway 2002). Only whole-number operations are used, so equal
seeds give equal orders whatever the versions of the libraries, and no list of all samples is kept: ten million would take
80 MB for each open epoch.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

ROUNDS = 6
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def shuffled(positions: npt.ArrayLike, samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Returns which samples stand at these positions of an epoch.

    Args:
        positions: [count], each in [0, samples). samples: at least 1.

    Returns:
        int64 [count]; over all positions each sample once.

    >>> sorted(shuffled(range(5), 5, seed=7, epoch=0).tolist())
    [0, 1, 2, 3, 4]
    """
    values = np.asarray(positions, dtype=np.uint64)
    half_bits = max(1, -(-(samples - 1).bit_length() // 2))
    keys = _keys(seed, epoch)
    values = _permute(values, half_bits, keys)
    outside = values >= samples
    while outside.any():
        values[outside] = _permute(values[outside], half_bits, keys)
        outside = values >= samples
    return values.astype(np.int64)


def _keys(seed: int, epoch: int) -> npt.NDArray[np.uint64]:
    drawn = blake2b(f"{seed} {epoch}".encode(), digest_size=8 * ROUNDS).digest()
    return np.frombuffer(drawn, dtype="<u8").astype(np.uint64)


def _permute(values: npt.NDArray[np.uint64], half_bits: int, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return left << bits | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014), modulo 2^64."""
    values = (values ^ (values >> _SHIFTS[0])) * _MULTIPLIERS[0]
    values = (values ^ (values >> _SHIFTS[1])) * _MULTIPLIERS[1]
    return values ^ (values >> _SHIFTS[2])
