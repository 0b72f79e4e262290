"""Gradients in parts: equal to the whole batch's, whatever size fits; sizes found, kept and tried anew."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import gossiptrain as gt
from gossiptrain.errors import ConfigurationError
from gossiptrain.runtime.micro_batches import TRY_AFTER, SizeSearch


class Memory:
    """A device that holds so many samples at once. Counts what was computed."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.parts: list[int] = []
        self.failures = 0

    def take(self, samples: int) -> None:
        if samples > self.samples:
            self.failures += 1
            raise torch.cuda.OutOfMemoryError("no memory")
        self.parts.append(samples)


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def loss_on(model: nn.Module, memory: Memory | None = None):
    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        result = functional.cross_entropy(model(x), y)
        if memory is not None:
            memory.take(len(x))
        return result

    return loss


def batch_of(samples: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 3, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 2, (samples,), generator=generator)


@settings(max_examples=60, deadline=None)
@given(samples=st.integers(1, 40), fits=st.integers(1, 40), begin=st.none() | st.integers(1, 50))
def test_the_gradient_in_parts_is_the_whole_batchs_after_any_number_of_failures(samples, fits, begin):
    x, y = batch_of(samples)
    whole, model, memory = small_model(), small_model(), Memory(fits)
    expected = loss_on(whole)(x, y)
    expected.backward()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)  # left over from before: it must not count
    loss = gt.MicroBatches(model, size=begin).backward(loss_on(model, memory), x, y)
    assert torch.allclose(loss, expected, atol=1e-12)
    for mine, theirs in zip(model.parameters(), whole.parameters()):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-12)


def test_a_failure_in_a_later_part_throws_the_earlier_parts_away():
    x, y = batch_of(8)
    whole, model = small_model(), small_model()
    loss_on(whole)(x, y).backward()
    calls = []

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        if len(calls) == 2:
            raise torch.cuda.OutOfMemoryError("no memory")
        return functional.cross_entropy(model(x), y)

    gt.MicroBatches(model, size=4).backward(loss, x, y)
    assert calls == [4, 4, 2, 2, 2, 2]
    for mine, theirs in zip(model.parameters(), whole.parameters()):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-12)


def test_running_statistics_are_those_of_the_attempt_that_went_through():
    x = torch.randn(8, 3)
    model, like_it = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    memory = Memory(4)

    def loss(x: torch.Tensor) -> torch.Tensor:
        result = model(x).square().mean()
        memory.take(len(x))
        return result

    gt.MicroBatches(model).backward(loss, x)
    like_it(x[:4])
    like_it(x[4:])
    assert torch.equal(model.state_dict()["running_mean"], like_it.state_dict()["running_mean"])
    assert model.num_batches_tracked == 2


