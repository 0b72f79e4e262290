"""A peer's part in the shared data: between the sampler, which takes chunks and walks through them, and the ledger.

The sampler and the steps may be on two threads (a loader that prefetches in the background), so one lock guards the account
of what is taken and trained; nothing waits while it is held.
"""

from __future__ import annotations

import logging
import statistics
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.chunk_owners import lots
from gossiptrain.protocol.data_plan import DataPlan, EpochsDone, LedgerState, each_of
from gossiptrain.protocol.events import ChunksTrained, SharingBegun
from gossiptrain.protocol.messages import ChunkId
from gossiptrain.runtime.consumption import Consumption
from gossiptrain.runtime.desk import Desk
from gossiptrain.runtime.driver import Driver
from gossiptrain.runtime.ledger_text import from_text, to_text

# Far more than the network thread ever needs; then training goes on without it.
TAKE_TIMEOUT_S = 30.0
# Of the newest steps the median lasts as long as a step does, whatever pauses there were.
STEPS_TIMED = 64

log = logging.getLogger("gossiptrain")


class Piece(NamedTuple):
    """What is to be walked through of a chunk: its samples from `begin` on."""

    chunk: ChunkId
    begin: int


@dataclass(slots=True, eq=False)
class Walk:
    """A piece that was given out in the present pass, and how far its samples have come.

    Attributes:
        first: samples taken in the pass before it. count: its own so far; last: taken in the pass with the newest of them.
        end: taken in the pass when the last of them was; None while more may come.
        samples: how many it has, where its reader has said so. resumes: what is left of it can be read alone.
    """

    piece: Piece
    first: int
    resumes: bool = True
    count: int = 0
    last: int = 0
    end: int | None = None
    samples: int | None = None

    def settle(self) -> None:
        """Ends the walk where all its samples have come."""
        if self.samples == self.count:
            self.end = max(self.first, self.last)


