"""Peers that stand still for a while are not dead: nobody waits for them, and they come back."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.chaos.harness import Swarm
from tests.chaos.invariants import check_ended_well, falsely_dead, longest_gap_s, wait_until_whole

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.xdist_group("chaos-a")]


@pytest.mark.parametrize("pause_s", [5, 20])
def test_a_stopped_process_is_left_out_and_used_again_without_having_died(tmp_path: Path, pause_s: int) -> None:
    """With the default time-outs, since it is these that must bear it."""
    with Swarm(tmp_path, value=1.5) as swarm:
        names = swarm.start_together(4)
        others = names[:3]
        wait_until_whole(swarm, names)
        stopped_s = swarm.signal("peer-3", signal.SIGSTOP)
        for name in others:
            swarm.wait_for(name, "PeerSuspected", peer="peer-3", since=stopped_s)
        swarm.until(lambda: time.time() > stopped_s + pause_s, "the pause is over")
        woken_s = swarm.signal("peer-3", signal.SIGCONT)
        for name in others:
            swarm.wait_for(name, "PeerRecovered", peer="peer-3", since=woken_s)
        swarm.wait_for("peer-3", "Exchanged", since=woken_s)
        used_again = [name for name in others if "peer-3" in _partners(swarm, name, woken_s)]
        swarm.until(lambda: used_again or [n for n in others if "peer-3" in _partners(swarm, n, woken_s)], "used again")
        wait_until_whole(swarm, names)
        for name in others:
            times = swarm.steps(name)
            assert longest_gap_s(times, stopped_s, woken_s) < max(2.0, 20 * longest_gap_s(times, until=stopped_s))
        check_ended_well(swarm, names, lowest=1.5, highest=1.5)
        assert falsely_dead(swarm, names) == []
        assert swarm.events("peer-3", "PeerSuspected") == [], "who slept must not accuse the others"


def _partners(swarm: Swarm, name: str, since: float) -> set[str]:
    return {partner for event in swarm.events(name, "Exchanged", since) for partner in event["partners"]}
