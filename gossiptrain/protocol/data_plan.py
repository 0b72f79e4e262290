"""How an epoch of data is cut into chunks: pure arithmetic that all peers of a run do alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import ceil
from typing import NamedTuple

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.messages import CHUNKS_MAX, ChunkId

# Many chunks for each peer, so that shares follow speeds; few enough for a bitmap of them to ride on a message.
CHUNKS_AIMED_AT = 1024
# Below it a chunk's own costs show beside its samples'.
CHUNK_SAMPLES_MIN = 16
# All open epochs together have at most so many chunks, which bounds memory and messages: 8 KiB.
WINDOW_CHUNKS = 1 << 16
WINDOW_MIN, WINDOW_MAX = 4, 256


class DataPlan(NamedTuple):
    """What peers must agree on to share an epoch.

    Attributes:
        samples: in an epoch, at least 1. chunk_samples: in each chunk but for the last, at least 1.
        order: names the order of samples in every epoch: 64 bits of a hash of the seed and whether it is shuffled.
    """

    samples: int
    chunk_samples: int
    order: int

    @property
    def chunks(self) -> int:
        """How many chunks an epoch has."""
        return -(-self.samples // self.chunk_samples)

    @property
    def window(self) -> int:
        """How many epochs may be open at a time: the oldest must be complete before one more is begun."""
        return max(WINDOW_MIN, min(WINDOW_MAX, WINDOW_CHUNKS // self.chunks))

    @property
    def everything(self) -> int:
        """The bits of a complete epoch."""
        return (1 << self.chunks) - 1

    def size(self, chunk: int) -> int:
        """Returns how many samples a chunk has.

        >>> DataPlan(10, 4, 0).size(2)
        2
        """
        return min(self.chunk_samples, self.samples - chunk * self.chunk_samples)

    def samples_in(self, bits: int) -> int:
        """Returns how many samples the chunks of these bits have together.

        >>> DataPlan(10, 4, 0).samples_in(0b101)
        6
        """
        last = self.chunks - 1
        return bits.bit_count() * self.chunk_samples - (bits >> last & 1) * (self.chunk_samples - self.size(last))

    def describe(self) -> str:
        """Says in words what is shared."""
        return f"{self.samples:,} samples in chunks of {self.chunk_samples:,}, order {self.order:016x}"


class LedgerState(NamedTuple):
    """What is trained, as it is kept in checkpoints and handed to somebody who goes on alone.

    Attributes:
        floor: all epochs below are complete. done: bits of the open ones' finished chunks, sorted by epoch.
    """

    floor: int = 0
    done: tuple[tuple[int, int], ...] = ()


def make_plan(samples: int, order: int, chunk_samples: int | None = None) -> DataPlan:
    """Cuts an epoch into chunks.

    Args:
        samples: in the data set. order: see `DataPlan`.
        chunk_samples: samples of a chunk; None takes about a 1,024th of an epoch, and at least 16.

    Raises:
        ConfigurationError: there are no samples, or more chunks than samples or than 8,192 would result.
    """
    if samples < 1:
        raise ConfigurationError(f"dataset: has {samples} samples; must have at least 1")
    if chunk_samples is None:
        chunk_samples = min(samples, max(CHUNK_SAMPLES_MIN, ceil(samples / CHUNKS_AIMED_AT)))
    least = ceil(samples / CHUNKS_MAX)
    if isinstance(chunk_samples, bool) or not isinstance(chunk_samples, int) or not least <= chunk_samples <= samples:
        raise ConfigurationError(
            f"chunk_size={chunk_samples!r}: must be a whole number from {least} to {samples} for {samples} samples: an "
            f"epoch has 1 to {CHUNKS_MAX} chunks, none of them empty"
        )
    return DataPlan(samples, chunk_samples, order)


def bits_of(chunks: Iterable[int]) -> int:
    """Returns a set of chunk numbers as bits.

    >>> bits_of([0, 3])
    9
    """
    bits = 0
    for chunk in chunks:
        bits |= 1 << chunk
    return bits


def each_of(bits: int) -> Iterator[int]:
    """Yields the numbers of the bits that are set, in order.

    >>> list(each_of(9))
    [0, 3]
    """
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


class EpochsDone:
    """Which chunks are trained, by epoch: grows only, and merges by OR, in any order and any number of times.

    Attributes:
        floor: all epochs below are complete.
    """

    def __init__(self, plan: DataPlan, state: LedgerState | None = None) -> None:
        self._plan = plan
        self._bits: dict[int, int] = {}
        self.floor = 0
        if state is not None:
            self.merge(state)

    def merge(self, state: LedgerState) -> bool:
        """Takes in what another knows; says whether any of it was new. Chunks that the plan does not have are left out."""
        before = self.floor
        self._rise(state.floor)
        changed = self.floor > before
        for epoch, bits in state.done:
            changed |= self._add(epoch, bits)
        self._close()
        return changed

    def add(self, chunks: Iterable[ChunkId]) -> bool:
        """Notes finished chunks; says whether any was not done yet."""
        changed = False
        for epoch, chunk in chunks:
            changed |= self._add(epoch, 1 << chunk)
        self._close()
        return changed

    def bits(self, epoch: int) -> int:
        """The finished chunks of an epoch."""
        return self._plan.everything if epoch < self.floor else self._bits.get(epoch, 0)

    def missing(self, epoch: int) -> int:
        """The unfinished chunks of an epoch."""
        return self._plan.everything & ~self.bits(epoch)

    def has(self, chunk: ChunkId) -> bool:
        """Says whether a chunk is finished."""
        return chunk.epoch < self.floor or bool(self._bits.get(chunk.epoch, 0) >> chunk.chunk & 1)

    def open_epochs(self) -> range:
        """The epochs that may be worked on."""
        return range(self.floor, self.floor + self._plan.window)

    def state(self) -> LedgerState:
        """Returns all of it, equal for equal knowledge."""
        return LedgerState(self.floor, tuple(sorted(self._bits.items())))

    def _add(self, epoch: int, bits: int) -> bool:
        bits &= self._plan.everything
        known = self._bits.get(epoch, 0)
        if epoch not in self.open_epochs() or not bits & ~known:
            return False
        self._bits[epoch] = known | bits
        return True

    def _close(self) -> None:
        """Complete epochs need no bits: the floor rises over them."""
        floor = self.floor
        while self._bits.get(floor) == self._plan.everything:
            floor += 1
        self._rise(floor)

    def _rise(self, floor: int) -> None:
        if floor > self.floor:
            self.floor = floor
            self._bits = {epoch: bits for epoch, bits in self._bits.items() if epoch >= floor}
