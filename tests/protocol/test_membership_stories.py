"""Pauses, hearsay, half-deaf peers, hostile rumours: whom the members take for dead, and whom they must not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gossiptrain.protocol import messages as m
from gossiptrain.protocol import wire
from gossiptrain.protocol.config import MembershipConfig
from gossiptrain.protocol.control_links import LINKS_MAX, STRANGER_IDLE_S, ControlLinks
from gossiptrain.protocol.effects import Connect, Disconnect, Effect, Send
from gossiptrain.protocol.events import BusyAnnounced, MessageReceived
from gossiptrain.protocol.notices import PeerDied, PeerRecovered, PeerSuspected
from gossiptrain.protocol.sync_lists import in_messages
from tests.protocol.virtual_network import VirtualNetwork, cluster
from tests.protocol.virtual_peer import VirtualPeer


def states(peer: VirtualPeer, now: float) -> dict[str, str]:
    return {member.name: member.state for member in peer.protocol.status(now).members}


def verdicts(net: VirtualNetwork, about: str) -> list[str]:
    return [
        type(n).__name__
        for p in net.peers.values()
        for n in p.told(PeerSuspected) + p.told(PeerDied)
        if n.peer == about
    ]


@pytest.mark.slow
def test_an_announced_pause_raises_no_suspicion_and_ends_when_it_is_over() -> None:
    net = cluster(5, pace=15)
    net.run(4.0)
    net.give(net["peer-2"], BusyAnnounced(45.0))
    net.run(4.5)
    net.freeze("peer-2", 40.0)
    net.run(10.0)
    assert {states(peer, net.now)["peer-2"] for peer in net.living() if peer.name != "peer-2"} == {"busy"}
    mixes = {peer.name: len(peer.mixes) for peer in net.living()}
    net.run(44.4)
    assert verdicts(net, "peer-2") == []
    assert all(len(peer.mixes) > mixes[peer.name] for peer in net.living() if peer.name != "peer-2")
    assert not any(
        n.partner == "peer-2" for p in net.living() for t, n in p.notices if t > 6.0 and hasattr(n, "partner")
    )
    net.run(46.0)
    net.give(net["peer-2"], BusyAnnounced(0.0))
    net.run(48.0)
    assert {states(peer, net.now)["peer-2"] for peer in net.living() if peer.name != "peer-2"} == {"alive"}


@pytest.mark.slow
def test_after_its_lease_a_silent_peer_is_suspect_like_any_other() -> None:
    net = cluster(4, pace=15)
    net.run(4.0)
    net.give(net["peer-2"], BusyAnnounced(10.0))
    net.run(4.5)
    net.freeze("peer-2", 30.0)
    net.run(13.9)
    assert verdicts(net, "peer-2") == []
    net.run(20.0)
    assert verdicts(net, "peer-2") == ["PeerSuspected"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("one_way", [False, True])
def test_a_link_that_carries_nothing_between_two_costs_nobody_its_membership(one_way: bool) -> None:
    """SWIM's indirect probes: the others reach both. Without them the two would accuse each other for ever."""
    net = cluster(6, pace=15)
    net.run(4.0)
    pairs = {("peer-1", "peer-2")} if one_way else {("peer-1", "peer-2"), ("peer-2", "peer-1")}
    net.cut = lambda source, target: (source, target) in pairs
    net.run(94.0)
    assert verdicts(net, "peer-1") + verdicts(net, "peer-2") == []
    assert {peer.protocol.living() for peer in net.living()} == {tuple(sorted(net.peers))}


@pytest.mark.slow
def test_without_indirect_probes_the_same_link_does_raise_suspicion() -> None:
    net = cluster(6, pace=15, membership=MembershipConfig(indirect_probes=0))
    net.run(4.0)
    net.cut = lambda source, target: {source, target} == {"peer-1", "peer-2"}
    net.run(30.0)
    assert "PeerSuspected" in verdicts(net, "peer-1") + verdicts(net, "peer-2")


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3])
def test_peers_that_stand_still_for_less_than_the_tolerance_are_never_dead(share: float) -> None:
    net = cluster(8, pace=15)
    net.run(4.0)
    for minute in range(3):
        for index in range(8):
            if net.chance.uniform() < share:
                at_s, for_s = 4.0 + 60 * minute + 40 * net.chance.uniform(), 5 + 15 * net.chance.uniform()
                net.at(at_s, lambda i=index, s=for_s: net.freeze(f"peer-{i}", s))
    net.run(200.0)
    assert [n for p in net.peers.values() for n in p.told(PeerDied)] == []
    assert any(p.told(PeerSuspected) for p in net.peers.values())
    assert {state for p in net.living() for state in states(p, net.now).values()} == {"alive"}


@pytest.mark.slow
def test_plain_swim_does_take_the_same_peers_for_dead() -> None:
    net = cluster(8, pace=15, membership=MembershipConfig.swim())
    net.run(4.0)
    net.freeze("peer-3", 15.0)
    net.run(30.0)
    assert "PeerDied" in verdicts(net, "peer-3")