class Sharing:
    """The account of one peer's sampler.

    Attributes:
        plan: how the data are cut. begins: what was trained before, as far as it is known.
        consumption: the account; whoever takes a sample of the present piece counts it in `issued`.
    """

    def __init__(self, plan: DataPlan, name: str) -> None:
        self.plan, self._name = plan, name
        self._driver: Driver | None = None
        self._desk: Desk | None = None
        self._lock = threading.Lock()
        self.consumption = Consumption()
        self._issued: list[Walk] = []
        self._again: deque[Piece] = deque()
        self._next: ChunkId | None = None
        self._epoch = -1
        self._is_within = False
        self._pass = 0
        self._blocks = 0
        self._steps_s: deque[float] = deque(maxlen=STEPS_TIMED)
        self._last_s: float | None = None
        self._planned = self._found = 0
        self._finished: list[ChunkId] = []
        self._alone: EpochsDone | None = None
        self._alone_mine: set[ChunkId] = set()
        self.begins = LedgerState()

    # The peer's side

    def begin(self, driver: Driver, found: str) -> None:
        """The peer has joined the run.

        Args:
            found: what the state that it begins from told of the data, or "".
        """
        begins = EpochsDone(self.plan, self.begins)
        if found:
            try:
                begins.merge(from_text(found, self.plan))
            except ConfigurationError as error:
                log.warning("%s: what was trained before is not known: %s", self._name, error)
        self.begins, self._driver, self._desk = begins.state(), driver, driver.desk
        self._desk.trained = 0
        driver.tell(SharingBegun(self.plan, self.begins))

    def step(self, now_s: float, blocks: int) -> None:
        """An optimizer step has ended, in the block after so many."""
        with self._lock:
            self.consumption.step()
            if self._last_s is not None:
                self._steps_s.append(now_s - self._last_s)
            self._last_s = now_s
            if blocks == self._blocks:
                return
            self._blocks = blocks
            self._finish(self.consumption.certain())
            if not self._finished:
                return
            event = ChunksTrained(self._take_finished(), self._samples_per_s())
        self._tell(event)

    def end(self) -> None:
        """Training is over: what its steps held is done; the rest is the others'."""
        with self._lock:
            self._settle()
            event = ChunksTrained(self._take_finished(), 0.0)
            self._again.clear()
        self._tell(event)
        self._driver = None

    def state(self) -> LedgerState:
        """What is trained, as far as this peer knows."""
        if self._alone is not None:
            return self._alone.state()
        return self._desk.state if self._desk is not None else self.begins

    def saved(self) -> str:
        """The same as text, for checkpoints."""
        return to_text(self.plan, self.state())

    def share(self) -> float:
        """This peer's part of an epoch."""
        driver = self._driver
        if driver is None or self._alone is not None:
            return 1.0
        return driver.desk.share or 1.0 / max(1, driver.members)

    # The sampler's side

    @property
    def is_running(self) -> bool:
        """Whether the peer is inside `with peer:`."""
        return self._driver is not None

    def pieces(self) -> Iterator[Piece]:
        """Yields what this peer is to do next, to the end of its part of an epoch.

        Raises:
            ConfigurationError: this peer's data differ from those that the others share.
        """
        number = self.begin_pass()
        while (piece := self.next_piece(number)) is not None:
            walk = self.walk(piece)
            yield piece
            with self._lock:
                walk.end = self.consumption.issued
                walk.count = walk.end - walk.first
        self.end_pass(number)

    def begin_pass(self) -> int:
        """Begins a pass, which ends the one before; returns its number."""
        with self._lock:
            self._settle()
            self._pass += 1
            return self._pass

    def next_piece(self, number: int) -> Piece | None:
        """Returns what a pass is to walk through next; None at its end, or when another has begun.

        Raises:
            ConfigurationError: this peer's data differ from those that the others share.
        """
        piece = self._next_piece()
        with self._lock:
            if piece is None:
                return None
            if number != self._pass:
                self._again.append(piece)
                return None
            if piece.chunk.epoch > self._epoch:
                if self._is_within:
                    self._next = piece.chunk
                    return None
                self._epoch, self._is_within = piece.chunk.epoch, True
            return piece

    def walk(self, piece: Piece, resumes: bool = True) -> Walk:
        """Notes that a piece of the present pass is given out."""
        with self._lock:
            walk = Walk(piece, self.consumption.issued, resumes)
            self._issued.append(walk)
            return walk

    def arrived(self, walk: Walk, count: int) -> None:
        """So many more samples of a piece are on their way into a step, after all that came before."""
        with self._lock:
            self.consumption.issued += count
            walk.count += count
            walk.last = self.consumption.issued
            walk.settle()

    def read(self, walk: Walk, samples: int) -> None:
        """A piece is read to its end, and had so many samples; some may be under way."""
        with self._lock:
            walk.samples = samples
            walk.settle()

    def end_pass(self, number: int) -> None:
        """All samples of a pass are taken."""
        with self._lock:
            if number == self._pass:
                self._is_within = False
                self.consumption.exhausted()

    # How it is done

    def _next_piece(self) -> Piece | None:
        if self._again:
            return self._again.popleft()
        if self._next is not None:
            chunk, self._next = self._next, None
            return Piece(chunk, 0)
        chunk = None
        if self._alone is None:
            driver = self._driver
            chunk = driver.desk.take(driver.tell, TAKE_TIMEOUT_S) if driver is not None else None
        if chunk is None:
            chunk = self._alone_next()
        return Piece(chunk, 0) if chunk is not None else None

    def _alone_next(self) -> ChunkId | None:
        """The network thread is over: this peer does all that it does not know to be done."""
        if self._alone is None:
            log.warning(
                "%s: nobody hands data out any more; this peer goes on alone with what is not trained", self._name
            )
            self._alone = EpochsDone(self.plan, self.state())
            self._alone_mine = {issued.piece.chunk for issued in self._issued}
        for epoch in self._alone.open_epochs():
            lot = lots(self.plan.order, epoch, self._name, self.plan.chunks)
            for number in sorted(each_of(self._alone.missing(epoch)), key=lot.__getitem__):
                chunk = ChunkId(epoch, number)
                if chunk not in self._alone_mine:
                    self._alone_mine.add(chunk)
                    return chunk
        return None

    def _finish(self, trained: int) -> None:
        """Moves the chunks whose last sample is among the first `trained` of this pass to those that are done."""
        done = [walk for walk in self._issued if walk.end is not None and walk.end <= trained]
        for walk in done:
            self._issued.remove(walk)
            chunk, begin = walk.piece
            self._finished.append(chunk)
            if self._desk is not None and self._desk.trained is not None:
                self._desk.trained += self.plan.size(chunk.chunk)
            if begin == 0:
                self._planned += self.plan.size(chunk.chunk)
                self._found += walk.count

    def _settle(self) -> None:
        """Ends a pass: what is not trained for sure is walked through again."""
        trained = self.consumption.settle()
        self._finish(trained)
        left = [
            Piece(walk.piece.chunk, walk.piece.begin + (max(0, trained - walk.first) if walk.resumes else 0))
            for walk in self._issued
        ]
        self._issued.clear()
        self._again.extendleft(reversed(left))
        self._last_s = None

    def _take_finished(self) -> tuple[ChunkId, ...]:
        finished, self._finished = tuple(self._finished), []
        if self._alone is not None:
            self._alone.add(finished)
        return finished

    def _samples_per_s(self) -> float:
        """The speed in the plan's samples, which of a stream are shards."""
        step_s = statistics.median(self._steps_s) if self._steps_s else 0.0
        planned = self._planned / self._found if self._found else 0.0
        return planned * self.consumption.per_step / step_s if step_s > 0 else 0.0

    def _tell(self, event: ChunksTrained) -> None:
        if self._driver is not None and event.chunks:
            self._driver.tell_at_leisure(event)
