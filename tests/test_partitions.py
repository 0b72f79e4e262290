"""Sharing samples out among peers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossiptrain.errors import ConfigurationError
from gossiptrain.partitions import partition

LABELS = np.random.default_rng(0).integers(0, 10, 2000)
ORIGIN = np.random.default_rng(1).integers(0, 37, 2000)


def shares(spec: object, peers: int = 20, seed: int = 0, labels: np.ndarray = LABELS) -> list[np.ndarray]:
    return partition(spec, labels, peers, np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["iid", ("dirichlet", 0.05), ("dirichlet", 10.0), ("shards", 2), ("column", ORIGIN)]),
    st.integers(1, 300),
    st.integers(0, 5),
)
def test_every_sample_is_given_out_once_and_no_peer_has_none(spec: object, peers: int, seed: int) -> None:
    parts = shares(spec, peers, seed)
    assert len(parts) == peers
    assert min(map(len, parts)) > 0
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(2000))
    assert all(np.array_equal(a, b) for a, b in zip(parts, shares(spec, peers, seed)))


def _classes(parts: list[np.ndarray]) -> float:
    return float(np.mean([len(np.unique(LABELS[part])) for part in parts]))


def test_a_small_alpha_leaves_a_peer_few_classes_and_a_large_one_all() -> None:
    assert _classes(shares(("dirichlet", 0.05))) < 5
    assert _classes(shares(("dirichlet", 100.0))) > 9.5


def test_two_shards_leave_most_peers_two_or_three_classes() -> None:
    parts = shares(("shards", 2))
    assert _classes(parts) <= 4
    assert {len(part) for part in parts} == {100}


def test_samples_of_one_value_stay_together_and_the_load_is_even() -> None:
    parts = shares(("column", ORIGIN), peers=6)
    values = [set(ORIGIN[part].tolist()) for part in parts]
    assert sum(map(len, values)) == 37
    assert max(map(len, parts)) < 1.3 * min(map(len, parts))


def test_an_own_function_is_asked_and_checked() -> None:
    assert [s.tolist() for s in shares(lambda y, n, rng: [[0, 1], [2]], 2)] == [[0, 1], [2]]
    for wrong in ([[0]], [[0], []], [[0], [2000]], [[0], [-1]], [[0], [0.5]]):
        with pytest.raises(ConfigurationError, match="partition"):
            shares(lambda y, n, rng, wrong=wrong: wrong, 2)


@pytest.mark.parametrize(
    ("spec", "peers", "named"),
    [
        ("even", 2, "partition='even'"),
        (("dirichlet", 0.0), 2, "alpha"),
        (("dirichlet", "x"), 2, "alpha"),
        (("shards", 0), 2, "shards"),
        (("shards", 150), 20, "3000 shards, more than the 2000 samples"),
        (("column", [1, 2]), 2, "column"),
        ("iid", 2001, "peers=2001: 2000 samples"),
        ("dirichlet", 2, "must be"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(spec: object, peers: int, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        shares(spec, peers)


def test_classes_are_needed_where_they_are_shared_out() -> None:
    with pytest.raises(ConfigurationError, match="whole number a sample"):
        shares(("dirichlet", 1.0), labels=np.zeros(50))
