"""Peers that stand still for a while are not dead: nobody waits for them, and they come back."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.chaos.harness import Swarm
from tests.chaos.invariants import check_ended_well, falsely_dead, longest_gap_s, wait_until_whole

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.xdist_group("chaos-a")]


def test_stopped_processes_are_left_out_and_used_again_without_having_died(tmp_path: Path) -> None:
    """One for 5 s and, at the same time, one for 20 s; with the default time-outs, since it is these that must bear it."""
    with Swarm(tmp_path, value=1.5) as swarm:
        names = swarm.start_together(5)
        others = names[:3]
        pauses_s = {"peer-3": 5.0, "peer-4": 20.0}
        wait_until_whole(swarm, names)
        stopped_s = time.time()
        for paused in pauses_s:
            swarm.signal(paused, signal.SIGSTOP)
        for paused, pause_s in pauses_s.items():
            for name in others:
                swarm.wait_for(name, "PeerSuspected", peer=paused, since=stopped_s)
            swarm.until(lambda until_s=stopped_s + pause_s: time.time() > until_s, "the pause is over")
            woken_s = swarm.signal(paused, signal.SIGCONT)
            for name in others:
                swarm.wait_for(name, "PeerRecovered", peer=paused, since=woken_s)
            swarm.wait_for(paused, "Exchanged", since=woken_s)
            users = lambda p=paused, s=woken_s: [n for n in names if p in partners(swarm, n, s)]  # noqa: E731
            swarm.until(users, f"{paused} is used again")
        wait_until_whole(swarm, names)
        for name in others:
            times = swarm.steps(name)
            assert longest_gap_s(times, stopped_s) < max(2.0, 20 * longest_gap_s(times, until=stopped_s))
        check_ended_well(swarm, names, lowest=1.5, highest=1.5)
        assert falsely_dead(swarm, names) == []
        for paused in pauses_s:
            accused = [event["peer"] for event in swarm.events(paused, "PeerSuspected")]
            assert not set(accused) & set(others), "who slept must not accuse those who were awake"


def partners(swarm: Swarm, name: str, since: float) -> set[str]:
    return {partner for event in swarm.events(name, "Exchanged", since) for partner in event["partners"]}