def test_the_size_is_found_once_and_then_kept_without_a_failure_for_long():
    x, y = batch_of(64)
    model, memory = small_model(), Memory(20)
    micro = gt.MicroBatches(model)
    for _ in range(TRY_AFTER // 2):
        micro.backward(loss_on(model, memory), x, y)
    assert micro.size == 16
    assert memory.failures == 2


def test_larger_sizes_are_tried_rarely_and_a_failed_try_costs_one_batch():
    search, capacity, failures, batches = SizeSearch(), 20, 0, 64 * TRY_AFTER
    for _ in range(batches):
        while -(-64 // search.parts(64)) > capacity:
            failures += 1
            assert search.out_of_memory(64)
        search.fitted(64)
    assert search.size == 16  # 4 parts; 3 parts of 22 do not fit
    assert failures <= 10


def test_memory_that_comes_back_is_used_again():
    search, capacity = SizeSearch(), 5
    for number in range(100 * TRY_AFTER):
        if number == TRY_AFTER:
            capacity = 64
        while -(-64 // search.parts(64)) > capacity:
            assert search.out_of_memory(64)
        search.fitted(64)
    assert search.parts(64) == 1


@settings(max_examples=60, deadline=None)
@given(capacity=st.integers(1, 60), sizes=st.lists(st.integers(1, 64), min_size=1, max_size=30))
def test_the_search_ends_for_batches_of_any_sizes(capacity, sizes):
    search = SizeSearch()
    for samples in sizes * 20:
        tries = 0
        while -(-samples // search.parts(samples)) > capacity:
            tries += 1
            assert tries <= 8
            assert search.out_of_memory(samples)
        search.fitted(samples)


def test_one_sample_that_does_not_fit_is_an_error():
    x, y = batch_of(4)
    model = small_model()
    with pytest.raises(torch.cuda.OutOfMemoryError):
        gt.MicroBatches(model).backward(loss_on(model, Memory(0)), x, y)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_memory_that_a_library_or_the_cpu_lacks_counts_and_other_errors_do_not():
    model = small_model()
    x, y = batch_of(4)

    def failing(text: str):
        def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            if len(x) > 2:
                raise RuntimeError(text)
            return functional.cross_entropy(model(x), y)

        return loss

    for text in (
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory",
    ):
        micro = gt.MicroBatches(model)
        micro.backward(failing(text), x, y)
        assert micro.size == 2
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        gt.MicroBatches(model).backward(failing("mat1 and mat2 shapes cannot be multiplied"), x, y)


def test_a_restarted_process_begins_with_the_size_that_fitted(tmp_path):
    x, y = batch_of(64)
    model, file = small_model(), tmp_path / "deep" / "micro.json"
    gt.MicroBatches(model, remember=file).backward(loss_on(model, Memory(20)), x, y)
    memory = Memory(20)
    again = gt.MicroBatches(model, remember=file)
    again.backward(loss_on(model, memory), x, y)
    assert (again.size, memory.failures) == (16, 0)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"size": 0, "device": "cpu"}', '{"size": true, "device": "cpu"}', '{"size": 4}', "\x00"]
)
def test_a_kept_size_that_cannot_be_used_counts_for_nothing(tmp_path, text):
    file = tmp_path / "micro.json"
    file.write_text(text)
    assert gt.MicroBatches(small_model(), remember=file).size is None


def test_a_size_found_on_another_device_counts_for_nothing(tmp_path):
    file = tmp_path / "micro.json"
    file.write_text(json.dumps({"size": 16, "device": "NVIDIA H200, 1 bytes"}))
    assert gt.MicroBatches(small_model(), remember=file).size is None


def test_the_peer_keeps_the_size_in_its_run_folder(tmp_path):
    x, y = batch_of(8)
    model = small_model()
    peer = gt.attach(model, run_dir=tmp_path)
    gt.MicroBatches(model, peer=peer).backward(loss_on(model, Memory(4)), x, y)
    assert json.loads((tmp_path / "micro_batches" / "peer-0.json").read_text())["size"] == 4


def test_batches_may_be_dictionaries_and_lists_with_other_things_in_them():
    model, seen = small_model(), []
    x, y = batch_of(6)

    def loss(inputs: dict, name: str) -> torch.Tensor:
        seen.append((len(inputs["x"]), len(inputs["more"][0]), name))
        return functional.cross_entropy(model(inputs["x"]), inputs["y"])

    gt.MicroBatches(model, size=4).backward(loss, {"x": x, "y": y, "more": [y]}, "train")
    assert seen == [(3, 3, "train"), (3, 3, "train")]


def test_bad_input_names_what_is_wrong(tmp_path):
    model = small_model()
    with pytest.raises(ConfigurationError, match="size=0: must be at least 1 sample"):
        gt.MicroBatches(model, size=0)
    with pytest.raises(ConfigurationError, match="remember="):
        gt.MicroBatches(model, peer=gt.attach(small_model()), remember=tmp_path / "file")
    for batch in ((), (torch.zeros(2), torch.zeros(3)), (torch.tensor(1.0),), (torch.zeros(0, 3),)):
        with pytest.raises(ConfigurationError, match="batch of shapes"):
            gt.MicroBatches(model).backward(lambda *_: torch.zeros(()), *batch)
