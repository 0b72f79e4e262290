"""Entries merge in any order, any number of times, to one and the same view."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.config import MembershipConfig
from gossiptrain.protocol.effects import Connect, Disconnect, Effect, Fail, Notify, Send
from gossiptrain.protocol.member_table import MEMBERS_MAX, Member, MemberTable, order_of
from gossiptrain.protocol.messages import STATES, Gossip, MemberEntry, Ping
from gossiptrain.protocol.notices import PeerJoined
from gossiptrain.protocol.probing import Probing
from gossiptrain.protocol.roster import INCARNATION_JUMP_MAX, Roster
from tests.protocol.virtual_network import config

NAMES = ("a", "b", "c")
ENTRIES = st.builds(
    lambda name, process, incarnation, state, accuser: MemberEntry(
        name, 10 * (NAMES.index(name) + 1) + process, f"c:{name}", f"d:{name}", incarnation, state, accuser=accuser
    ),
    st.sampled_from(NAMES),
    st.integers(0, 1),
    st.integers(0, 3),
    st.sampled_from(STATES),
    st.sampled_from(["x", "y"]),
)


def roster(**changes) -> Roster:
    peer = config("me", 0, **changes)
    return Roster(peer, Probing(peer.membership, Chance("probing")))


def view(of: Roster) -> dict[str, tuple]:
    return {member.name: member.order() for member in of.table.others()}


@given(st.lists(ENTRIES, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_news_merge_to_one_view_in_whatever_order_and_however_often_they_come(entries, random) -> None:
    """Commutative, associative and idempotent: the greatest entry of each name holds."""
    greatest = {}
    for entry in entries:
        greatest[entry.name] = max(greatest.get(entry.name, order_of(entry)), order_of(entry))
    mixed = [*entries, *random.sample(entries, len(entries) // 2)]
    random.shuffle(mixed)
    one, other = roster(), roster()
    one.merge(tuple(entries), "teller", 1.0)
    for entry in mixed:
        other.merge((entry,), "teller", 2.0)
    assert view(one) == view(other) == greatest
    assert one.view_hash() == other.view_hash()
    living = sorted(name for name, order in greatest.items() if STATES[order[2]] in ("alive", "suspect"))
    assert list(one.table.living_others()) == living


@given(st.lists(ENTRIES, max_size=8), st.lists(ENTRIES, max_size=8))
@settings(max_examples=100, deadline=None)
def test_two_that_send_each_other_their_lists_agree_on_who_lives_but_for_the_dead_who_may_object(one, two) -> None:
    left, right = roster(), roster()
    left.merge(tuple(one), "teller", 1.0)
    right.merge(tuple(two), "teller", 1.0)
    told = tuple(entry for part in left.lists(1.0, wants_reply=True) for entry in part.entries)
    right.merge(tuple(e for e in told if e.name != "me"), "left", 1.0, whole=True)
    answer = tuple(entry for part in right.lists(1.0, wants_reply=False) for entry in part.entries)
    left.merge(tuple(e for e in answer if e.name != "me"), "right", 1.0, whole=True)
    for name in NAMES:
        mine, theirs = left.table.get(name), right.table.get(name)
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert mine.order()[:2] == theirs.order()[:2]
            assert mine.verdict == theirs.verdict or {mine.verdict, theirs.verdict} == {"dead", "suspect"}


def entry(name: str = "a", boot: int = 10, incarnation: int = 0, state: str = "alive", **changes) -> MemberEntry:
    return MemberEntry(name, boot, f"c:{name}", f"d:{name}", incarnation, state, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", ["suspect", "dead", "left"])
def test_whoever_hears_ill_of_itself_objects_with_a_higher_incarnation(state: str) -> None:
    mine = roster()
    me = mine.me
    mine.merge((entry("me", me.boot, 4, state),), "a", 1.0)
    assert me.incarnation == 5
    (objection,) = mine.news.take(8, 8)
    assert (objection.name, objection.incarnation, objection.state) == ("me", 5, "alive")


@pytest.mark.parametrize("state", ["suspect", "dead"])
def test_whoever_tells_old_ill_news_is_told_the_newer_and_nobody_else_is(state: str) -> None:
    """It missed the objection; passed on at random it might miss it again, and bury one who lives."""
    mine = roster()
    mine.merge((entry("a"), entry("b", 20, 5)), "a", 0.0)
    mine.raise_incarnation(7, 0.0)
    while mine.news.take(8, 1):
        pass
    (about_me,) = mine.merge((entry("me", mine.me.boot, 3, state),), "a", 1.0)
    (about_b,) = mine.merge((entry("b", 20, 3, state),), "a", 1.0)
    for effect, name, incarnation in ((about_me, "me", 7), (about_b, "b", 5)):
        assert isinstance(effect, Send)
        assert effect.address == "c:a"
        (told,) = effect.message.updates
        assert (told.name, told.incarnation, told.state) == (name, incarnation, "alive")
    assert mine.me.incarnation == 7
    assert len(mine.news) == 0


def test_a_dead_member_in_a_list_is_only_suspect_until_it_has_had_its_time() -> None:
    mine = roster()
    mine.merge((entry("a"), entry("b", 20)), "t", 0.0)
    mine.merge((entry("a", state="dead"),), "t", 1.0, whole=True)
    mine.merge((entry("b", 20, state="dead"),), "t", 1.0)
    assert (mine.table.get("a").verdict, mine.table.get("b").verdict) == ("suspect", "dead")
    assert mine.suspicions.next_deadline() >= 1.0 + 30.0


def test_an_incarnation_that_leaps_is_ignored_so_that_nobody_loses_the_room_to_object() -> None:
    mine = roster()
    mine.merge((entry("a"),), "t", 0.0)
    leap = INCARNATION_JUMP_MAX + 1
    mine.merge((entry("a", incarnation=leap, state="dead"), entry("new", 90, leap)), "t", 1.0)
    mine.merge((entry("me", mine.me.boot, leap, "dead"),), "t", 1.0)
    assert (mine.table.get("a").verdict, mine.table.get("new"), mine.me.incarnation) == ("alive", None, 0)


def test_one_process_cannot_have_two_names_nor_mine() -> None:
    mine = roster()
    mine.merge((entry("a", 10), entry("b", 10), entry("c", mine.me.boot)), "t", 0.0)
    assert [member.name for member in mine.table.others()] == ["a"]


def test_of_two_living_processes_of_one_name_the_one_that_goes_on_being_contradicted_gives_way() -> None:
    mine = roster()
    failures: list[Effect] = []
    for incarnation in (1, 3, 5):
        failures += mine.merge((entry("me", mine.me.boot + 1, incarnation),), "t", 0.0)
    (failure,) = failures
    assert isinstance(failure, Fail)
    assert failure.kind == "name"
    assert "'me'" in failure.text
    assert "c:me" in failure.text


def test_the_table_is_bounded_and_forgets_the_gone_first() -> None:
    table = MemberTable("me", 0)
    for index in range(1, MEMBERS_MAX + 1):
        assert table.put(Member(f"p{index}", index, f"c{index}", f"d{index}"))
    late = Member("late", 99999, "c", "d")
    assert not table.put(late)
    table.changed(table.get("p7"), "left", 0, now=1.0)
    assert table.put(late)
    assert (table.get("p7"), table.get("late")) == (None, late)


def test_tombstones_end_and_are_not_told_for_the_second_half_of_their_time() -> None:
    mine = roster(membership=MembershipConfig(tombstone_s=100.0))
    mine.merge((entry("a"), entry("b", 20)), "t", 0.0)
    mine.merge((entry("a", state="dead"),), "t", 10.0)

    def told(now: float) -> list[str]:
        return [e.name for part in mine.lists(now, wants_reply=False) for e in part.entries]

    assert told(59.0) == ["me", "a", "b"]
    assert told(61.0) == ["me", "b"]
    mine.table.forget_before(109.0 - 100.0)
    assert mine.table.get("a") is not None
    mine.table.forget_before(111.0 - 100.0)
    assert (mine.table.get("a"), mine.table.living_others()) == (None, ("b",))


def test_equal_views_have_equal_hashes_and_another_boot_another() -> None:
    def hash_of(own: str, boot: int, *others: tuple[str, int]) -> int:
        peer = Roster(config(own, boot - 1000), Probing(MembershipConfig(), Chance()))
        peer.merge(tuple(entry(name, b) for name, b in others), "t", 0.0)
        return peer.view_hash()

    assert hash_of("a", 1001, ("b", 5), ("c", 6)) == hash_of("b", 5, ("c", 6), ("a", 1001))
    assert hash_of("a", 1001, ("b", 5)) != hash_of("a", 1001, ("b", 5), ("c", 6))
    assert hash_of("a", 1001, ("b", 5)) != hash_of("a", 1001, ("b", 7))


def test_a_data_or_control_link_that_a_living_member_shares_is_not_closed() -> None:
    mine = roster()
    for name, boot in (("a", 10), ("b", 20)):
        mine.merge((MemberEntry(name, boot, "c:shared", "d:shared"),), "t", 0.0)
    first = mine.left("a", "done", 1.0)
    assert not [e for e in first if isinstance(e, Disconnect)]
    second = mine.left("b", "done", 1.0)
    assert {e for e in second if isinstance(e, Disconnect)} == {
        Disconnect("c:shared", "control"),
        Disconnect("d:shared", "data"),
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"probe_period_s": 0.0}, "probe_period_s=0.0: must be positive"),
        ({"stall_tolerance_s": -1.0}, "stall_tolerance_s=-1.0: must be 0 or more"),
        ({"probe_timeout_s": 1.0}, "probe_timeout_s=1.0 must be below probe_period_s=1.0"),
        ({"suspicion_max_factor": 0.5}, "suspicion_max_factor=0.5: must be at least 1"),
        ({"gossip_fanout": math.nan}, "gossip_fanout=nan: must be positive"),
    ],
)
def test_a_setting_that_cannot_work_is_named_with_its_value(changes, named) -> None:
    with pytest.raises(ConfigurationError, match=named):
        MembershipConfig(**changes)


def test_a_member_met_is_told_of_once() -> None:
    mine = roster()
    news = (entry("a"),)
    effects = mine.merge(news, "t", 0.0) + mine.merge(news, "t", 0.0)
    assert effects == [Notify(PeerJoined("a", "c:a"))]
    assert not any(isinstance(e, (Connect, Send)) for e in effects)
    assert isinstance(Gossip(news).updates[0], MemberEntry)
    assert Ping(1, 2, 3).updates == ()
