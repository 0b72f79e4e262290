"""Who is in the run: starts in any order, deaths, freezes, partitions, goodbyes, restarts, twins."""

from __future__ import annotations

import networkx as nx
import pytest

from gossiptrain.protocol.config import MembershipConfig
from gossiptrain.protocol.effects import Disconnect, Send
from gossiptrain.protocol.events import LinkEvidence, MessageReceived
from gossiptrain.protocol.handshake import Handshake
from gossiptrain.protocol.membership import Membership
from gossiptrain.protocol.messages import Envelope, Hello, Leave, Ping
from gossiptrain.protocol.notices import PeerDied, PeerJoined, PeerLeft, PeerRecovered, PeerSuspected, Rewired
from tests.protocol.virtual_network import VirtualNetwork, cluster, config
from tests.protocol.virtual_peer import VirtualPeer


def views(net: VirtualNetwork) -> set[tuple[str, ...]]:
    return {peer.protocol.living() for peer in net.living()}


def the_graph(net: VirtualNetwork) -> nx.Graph:
    """The graph that all living peers agree on; fails where one end of an edge does not know of it."""
    around = {peer.name: set(peer.protocol.neighbours()) for peer in net.living()}
    for name, others in around.items():
        assert all(name in around[other] for other in others), around
    return nx.Graph({name: list(others) for name, others in around.items()})


def assert_all_agree(net: VirtualNetwork) -> None:
    names = tuple(sorted(peer.name for peer in net.living()))
    assert views(net) == {names}
    assert nx.is_connected(the_graph(net))


def told(net: VirtualNetwork, kind: type, about: str) -> dict[str, list]:
    return {p.name: [n for n in p.told(kind) if n.peer == about] for p in net.living() if p.name != about}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_all_views_are_equal_soon_after_a_start_in_any_order(size: int, seed: int) -> None:
    net = VirtualNetwork(seed)
    order = sorted(range(size), key=lambda _: net.chance.uniform())
    for place, index in enumerate(order):
        # A seed may be any other peer, also one that starts later.
        seeds = (f"control:{net.chance.below(size)}", "control:0")
        net.at(0.4 * place, lambda i=index, s=seeds: net.add(config(f"p{i:02d}", i), float(i), 0.3, s))
    net.run(0.4 * size + 4.0)
    assert_all_agree(net)
    assert all(peer.protocol.caught_up for peer in net.living())


@pytest.mark.slow
def test_twenty_four_peers_that_start_within_a_second_agree() -> None:
    net = VirtualNetwork(3)
    for index in range(24):
        seeds = ("control:0",) if index else ()
        net.at(net.chance.uniform(), lambda i=index, s=seeds: net.add(config(f"p{i:02d}", i), 0.0, 1.0, s))
    net.run(6.0)
    assert_all_agree(net)


def test_a_killed_peer_is_suspect_at_once_and_dead_after_the_refusals() -> None:
    net = cluster(5, pace=15)
    net.run(5.0)
    net.kill("peer-2")
    net.run(5.01)
    for peer in net.living():
        assert [notice.reason for notice in peer.told(PeerSuspected)] == ["the link to it broke"]
        assert peer.told(PeerDied) == []
    net.run(6.5)
    for name, deaths in told(net, PeerDied, "peer-2").items():
        assert len(deaths) == 1, name
        assert "refuses connections" in deaths[0].reason
    net.run(7.5)
    assert_all_agree(net)


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [1, 3, 6])
def test_after_deaths_all_survivors_compute_the_same_connected_graph(deaths: int) -> None:
    net = cluster(9, seed=deaths, pace=15)
    net.run(4.0)
    for index in range(deaths):
        net.kill(f"peer-{(2 * index + 1) % 9}")
    net.run(7.0)
    assert_all_agree(net)
    assert all(peer.told(Rewired)[-1].members == 9 - deaths for peer in net.living())


@pytest.mark.slow
def test_a_peer_frozen_for_eight_seconds_is_suspect_and_recovers_and_is_never_dead() -> None:
    net = cluster(4, pace=15)
    net.run(4.0)
    epochs = {peer.name: peer.told(Rewired)[-1].epoch for peer in net.living()}
    net.freeze("peer-1", 8.0)
    net.run(11.9)
    assert all(len(found) == 1 for found in told(net, PeerSuspected, "peer-1").values())
    assert all(found == [] for found in told(net, PeerRecovered, "peer-1").values())
    net.run(14.0)
    assert all(len(found) == 1 for found in told(net, PeerRecovered, "peer-1").values())
    assert all(peer.told(PeerDied) == [] for peer in net.peers.values())
    assert net["peer-1"].told(PeerSuspected) == [], "the stalled observer accuses nobody"
    assert {peer.name: peer.told(Rewired)[-1].epoch for peer in net.living()} == epochs, "nothing was re-wired"


