"""A group too large for everybody to have a link to everybody: what a death and a newcomer cost, and how soon all know."""

from __future__ import annotations

from collections import Counter

import pytest

from gossiptrain.protocol.notices import PeerDied, PeerJoined, PeerSuspected
from sim import FaultSchedule, Report, Simulation, TimedWorkload

PEERS = 160
CRASH_S, JOIN_S, END_S = 4.0, 6.0, 13.0


@pytest.fixture(scope="module")
def run() -> tuple[Simulation, Report]:
    faults = FaultSchedule().crash(7, CRASH_S).join(JOIN_S)
    simulation = Simulation(PEERS, workload=TimedWorkload.protocol_scale(), faults=faults, formed=True, seed=3)
    return simulation, simulation.run(END_S)


def sent(report: Report) -> Counter[str]:
    total: Counter[str] = Counter()
    for peer in report.peers:
        total.update({kind: count for kind, count in peer.traffic.items() if kind[0].isupper()})
    return total


def test_all_hear_of_a_death_within_seconds_and_of_a_newcomer(run: tuple[Simulation, Report]) -> None:
    _, report = run
    dead = report.since_fault(PeerDied, at_s=CRASH_S, of="peer-7")
    assert len(dead) >= PEERS - 1
    assert max(dead.values()) < 4.5
    assert max(report.since_fault(PeerSuspected, at_s=CRASH_S, of="peer-7").values()) < 2.5
    met_s = [at_s for peer in report.peers for at_s, notice in peer.told(PeerJoined) if notice.peer == f"peer-{PEERS}"]
    assert len(met_s) == PEERS - 1
    assert max(met_s) < JOIN_S + 3.0


def test_news_reach_everybody_without_a_list_being_sent_but_to_the_newcomer(run: tuple[Simulation, Report]) -> None:
    simulation, report = run
    views = {peer.living() for peer in simulation.living()}
    assert [len(view) for view in views] == [PEERS]
    assert sent(report)["Sync"] <= 12, "two seeds welcome the newcomer, in parts"


def test_a_suspect_is_looked_at_by_a_few_and_not_by_everybody(run: tuple[Simulation, Report]) -> None:
    _, report = run
    assert sent(report)["PingRequest"] < 60, "only those who are not sure yet ask others to try"
    assert sent(report)["Ping"] - sent(report)["Ack"] < 100, "few asked the dead one"


def test_gossip_opens_no_links_of_its_own(run: tuple[Simulation, Report]) -> None:
    simulation, _ = run
    assert max(len(peer.control_links) for peer in simulation.living()) < 4 * END_S
    "a ping opens two at most, there and for the answer, and an exchange the one to the neighbour"
