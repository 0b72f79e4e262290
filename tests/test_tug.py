"""How hard a peer and mixing pull against each other: closed forms, and noise that does not count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gossiptrain.tug import SAMPLE_MAX, WINDOW, Tug, stride

SIZE = 2000
speeds = st.lists(st.floats(0.1, 10.0), min_size=2, max_size=12)


def tugs(move: Callable[[], np.ndarray], mix: Callable[[np.ndarray], np.ndarray], windows: int = 2) -> np.ndarray:
    """Lets peers move, [n, SIZE], and mix, and returns their last tugs, [n]."""
    x = np.zeros_like(move())
    meters = [Tug() for _ in x]
    found: list = [None] * len(x)
    for _ in range(1 + windows * WINDOW):
        x = x + move()
        after = mix(x)
        for peer, meter in enumerate(meters):
            products = meter.boundary(x[peer], after[peer])
            found[peer] = found[peer] if products is None else products.tug()
        x = after
    return np.array(found)


def average(x: np.ndarray) -> np.ndarray:
    return np.repeat(x.mean(axis=0, keepdims=True), len(x), axis=0)


def random_pairs(chance: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    def mix(x: np.ndarray) -> np.ndarray:
        pairs = chance.permutation(len(x)).reshape(-1, 2)
        after = x.copy()
        after[pairs[:, 0]] = after[pairs[:, 1]] = x[pairs].mean(axis=1)
        return after

    return mix


@given(st.integers(2, 8), st.floats(0.0, 3.0), st.integers(0, 100))
def test_with_unlike_data_it_is_the_part_of_the_movement_that_is_ones_own(n: int, common: float, seed: int) -> None:
    chance = np.random.default_rng(seed)
    own_NS = chance.standard_normal((n, 40))
    own_NS -= own_NS.mean(axis=0)
    move_NS = own_NS + common * chance.standard_normal(40)
    expected = (own_NS * move_NS).sum(axis=1) / (move_NS**2).sum(axis=1)
    np.testing.assert_allclose(tugs(lambda: move_NS, average), expected, atol=1e-9)
    if not common:
        np.testing.assert_allclose(expected, 1.0)


@given(speeds)
def test_who_leads_is_above_zero_who_lags_below_and_the_mean_is_not_above(steps: list[float]) -> None:
    steps_N = np.array(steps)
    found = tugs(lambda: steps_N[:, None] * np.ones((1, 8)), average)
    np.testing.assert_allclose(found, 1 - steps_N.mean() / steps_N, atol=1e-6)
    assert found.mean() <= 1e-6


@pytest.mark.parametrize("pairs", [True, False], ids=["pairs", "all"])
def test_noise_does_not_count_though_mixing_takes_it_back(pairs: bool) -> None:
    chance = np.random.default_rng(1)
    mix = random_pairs(chance) if pairs else average
    found = tugs(lambda: chance.standard_normal((8, SIZE)), mix, windows=12)
    assert np.abs(found).max() < 5 / SIZE**0.5


def test_between_pairs_unlike_data_show_through_noise_that_is_three_times_as_large() -> None:
    chance = np.random.default_rng(2)
    own_NS = chance.standard_normal((8, SIZE))
    found = tugs(lambda: own_NS + 3 * chance.standard_normal((8, SIZE)), random_pairs(chance), windows=12)
    assert found.mean() > 0.15


def test_it_says_nothing_before_two_windows_are_over_and_zero_where_nothing_is_mixed_or_nothing_moves() -> None:
    tug, x = Tug(), np.ones(3)
    assert all(tug.boundary(x * k, x * k) is None for k in range(2 * WINDOW))
    products = tug.boundary(x * 99, x * 99)
    assert products is not None
    assert products.tug() == 0.0
    still = Tug()
    last = [still.boundary(x, x) for _ in range(2 * WINDOW + 1)][-1]
    assert last is not None
    assert last.tug() == 0.0


def test_numpy_and_torch_agree() -> None:
    chance = np.random.default_rng(3)
    moves, mixes = chance.standard_normal((2, 2 * WINDOW + 1, 50)) * np.array([[[1.0]], [[0.3]]]) + 0.2
    found = []
    for to in (np.asarray, torch.from_numpy):
        tug, x = Tug(), to(np.zeros(50))
        for move, change in zip(moves, mixes):
            before = x + to(move)
            x = before - to(change)
            products = tug.boundary(before, x)
        assert products is not None
        found.append(products.tug())
    assert found[0] == pytest.approx(found[1])
    assert found[0] > 0


@given(st.integers(1, 1 << 40))
def test_a_sample_is_spread_over_all_values_and_never_large(size: int) -> None:
    step = stride(size)
    assert step % 2 == 1
    assert -(-size // step) <= SAMPLE_MAX
    assert size < SAMPLE_MAX or -(-size // step) >= SAMPLE_MAX // 4
