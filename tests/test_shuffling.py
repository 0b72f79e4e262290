"""The order of samples: a permutation, another each epoch, asked for in any pieces, and the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossiptrain.shuffling import shuffled


@given(st.integers(1, 3000), st.integers(), st.integers(0, 1 << 40))
def test_every_sample_stands_at_one_position(samples: int, seed: int, epoch: int) -> None:
    order = shuffled(np.arange(samples), samples, seed, epoch)
    assert sorted(order.tolist()) == list(range(samples))


def test_pieces_are_those_of_the_whole() -> None:
    whole = shuffled(np.arange(1000), 1000, 5, 2)
    assert shuffled(np.arange(300, 500), 1000, 5, 2).tolist() == whole[300:500].tolist()


def test_seed_and_epoch_decide_and_no_library() -> None:
    assert shuffled(range(6), 6, 0, 0).tolist() == [4, 2, 5, 1, 3, 0]
    orders = {tuple(shuffled(range(50), 50, seed, epoch).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_neighbours_are_scattered_and_every_place_is_as_likely() -> None:
    samples, epochs = 64, 4000
    places = np.zeros((samples, samples))
    for epoch in range(epochs):
        places[np.arange(samples), shuffled(np.arange(samples), samples, 1, epoch)] += 1
    expected = epochs / samples
    # Chi-squared over the 4,096 cells: its mean is their degrees of freedom, its deviation sqrt(2 x that).
    chi = ((places - expected) ** 2 / expected).sum()
    freedom = (samples - 1) ** 2
    assert chi == pytest.approx(freedom, abs=5 * np.sqrt(2 * freedom))


def test_a_large_set_costs_as_much_as_the_piece_that_is_asked_for() -> None:
    piece = shuffled(np.arange(10**11, 10**11 + 1000), 10**12, 3, 1)
    assert len(set(piece.tolist())) == 1000
    assert piece.min() >= 0
    assert piece.max() < 10**12
