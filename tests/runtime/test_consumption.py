"""What is surely trained, told by steps alone; loaders are played by hand, with every look-ahead and size of steps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gossiptrain.runtime.consumption import Consumption


class Loader:
    """Takes batches `ahead` of training, as torch's does, and steps every `accumulate` batches."""

    def __init__(self, consumption: Consumption, samples: int, batch: int, ahead: int, accumulate: int) -> None:
        self.consumption, self.left, self.batch, self.accumulate = consumption, samples, batch, accumulate
        self.waiting: list[int] = []
        self.trained = self.backward = self.batches = 0
        for _ in range(ahead):
            self._fetch()

    def _fetch(self) -> None:
        size = min(self.batch, self.left)
        self.left -= size
        self.consumption.issued += size
        if size:
            self.waiting.append(size)
        if not self.left:
            self.consumption.exhausted()

    def train_one(self) -> bool:
        """One batch through the model; a step where it is due."""
        self._fetch()
        if not self.waiting:
            return False
        self.backward += self.waiting.pop(0)
        self.batches += 1
        if self.batches % self.accumulate == 0:
            self.trained = self.backward
            self.consumption.step()
        return True


SIZES = st.tuples(st.integers(1, 400), st.integers(1, 40), st.integers(0, 12), st.integers(1, 4))


@given(SIZES, st.integers(0, 500))
def test_never_is_more_told_to_be_trained_than_is(sizes: tuple[int, int, int, int], batches: int) -> None:
    consumption = Consumption()
    loader = Loader(consumption, *sizes)
    for _ in range(batches):
        if not loader.train_one():
            break
        assert consumption.certain() <= loader.trained


@given(SIZES)
def test_a_pass_that_was_finished_is_told_but_for_what_fills_no_step(sizes: tuple[int, int, int, int]) -> None:
    samples, batch, _, accumulate = sizes
    consumption = Consumption()
    loader = Loader(consumption, *sizes)
    while loader.train_one():
        pass
    told = consumption.settle()
    assert told <= samples
    if loader.trained:
        assert told > samples - 2 * batch * accumulate


def test_while_the_loader_has_more_all_but_the_first_step_is_certain() -> None:
    consumption = Consumption()
    loader = Loader(consumption, samples=10_000, batch=32, ahead=8, accumulate=2)
    for _ in range(20):
        loader.train_one()
    assert loader.trained == 640
    assert consumption.certain() == 640 - 64
    assert consumption.per_step == 64


def test_of_a_pass_that_was_left_early_only_what_is_certain_counts() -> None:
    consumption = Consumption()
    loader = Loader(consumption, samples=200, batch=10, ahead=4, accumulate=1)
    for _ in range(18):
        loader.train_one()
    assert loader.trained == 180
    assert 170 <= consumption.settle() <= 180


def test_when_the_loader_had_all_at_once_the_steps_of_former_passes_tell_a_pass_that_was_left_early() -> None:
    consumption = Consumption()
    for batches, told in ((10, 100), (4, 40)):
        loader = Loader(consumption, samples=100, batch=10, ahead=10, accumulate=1)
        for _ in range(batches):
            loader.train_one()
        assert consumption.settle() == told


def test_a_batch_that_the_loader_drops_is_not_told_to_be_trained() -> None:
    consumption = Consumption()
    loader = Loader(consumption, samples=320, batch=32, ahead=1, accumulate=1)
    while loader.left:
        loader.train_one()
    consumption.issued += 20  # drop_last: taken, and never seen again
    while loader.train_one():
        pass
    assert consumption.settle() == 320


def test_a_pass_without_a_step_trains_nothing() -> None:
    consumption = Consumption()
    Loader(consumption, samples=96, batch=32, ahead=3, accumulate=1)
    assert consumption.settle() == 0
