"""`ShardedStream`: data that come as streams, shared by shard. `StreamLoader`: loads one with worker processes.

loader = gt.StreamLoader(gt.ShardedStream(read, shards=500, peer=peer), batch_size=32, num_workers=2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, default_collate, default_convert, get_worker_info

from gossiptrain.errors import ConfigurationError
from gossiptrain.peer import Peer
from gossiptrain.protocol.data_plan import make_plan
from gossiptrain.runtime.shard_service import Counting, ShardReader, ShardService
from gossiptrain.runtime.sharing import Piece, Sharing
from gossiptrain.sampler import order_of
from gossiptrain.shuffling import shuffled


class ShardedStream(IterableDataset):
    """Data that come as streams, shared by shard: every shard is read to its end at least once in an epoch.

    A shard (a file, a range of a log) is what a chunk is to `PeerSampler`: whole shards go to peers by speed, and one that
    a dead peer had not finished is read again from its beginning by another. It counts as trained when a block of local
    steps that holds its last sample has ended. The order of the shards follows from seed and epoch.

    In torch's `DataLoader` it works in the process of the training loop (`num_workers=0`). With worker processes take a
    `StreamLoader`: what a worker has read says nothing of what is trained, since the loader holds batches of it that no
    data set can see, so a shard could be counted that a loop which was left, or a peer that died, had never trained.
    """

    def __init__(
        self,
        open_shard: Callable[[int], Iterable[Any]],
        shards: int,
        peer: Peer,
        *,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        """
        Args:
            open_shard: returns the samples of the shard of a number in [0, shards), in order; equal on all peers.
            shards: how many there are, 1 to 8,192.
            peer: whose samples these are.
            seed: fixes the order of the shards; equal on all peers. shuffle: whether they are in random order.

        Raises:
            ConfigurationError: an argument cannot work, or the peer shares data already.
        """
        if isinstance(shards, bool) or not isinstance(shards, int) or shards < 1:
            raise ConfigurationError(f"shards={shards!r}: must be a whole number of at least 1")
        self.open_shard, self._shards, self._seed, self._shuffle = open_shard, shards, seed, shuffle
        self._sharing: Sharing | None = Sharing(make_plan(shards, order_of(seed, shuffle), 1), peer.name)
        peer.share_data(self._sharing)

    def __iter__(self) -> Iterator[Any]:
        """One pass: this peer's shards of an epoch.

        Raises:
            ConfigurationError: it runs in a worker process, the peer is not inside `with peer:`, or others' shards differ.
        """
        return self._pass(self.sharing)

    @property
    def sharing(self) -> Sharing:
        """The account of what is trained.

        Raises:
            ConfigurationError: in a worker process, or outside `with peer:`.
        """
        if get_worker_info() is not None or self._sharing is None:
            raise ConfigurationError(
                "num_workers: a DataLoader's worker processes cannot tell which of the samples that they read are trained; "
                "ShardedStream works there with 0, and gt.StreamLoader(stream, num_workers=...) takes workers"
            )
        if not self._sharing.is_running:
            raise ConfigurationError(
                "ShardedStream is used outside `with peer:`; nobody says which shards are this peer's"
            )
        return self._sharing

    def shard_of(self, piece: Piece) -> int:
        """The number of the shard that stands at a place of an epoch."""
        epoch, place = piece.chunk
        return int(shuffled([place], self._shards, self._seed, epoch)[0]) if self._shuffle else place

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sharing": None}

    def _pass(self, sharing: Sharing) -> Iterator[Any]:
        for piece in sharing.pieces():
            for number, sample in enumerate(self.open_shard(self.shard_of(piece))):
                if number >= piece.begin:
                    sharing.consumption.issued += 1
                    yield sample


class StreamLoader(DataLoader):
    """torch's `DataLoader` of a `ShardedStream`, also with worker processes (spawned or forked).

    Each worker reads whole shards, the next when it is done with one, so a batch has samples of few shards. A shard
    counts as trained when a block of local steps that holds all its samples has ended; what a loop that is left early or
    a peer that dies had not trained of it is read again, from its beginning. It is for one loop at a time. With
    `persistent_workers=True` the processes live on from pass to pass.
    """

    def __init__(
        self,
        stream: ShardedStream,
        batch_size: int | None = 1,
        *,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            stream: with workers its `open_shard` must be picklable where processes are spawned: a function of a module.
            batch_size: samples of a batch; None gives samples one by one. num_workers: processes, 0 or more.
            collate_fn: makes a batch of a list of samples, in the worker. options: see `DataLoader`.

        Raises:
            ConfigurationError: `stream` is no `ShardedStream`.
        """
        if not isinstance(stream, ShardedStream):
            raise ConfigurationError(f"stream={type(stream).__name__}: must be a ShardedStream; use DataLoader")
        self.stream = stream
        self._doors: list[Any] = []
        self._service: ShardService | None = None
        data: IterableDataset = stream
        if num_workers:
            data = ShardReader(stream.open_shard)
            collate_fn = Counting(collate_fn or (default_convert if batch_size is None else default_collate))
        super().__init__(data, batch_size, num_workers=num_workers, collate_fn=collate_fn, **options)

    def __iter__(self) -> Any:
        """One pass: this peer's shards of an epoch.

        Raises:
            ConfigurationError: the peer is not inside `with peer:`, or others' shards differ.
        """
        return self._counted_pass(self.stream.sharing) if self.num_workers else super().__iter__()

    def _counted_pass(self, sharing: Sharing) -> Iterator[Any]:
        service = self._begin(sharing)
        batches = super().__iter__()
        try:
            for batch, counts in batches:
                service.arrived(counts)
                yield batch
            service.ended()
        finally:
            # Readers of a loop that was left are told to end before their processes are waited for; those of processes
            # that live on ask later.
            service.refuse()
            del batches
            if self._iterator is None:
                service.close()

    def __del__(self) -> None:
        """Ends the thread that answers processes which live on."""
        if service := getattr(self, "_service", None):
            service.close()

    def _begin(self, sharing: Sharing) -> ShardService:
        """Processes that live on keep their pipes; a loop over them that was left is over. New processes get new ones."""
        gone: frozenset[int] = frozenset()
        if self._iterator is None:
            assert isinstance(self.dataset, ShardReader)
            self._doors = self.dataset.connect(self.num_workers)
        elif self._service is not None:
            self._service.close()
            gone = frozenset(self._service.readers)
        self._service = ShardService(sharing, self._doors, self.stream.shard_of, gone)
        return self._service
