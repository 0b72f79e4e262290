"""`PeerSampler` and `ShardedStream` in real loaders, with a real peer inside `with peer:`."""

from __future__ import annotations

import itertools
import logging
import pickle
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import gossiptrain as gt
from gossiptrain.errors import ConfigurationError
from gossiptrain.launchers import env
from gossiptrain.protocol.data_plan import LedgerState
from gossiptrain.runtime.ledger_text import from_text, to_text

SAMPLES = 600


def data(samples: int = SAMPLES) -> TensorDataset:
    return TensorDataset(torch.arange(samples).float()[:, None], torch.arange(samples) % 10)


class Training:
    """A peer with its model; counts what its steps have seen."""

    def __init__(self, **options) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-9)
        self.peer = gt.attach(self.model, self.optimizer, **{"sync_every": 2, **options})
        self.seen: Counter[int] = Counter()

    def steps(self, loader, accumulate: int = 1, most: float = float("inf")) -> list[int]:
        """One pass of the loop; returns what was trained."""
        trained: list[int] = []
        waiting: list[int] = []
        for number, batch in enumerate(loader, 1):
            x = batch[0] if isinstance(batch, (list, tuple)) else batch
            self.model(x.reshape(-1, 1).float()).sum().backward()
            waiting += x.flatten().long().tolist()
            if number % accumulate == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()
                trained += waiting
                waiting = []
            if number >= most:
                break
        self.seen.update(trained)
        return trained


def floor(sampler: gt.PeerSampler) -> int:
    return from_text(sampler.state_dict()["ledger"], sampler._sharing.plan).floor  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), (0, 3), (2, 3)])
def test_each_pass_of_a_loop_is_an_epoch_with_every_sample_once(workers: int, accumulate: int) -> None:
    training, dataset = Training(), data()
    loader = DataLoader(
        dataset,
        batch_size=10,
        sampler=gt.PeerSampler(dataset, training.peer),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
    )
    with training.peer:
        passes = [training.steps(loader, accumulate) for _ in range(3)]
    assert [sorted(trained) for trained in passes] == [list(range(SAMPLES))] * 3
    assert passes[0] != passes[1]


def test_without_shuffling_a_chunk_is_in_the_order_of_the_data_set() -> None:
    training, dataset = Training(), data(64)
    sampler = gt.PeerSampler(dataset, training.peer, shuffle=False, chunk_size=16)
    with training.peer:
        order = training.steps(DataLoader(dataset, batch_size=8, sampler=sampler))
    chunks = [order[at : at + 16] for at in range(0, 64, 16)]
    assert all(chunk == list(range(chunk[0], chunk[0] + 16)) for chunk in chunks)


def test_what_a_loop_left_early_had_not_trained_comes_again_before_the_epoch_ends() -> None:
    training, dataset = Training(), data()
    loader = DataLoader(dataset, batch_size=10, sampler=gt.PeerSampler(dataset, training.peer))
    with training.peer:
        training.steps(loader, most=25)
        training.steps(loader)
    assert set(training.seen) == set(range(SAMPLES))
    assert sum(training.seen.values()) <= SAMPLES + 20, "no more than the last step, and what was in it"


def test_batches_that_the_loader_drops_come_again_in_the_next_pass() -> None:
    training, dataset = Training(), data(615)
    sampler = gt.PeerSampler(dataset, training.peer)
    loader = DataLoader(dataset, batch_size=30, sampler=sampler, drop_last=True)
    with training.peer:
        for _ in range(3):
            training.steps(loader)
    assert min(training.seen[sample] for sample in range(615)) >= 2


def test_a_chunk_is_done_when_a_block_has_ended_and_an_epoch_when_all_are() -> None:
    training, dataset = Training(), data()
    sampler = gt.PeerSampler(dataset, training.peer)
    with training.peer:
        training.steps(DataLoader(dataset, batch_size=10, sampler=sampler))
        training.steps(DataLoader(dataset, batch_size=10, sampler=sampler), most=20)
    assert floor(sampler) == 1


def test_a_state_goes_on_where_it_was() -> None:
    dataset, first = data(), Training()
    sampler = gt.PeerSampler(dataset, first.peer)
    with first.peer:
        first.steps(DataLoader(dataset, batch_size=10, sampler=sampler), most=40)
    saved = pickle.loads(pickle.dumps(sampler.state_dict()))
    second = Training()
    resumed = gt.PeerSampler(dataset, second.peer)
    resumed.load_state_dict(saved)
    with second.peer:
        trained = second.steps(DataLoader(dataset, batch_size=10, sampler=resumed))
    assert len(trained) <= SAMPLES - 350
    assert set(trained) | set(first.seen) == set(range(SAMPLES))


