"""Whom news are told to: everybody in a small group, those talked to lately in a large one."""

from __future__ import annotations

from collections import Counter

from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.correspondents import LATELY_MAX, Correspondents
from gossiptrain.protocol.member_table import Member, MemberTable


def group(members: int) -> tuple[MemberTable, Correspondents]:
    table = MemberTable("own", 1)
    for index in range(members):
        table.put(Member(f"m{index:04d}", 100 + index, f"control:{index}", f"data:{index}"))
    return table, Correspondents(table, Chance("test"))


def told(part: Correspondents, rounds: int, neighbours: tuple[str, ...] = ()) -> Counter[str]:
    return Counter(member.name for _ in range(rounds) for member in part.listeners(3, neighbours))


def test_in_a_small_group_everybody_is_told() -> None:
    table, part = group(20)
    part.met("m0003")
    assert set(told(part, 200)) == set(table.living_others())


def test_in_a_large_group_those_talked_to_lately_are_told_and_each_round_a_neighbour() -> None:
    _, part = group(500)
    for index in range(100):
        part.met(f"m{index:04d}")
    lately = {f"m{index:04d}" for index in range(100 - LATELY_MAX, 100)}
    neighbours = ("m0400", "m0401")
    found = told(part, 600, neighbours)
    assert set(found) == lately | set(neighbours), "the oldest made room"
    assert 600 <= found["m0400"] + found["m0401"] < 700, "one round, or more where a draw was repeated"
    others = [found[name] for name in lately]
    assert 5 < min(others) <= max(others) < 45, "1,200 over 64: each about as often"


def test_meeting_somebody_again_changes_nothing_and_nobody_is_told_twice_in_a_round() -> None:
    _, part = group(500)
    part.met("m0001")
    for index in range(LATELY_MAX - 1):
        part.met("m0002" if index % 2 else "m0001")
    assert set(told(part, 50)) == {"m0001", "m0002"}
    for _ in range(20):
        names = [member.name for member in part.listeners(3, ("m0001",))]
        assert len(set(names)) == len(names)


def test_the_dead_are_not_told() -> None:
    table, part = group(500)
    for name in ("m0001", "m0002"):
        part.met(name)
    dead = table.get("m0001")
    assert dead is not None
    table.changed(dead, "dead", 0, 1.0)
    assert set(told(part, 50, ("m0001", "m0003"))) == {"m0002", "m0003"}


def test_who_has_not_talked_to_anybody_yet_tells_anybody() -> None:
    _, part = group(500)
    assert len(told(part, 200)) > 200


def test_the_neighbours_and_some_others_are_told_goodbye() -> None:
    _, part = group(500)
    around = [member.name for member in part.around(("m0007", "gone"), 16)]
    assert around[0] == "m0007"
    assert 16 <= len(set(around)) == len(around) <= 17
