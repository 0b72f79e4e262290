"""From the living members to this peer's neighbours: a pure function of (topology, members, seed, round).

Peers with the same view compute the same graph, with no word exchanged. A named family is laid over the sorted
names, a user's graph is repaired around the missing, a function is asked. What cannot be computed for the members
at hand (a user's function that fails, say) falls back to the default overlay, with the reason told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import networkx as nx

import topologies
from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.config import MembershipConfig, TopologySpec

NEVER_S = float("inf")
PATIENT_FROM = 100


@dataclass(frozen=True, slots=True)
class Topology:
    """The graph of one epoch. `schedule` holds one graph a round for time-varying topologies, else one graph."""

    epoch: int
    members: tuple[str, ...]
    own: str
    graph: nx.Graph | None
    schedule: topologies.Schedule | None = None
    fallback_reason: str = ""

    def neighbours(self, round_number: int) -> tuple[str, ...]:
        """Sorted names of those this peer exchanges with in this round; both directions of a directed edge count."""
        if len(self.members) < 2:
            return ()
        if self.schedule is None:
            return _adjacent(self.graph, self.own)
        graph = self.schedule.graph(round_number)
        own = self.members.index(self.own)
        return tuple(sorted(self.members[node] for node in _adjacent_nodes(graph, own)))

    def all_neighbours(self) -> tuple[str, ...]:
        """Sorted names of everybody that some round of this epoch pairs this peer with (links to be kept open)."""
        if self.schedule is None:
            return self.neighbours(0)
        rounds = self.schedule.period or 2 * len(self.members)
        return tuple(sorted({name for r in range(rounds) for name in self.neighbours(r)}))


class Rewiring:
    """Keeps the topology of the current epoch, and when the next is due.

    Many changes within a moment cost one re-wiring. For a while after it the former neighbours are kept too: others may
    not have re-wired yet, and where views disagree an old link is better than none.
    """

    def __init__(self, spec: TopologySpec, own: str, seed: int, timing: MembershipConfig | None = None) -> None:
        self._spec = check_topology(spec)
        self._own = own
        self._seed = seed
        self._timing = timing or MembershipConfig()
        self._changed_s: float | None = None
        self.due_s = NEVER_S
        """When `rewire` is due, in seconds; infinity when nothing has changed."""
        self._former: frozenset[str] = frozenset()
        self._former_until_s = 0.0
        self.topology = Topology(0, (own,), own, _single(own))

    def view_changed(self, living: int, now: float) -> None:
        """Somebody joined or was lost: the graph is laid anew when the view has rested for a moment.

        It may go on changing, and with many members it takes longer to lay: then the patience is greater too.
        """
        if self._changed_s is None:
            self._changed_s = now
        patience = max(1.0, living / PATIENT_FROM)
        rests_s, within_s = patience * self._timing.rewire_debounce_s, patience * self._timing.rewire_within_s
        self.due_s = min(now + rests_s, self._changed_s + within_s)

    def rewire(self, members: tuple[str, ...], now: float = 0.0) -> bool:
        """Computes the graph for these members, unless they are the current ones. Returns whether it did."""
        self._changed_s, self.due_s = None, NEVER_S
        if members == self.topology.members:
            return False
        former = self.topology.all_neighbours()
        epoch = self.topology.epoch + 1
        try:
            alone = len(members) == 1
            graph, schedule = (_single(self._own), None) if alone else compute(self._spec, members, self._seed)
            reason = ""
        except Exception as error:
            graph, schedule = _overlay(members, self._seed), None
            reason = f"{describe(self._spec)} failed for {len(members)} members: {type(error).__name__}: {error}"
        self.topology = Topology(epoch, members, self._own, graph, schedule, reason)
        self._former = frozenset(former).intersection(members)
        self._former_until_s = now + self._timing.overlap_s
        return True

    def former_neighbours(self, now: float) -> frozenset[str]:
        """Names of those that were neighbours until a moment ago, and still are members."""
        return self._former if now < self._former_until_s else frozenset()


def check_topology(spec: TopologySpec) -> TopologySpec:
    """Returns the topology as it is.

    Raises:
        ConfigurationError: an unknown name (the known are listed), or a graph that is empty or disconnected.
    """
    if isinstance(spec, str):
        known = (*topologies.known_families(), *topologies.known_schedules())
        if spec not in known:
            raise ConfigurationError(f"topology={spec!r}: not known; choose one of {', '.join(sorted(known))}")
    elif isinstance(spec, nx.Graph):
        if spec.number_of_nodes() == 0:
            raise ConfigurationError("topology: the graph is empty; it needs one node for each peer")
        undirected = spec.to_undirected(as_view=True)
        if not nx.is_connected(undirected):
            parts = [sorted(map(str, part)) for part in nx.connected_components(undirected)]
            raise ConfigurationError(
                f"topology: the graph is disconnected: {len(parts)} parts, the smallest {min(parts, key=len)[:8]}; "
                "peers of different parts would never agree. Add edges between the parts"
            )
    elif not callable(spec):
        raise ConfigurationError(f"topology={spec!r}: must be a name, a networkx graph or a function of the members")
    return spec


def describe(spec: TopologySpec) -> str:
    """Names a topology for people."""
    if isinstance(spec, str):
        return spec
    if isinstance(spec, nx.Graph):
        return spec.name or f"a graph of {spec.number_of_nodes()} nodes"
    return getattr(spec, "__name__", "a function")


def compute(
    spec: TopologySpec, members: tuple[str, ...], seed: int
) -> tuple[nx.Graph | None, topologies.Schedule | None]:
    """Returns (graph on the names, None) or (None, schedule over the sorted names)."""
    if isinstance(spec, str):
        if spec in topologies.known_schedules():
            return None, _schedule(spec, len(members), seed)
        return _cached_family(spec, members, seed), None
    graph = _place(spec, members, seed) if isinstance(spec, nx.Graph) else spec(members)
    if not isinstance(graph, nx.Graph):
        raise TypeError(f"it returned {graph!r:.80}, which is not a networkx graph")
    missing = set(members) - set(graph)
    # Nodes that are nobody's carry no exchange, so they connect nobody either.
    if missing or not nx.is_connected(graph.to_undirected(as_view=True).subgraph(members)):
        raise ValueError(f"it misses {sorted(missing)[:4]}" if missing else "it is disconnected")
    return graph.subgraph(members), None


@lru_cache(maxsize=64)
def _schedule(name: str, n: int, seed: int) -> topologies.Schedule:
    """MATCHA thins out a given graph; here that is the default overlay."""
    if name == "matcha":
        return topologies.schedule_by_name(name, n, seed, graph=lambda size: topologies.overlay(range(size), seed=seed))
    return topologies.schedule_by_name(name, n, seed)


@lru_cache(maxsize=64)
def _cached_family(name: str, members: tuple[str, ...], seed: int) -> nx.Graph:
    return topologies.family(name, members, seed)


def _overlay(members: tuple[str, ...], seed: int) -> nx.Graph:
    return _cached_family("overlay", members, seed)


def _place(graph: nx.Graph, members: tuple[str, ...], seed: int) -> nx.Graph:
    """Lays a user's graph over the living members: departed nodes are repaired around, newcomers attached.

    A node stands for the member of the same name, else for the peer whose name ends in the node's place
    ("peer-3" is node 3). Peers that the graph has no node for are linked to two others each.
    """
    nodes = sorted(graph.nodes, key=_natural)
    named = {str(node): node for node in nodes}
    place: dict[str, object] = {}
    for member in members:
        number = re.search(r"(\d+)$", member)
        if member in named:
            place[member] = named[member]
        elif number and int(number.group()) < len(nodes):
            place.setdefault(member, nodes[int(number.group())])
    holders = {node: member for member, node in reversed(place.items())}
    undirected = nx.Graph(graph.to_undirected(as_view=True))
    degree_max = max(dict(undirected.degree).values(), default=0)
    if holders:
        placed = nx.relabel_nodes(topologies.repair(undirected, set(holders), seed, max(2, degree_max)), holders)
    else:
        placed = nx.Graph()
    result = nx.Graph()
    result.add_nodes_from(members)
    result.add_edges_from(placed.edges)
    strangers = [member for member in members if member not in placed]
    anchors = [member for member in members if member in placed]
    for stranger in strangers:
        for anchor in sorted(anchors, key=lambda name: _pair_hash(stranger, name, seed))[:2]:
            result.add_edge(stranger, anchor)
        anchors.append(stranger)
    return result


def _pair_hash(one: str, other: str, seed: int) -> bytes:
    return blake2b(repr((seed, one, other)).encode(), digest_size=8).digest()


def _natural(node: object) -> tuple[int, object]:
    return (0, node) if isinstance(node, int) else (1, str(node))


def _adjacent_nodes(graph: nx.Graph, node: object) -> set:
    return set(nx.all_neighbors(graph, node)) - {node}


def _adjacent(graph: nx.Graph | None, own: str) -> tuple[str, ...]:
    return tuple(sorted(_adjacent_nodes(graph, own))) if graph is not None and own in graph else ()


def _single(own: str) -> nx.Graph:
    graph = nx.Graph()
    graph.add_node(own)
    return graph