@pytest.mark.slow
def test_a_run_that_is_resumed_goes_on_within_the_epoch_of_its_checkpoint(tmp_path) -> None:
    dataset, first = data(), Training(run_dir=tmp_path, name="peer-0")
    sampler = gt.PeerSampler(dataset, first.peer)
    with first.peer as peer:
        first.steps(DataLoader(dataset, batch_size=10, sampler=sampler))
        first.steps(DataLoader(dataset, batch_size=10, sampler=sampler), most=40)
        deadline = 100
        while floor(sampler) < 1 and deadline:
            peer._driver.wait_for_change(0.1)  # type: ignore[union-attr]
            deadline -= 1
        peer.checkpoint(wait=True)
    second = Training(run_dir=tmp_path, name="peer-0", resume=True)
    with second.peer:
        trained = second.steps(DataLoader(dataset, batch_size=10, sampler=gt.PeerSampler(dataset, second.peer)))
        assert len(trained) < SAMPLES - 300
    assert set(trained) | {s for s, count in first.seen.items() if count > 1} == set(range(SAMPLES))


def test_another_data_set_in_a_checkpoint_is_said_and_the_epoch_begins_anew(caplog) -> None:
    training, dataset = Training(), data()
    sampler = gt.PeerSampler(dataset, training.peer)
    other = gt.PeerSampler(data(601), Training().peer)
    training.peer._state.ledger_found = other.state_dict()["ledger"]
    with caplog.at_level(logging.WARNING, "gossiptrain"), training.peer:
        trained = training.steps(DataLoader(dataset, batch_size=10, sampler=sampler))
    assert len(trained) == SAMPLES
    assert "the data were 601 samples" in caplog.text


def test_when_the_network_thread_dies_training_goes_on_alone_with_what_is_not_trained(caplog) -> None:
    training, dataset = Training(), data()
    loader = DataLoader(dataset, batch_size=10, sampler=gt.PeerSampler(dataset, training.peer))

    def breaks(event, now):
        raise RuntimeError("a bug")

    def loop() -> None:
        with training.peer as peer:
            training.steps(itertools.islice(loader, 20))
            driver = peer._driver
            assert driver is not None
            driver._protocol.handle = breaks  # type: ignore[method-assign]
            driver.join(20)
            training.steps(loader)
            training.steps(loader)

    with caplog.at_level(logging.WARNING, "gossiptrain"), pytest.raises(gt.PeerStoppedError):
        loop()
    assert set(training.seen) == set(range(SAMPLES))
    assert "goes on alone" in caplog.text


def test_outside_the_run_a_pass_holds_all_and_says_so(caplog) -> None:
    training, dataset = Training(), data(50)
    sampler = gt.PeerSampler(dataset, training.peer)
    with caplog.at_level(logging.WARNING, "gossiptrain"):
        assert sorted(sampler) == list(range(50))
    assert "outside `with peer:`" in caplog.text


def test_the_length_is_this_peers_part() -> None:
    training, dataset = Training(), data()
    sampler = gt.PeerSampler(dataset, training.peer)
    with training.peer:
        training.steps(DataLoader(dataset, batch_size=10, sampler=sampler), most=5)
        assert len(sampler) == SAMPLES
    assert len(DataLoader(dataset, batch_size=10, sampler=sampler)) == 60


# Streams


def numbers_of(shard: int) -> range:
    return range(shard * 7, shard * 7 + 7 - shard % 3)


def test_a_stream_gives_every_shard_to_its_end_once_an_epoch() -> None:
    training = Training()
    stream = gt.ShardedStream(lambda shard: (float(n) for n in numbers_of(shard)), 40, training.peer)
    with training.peer:
        passes = [training.steps(DataLoader(stream, batch_size=5)) for _ in range(2)]
    everything = sorted(n for shard in range(40) for n in numbers_of(shard))
    assert [sorted(trained) for trained in passes] == [everything] * 2
    assert passes[0] != passes[1]


def test_a_stream_in_a_worker_process_says_what_to_do_instead() -> None:
    stream = gt.ShardedStream(numbers_of, 4, Training().peer)
    copy = pickle.loads(pickle.dumps(stream))
    with pytest.raises(ConfigurationError, match=r"gt\.StreamLoader"):
        iter(copy)
    with pytest.raises(ConfigurationError, match="outside `with peer:`"):
        iter(stream)


