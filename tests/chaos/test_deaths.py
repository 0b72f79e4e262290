"""Peers that die, freeze or come late. Real processes, real signals."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.harness import Swarm
from tests.chaos.invariants import longest_gap_s
from tests.chaos.settings import patient, quick

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.xdist_group("chaos-a")]

EVIDENCE_S = 15.0  # what `patient` would learn from silence comes later


def values(swarm: Swarm, names: list[str]) -> list[float]:
    return [swarm.value(name) for name in names]


def test_a_killed_peer_stops_nobody(tmp_path: Path) -> None:
    with Swarm(tmp_path, lr=0.005, attach={"membership": patient()}) as swarm:
        names = swarm.start_together(4, target=lambda number: 10.0 * number)
        for name in names:
            assert swarm.wait_for(name, "Rewired", members=4)["neighbours"], "everybody has neighbours"
        swarm.until(lambda: 12 < min(values(swarm, names)) <= max(values(swarm, names)) < 18, "targets 0 to 30 mix")
        killed_at_s = swarm.signal("peer-2", signal.SIGKILL)
        survivors = [name for name in names if name != "peer-2"]
        for name in survivors:
            suspected = swarm.wait_for(name, "PeerSuspected", peer="peer-2")
            assert suspected["t"] - killed_at_s < EVIDENCE_S, "noticed by its broken link, not by a time-out"
            died = swarm.wait_for(name, "PeerDied", peer="peer-2")
            assert died["t"] - killed_at_s < EVIDENCE_S, "its address refuses, which is no time-out either"
            swarm.wait_for(name, "Rewired", since=killed_at_s, members=3)
        for name in survivors:
            swarm.more_steps(name, 100)
            swarm.wait_for(name, "Exchanged", since=swarm.events(name, "PeerDied")[0]["t"])
        assert swarm.finish(*survivors) == dict.fromkeys(survivors, 0)
        for name in survivors:
            times = swarm.steps(name)
            before, after = times[times < killed_at_s], times[times > killed_at_s]
            assert longest_gap_s(after) < max(20 * longest_gap_s(before), 2.0), "a time-out was waited for"
            assert swarm.events(name, "Finished")[0]["ok"] is True
            assert swarm.model(name).shape == (1, 64)
        assert not (tmp_path / "models" / "peer-2.safetensors").exists()


def test_a_late_peer_begins_from_the_others_and_its_own_values_are_never_mixed_in(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        early = swarm.start_together(2, value=lambda number: 1.5)
        swarm.start("peer-9", value=1e6)
        joined = swarm.wait_for("peer-9", "Joined")
        assert joined["source"] in early
        for name in early:
            swarm.wait_for(name, "Exchanged", partners=["peer-9"])
        swarm.wait_for("peer-9", "Exchanged")
        names = [*early, "peer-9"]
        assert swarm.finish(*names) == dict.fromkeys(names, 0)
        for name in names:
            assert np.array_equal(swarm.model(name), np.full((1, 64), 1.5))
            seen = [event["value"] for event in swarm.events(name, "Progress") if event.get("value") is not None]
            assert set(seen) == {1.5}, "a million was never anywhere"


def test_a_late_peer_counts_in_mixing(tmp_path: Path) -> None:
    with Swarm(tmp_path, lr=0.05) as swarm:
        swarm.start("peer-0")
        swarm.wait_for("peer-0", "Joined")
        swarm.start("peer-1", target=10.0)
        swarm.until(lambda: 2 < swarm.value("peer-0") < 8, "the newcomer's target pulls the founder as well")
        assert swarm.finish("peer-0", "peer-1") == {"peer-0": 0, "peer-1": 0}


def test_the_last_survivor_keeps_stepping(tmp_path: Path) -> None:
    with Swarm(tmp_path, attach={"membership": quick()}) as swarm:
        swarm.start_together(3)
        swarm.wait_for("peer-2", "Exchanged")
        for name in ("peer-0", "peer-1"):
            swarm.signal(name, signal.SIGKILL)
        for name in ("peer-0", "peer-1"):
            swarm.wait_for("peer-2", "PeerDied", peer=name)
        swarm.wait_for("peer-2", "Rewired", members=1, neighbours=[])
        swarm.more_steps("peer-2", 100)
        assert swarm.finish("peer-2") == {"peer-2": 0}
        assert swarm.model("peer-2").shape == (1, 64)


def test_a_founder_that_restarts_finds_its_run_again(tmp_path: Path) -> None:
    with Swarm(tmp_path, attach={"membership": quick()}) as swarm:
        swarm.start_together(3, value=lambda number: 5.0)
        swarm.wait_for("peer-1", "Exchanged")
        killed_at_s = swarm.signal("peer-0", signal.SIGKILL)
        swarm.start("peer-0", value=-1e6)  # as a founder, again
        swarm.until(lambda: swarm.events("peer-0", "Joined", since=killed_at_s), "the second peer-0 joins")
        assert swarm.events("peer-0", "Joined", since=killed_at_s)[0]["source"] in ("peer-1", "peer-2")
        swarm.until(lambda: swarm.events("peer-0", "Exchanged", since=killed_at_s), "it counts in mixing")
        names = ["peer-0", "peer-1", "peer-2"]
        assert swarm.finish(*names) == dict.fromkeys(names, 0)
        assert all(np.allclose(swarm.model(name), 5.0) for name in names)


@pytest.mark.parametrize("forks", ["child", "loader"])
def test_a_forked_child_does_not_hide_its_parents_death(tmp_path: Path, forks: str) -> None:
    with Swarm(tmp_path, attach={"membership": patient()}) as swarm:
        swarm.start_together(2, forks=lambda number: forks if number else "")
        swarm.wait_for("peer-0", "Exchanged", partners=["peer-1"])
        swarm.wait_for("peer-1", "Exchanged", partners=["peer-0"])
        killed_at_s = swarm.signal("peer-1", signal.SIGKILL)
        for kind in ("PeerSuspected", "PeerDied"):
            assert swarm.wait_for("peer-0", kind, peer="peer-1")["t"] - killed_at_s < EVIDENCE_S, "by silence only"
        if forks == "child":
            assert Path(f"/proc/{(tmp_path / 'forked').read_text()}").exists(), "the child outlives its parent"
        assert swarm.finish("peer-0") == {"peer-0": 0}


@pytest.mark.parametrize("hurt", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_synchronous_rounds_go_on_without_the_lost(tmp_path: Path, hurt: signal.Signals) -> None:
    attach = {"mixer": "d_psgd", "topology": "complete", "membership": quick()}
    with Swarm(tmp_path, attach=attach) as swarm:
        swarm.start_together(3)
        swarm.wait_for("peer-0", "Exchanged", partners=["peer-1", "peer-2"])
        hurt_at_s = swarm.signal("peer-1", hurt)
        for name, other in (("peer-0", "peer-2"), ("peer-2", "peer-0")):
            swarm.wait_for(name, "Exchanged", since=hurt_at_s, partners=[other])
            swarm.more_steps(name, 20)
            gap_s = longest_gap_s(swarm.steps(name))
            assert gap_s < 8.0, "the round's own time-out of 10 s was waited for"
        names = ["peer-0", "peer-2"]
        if hurt == signal.SIGSTOP:
            woken_at_s = swarm.signal("peer-1", signal.SIGCONT)
            swarm.wait_for("peer-0", "Exchanged", since=woken_at_s, partners=["peer-1", "peer-2"])
            names.append("peer-1")
        assert swarm.finish(*names) == dict.fromkeys(names, 0)