@pytest.mark.slow
def test_a_peer_frozen_for_eighty_seconds_is_dead_and_comes_back_as_a_member() -> None:
    net = cluster(4, pace=15)
    net.run(4.0)
    net.freeze("peer-1", 80.0)
    net.run(33.0)
    assert all(found == [] for found in told(net, PeerDied, "peer-1").values()), "tolerance for stalls"
    net.run(83.9)
    assert all(len(found) == 1 for found in told(net, PeerDied, "peer-1").values())
    died_s = [time_s for peer in net.living() if peer.name != "peer-1" for time_s in peer.told_at(PeerDied)]
    assert min(died_s) > 4.0 + 30.0
    assert max(died_s) < 4.0 + 4.0 + 60.0, "the tolerance, twice, and the time to notice"
    net.run(95.0)
    assert_all_agree(net)
    assert net["peer-1"].told(PeerDied) == net["peer-1"].told(PeerSuspected) == []
    mixes = len(net["peer-1"].mixes)
    net.run(110.0)
    assert len(net["peer-1"].mixes) > mixes


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_when_a_partition_ends_its_sides_bury_nobody_of_their_own(seed: int) -> None:
    """The verdicts of one side reach those whom they are about; a neighbour who is heard all the time stays alive."""
    timing = MembershipConfig(probe_period_s=0.25, probe_timeout_s=0.2, stall_tolerance_s=3.0, suspicion_max_factor=1.0)
    net = cluster(4, seed=seed, membership=timing)
    net.run(3.0)
    sides = (("peer-0", "peer-1"), ("peer-2", "peer-3"))
    net.partition(sides[0], for_s=6.0)
    net.run(15.0)
    assert_all_agree(net)
    for side in sides:
        died = {name: {notice.peer for notice in net[name].told(PeerDied)} for name in side}
        assert not any(died[name] & set(side) for name in side), died


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [10.0, 100.0])
def test_a_partition_heals(seconds: float) -> None:
    """Short: both sides wait. Long: each takes the other for dead, goes on alone, and tries the lost now and then."""
    net = cluster(6, pace=15)
    net.run(4.0)
    net.partition(["peer-0", "peer-1", "peer-2"], for_s=seconds)
    net.run(4.0 + seconds)
    sides = {("peer-0", "peer-1", "peer-2"), ("peer-3", "peer-4", "peer-5")}
    assert views(net) == (sides if seconds > 64 else {tuple(sorted(net.peers))})
    assert all(peer.longest_gap_s(4.0) < 1.1 for peer in net.living()), "training never waits"
    net.run(4.0 + seconds + 10.0)
    assert_all_agree(net)
    assert all(peer.told(PeerSuspected) for peer in net.living())


def test_goodbye_is_no_death() -> None:
    net = cluster(4, pace=15)
    net.run(4.0)
    net.leave("peer-3")
    net.run(4.8)
    reasons = [notice.reason for found in told(net, PeerLeft, "peer-3").values() for notice in found]
    assert len(reasons) == 3
    assert "finished" in reasons
    assert all(reason == "finished" or reason.endswith("says so") for reason in reasons), (
        "some hear it from others first"
    )
    assert_all_agree(net)
    net.run(40.0)
    assert all(peer.told(PeerDied) == [] for peer in net.living())


@pytest.mark.parametrize("same_address", [True, False])
def test_a_restart_under_the_same_name_replaces_the_old_process_at_once(same_address: bool) -> None:
    net = cluster(4, pace=15)
    net.run(4.0)
    net.kill("peer-2")
    net.run(4.3)
    changes = {} if same_address else {"control_address": "control:9", "data_address": "data:9"}
    net.restart("peer-2", 55.0, seeds=("control:0",), **changes)
    net.run(6.3)
    assert_all_agree(net)
    assert net["peer-2"].protocol.caught_up
    assert net["peer-2"].value < 4, "it took the run's parameters"
    assert all(peer.told(PeerDied) == [] for peer in net.living())
    net.run(40.0)
    assert_all_agree(net)
    assert all(peer.told(PeerDied) == [] for peer in net.living())


def test_a_restart_that_one_member_missed_is_learned_from_the_others() -> None:
    net = cluster(3, pace=15)
    net.run(4.0)
    net.kill("peer-2")
    # peer-1's own evidence is lost: it goes on believing in the old process.
    net["peer-1"].links.discard(("control:2", "control"))
    net.cut = lambda source, target: {source, target} == {"peer-1", "peer-2"}
    net.run(4.3)
    net["peer-1"].links.add(("control:2", "control"))
    net.restart("peer-2", 5.0, seeds=("control:0",))
    net.run(5.2)
    net.cut = lambda source, target: False
    net.run(8.0)
    assert_all_agree(net)
    assert net["peer-1"].protocol._membership.get("peer-2").boot == net["peer-2"].protocol.config.boot