@pytest.mark.slow
def test_rumours_of_a_death_are_objected_to_and_nobody_is_lost() -> None:
    net = cluster(5, pace=15)
    net.run(4.0)
    liar, victim = net["peer-4"].protocol.config, net["peer-1"].protocol.config
    for turn in range(20):
        for name in ("peer-0", "peer-2", "peer-3"):
            mine = net[name].protocol._membership.get("peer-1").incarnation
            lie = m.MemberEntry("peer-1", victim.boot, victim.control_address, victim.data_address, mine, "dead")
            net.give(net[name], MessageReceived(m.Envelope(liar.name, liar.boot, m.Gossip((lie,)))))
        net.run(4.5 + 0.5 * turn)
    net.run(20.0)
    assert {peer.protocol.living() for peer in net.living()} == {tuple(sorted(net.peers))}
    assert states(net["peer-0"], net.now)["peer-1"] == "alive"
    assert net["peer-1"].protocol.status(net.now).incarnation >= 1


def test_what_a_stranger_of_another_run_tells_changes_nothing() -> None:
    net = cluster(2, pace=15)
    net.run(3.0)
    peer = net["peer-0"]
    stranger = m.MemberEntry("stranger", 77, "control:7", "data:7")
    ping = m.Ping(1, 5, 0, (stranger,))
    net.give(peer, MessageReceived(m.Envelope("stranger", 77, ping, run=123)))
    assert peer.protocol.living() == ("peer-0", "peer-1")
    assert peer.protocol.counters["message_from_stranger"] == 1
    tag = peer.protocol.envelope(ping).run
    net.give(peer, MessageReceived(m.Envelope("stranger", 77, ping, run=tag)))
    assert peer.protocol.living() == ("peer-0", "peer-1", "stranger"), "of this run: let in by a member, news are late"


@pytest.mark.slow
def test_a_peer_that_stood_still_itself_accuses_nobody_and_says_that_it_lives() -> None:
    net = cluster(4, pace=15)
    net.run(4.0)
    before = net["peer-1"].protocol.status(net.now).incarnation
    net.freeze("peer-1", 12.0)
    net.run(20.0)
    assert net["peer-1"].told(PeerSuspected) == []
    assert net["peer-1"].protocol.status(net.now).incarnation > before
    assert all(peer.told(PeerRecovered) for peer in net.living() if peer.name != "peer-1")


@pytest.mark.slow
def test_views_that_differ_for_long_are_mended_by_lists() -> None:
    net = cluster(4, pace=15)
    net.run(4.0)
    membership = net["peer-1"].protocol._membership
    table = membership.table
    # As if all news of peer-3 had been lost on their way to peer-1.
    table._uncount(table.get("peer-3"))
    table._remove(table.get("peer-3"))
    table.version += 1
    net.cut = lambda source, target: {source, target} == {"peer-1", "peer-3"}
    before = net.sent["Sync"]
    net.run(14.0)
    assert net.sent["Sync"] > before
    assert "peer-3" in net["peer-1"].protocol.living()


@pytest.mark.slow
def test_a_peer_that_restarts_when_its_seeds_are_gone_is_found_by_those_who_miss_it() -> None:
    net = cluster(4, pace=15)
    net.run(4.0)
    net.kill("peer-0")
    net.run(20.0)
    net.kill("peer-2")
    net.run(40.0)
    net.restart("peer-2", 5.0, seeds=("control:0",))
    net.run(56.0)
    assert net["peer-2"].failures == []
    assert {peer.protocol.living() for peer in net.living()} == {("peer-1", "peer-2", "peer-3")}


def test_a_quiet_group_sends_two_messages_a_second_and_member_and_no_lists() -> None:
    """A probe and its answer; all-to-all neighbours that exchange all the time need no more."""
    net = cluster(5, pace=1)
    net.run(10.0)
    before = net.sent.copy()
    net.run(40.0)
    sent = net.sent - before
    assert sent["Ping"] + sent["Ack"] == pytest.approx(2 * 5 * 30, rel=0.1)
    assert sent["Sync"] == sent["Gossip"] == sent["PingRequest"] == 0


@pytest.mark.parametrize("length", [1, 120])
def test_lists_are_told_in_messages_that_fit_into_a_frame(length: int) -> None:
    entries = [
        m.MemberEntry(f"{i}".rjust(length, "é"), i, f"c{i}".rjust(2 * length), f"d{i}".rjust(2 * length))
        for i in range(500)
    ]
    parts = in_messages(entries, wants_reply=True)
    assert [entry for part in parts for entry in part.entries] == entries
    assert [part.wants_reply for part in parts] == [False] * (len(parts) - 1) + [True]
    for part in parts:
        wire.encode(m.Envelope("me", 1, part, 2**64 - 1))


