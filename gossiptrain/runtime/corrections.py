"""What the driver thread hands to the training thread, and the buffers it comes in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gossiptrain.runtime.staging import DeviceBytes, as_memoryview


class ReceiveBuffer:
    """Room for one received snapshot. The driver owns it until `free` or `mix`; after that it must not write.

    Attributes:
        view: exactly `nbytes` writable bytes on the host, for the network to fill.
        host: the same bytes as a tensor, [nbytes] uint8.
        uploaded: the bytes on the model's device, once somebody has looked at them there.
    """

    def __init__(self, host: Tensor, recycle: Callable[[ReceiveBuffer], None]) -> None:
        self.host = host
        self.view = as_memoryview(host)
        self.uploaded: DeviceBytes | None = None
        self._recycle = recycle
        self._owned = True

    def free(self) -> None:
        """Give the buffer back; does nothing if it was given back or handed to `mix` before."""
        if self._owned:
            self._owned = False
            self._recycle(self)

    def hand_over(self) -> None:
        """Make `free` powerless: the buffer now belongs to a correction.

        Raises:
            ValueError: it was freed or handed over before.
        """
        if not self._owned:
            raise ValueError("buffer: was freed or mixed before; ask for a new one with receive_buffer()")
        self._owned = False


@dataclass(slots=True, eq=False)
class Correction:
    """A change of the live parameters that waits for the next step boundary.

    Attributes:
        buffer: holds the correction; None changes nothing.
        weight: the others' share in [0, 1]: how far buffers (BatchNorm) move towards the received ones.
        count: mixes that it stands for.
    """

    buffer: ReceiveBuffer | None
    weight: float
    count: int


class CorrectionQueue:
    """Corrections in order, taken by the training thread all at once. Thread-safe; the lock covers no arithmetic."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Correction] = []

    def put(self, correction: Correction) -> None:
        """Append a correction."""
        with self._lock:
            self._waiting.append(correction)

    def take(self) -> list[Correction]:
        """Return everything that waits, in order, and leave the queue empty."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        return waiting

    def take_back_sum(self) -> Correction | None:
        """Return the last correction, to which another may be added, and remove it.

        So however long training pauses, at most one waits.
        """
        with self._lock:
            if self._waiting:
                return self._waiting.pop()
        return None
