"""`StreamLoader`: shards read in worker processes, and counted only when a step has all their samples."""

from __future__ import annotations

import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import gossiptrain as gt
from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.events import ChunksTrained
from gossiptrain.runtime import shard_service
from gossiptrain.runtime.shard_service import Counting, Numbered, ShardReader, ShardService

SHARDS = 24


def numbers_of(shard: int) -> range:
    """Shards of 0 to 40 samples."""
    return range(shard * 100, shard * 100 + (17 * shard) % 41)


def everything() -> list[int]:
    return sorted(n for shard in range(SHARDS) for n in numbers_of(shard))


class Training:
    """A peer alone; checks at each word of its that what is said to be trained was in steps."""

    def __init__(self, shards: int = SHARDS) -> None:
        self.model = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-9)
        self.peer = gt.attach(self.model, self.optimizer, sync_every=2)
        self.stream = gt.ShardedStream(numbers_of, shards, self.peer)
        self.seen: Counter[int] = Counter()
        self.told: Counter[int] = Counter()
        self._tell = self.stream.__dict__["_sharing"]._tell
        self.stream.__dict__["_sharing"]._tell = self._check

    def _check(self, event: ChunksTrained) -> None:
        for chunk in event.chunks:
            shard = self.stream.shard_of(SimpleNamespace(chunk=chunk))  # type: ignore[arg-type]
            self.told[chunk.epoch] += 1
            missing = [n for n in numbers_of(shard) if self.seen[n] < chunk.epoch + 1]
            assert not missing, f"shard {shard} of epoch {chunk.epoch} is told as trained; {missing} were in no step"
        self._tell(event)

    def steps(self, loader: Any, most: float = float("inf")) -> list[int]:
        trained: list[int] = []
        for number, batch in enumerate(loader, 1):
            values = batch.flatten().long().tolist()
            self.seen.update(values)
            self.model(batch.reshape(-1, 1).float()).sum().backward()
            self.optimizer.step()
            trained += values
            if number >= most:
                break
        return trained


@pytest.mark.slow
@pytest.mark.parametrize(("method", "persistent"), [("spawn", True), ("fork", False)])
def test_worker_processes_read_every_shard_once_an_epoch_and_again_what_a_loop_left(
    method: str, persistent: bool
) -> None:
    training = Training()
    loader = gt.StreamLoader(
        training.stream,
        batch_size=4,
        num_workers=2,
        multiprocessing_context=method,
        persistent_workers=persistent,
    )
    with training.peer:
        training.steps(loader, most=30)
        early = training.told[0]
        assert 0 < early < SHARDS
        training.steps(loader)
        assert set(training.seen) == set(everything())
        assert max(training.seen.values()) <= 2
        assert sorted(training.steps(loader)) == everything()
    assert training.told == {0: SHARDS, 1: SHARDS}


# The same without processes


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes threads pass for worker processes."""
    of = threading.local()
    monkeypatch.setattr(shard_service, "get_worker_info", lambda: SimpleNamespace(id=of.id))
    return of


def serve(training: Training, workers: int = 1) -> tuple[ShardReader, ShardService]:
    reader = ShardReader(numbers_of)
    doors = reader.connect(workers)
    return reader, ShardService(training.stream.sharing, doors, training.stream.shard_of, frozenset())


def test_a_shard_is_trained_when_all_its_samples_are_in_whatever_the_worker_has_read(workers: Any) -> None:
    training = Training(shards=4)
    workers.id = 0
    with training.peer:
        reader, service = serve(training)
        found = list(reader)  # all is read before the first step
        sizes = Counter(numbered.shard for numbered in found)
        for numbered in found:
            service.arrived(((numbered.shard, 1),))
            training.seen[numbered.sample] += 1
            training.peer.step()
        assert training.told[0] < 4, "the last may not be trained yet, as far as steps alone tell"
        service.ended()
        service.close()
    assert training.told == {0: 4}
    assert sorted(n for n, count in training.seen.items() if count) == sorted(
        n for s in range(4) for n in numbers_of(s)
    )
    assert len(sizes) == 3, "an empty shard has nothing to arrive"


def test_a_question_of_a_reader_that_is_gone_gets_no_shard(workers: Any) -> None:
    training = Training()
    workers.id = 0
    with training.peer:
        reader, first = serve(training)
        old = iter(reader)
        next(old)
        first.close()
        second = ShardService(training.stream.sharing, first._doors, training.stream.shard_of, frozenset(first.readers))
        given = [shard_of(numbered) for numbered in old]
        assert len(set(given)) <= 1, "it ends its shard, and is told that its pass is over"
        assert sorted(numbered.sample for numbered in reader) == everything(), "the new reader gets all of them"
        second.close()


def shard_of(numbered: Numbered) -> int:
    return numbered.sample // 100


def test_who_waits_is_told_when_the_pass_is_over_and_an_error_reaches_the_loop(workers: Any) -> None:
    training = Training()
    workers.id = 0
    with training.peer:
        reader, service = serve(training)
        service._sharing.next_piece = lambda number: (_ for _ in ()).throw(ConfigurationError("other data"))  # type: ignore[method-assign]
        assert list(reader) == []
        with pytest.raises(ConfigurationError, match="other data"):
            service.ended()
        service.close()


def test_a_batch_says_how_many_samples_it_has_of_which_shard() -> None:
    collate = Counting(sum)
    assert collate([Numbered(3, 1), Numbered(4, 10), Numbered(3, 100)]) == (111, ((3, 2), (4, 1)))
    assert Counting(str)(Numbered(7, 5)) == ("5", ((7, 1),))


def test_a_loader_without_workers_is_torchs_own_and_another_stream_is_refused() -> None:
    training = Training()
    with training.peer:
        assert sorted(training.steps(gt.StreamLoader(training.stream, batch_size=5))) == everything()
    with pytest.raises(ConfigurationError, match="stream=list: must be a ShardedStream"):
        gt.StreamLoader([1, 2], batch_size=5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="outside `with peer:`"):
        iter(gt.StreamLoader(training.stream, num_workers=1))
