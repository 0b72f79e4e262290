"""News are told so many times, the untold first, and the newest word about a member only."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gossiptrain.protocol.config import MembershipConfig
from gossiptrain.protocol.dissemination import Dissemination
from gossiptrain.protocol.messages import MemberEntry


def entry(name: str, incarnation: int = 0) -> MemberEntry:
    return MemberEntry(name, 1, "c", "d", incarnation)


@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 12))
def test_each_piece_is_told_exactly_as_often_as_the_limit_says(pieces: int, per_message: int, limit: int) -> None:
    news = Dissemination()
    for index in range(pieces):
        news.add(entry(f"p{index}"))
    told: Counter[str] = Counter()
    while taken := news.take(per_message, limit):
        assert len(taken) <= per_message
        assert len({e.name for e in taken}) == len(taken)
        told.update(e.name for e in taken)
        assert max(told.values()) - min(told[f"p{i}"] for i in range(pieces)) <= 1, "the untold go first"
    assert told == {f"p{index}": limit for index in range(pieces)}
    assert len(news) == 0


def test_a_newer_word_takes_the_place_of_the_older_and_is_told_from_the_start() -> None:
    news = Dissemination()
    news.add(entry("a"))
    assert [e.incarnation for e in news.take(8, 3)] == [0]
    news.add(entry("a", 5))
    assert [[e.incarnation for e in news.take(8, 3)] for _ in range(4)] == [[5], [5], [5], []]


def test_dropped_news_are_not_told() -> None:
    news = Dissemination()
    news.add(entry("a"))
    news.drop("a")
    news.drop("b")
    assert news.take(8, 3) == ()


def test_the_number_of_times_grows_with_the_logarithm_of_the_members() -> None:
    assert [MembershipConfig().retransmissions(n) for n in (1, 8, 99, 999, 9999)] == [8, 8, 8, 12, 16]
