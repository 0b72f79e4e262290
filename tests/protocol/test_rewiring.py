"""Peers with the same view compute the same graph, whatever graph was asked for and whoever is left."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import topologies
from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.config import TopologySpec
from gossiptrain.protocol.notices import Rewired, TopologyFailed
from gossiptrain.protocol.peer_protocol import PeerProtocol
from gossiptrain.protocol.rewiring import Rewiring, describe
from tests.protocol.virtual_network import cluster, config

NAMES = (*topologies.known_families(), *topologies.known_schedules())


def names(count: int) -> tuple[str, ...]:
    return tuple(sorted(f"peer-{index}" for index in range(count)))


def all_views(spec: TopologySpec, members: tuple[str, ...], seed: int = 0) -> dict[str, Rewiring]:
    views = {own: Rewiring(spec, own, seed) for own in members}
    for view in views.values():
        view.rewire(members)
    return views


def the_graph(spec: TopologySpec, members: tuple[str, ...], round_number: int = 0) -> nx.Graph:
    """The graph of one round; fails where one end of an edge does not know of it."""
    around = {own: set(v.topology.neighbours(round_number)) for own, v in all_views(spec, members).items()}
    for own, others in around.items():
        assert own not in others
        assert all(own in around[other] for other in others)
    return nx.Graph({own: sorted(others) for own, others in around.items()})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 13])
def test_every_known_name_gives_every_number_of_members_a_connected_graph(name: str, count: int) -> None:
    members = names(count)
    views = all_views(name, members)
    schedule = next(iter(views.values())).topology.schedule
    rounds = (schedule.period or 24) if schedule else 1
    union = nx.compose_all([the_graph(name, members, number) for number in range(rounds)])
    assert nx.is_connected(union)
    assert all(not view.topology.fallback_reason for view in views.values())


@pytest.mark.parametrize("name", topologies.known_schedules())
def test_links_are_kept_open_to_everybody_that_a_round_pairs(name: str) -> None:
    for view in all_views(name, names(6)).values():
        topology = view.topology
        rounds = topology.schedule.period or 12
        assert {n for r in range(rounds) for n in topology.neighbours(r)} == set(topology.all_neighbours())


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigurationError) as caught:
        PeerProtocol(config("me", 0, topology="rnig"))
    assert "'rnig'" in str(caught.value)
    assert all(name in str(caught.value) for name in NAMES)


def test_an_empty_graph_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        PeerProtocol(config("me", 0, topology=nx.Graph()))


@pytest.mark.parametrize("kind", [nx.Graph, nx.DiGraph])
def test_a_disconnected_graph_is_refused_and_a_lost_part_is_named(kind: type) -> None:
    graph = kind([(0, 1), (1, 2), (7, 8)])
    with pytest.raises(ConfigurationError, match=r"disconnected: 2 parts, the smallest \['7', '8'\]"):
        PeerProtocol(config("me", 0, topology=graph))


def test_what_is_no_topology_at_all_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="topology=7"):
        PeerProtocol(config("me", 0, topology=7))


def test_a_users_graph_is_laid_over_the_peers_by_their_numbers() -> None:
    graph = nx.petersen_graph()
    laid = the_graph(graph, names(10))
    assert {frozenset(edge) for edge in laid.edges} == {frozenset((f"peer-{a}", f"peer-{b}")) for a, b in graph.edges}


def test_a_users_graph_of_names_is_laid_over_the_peers_of_these_names() -> None:
    graph = nx.Graph([("anna", "bert"), ("bert", "carl"), ("carl", "dora")])
    laid = the_graph(graph, ("anna", "bert", "carl", "dora"))
    assert nx.utils.graphs_equal(nx.Graph(sorted(map(sorted, laid.edges))), nx.Graph(sorted(map(sorted, graph.edges))))


@given(st.sets(st.integers(0, 14), min_size=1), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_whoever_is_left_of_a_users_graph_or_new_stays_connected(left: set[int], seed: int) -> None:
    """Fewer peers than nodes, more peers than nodes, and both: orphans are joined, newcomers linked."""
    members = tuple(sorted(f"peer-{index}" for index in left))
    assert nx.is_connected(the_graph(nx.petersen_graph(), members))


def test_survivors_keep_the_edges_that_the_user_gave_them() -> None:
    graph = nx.petersen_graph()
    members = tuple(name for name in names(10) if name != "peer-3")
    laid = the_graph(graph, members)
    kept = [(f"peer-{a}", f"peer-{b}") for a, b in graph.edges if 3 not in (a, b)]
    assert all(laid.has_edge(*edge) for edge in kept)


def test_two_peers_for_one_node_do_not_crowd_each_other_out() -> None:
    laid = the_graph(nx.path_graph(3), ("left-0", "left-1", "right-0", "right-1"))
    assert nx.is_connected(laid)
    assert laid.number_of_nodes() == 4


def test_peers_without_numbers_are_linked_all_the_same() -> None:
    assert nx.is_connected(the_graph(nx.cycle_graph(4), ("anna", "bert", "carl")))


def _chain(members: tuple[str, ...]) -> nx.Graph:
    return nx.path_graph(members)


def _raises(members: tuple[str, ...]) -> nx.Graph:
    raise RuntimeError("no idea")


def _nothing(members: tuple[str, ...]) -> nx.Graph:
    return None  # type: ignore[return-value]


def _forgets_one(members: tuple[str, ...]) -> nx.Graph:
    return nx.path_graph(members[1:])


def _through_a_ghost(members: tuple[str, ...]) -> nx.Graph:
    return nx.star_graph(["ghost", *members])


def _in_two(members: tuple[str, ...]) -> nx.Graph:
    graph = nx.Graph([members[:2]])
    graph.add_nodes_from(members)
    return graph


def test_a_function_of_the_members_is_asked() -> None:
    laid = the_graph(_chain, names(5))
    assert sorted(degree for _, degree in laid.degree) == [1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (_raises, "RuntimeError: no idea"),
        (_nothing, "not a networkx graph"),
        (_forgets_one, "misses"),
        (_through_a_ghost, "disconnected"),
        (_in_two, "disconnected"),
    ],
)
def test_a_function_that_fails_falls_back_to_the_overlay_and_says_why(function: TopologySpec, reason: str) -> None:
    members = names(4)
    views = all_views(function, members)
    assert all(reason in view.topology.fallback_reason for view in views.values())
    assert all(describe(function) in view.topology.fallback_reason for view in views.values())
    assert set(the_graph(function, members).edges) == set(topologies.overlay(members, seed=0).edges)


def test_a_failing_topology_is_told_and_training_goes_on() -> None:
    net = cluster(4, topology=_raises, pace=5)
    net.run(4.0)
    for peer in net.living():
        assert "no idea" in peer.told(TopologyFailed)[-1].reason
        assert peer.protocol.status(net.now).topology == "_raises"
        assert peer.mixes


def test_a_directed_graph_is_used_in_both_directions() -> None:
    laid = the_graph(nx.DiGraph([(0, 1), (1, 2), (2, 3)]), names(4))
    assert laid.number_of_edges() == 3


def test_the_same_members_are_not_computed_twice_and_epochs_count_changes() -> None:
    rewiring = Rewiring("ring", "peer-0", 0)
    assert not rewiring.rewire(("peer-0",))
    assert rewiring.rewire(names(4))
    assert not rewiring.rewire(names(4))
    assert rewiring.rewire(names(3))
    assert rewiring.topology.epoch == 2


def test_the_graph_depends_on_the_seed_and_on_nothing_else() -> None:
    def edges(seed: int) -> dict[str, tuple[str, ...]]:
        return {own: view.topology.neighbours(0) for own, view in all_views("overlay", names(20), seed).items()}

    assert edges(1) == edges(1)
    assert edges(1) != edges(2)


def test_one_death_moves_few_links_of_the_overlay() -> None:
    net = cluster(12, pace=20)
    net.run(4.0)
    before = {peer.name: set(peer.told(Rewired)[-1].neighbours) for peer in net.living()}
    net.kill("peer-5")
    net.run(7.0)
    moved = sum(len(before[p.name] ^ set(p.told(Rewired)[-1].neighbours) - {"peer-5"}) for p in net.living())
    assert all(peer.told(Rewired)[-1].members == 11 for peer in net.living())
    assert moved <= 24


@pytest.mark.slow
def test_links_of_the_data_lane_follow_the_graph() -> None:
    net = cluster(9, topology="ring", pace=10)
    net.run(8.0)
    net.kill("peer-4")
    net.quieten(6.0, 3.0)
    for peer in net.living():
        needed = {f"data:{name[5:]}" for name in peer.protocol.neighbours()}
        opened = {address for address, lane in peer.links if lane == "data"}
        assert needed <= opened
        assert opened - needed <= {f"data:{name[5:]}" for name in busy(peer)}


def busy(peer) -> set[str]:
    return {name for part in peer.protocol._exchanges._parts for name in part.busy_with()}
