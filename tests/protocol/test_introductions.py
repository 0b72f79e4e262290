"""Seeds that answer late or never, and who declares the beginning."""

from __future__ import annotations

import itertools

import pytest

from gossiptrain.protocol.config import MembershipConfig
from gossiptrain.protocol.events import DeadlineReached, MessageReceived, SeedsFound, Started
from gossiptrain.protocol.greeting import GREETED_MAX, Greeting
from gossiptrain.protocol.introductions import LINGERING_MAX
from gossiptrain.protocol.messages import Envelope, StatusRequest
from gossiptrain.protocol.notices import Joined, SeedSilent
from gossiptrain.protocol.peer_protocol import PeerProtocol
from tests.protocol.virtual_network import VirtualNetwork, cluster, config


def test_a_seed_that_comes_late_is_found() -> None:
    net = VirtualNetwork()
    early = net.add(config("early", 1), 5.0, seeds=("control:0",))
    net.run(12.0)
    net.add(config("founder", 0), 7.0)
    net.run(15.0)
    assert early.failures == []
    assert early.protocol.living() == ("early", "founder")
    assert early.value == 7.0


def test_a_silent_seed_is_reported_with_its_address_and_the_seconds_each_time_later() -> None:
    net = VirtualNetwork()
    net.add(config("founder", 0), 1.0, step_s=1.0)
    peer = net.add(config("peer", 1), 1.0, step_s=1.0, seeds=("control:0", "control:99"))
    net.run(50.0)
    reports = peer.told(SeedSilent)
    assert {report.address for report in reports} == {"control:99"}
    assert [report.waited_s for report in reports] == [5.0, 10.0, 20.0, 40.0]
    assert peer.failures == []
    assert net.sent["Hello"] > 15, "it is tried again all the time"


def test_without_any_answer_the_failure_names_each_seed_and_how_long_it_was_tried() -> None:
    net = VirtualNetwork()
    peer = net.add(config("peer", 1, membership=MembershipConfig(join_timeout_s=8.0)), 1.0)
    net.run(2.0)
    net.give(peer, SeedsFound(("control:7", "control:8")))
    net.run(30.0)
    (failure,) = peer.failures
    assert failure.kind == "seeds"
    assert "control:7 for 6.0 s" in failure.text
    assert "control:8 for 6.0 s" in failure.text
    assert "'run'" in failure.text
    assert peer.protocol.next_deadline() == float("inf")


def test_without_any_address_the_failure_says_so() -> None:
    net = VirtualNetwork()
    peer = net.add(config("peer", 1), 1.0)
    net.run(30.0)
    assert "no address was found within 20.0 s" in peer.failures[0].text


@pytest.mark.parametrize("start_s", [0.1, 0.3, 1e5 + 0.7, 123456.789])
def test_the_time_to_join_ends_exactly_at_the_deadline(start_s: float) -> None:
    """Compared by subtraction, rounding made the deadline come due for ever with nothing done."""
    protocol = PeerProtocol(config("peer", 1))
    protocol.handle(Started(), start_s)
    assert protocol.handle(DeadlineReached(), protocol.next_deadline())


def test_a_founder_waits_for_its_seeds_for_ever_and_trains_alone() -> None:
    net = VirtualNetwork()
    founder = net.add(config("founder", 0, expects_seeds=True), 1.0, seeds=("control:9",))
    net.run(100.0)
    assert founder.failures == []
    assert founder.told(Joined) == [Joined("")]
    assert founder.longest_gap_s() < 0.06


def test_a_peer_that_is_its_own_seed_does_not_greet_itself() -> None:
    net = VirtualNetwork()
    peer = net.add(config("peer", 0), 1.0, seeds=("control:0",))
    net.run(3.0)
    assert net.sent["Hello"] == 0
    assert peer.protocol.living() == ("peer",)


def test_a_seed_is_greeted_at_longer_and_longer_pauses_that_stay_bounded() -> None:
    greeting = Greeting(MembershipConfig(hello_retry_s=0.5))
    assert greeting.add("a", 0.0)
    assert not greeting.add("a", 1.0)
    times_s = []
    while len(times_s) < 40:
        now = greeting.next_deadline()
        greeting.silent(now)
        if greeting.due(now):
            times_s.append(now)
    pauses_s = [b - a for a, b in itertools.pairwise(times_s)]
    assert times_s[0] == 0.5
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[-1] == 4.0


def test_greetings_are_bounded_in_number() -> None:
    greeting = Greeting(MembershipConfig())
    assert sum(greeting.add(f"a{i}", 0.0) for i in range(GREETED_MAX + 10)) == GREETED_MAX


def test_a_seed_that_became_a_member_by_news_is_not_greeted_any_more() -> None:
    """Its own HELLO may have been lost, or it joined through somebody else."""
    net = cluster(3, pace=8)
    net.run(3.0)
    net.cut = lambda source, target: {source, target} == {"peer-3", "peer-1"}
    net.add(config("peer-3", 3), 1.0, 0.3, seeds=("control:0", "control:1"))
    net.run(5.0)
    net.cut = lambda source, target: False
    net.run(7.0)
    before = net.sent["Hello"]
    net.run(30.0)
    assert net.sent["Hello"] == before


def test_status_requests_are_answered_in_bounded_number_and_leave_members_links_alone() -> None:
    net = cluster(2, pace=8)
    net.run(3.0)
    peer = net["peer-0"]
    for index in range(LINGERING_MAX + 5):
        net.give(peer, MessageReceived(Envelope("asker", 5, StatusRequest(f"control:{100 + index}"))))
    assert net.sent["StatusReply"] == LINGERING_MAX
    assert peer.protocol.counters["status_refused"] == 5
    net.run(6.0)
    assert not any(address.startswith("control:1") and len(address) > 9 for address, _ in peer.links)
    net.give(peer, MessageReceived(Envelope("asker", 5, StatusRequest("control:1"))))
    net.run(10.0)
    assert ("control:1", "control") in peer.links


def test_when_the_founder_dies_before_anybody_pulled_the_first_by_name_is_the_beginning() -> None:
    net = VirtualNetwork()
    # The founder answers HELLO but has published nothing yet, so nobody can pull from it.
    founder = net.add(config("a-founder", 0), 100.0, step_s=1000.0)
    founder.publish = False
    peers = [net.add(config(name, i + 1), float(i), 0.3, seeds=("control:0",)) for i, name in enumerate("dbc")]
    net.spoil = lambda key: "checksum" if key.sender_boot == 1000 else None
    net.run(1.0)
    net.kill("a-founder")
    net.run(20.0)
    assert [peer.protocol.caught_up for peer in peers] == [True] * 3
    assert net["b"].told(Joined) == [Joined("")]
    assert {notice.source for peer in (net["c"], net["d"]) for notice in peer.told(Joined)} <= {"b", "c", "d"}
    assert net["b"].told_at(Joined)[0] < 1.0 + 1.5 + 5.0 + 1.0
    assert net.spread() < 1e-6