def test_another_peer_on_a_dead_ones_address_keeps_its_links() -> None:
    """A process that takes over the port of a killed one must not lose its links when that one is buried."""
    net = cluster(3, pace=15)
    net.run(4.0)
    net.kill("peer-2")
    net.run(4.05)
    heir = config("heir", 2, boot=77, founder=False)
    net.add(heir, 9.0, 0.3, seeds=("control:0",))
    net.run(6.0)
    assert_all_agree(net)
    net.run(45.0)
    assert_all_agree(net)
    assert ("control:2", "control") in net["peer-0"].links
    assert net["heir"].told(PeerSuspected) == []


def test_a_twin_of_a_living_peer_is_refused_and_changes_no_view() -> None:
    net = cluster(3, pace=15)
    net.run(4.0)
    net.add(config("peer-2", 8, boot=88, founder=False), 9.0, seeds=("control:0", "control:1"), known_as="twin")
    net.run(9.0)
    assert [failure.kind for failure in net["twin"].failures] == ["name"]
    net["twin"].alive = False
    assert_all_agree(net)
    assert all(len(peer.told(PeerJoined)) == 2 for peer in net.living())


def test_a_restarted_peer_that_greets_before_its_death_was_noticed_is_not_taken_for_a_twin() -> None:
    """All at one time: between the events no clock helps to tell them apart."""
    net = cluster(3, pace=15)
    net.run(4.0)
    peer, old = net["peer-1"], net["peer-2"].protocol.config
    new = config("peer-2", 9, boot=old.boot + 1, founder=False)
    hello = MessageReceived(Envelope("peer-2", new.boot, Handshake(new).hello(0, False, True)))

    def said(event) -> list[str]:
        return [type(e.message).__name__ for e in peer.protocol.handle(event, net.now) if isinstance(e, Send)]

    assert said(hello) == ["Ping"], "the old one is asked for a sign of life, the new one gets no answer yet"
    assert said(hello) == ["Ping"]
    said(LinkEvidence(old.control_address, "control", "down"))
    assert "Hello" in said(hello), "welcome"
    assert peer.protocol.status(net.now).members[1].address == new.control_address


def test_messages_of_an_old_boot_or_of_a_stranger_are_counted_and_change_nothing() -> None:
    net = cluster(2, pace=15)
    net.run(3.0)
    peer = net["peer-0"]
    before = peer.protocol.status(net.now).members
    for boot, name in ((999, "peer-1"), (5, "stranger")):
        net.give(peer, MessageReceived(Envelope(name, boot, Leave("not me"))))
    assert peer.protocol.counters["message_from_stranger"] == 2
    assert [member.state for member in peer.protocol.status(net.now).members] == [member.state for member in before]


def hello_of(index: int, **changes) -> tuple[str, int, Hello]:
    peer = config(f"p{index}", index, **changes)
    return peer.name, peer.boot, Handshake(peer).hello(0, True, False)


def test_a_link_that_comes_up_again_is_tried_with_a_ping_that_tells_the_step() -> None:
    net = cluster(2, pace=15)
    net.run(3.0)
    protocol, address = net["peer-0"].protocol, "control:1"
    membership = protocol._membership
    membership.stepped(5)
    membership.link_evidence(address, "down", net.now)
    membership._probing.drop_all()
    (ping,) = [e.message for e in membership.link_evidence(address, "up", net.now) if isinstance(e, Send)]
    assert isinstance(ping, Ping)
    assert ping.step == 5


def test_evidence_about_an_unknown_address_is_ignored() -> None:
    assert Membership(config("me", 0)).link_evidence("control:5", "refused", 1.0) == []


def test_a_data_link_shared_by_a_living_member_is_not_closed() -> None:
    table = Membership(config("me", 0))
    table.admit(*hello_of(1, data_address="shared"), now=0.0)
    table.admit(*hello_of(2, data_address="shared"), now=0.0)
    assert Disconnect("shared", "data") not in table.left("p1", "done", 0.0)
    assert Disconnect("shared", "data") in table.left("p2", "done", 0.0)


def test_a_control_link_that_leads_to_another_member_by_now_is_not_closed() -> None:
    table = Membership(config("me", 0))
    table.admit(*hello_of(1, control_address="shared"), now=0.0)
    table.admit(*hello_of(2, control_address="shared"), now=0.0)
    assert Disconnect("shared", "control") not in table.left("p1", "done", 0.0)
    assert Disconnect("shared", "control") in table.left("p2", "done", 0.0)


def states(peer: VirtualPeer) -> dict[str, str]:
    return {member.name: member.state for member in peer.protocol.status(0.0).members}


def test_the_status_tells_every_state() -> None:
    net = cluster(4, pace=15)
    net.run(3.0)
    net.leave("peer-1")
    net.kill("peer-2")
    net.run(3.9)
    assert states(net["peer-0"]) == {"peer-1": "left", "peer-2": "suspect", "peer-3": "alive"}
    net.run(6.0)
    assert states(net["peer-0"]) == {"peer-1": "left", "peer-2": "dead", "peer-3": "alive"}
