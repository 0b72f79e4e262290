"""`PeerSampler`: which samples this peer trains on.

    loader = DataLoader(dataset, batch_size=32, sampler=gt.PeerSampler(dataset, peer))

All peers' samplers share each epoch by speed, through the data ledger (`gossiptrain.protocol.data_ledger`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from gossiptrain.errors import ConfigurationError
from gossiptrain.fixed_parts import FixedPart
from gossiptrain.peer import Peer
from gossiptrain.protocol.data_plan import DataPlan, make_plan
from gossiptrain.runtime.ledger_text import from_text
from gossiptrain.runtime.sharing import Piece, Sharing
from gossiptrain.shuffling import shuffled

# The whole order of an epoch of at most so many samples is worked out at once: 8 MB.
WHOLE_SAMPLES_MAX = 1 << 20

log = logging.getLogger("gossiptrain")


class PeerSampler(Sampler[int]):
    """Yields the numbers of the samples that this peer trains, one pass for each epoch of the data that all share.

    Without a partition, peers share each epoch by speed: a fast one takes more of it, what a dead one had left goes to the
    others, a newcomer takes its share, and nobody waits for anybody. While anybody survives, every sample of an epoch is
    trained at least once; what was trained twice is told by the notice `EpochFinished`. Samples count as trained when a
    block of local steps that holds them has ended. A pass ends where this peer's part of the epoch does, which is not known
    beforehand; `len` says how long it will be about. It is for one loader at a time; loaders may use any number of worker
    processes. Peers leave an epoch's samples in one order, which follows from seed and epoch alone.

    Outside `with peer:` a pass holds every sample, and counts for nobody.
    """

    def __init__(
        self,
        dataset: Any,
        peer: Peer,
        *,
        chunk_size: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        partition: str | None = None,
        alpha: float | None = None,
        shards: int | None = None,
        column: Any = None,
        labels: Any = None,
        part: tuple[int, int] | None = None,
    ) -> None:
        """
        Args:
            dataset: has a length; equal on all peers.
            peer: whose samples these are. One of its samplers can share data; others can have partitions.
            chunk_size: samples that move from peer to peer together; equal on all peers. By default about a 1,024th of an
                epoch, and at least 16.
            seed: fixes the order of the samples, and the parts; equal on all peers.
            shuffle: whether an epoch is in random order, another each time.
            partition: None shares every epoch. For experiments with unequal data each peer keeps a fixed part of its own:
                "iid", "dirichlet" (with `alpha`), "shards" (with `shards`), "column" (with `column`); see
                `gossiptrain.partitions`. What a dead peer had is then trained by nobody.
            alpha: of the Dirichlet distribution, positive; small is very unequal.
            shards: shards of each peer, at least 1.
            column: one value a sample; samples of one value stay together.
            labels: one class a sample; default the data set's `targets` or `labels`, or the last of its `tensors`.
            part: (which of the parts is this peer's, how many there are); default as the launcher says.

        Raises:
            ConfigurationError: an argument cannot work; the message says which, and what is accepted.
        """
        self._samples = _length(dataset)
        self._peer, self._seed, self._shuffle = peer, seed, shuffle
        self._order_of: dict[int, np.ndarray] = {}
        self._has_warned = False
        self._passes = 0
        plan = make_plan(self._samples, order_of(seed, shuffle), chunk_size)
        self._own: np.ndarray | None = None
        self._sharing: Sharing | None = None
        fixed = FixedPart(partition, alpha, shards, column, labels, part)
        if fixed != FixedPart():
            self._own = fixed.of(dataset, seed, peer.name)
        else:
            self._sharing = Sharing(plan, peer.name)
            peer.share_data(self._sharing)

    def __len__(self) -> int:
        """About how many samples the next pass has: this peer's part of an epoch by its speed, or exactly its own part."""
        if self._sharing is None:
            assert self._own is not None
            return len(self._own)
        return max(1, round(self._samples * self._sharing.share()))

    def __iter__(self) -> Iterator[int]:
        """One pass.

        Raises:
            ConfigurationError: the data of this peer differ from those that the others share.
        """
        if self._sharing is None:
            return self._own_pass()
        return self._shared_pass(self._sharing) if self._sharing.is_running else self._whole_pass()

    def state_dict(self) -> dict[str, Any]:
        """Returns what is trained as far as this peer knows; checkpoints of this library hold it already."""
        if self._sharing is None:
            return {"passes": self._passes}
        return {"ledger": self._sharing.saved()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begins where a sampler of equal arguments was; to be called before `with peer:`.

        Raises:
            ConfigurationError: the state is of other data, or the peer trains already.
        """
        if self._sharing is None:
            self._passes = int(state["passes"])
            return
        if self._sharing.is_running:
            raise ConfigurationError("load_state_dict: the peer shares data already; call it before `with peer:`")
        self._sharing.begins = from_text(state["ledger"], self._sharing.plan)

    def _shared_pass(self, sharing: Sharing) -> Iterator[int]:
        account = sharing.consumption
        for piece in sharing.pieces():
            before = account.issued
            for account.issued, sample in enumerate(self._samples_of(piece, sharing.plan), before + 1):
                yield sample

    def _samples_of(self, piece: Piece, plan: DataPlan) -> list[int]:
        (epoch, chunk), begin = piece
        first = chunk * plan.chunk_samples
        return self._order(epoch, first + begin, first + plan.size(chunk)).tolist()

    def _order(self, epoch: int, begin: int, end: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(begin, end)
        if self._samples > WHOLE_SAMPLES_MAX:
            return shuffled(np.arange(begin, end), self._samples, self._seed, epoch)
        if epoch not in self._order_of:
            while len(self._order_of) > 1:
                del self._order_of[min(self._order_of)]
            self._order_of[epoch] = shuffled(np.arange(self._samples), self._samples, self._seed, epoch)
        return self._order_of[epoch][begin:end]

    def _own_pass(self) -> Iterator[int]:
        own = self._own
        assert own is not None
        places = np.arange(len(own))
        if self._shuffle:
            places = shuffled(places, len(own), self._seed, self._passes)
        self._passes += 1
        yield from own[places].tolist()

    def _whole_pass(self) -> Iterator[int]:
        if not self._has_warned:
            self._has_warned = True
            log.warning("%s: PeerSampler is used outside `with peer:`; a pass holds all samples", self._peer.name)
        epoch, self._passes = self._passes, self._passes + 1
        yield from self._order(epoch, 0, self._samples).tolist()


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except TypeError:
        raise ConfigurationError(
            f"dataset={type(dataset).__name__}: must have a length; for streams there is ShardedStream"
        ) from None


def order_of(seed: int, shuffle: bool) -> int:
    """Names the order of samples that follows from a seed, for `DataPlan`."""
    text = f"{seed}" if shuffle else "in the order of the data set"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
