"""Peers that come back under their names, one after another or at once, and two that want one name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.harness import Swarm
from tests.chaos.invariants import (
    agreed_at_s,
    check_ended_well,
    falsely_dead,
    lives,
    view,
    views,
    wait_until_whole,
)
from tests.chaos.settings import quick

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.xdist_group("chaos-b")]

ALL_ALIVE_S = 10.0


def test_all_are_alive_soon_after_the_first_word_of_a_restarted_peer(tmp_path: Path) -> None:
    with Swarm(tmp_path, value=1.5) as swarm:
        names = swarm.start_together(4)
        wait_until_whole(swarm, names)
        killed_s = swarm.kill("peer-2")
        swarm.start("peer-2", value=1e6)
        others = [name for name in names if name != "peer-2"]
        for name in others:
            swarm.wait_for(name, "PeerJoined", since=killed_s, peer="peer-2")
        swarm.until(lambda: len(lives(swarm, "peer-2")) == 2, "the second peer-2 writes")
        wait_until_whole(swarm, names)
        heard_s = min(swarm.events(name, "PeerJoined", killed_s, peer="peer-2")[0]["t"] for name in others)
        alive_s = max(swarm.events(name, "PeerJoined", killed_s, peer="peer-2")[-1]["t"] for name in others)
        assert max(alive_s, agreed_at_s(swarm, ["peer-2"])) - heard_s < ALL_ALIVE_S
        check_ended_well(swarm, names, lowest=1.5, highest=1.5)
        assert falsely_dead(swarm, names, truly=["peer-2"]) == []


def test_in_a_rolling_restart_nobody_loses_sight_of_more_than_the_one_restarting(tmp_path: Path) -> None:
    with Swarm(tmp_path, value=1.5, attach={"membership": quick()}) as swarm:
        names = swarm.start_together(4)
        wait_until_whole(swarm, names)
        for number, name in enumerate(names):
            generation = len(lives(swarm, name))
            if number % 2:
                swarm.leave(name)
            else:
                swarm.kill(name)
            swarm.start(name, value=1e6)
            swarm.until(lambda name=name, old=generation: len(lives(swarm, name)) > old, f"the next {name} writes")
            wait_until_whole(swarm, names)
        for name in names:
            for events in lives(swarm, name):
                sizes = [len(seen) for _, seen in views(events, name)]
                whole = sizes.index(len(names))  # until then it is the one restarting
                assert min(sizes[whole:]) >= len(names) - 1
        check_ended_well(swarm, names, lowest=1.5, highest=1.5)


def test_the_seed_may_die_and_newcomers_join_by_anybody_else(tmp_path: Path) -> None:
    with Swarm(tmp_path, value=1.5, attach={"membership": quick()}) as swarm:
        swarm.start("peer-0")
        seed = swarm.address("peer-0")
        for name in ("peer-1", "peer-2"):
            swarm.start(name, attach={"seeds": (seed,)})
        names = ["peer-0", "peer-1", "peer-2"]
        wait_until_whole(swarm, names)
        killed_s = swarm.kill("peer-0")
        survivors = names[1:]
        for name in survivors:
            swarm.wait_for(name, "Rewired", since=killed_s, members=2)
            swarm.more_steps(name, 50)
            swarm.wait_for(name, "Exchanged", since=swarm.events(name, "PeerDied", peer="peer-0")[0]["t"])
        swarm.start("peer-8", value=1e6, attach={"seeds": (seed, swarm.address("peer-2"))})
        swarm.start("peer-9", value=1e6, attach={"seeds": (seed,), "membership": quick(join_timeout_s=2.0)})
        assert swarm.wait_for("peer-8", "Joined")["source"] in survivors
        assert swarm.exit_code("peer-9") == 1
        assert "SeedUnreachableError" in swarm.log("peer-9")
        assert seed in swarm.log("peer-9"), "the seed that is gone is named"
        names = [*survivors, "peer-8"]
        wait_until_whole(swarm, names)
        check_ended_well(swarm, names, lowest=1.5, highest=1.5)
        assert falsely_dead(swarm, names, truly=["peer-0"]) == []


def test_of_two_peers_with_one_name_the_second_is_refused_and_both_sides_say_so(tmp_path: Path) -> None:
    attach = {"run_id": "names", "membership": quick()}
    with Swarm(tmp_path / "first", value=1.5, attach=attach) as swarm:
        names = swarm.start_together(3)
        wait_until_whole(swarm, names)
        folder = {"seeds": (f"@{swarm.run_dir / 'peers'}",)}
        with Swarm(tmp_path / "second", value=1e6, attach={**attach, **folder}) as other:
            other.start("peer-1")
            assert other.exit_code("peer-1") == 1
            assert "NameTakenError" in other.log("peer-1")
            assert "'peer-1'" in other.log("peer-1")
        told = swarm.until(
            lambda: [e for n in names for e in swarm.events(n, "PeerRefused", peer="peer-1")], "a warning"
        )
        assert told[0]["reason"] == "name"
        assert swarm.address("peer-1") in told[0]["text"], "the living one's address is named"
        for name in names:
            swarm.more_steps(name, 50)
            assert view(swarm, name) == frozenset(names)
        check_ended_well(swarm, names, lowest=1.5, highest=1.5)
        assert falsely_dead(swarm, names) == []