def links(members: set[str]) -> ControlLinks:
    return ControlLinks(members.__contains__, lambda now: m.Gossip(()))


def test_a_link_is_opened_by_the_first_message_and_begins_with_an_introduction() -> None:
    part = links({"a", "b"})
    leave = m.Leave("x")
    assert part.mind([Send("a", leave), Send("a", leave)], 0.0) == [
        Connect("a", "control"),
        Send("a", m.Gossip(())),
        Send("a", leave),
        Send("a", leave),
    ]
    ping = Send("b", m.Ping(1, 2, 3))
    assert part.mind([ping], 0.0) == [Connect("b", "control"), ping], "a ping introduces itself"
    assert part.mind([Send("stranger", leave)], 0.0) == [Connect("stranger", "control"), Send("stranger", leave)]
    assert part.mind([Disconnect("a", "control"), Disconnect("a", "control")], 0.0) == [Disconnect("a", "control")]
    assert part.mind([Disconnect("a", "data")], 0.0) == [Disconnect("a", "data")]


def test_links_to_members_are_closed_only_when_there_are_too_many_and_the_longest_unused_first() -> None:
    names = [f"m{i}" for i in range(LINKS_MAX + 10)]
    part = links(set(names))
    for index, name in enumerate(names):
        part.mind([Send(name, m.Leave("x"))], 0.001 * index)
    assert part.close_idle(set(), 1.0) == []
    closed: list[Effect] = part.close_idle({"m0", "m3"}, 100.0)
    assert closed == [Disconnect(name, "control") for name in names if name not in ("m0", "m3")][:10]
    part.mind(closed, 100.0)
    assert part.close_idle(set(), 200.0) == []


def test_a_link_to_a_stranger_is_closed_when_it_is_idle() -> None:
    part = links(set())
    part.mind([Send("s", m.Leave("x"))], 10.0)
    assert part.close_idle(set(), 10.0 + STRANGER_IDLE_S - 0.1) == []
    assert part.close_idle(set(), 16.0 + STRANGER_IDLE_S) == [Disconnect("s", "control")]


@pytest.mark.slow
def test_in_synchronous_rounds_hearsay_of_a_suspicion_does_not_undo_what_may_be_committed() -> None:
    net = cluster(3, pace=2, kind="round", mixer="d_psgd", founder=True)
    net.delay_s = 0.1  # so that doubt lasts
    liar, victim = net["peer-2"].protocol.config, net["peer-1"].protocol.config
    lies = 0
    while lies < 5:
        net.run(net.now + 0.005)
        current = net["peer-0"].protocol._rounds._round
        edge = current.edges.get("peer-1") if current else None
        member = net["peer-0"].protocol._membership.get("peer-1")
        if edge is not None and edge.is_in_doubt() and not edge.is_settled() and member.state == "alive":
            lies += 1
            net["peer-1"].value += 10.0  # apart again, so that an exchange counted at one end only would show
            address = (victim.control_address, victim.data_address)
            lie = m.MemberEntry("peer-1", victim.boot, *address, member.incarnation, "suspect", accuser="peer-2")
            net.give(net["peer-0"], MessageReceived(m.Envelope(liar.name, liar.boot, m.Gossip((lie,)))))
    assert len(net["peer-0"].told(PeerSuspected)) >= 5
    net.quieten(mending_s=2.0, resting_s=45.0)
    assert net.total() == pytest.approx(3.0 + 10.0 * lies, abs=1e-9)


@pytest.mark.slow
def test_what_was_under_way_when_a_peer_stood_still_counts_against_nobody() -> None:
    """The answers to its last questions came while it stood still; the suspicion it had took no time from the suspect."""
    net = cluster(3, pace=30)
    net.run(4.0)
    net.delay_s = 0.3  # there is always a question under way
    net.run(6.0)
    net.freeze("peer-2", 76.0)
    net.run(10.0)
    assert states(net["peer-0"], net.now)["peer-2"] == "suspect"
    net.kill("peer-1")
    net.run(14.0)
    net.freeze("peer-0", 66.0)
    net.run(81.5)
    assert not any(notice.peer == "peer-2" for notice in net["peer-0"].told(PeerDied))
    net.run(95.0)
    assert states(net["peer-0"], net.now)["peer-2"] == "alive"
    assert net["peer-2"].told(PeerSuspected)[0].peer == "peer-1"
    assert {notice.peer for notice in net["peer-2"].told(PeerSuspected)} == {"peer-1"}


def test_settings_can_be_replaced_one_by_one() -> None:
    assert replace(MembershipConfig(), probe_period_s=2.0).probe_period_s == 2.0
    assert MembershipConfig.swim(probe_period_s=2.0).suspicion_max_s(10) == 5.0 * 2.0
    assert MembershipConfig.lifeguard().suspicion_max_s(10) == 6.0 * 5.0
    assert MembershipConfig().suspicion_min_s(10) == 30.0
    assert MembershipConfig().suspicion_min_s(10**9) == 36.0