class Shards(torch.utils.data.Dataset):
    """Shards as the items of a data set: what the documentation tells those who want worker processes."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, shard: int) -> torch.Tensor:
        return torch.tensor([float(n) for n in numbers_of(shard)])


@pytest.mark.slow
def test_shards_as_items_work_in_worker_processes() -> None:
    training, shards = Training(), Shards()
    sampler = gt.PeerSampler(shards, training.peer, chunk_size=1)
    loader = DataLoader(shards, batch_size=None, sampler=sampler, num_workers=1, multiprocessing_context="spawn")
    with training.peer:
        trained = training.steps(loader)
    assert sorted(trained) == sorted(n for shard in range(30) for n in numbers_of(shard))


# Parts of one's own


@pytest.mark.parametrize(
    "options",
    [
        {"partition": "iid"},
        {"partition": "dirichlet", "alpha": 0.1},
        {"partition": "shards", "shards": 2},
        {"partition": "column", "column": [n // 60 for n in range(SAMPLES)]},
    ],
    ids=lambda options: options["partition"],
)
def test_fixed_parts_are_the_data_set_together_and_a_pass_is_a_part(options: dict) -> None:
    dataset = data()
    samplers = [gt.PeerSampler(dataset, Training().peer, part=(index, 4), **options) for index in range(4)]
    parts = [sorted(sampler) for sampler in samplers]
    assert sorted(sample for part in parts for sample in part) == list(range(SAMPLES))
    assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
    assert list(samplers[0]) != list(samplers[0]), "another order each pass"


def test_a_launcher_says_which_part_is_whose(monkeypatch) -> None:
    monkeypatch.setenv("GOSSIPTRAIN_PEERS", "3")
    sampler = gt.PeerSampler(data(), Training(name="peer-1").peer, partition="iid")
    assert len(list(sampler)) == len(sampler) == 200
    assert env.place_among("peer-2") == (2, 3)
    assert env.place_among("x", {"RANK": "4", "WORLD_SIZE": "9"}) == (4, 9)
    assert env.place_among("peer-2", {}) is None


def test_a_part_keeps_its_order_in_a_state() -> None:
    sampler = gt.PeerSampler(data(), Training().peer, partition="iid", part=(0, 2))
    first, second = list(sampler), None
    state = sampler.state_dict()
    second = list(sampler)
    again = gt.PeerSampler(data(), Training().peer, partition="iid", part=(0, 2))
    again.load_state_dict(state)
    assert list(again) == second != first


# Bad input


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"chunk_size": SAMPLES + 1}, f"chunk_size={SAMPLES + 1}"),
        ({"partition": "even"}, "partition='even': must be one of iid, dirichlet, shards, column"),
        ({"partition": "dirichlet", "part": (0, 2)}, "partition='dirichlet': needs alpha"),
        ({"partition": "dirichlet", "alpha": -1.0, "part": (0, 2)}, "alpha must be a positive number"),
        ({"partition": "iid", "alpha": 1.0, "part": (0, 2)}, "alpha=1.0: partition='iid' does not take it"),
        ({"alpha": 0.1}, "partition=None"),
        ({"partition": "iid", "part": (2, 2)}, r"part=\(2, 2\)"),
        ({"partition": "iid"}, "part=None"),
        ({"partition": "shards", "shards": 2, "part": (0, 2), "labels": [0, 1]}, "labels: has 2 entries"),
    ],
)
def test_bad_arguments_are_refused_by_name(options: dict, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        gt.PeerSampler(data(), Training().peer, **options)


def test_a_data_set_without_samples_or_without_a_length_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="dataset: has 0 samples"):
        gt.PeerSampler([], Training().peer)
    with pytest.raises(ConfigurationError, match="dataset=generator: must have a length"):
        gt.PeerSampler((n for n in range(3)), Training().peer)
    with pytest.raises(ConfigurationError, match="shards=0"):
        gt.ShardedStream(numbers_of, 0, Training().peer)


def test_a_peer_shares_data_by_one_sampler_only_and_may_have_others_with_parts() -> None:
    training = Training()
    gt.PeerSampler(data(), training.peer)
    gt.PeerSampler(data(), training.peer, partition="iid", part=(0, 2))
    with pytest.raises(ConfigurationError, match="has a PeerSampler already"):
        gt.PeerSampler(data(), training.peer)


def test_a_state_of_other_data_or_too_late_is_refused() -> None:
    training = Training()
    sampler = gt.PeerSampler(data(), training.peer)
    with pytest.raises(ConfigurationError, match="the data were 601 samples"):
        sampler.load_state_dict(gt.PeerSampler(data(601), Training().peer).state_dict())
    with pytest.raises(ConfigurationError, match="not a state of shared data"):
        sampler.load_state_dict({"ledger": "{"})
    with training.peer, pytest.raises(ConfigurationError, match="call it before"):
        sampler.load_state_dict(sampler.state_dict())


def test_the_text_of_a_state_holds_all_of_it() -> None:
    sampler = gt.PeerSampler(data(), Training().peer)
    plan = sampler._sharing.plan  # type: ignore[union-attr]
    state = LedgerState(7, ((7, 0b101), (9, plan.everything >> 1)))
    assert from_text(to_text(plan, state), plan) == state
