"""Dropout whose masks depend on (seed, peer, step) and on nothing else, in the loop and in a batch alike.

Under `vmap` torch's own dropout depends on a peer's place in the batch. Here every element's fate is a hash of the peer's
key, the call's number within the step and the element's number: the 32-bit finalizer "lowbias32" (Wellons 2018).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sim.streams import generator

LOW = 0xFFFFFFFF
GOLDEN = 0x9E3779B9
FEATURES = {F.dropout1d: 3, F.dropout2d: 4, F.dropout3d: 5}


def base_key(seed: int, peer: int) -> int:
    """Returns a peer's key, 32 bits."""
    return int(generator(seed, "dropout", peer).integers(1 << 32))


def step_key(base: int, step: int) -> int:
    """Returns the key of one step, 32 bits."""
    x = np.uint64(base) ^ (np.uint64(step * GOLDEN & LOW))
    return int(_finalize(np.asarray([x], dtype=np.uint64))[0])


def _finalize(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    low = np.uint64(LOW)
    x = ((x ^ (x >> np.uint64(16))) * np.uint64(0x7FEB352D)) & low
    x = ((x ^ (x >> np.uint64(15))) * np.uint64(0x846CA68B)) & low
    return x ^ (x >> np.uint64(16))


def _hashed(x: Tensor) -> Tensor:
    """lowbias32 of int64 numbers below 2^32: products overflow, but their low 32 bits are right."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & LOW
    x = ((x ^ (x >> 15)) * 0x846CA68B) & LOW
    return x ^ (x >> 16)


class KeyedDropout(TorchFunctionMode):
    """While active, `F.dropout` and its channel-wise kin draw from a key; at most one thread uses an instance.

    Args:
        key: int64 [], the step's key, possibly one that `vmap` batches.
    """

    def __init__(self, key: Tensor) -> None:
        super().__init__()
        self._key = key
        self._calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout or (func in FEATURES and args[0].dim() == FEATURES[func]):
            return self._dropped(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _dropped(self, func: Any, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0.0:
            return x
        self._calls += 1
        shape = x.shape if func is F.dropout else (*x.shape[:2], *(1 for _ in x.shape[2:]))
        call = _hashed((self._key + self._calls * GOLDEN) & LOW)
        numbers = torch.arange(torch.Size(shape).numel(), device=x.device).view(shape)
        kept = _hashed((numbers * GOLDEN + call) & LOW) >= int(p * (1 << 32))
        scale = 0.0 if p >= 1 else 1 / (1 - p)
        return x * (kept.to(x.dtype) * scale)
