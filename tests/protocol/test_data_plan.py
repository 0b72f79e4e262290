"""How an epoch is cut, whose each chunk is, and the bitmap that merges."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.chunk_owners import Owners, lots
from gossiptrain.protocol.data_plan import DataPlan, EpochsDone, LedgerState, bits_of, each_of, make_plan
from gossiptrain.protocol.messages import CHUNKS_MAX, ChunkId

PLAN = DataPlan(samples=90, chunk_samples=10, order=5)
STATES = st.builds(
    LedgerState,
    st.integers(0, 5),
    st.dictionaries(st.integers(0, 8), st.integers(0, PLAN.everything), max_size=5).map(
        lambda done: tuple(sorted(done.items()))
    ),
)


def merged(*states: LedgerState) -> LedgerState:
    done = EpochsDone(PLAN)
    for state in states:
        done.merge(state)
    return done.state()


# Cutting


@given(st.integers(1, 10_000_000), st.one_of(st.none(), st.integers(1, 10_000)))
def test_the_chunks_of_an_epoch_hold_every_sample_once_and_none_is_empty(samples: int, chunk: int | None) -> None:
    try:
        plan = make_plan(samples, 0, chunk)
    except ConfigurationError:
        assert chunk is not None
        return
    sizes = [plan.size(number) for number in range(plan.chunks)]
    assert sum(sizes) == samples
    assert min(sizes) >= 1
    assert plan.chunks <= CHUNKS_MAX


def test_a_large_epoch_has_a_thousand_chunks_and_a_small_one_chunks_of_sixteen() -> None:
    assert make_plan(1_000_000, 0).chunks == pytest.approx(1024, rel=0.01)
    assert make_plan(1_437, 0).chunk_samples == 16
    assert make_plan(5, 0) == DataPlan(5, 5, 0)


@pytest.mark.parametrize(
    ("samples", "chunk", "named"),
    [
        (0, None, "dataset: has 0 samples"),
        (10, 11, "chunk_size=11"),
        (10, 0, "chunk_size=0"),
        (10, -3, "chunk_size=-3"),
        (10, 2.5, "chunk_size=2.5"),
        (10, True, "chunk_size=True"),
        (100_000, 1, "chunk_size=1: must be a whole number from 13"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(samples: int, chunk: object, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        make_plan(samples, 0, chunk)  # type: ignore[arg-type]


@given(st.sets(st.integers(0, 300)))
def test_bits_and_numbers_are_the_same_sets(numbers: set[int]) -> None:
    assert list(each_of(bits_of(numbers))) == sorted(numbers)


# The bitmap


@given(STATES, STATES)
def test_merging_does_not_depend_on_the_order(one: LedgerState, other: LedgerState) -> None:
    assert merged(one, other) == merged(other, one)


@given(STATES, STATES, STATES)
def test_merging_does_not_depend_on_the_grouping(one: LedgerState, two: LedgerState, three: LedgerState) -> None:
    assert merged(merged(one, two), three) == merged(one, merged(two, three))


@given(STATES, STATES)
def test_merging_again_changes_nothing_and_says_so(one: LedgerState, other: LedgerState) -> None:
    done = EpochsDone(PLAN, one)
    done.merge(other)
    assert not done.merge(other)
    assert not done.merge(one)


@given(STATES, STATES)
def test_nothing_that_was_done_is_forgotten(one: LedgerState, other: LedgerState) -> None:
    before, after = EpochsDone(PLAN, one), EpochsDone(PLAN, one)
    after.merge(other)
    for epoch in range(10):
        assert before.bits(epoch) & ~after.bits(epoch) == 0


def test_the_floor_rises_over_complete_epochs_even_when_they_end_out_of_order() -> None:
    done = EpochsDone(PLAN)
    assert done.merge(LedgerState(0, ((1, PLAN.everything),)))
    assert done.floor == 0
    assert done.add(ChunkId(0, chunk) for chunk in range(PLAN.chunks))
    assert done.state() == LedgerState(2, ())
    assert done.has(ChunkId(1, 3))
    assert not done.missing(0)


def test_bits_that_no_chunk_has_and_epochs_beyond_the_window_are_left_out() -> None:
    done = EpochsDone(PLAN)
    assert not done.merge(LedgerState(0, ((0, 1 << PLAN.chunks), (PLAN.window, 1))))
    assert done.state() == LedgerState()


# Owners

NAMES = st.sets(st.sampled_from([f"peer-{n}" for n in range(12)]), min_size=2)
WEIGHTS = NAMES.flatmap(lambda names: st.fixed_dictionaries({name: st.floats(0.1, 100) for name in sorted(names)}))


def whose(weights: dict[str, float], epoch: int = 0, chunks: int = 400) -> list[str]:
    owners = Owners(9, epoch, chunks)
    owners.share(weights)
    return names_of(owners, chunks)


def names_of(owners: Owners, chunks: int = 400) -> list[str]:
    found = [""] * chunks
    for name, bits in owners.owned.items():
        for chunk in each_of(bits):
            assert not found[chunk], "a chunk has one owner"
            found[chunk] = name
    assert all(found)
    return found


@settings(max_examples=25, deadline=None)
@given(WEIGHTS, st.data())
def test_when_a_peer_goes_its_chunks_move_and_no_other(weights: dict[str, float], data: st.DataObject) -> None:
    lost = data.draw(st.sampled_from(sorted(weights)))
    before, after = whose(weights), whose({name: w for name, w in weights.items() if name != lost})
    assert all(was in (lost, is_now) for was, is_now in zip(before, after))


@settings(max_examples=25, deadline=None)
@given(WEIGHTS, st.data())
def test_when_a_peer_gets_faster_chunks_move_to_it_and_to_nobody_else(
    weights: dict[str, float], data: st.DataObject
) -> None:
    faster = data.draw(st.sampled_from(sorted(weights)))
    before, after = whose(weights), whose({**weights, faster: 2 * weights[faster]})
    assert all(is_now in (was, faster) for was, is_now in zip(before, after))


@settings(max_examples=40, deadline=None)
@given(st.lists(WEIGHTS, min_size=1, max_size=5))
def test_step_by_step_the_owners_become_the_same_as_at_once(history: list[dict[str, float]]) -> None:
    owners = Owners(9, 0, 400)
    for weights in history:
        owners.share(weights)
    assert names_of(owners) == whose(history[-1])


def test_shares_follow_the_weights() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 5.0}
    found = whose(weights, chunks=8000)
    for name, weight in weights.items():
        assert found.count(name) / 8000 == pytest.approx(weight / 8, rel=0.1)


def test_each_epoch_is_shared_otherwise_and_all_peers_draw_the_same() -> None:
    weights = {"a": 1.0, "b": 1.0}
    assert whose(weights, epoch=0) != whose(weights, epoch=1)
    # Other machines, and later versions in the same run, must draw these very numbers.
    assert lots(9, 0, "a", 3) == pytest.approx((0.23348217686707073, 2.6199895248727003, 1.5461792340472158))
