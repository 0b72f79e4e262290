"""Shards for a loader's worker processes: they ask here which to read, and what comes from them is counted here.

A worker process cannot reach the peer, so each has a pipe to the training process, where a thread answers for one pass of
the loop. Which samples are trained is counted where batches reach the loop, in the training process: each batch comes with
the numbers of samples that it has of each shard (`Counting`), and whoever has read a shard to its end says how many those
were. A shard is trained when all of them are, so nothing depends on how far ahead the loader works.

Each life of a reader draws a name of its own: pipes outlive loops that are left early, and an answer to a reader that is
gone, or a question of one, must not pass for another's.
"""

from __future__ import annotations

import multiprocessing
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NamedTuple

from torch.utils.data import IterableDataset, get_worker_info

from gossiptrain.runtime.sharing import Piece, Sharing, Walk

# How often a waiting worker looks whether the training process still lives.
LOOK_EVERY_S = 2.0

# In batches: how many samples there are of each shard, by its number within the pass.
Counts = tuple[tuple[int, int], ...]


class _Question(NamedTuple):
    """Of a reader: which shard next? `read` tells of its last one the number within the pass, and its samples."""

    reader: int
    read: tuple[int, int] | None


class _Answer(NamedTuple):
    """To a reader: `task` is a shard's number within the pass, its own number, and the samples to leave out; None ends."""

    reader: int
    task: tuple[int, int, int] | None


class Numbered(NamedTuple):
    """A sample with the number of its shard within the pass."""

    shard: int
    sample: Any


class ShardReader(IterableDataset):
    """What a loader's worker processes iterate over: the shards that they are told, one after the other."""

    def __init__(self, open_shard: Callable[[int], Iterable[Any]]) -> None:
        """
        Args:
            open_shard: returns the samples of the shard of a number; must be picklable where processes are spawned.
        """
        self._open = open_shard
        self._doors: list[Connection] = []

    def connect(self, workers: int) -> list[Connection]:
        """Opens a pipe for each worker process that is started next; returns this process's ends."""
        pipes = [Pipe() for _ in range(workers)]
        self._doors = [theirs for _, theirs in pipes]
        return [ours for ours, _ in pipes]

    def __iter__(self) -> Iterator[Numbered]:
        """In a worker process: the samples of its shards."""
        worker = get_worker_info()
        assert worker is not None
        door, reader, read = self._doors[worker.id], secrets.randbits(63), None
        while (task := _ask(door, _Question(reader, read))) is not None:
            number, shard, begin = task
            count = 0
            for place, sample in enumerate(self._open(shard)):
                if place >= begin:
                    count += 1
                    yield Numbered(number, sample)
            read = (number, count)


def _ask(door: Connection, question: _Question) -> tuple[int, int, int] | None:
    door.send(tuple(question))
    parent = multiprocessing.parent_process()
    while parent is None or parent.is_alive():
        if door.poll(LOOK_EVERY_S):
            answer = _Answer(*door.recv())
            if answer.reader == question.reader:
                return answer.task
    return None


class Counting:
    """Collates a batch in a worker process, and says beside it how many of its samples are of which shard."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        """
        Args:
            collate: makes a batch of a list of samples, or of one sample where they are given one by one.
        """
        self._collate = collate

    def __call__(self, found: Sequence[Numbered] | Numbered) -> tuple[Any, Counts]:
        """Returns the batch and its `Counts`."""
        if isinstance(found, Numbered):
            return self._collate(found.sample), ((found.shard, 1),)
        counts = Counter(numbered.shard for numbered in found)
        return self._collate([numbered.sample for numbered in found]), tuple(counts.items())


class ShardService:
    """Answers the readers of one pass, in a thread of its own, and keeps the account of their samples.

    Attributes:
        readers: those that have asked; questions of theirs in a later pass are of a loop that was left.
    """

    def __init__(
        self, sharing: Sharing, doors: Sequence[Connection], shard_of: Callable[[Piece], int], gone: frozenset[int]
    ) -> None:
        """
        Args:
            doors: this process's ends of the pipes. shard_of: the shard's number of a piece.
            gone: readers of earlier passes. What lies in the pipes now is of such, too.
        """
        self._sharing, self._doors, self._shard_of, self._gone = sharing, doors, shard_of, set(gone)
        self._number = sharing.begin_pass()
        self._walks: list[Walk] = []
        self._is_over = False
        self._error: Exception | None = None
        self.readers: set[int] = set()
        for door in doors:
            while door.poll():
                question = _Question(*door.recv())
                self._gone.add(question.reader)
                self._tell(door, question, None)
        self._stopping, self._stop = Pipe(duplex=False)
        self._thread = threading.Thread(target=self._serve, name="gossiptrain-shards", daemon=True)
        self._thread.start()

    # The training thread

    def arrived(self, counts: Counts) -> None:
        """A batch goes into the loop."""
        for number, count in counts:
            self._sharing.arrived(self._walks[number], count)

    def ended(self) -> None:
        """The loop has taken all batches of the pass.

        Raises:
            ConfigurationError: this peer's data differ from those that the others share.
        """
        if self._error is not None:
            raise self._error
        self._sharing.end_pass(self._number)

    def refuse(self) -> None:
        """From now on readers are told that the pass is over, so that those of a loop that is left come to an end."""
        self._is_over = True

    def close(self) -> None:
        """Ends the thread."""
        self._is_over = True
        self._stop.close()
        self._thread.join()

    # The thread

    def _serve(self) -> None:
        while True:
            ready = wait([*self._doors, self._stopping])
            if self._stopping in ready:
                return
            for door in ready:
                assert isinstance(door, Connection)
                self._answer(door, _Question(*door.recv()))

    def _answer(self, door: Connection, question: _Question) -> None:
        if question.reader in self._gone:
            self._tell(door, question, None)
            return
        self.readers.add(question.reader)
        if question.read is not None:
            number, samples = question.read
            self._sharing.read(self._walks[number], samples)
        self._tell(door, question, self._next())

    def _next(self) -> tuple[int, int, int] | None:
        if self._is_over:
            return None
        try:
            piece = self._sharing.next_piece(self._number)
        except Exception as error:  # the training thread is told; this one must answer on
            self._error, piece = error, None
        if piece is None:
            self._is_over = True
            return None
        # Several are read at once: which of their samples are trained does not follow from a count of all.
        self._walks.append(self._sharing.walk(piece, resumes=False))
        return len(self._walks) - 1, self._shard_of(piece), piece.begin

    def _tell(self, door: Connection, question: _Question, task: tuple[int, int, int] | None) -> None:
        door.send(tuple(_Answer(question.reader, task)))
