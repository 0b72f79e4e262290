"""The batched mode against the loop, which trains one peer after the other with the module and a real optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import sim
from gossiptrain.protocol.notices import Paced
from tests.sim.learning.models import convolutional, mlp, seeded, simulate, with_batch_norm, with_dropout, workload

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}
OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1e-1),
}
CHURN = sim.FaultSchedule().crash(2, 1.51).restart(2, 2.2).join(2.0).crash(4, 2.53)

SEEN = ("fault crash", "fault restart", "fault join", "adopted", "PeerSuspected", "Exchanged")


def agree(
    model: Any, dtype: torch.dtype = torch.float64, options: Any = None, seen: tuple[str, ...] = (), **run: Any
) -> sim.TorchWorkload:
    """Runs both modes and compares traces, samples and values; returns the batched workload."""
    batched = workload(model, dtype, mode="batched", **(options or {}))
    loop = workload(model, dtype, mode="loop", **(options or {}))
    (one, x), (other, y) = simulate(batched, **run), simulate(loop, **run)
    assert batched.choice.mode == "batched"
    assert loop.choice.mode == "loop"
    one.require(*seen)
    assert one.trace_hash == other.trace_hash
    assert sum(peer.steps for peer in one.peers) > 50
    assert x.abs().max() > 0.1
    torch.testing.assert_close(x, y, rtol=0, atol=TOLERANCE[dtype] * float(y.abs().max()))
    for left, right in zip(one.samples, other.samples, strict=True):
        assert left.hosts == right.hosts
        assert left.values == pytest.approx(right.values, rel=1e-2, abs=2e-3, nan_ok=True)
    return batched


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_moves_peers_as_the_real_one_does(name: str) -> None:
    agree(mlp, options={"optimizer": OPTIMIZERS[name]})


@pytest.mark.slow
@pytest.mark.parametrize("model", [mlp, with_dropout, with_batch_norm, convolutional])
def test_each_kind_of_model_ends_where_the_loop_ends_through_crashes_and_joins(model: Any) -> None:
    adam = OPTIMIZERS["adam"]
    agree(model, options={"optimizer": adam, "threads": 2}, seen=SEEN, faults=CHURN, seed=4)


@pytest.mark.slow
def test_single_precision_agrees_within_what_is_stated() -> None:
    agree(with_dropout, torch.float32, options={"optimizer": OPTIMIZERS["momentum"]}, faults=CHURN)


@pytest.mark.slow
def test_synchronous_rounds_mix_several_neighbours_in_the_same_order() -> None:
    agree(with_batch_norm, mixer="d_psgd", topology="ring")


def test_auto_finds_unlike_data_whatever_the_mode_and_mixes_at_every_step_where_alike_ones_have_long_blocks() -> None:
    shards = {"partition": ("shards", 1), "optimizer": OPTIMIZERS["adam"]}
    run = {"sync_every": "auto", "formed": True, "until_s": 6.0}
    agree(mlp, options=shards, **run)
    lasts = {}
    for partition in ("iid", ("shards", 1)):
        report, _ = simulate(workload(mlp, optimizer=OPTIMIZERS["adam"], partition=partition), **run)
        lasts[partition] = [
            (p.blocks[-1].steps, [n.limit for _, n in p.notices if isinstance(n, Paced)]) for p in report.peers
        ]
    assert all(steps == 1 and limits[-1] == "unlike" for steps, limits in lasts["shards", 1])
    assert all(steps > 5 and "unlike" not in limits for steps, limits in lasts["iid"])


def test_blocks_of_unequal_length_are_taken_together_and_end_where_the_loop_ends() -> None:
    ends = []
    for mode in ("batched", "loop"):
        work = workload(with_dropout, torch.float64, mode=mode, optimizer=OPTIMIZERS["adam"])
        work.prepare(4, seed=1)
        for peer, steps in enumerate((3, 7, 1, 7)):
            work.begin(1, peer)
            work.train(peer, steps)
        ends.append(torch.stack([work.vector(work.publish(peer)).clone() for peer in range(4)]))
        assert work.batch_mean == 4
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("model", [mlp, with_dropout, with_batch_norm, convolutional])
def test_a_block_gives_the_same_bits_alone_and_among_others(model: Any) -> None:
    found = []
    for others in (0, 2, 9):
        work = workload(model, mode="batched")
        work.prepare(10, seed=1)
        for peer in range(others + 1):
            work.begin(1, peer)
            work.train(peer, 4)
        found.append(work.vector(work.publish(0)).clone())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_the_number_of_threads_changes_no_bit() -> None:
    found = []
    for threads in (1, 3):
        work = workload(with_dropout, mode="batched", threads=threads)
        work.prepare(40, seed=1)
        work._trainer.chunk = 8  # several chunks for the threads
        for peer in range(40):
            work.begin(1, peer)
            work.train(peer, 3)
        found.append(torch.stack([work.vector(work.publish(peer)).clone() for peer in range(40)]))
    assert torch.equal(found[0], found[1])


def test_the_same_simulation_gives_the_same_bits_again_and_leaves_the_programs_own_random_numbers_alone() -> None:
    work = workload(with_dropout)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, x = simulate(work, 3.0)
    other, y = simulate(work, 3.0)
    assert one.trace_hash == other.trace_hash
    assert torch.equal(x, y)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.equal(simulate(work, 3.0, seed=9)[1].mean(0), x.mean(0))


def test_the_model_that_was_given_is_never_changed() -> None:
    model = seeded(with_batch_norm)
    before = [tensor.clone() for tensor in model.state_dict().values()]
    simulate(workload(model, mode="batched"), 2.0)
    assert all(torch.equal(old, new) for old, new in zip(before, model.state_dict().values()))


def test_mixing_moves_buffers_to_the_others_and_leaves_whole_numbers_alone() -> None:
    for mode in ("batched", "loop"):
        work = workload(with_batch_norm, torch.float64, mode=mode)
        work.prepare(2, seed=1)
        for peer, steps in enumerate((2, 5)):
            work.begin(1, peer)
            work.train(peer, steps)
        one, other = work.publish(0), work.publish(1)
        x, y = work.vector(one).clone(), work.vector(other).clone()
        work.correct(0, work.mix(one, [(other, 0.5)]))
        torch.testing.assert_close(work.vector(work.publish(0)), (x + y) / 2, rtol=0, atol=1e-15)
        norm = work.model_of(0)[1]  # type: ignore[index]
        assert isinstance(norm, nn.BatchNorm1d)
        assert int(norm.num_batches_tracked) == 2
