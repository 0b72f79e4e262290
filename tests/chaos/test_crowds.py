"""Several things at once: half of the peers die, a newcomer comes while one dies, and memory runs out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.harness import Swarm
from tests.chaos.invariants import agreed_at_s, check_ended_well, falsely_dead, longest_gap_s, wait_until_whole
from tests.chaos.memory_limit import MemoryLimit, why_not
from tests.chaos.settings import quick

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.xdist_group("chaos-a")]


def test_when_half_of_the_peers_die_at_once_the_rest_make_one_graph_and_go_on(tmp_path: Path) -> None:
    with Swarm(tmp_path, value=1.5, pace_s=0.01, attach={"membership": quick()}) as swarm:
        names = swarm.start_together(6)
        wait_until_whole(swarm, names)
        survivors, dead = names[::2], names[1::2]
        killed_s = swarm.kill(*dead)
        wait_until_whole(swarm, survivors)
        for name in survivors:
            swarm.more_steps(name, 50)
            since = agreed_at_s(swarm, [name])
            assert set(survivors) >= set(swarm.wait_for(name, "Exchanged", since=since)["partners"])
            times = swarm.steps(name)
            assert longest_gap_s(times, killed_s) < max(2.0, 20 * longest_gap_s(times, until=killed_s))
        check_ended_well(swarm, survivors, lowest=1.5, highest=1.5)
        assert falsely_dead(swarm, survivors, truly=dead) == []


@pytest.mark.parametrize("victim", ["peer-0", "peer-2"])
def test_a_newcomer_joins_although_a_member_dies_under_its_hands(tmp_path: Path, victim: str) -> None:
    """The model is large enough that its transfer takes a while; the victim may be the one that it comes from."""
    with Swarm(tmp_path, value=1.5, width=1_000_000, attach={"membership": quick(), "topology": "ring"}) as swarm:
        names = swarm.start_together(3, pace_s=0.03)
        wait_until_whole(swarm, names)
        swarm.start("peer-9", value=1e6, pace_s=0.03)
        swarm.address("peer-9")
        swarm.kill(victim)
        living = [name for name in (*names, "peer-9") if name != victim]
        assert swarm.wait_for("peer-9", "Joined")["source"] in names
        wait_until_whole(swarm, living)
        for name in living:
            swarm.more_steps(name, 20)
        check_ended_well(swarm, living, lowest=1.5, highest=1.5)
        assert falsely_dead(swarm, living, truly=[victim]) == []


@pytest.mark.skipif(bool(why_not()), reason=f"memory cannot be limited here: {why_not()}")
def test_a_peer_that_the_kernel_kills_for_its_memory_stops_nobody(tmp_path: Path) -> None:
    with Swarm(tmp_path, value=1.5, attach={"membership": quick()}) as swarm, MemoryLimit(1 << 30) as limit:
        names = swarm.start_together(3, hog=lambda number: number == 2)
        wait_until_whole(swarm, names)
        limit.add(swarm.pid("peer-2"))
        (tmp_path / "hog").touch()
        assert swarm.exit_code("peer-2") == -9, "killed by the kernel"
        survivors = names[:2]
        for name in survivors:
            swarm.wait_for(name, "PeerDied", peer="peer-2")
        wait_until_whole(swarm, survivors)
        for name in survivors:
            swarm.more_steps(name, 50)
        check_ended_well(swarm, survivors, lowest=1.5, highest=1.5)
        assert falsely_dead(swarm, survivors, truly=["peer-2"]) == []
