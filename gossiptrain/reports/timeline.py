"""What was the case when: the graph's edges, who was suspected by how many, who stood still, how well the graph mixed.

All of it is read from the peers' own notices. A peer's last `Rewired` names its neighbours; while two peers' views differ,
only one end names the edge, and `Edge.mutual` says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import networkx as nx
import numpy as np

import topologies
from gossiptrain.protocol.notices import (
    Exchanged,
    PeerDied,
    PeerJoined,
    PeerLeft,
    PeerRecovered,
    PeerSuspected,
    Rewired,
)
from gossiptrain.reports.record import Array, RunRecord

# So many multiplications are spent on spectral gaps over time; an eigenvalue decomposition takes about n^3, and the
# Lanczos process some 80 products with W.
GAP_WORK = 2e9
EXACT_MAX = 150
LANCZOS_MAX, LANCZOS_TOLERANCE = 200, 1e-4
STANDS_STILL = ("stall", "pause")


@dataclass(frozen=True, slots=True)
class Edge:
    """Two peers were neighbours from `began_s` to `ended_s`; `mutual` while both said so. `a` sorts before `b`."""

    a: str
    b: str
    began_s: float
    ended_s: float
    mutual: bool


def edges(record: RunRecord) -> list[Edge]:
    """The graph over time, in order of the edges' beginnings.

    Under a time-varying schedule every round has another graph, of which notices tell but the first: there an edge is
    a pair that exchanged, from the offer until either end has mixed with somebody else.
    """
    if record.settings.get("topology") in topologies.known_schedules():
        return _exchanging(record)
    claims: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    order = {name: place for place, name in enumerate(record.names())}
    for process in record.processes:
        held: tuple[str, ...] = ()
        end_s = min(process.ended_s, record.until_s)
        for time_s, notice in [*process.told(Rewired), (end_s, None)]:
            now = notice.neighbours if notice is not None else ()
            for other in (*(set(held) - set(now)), *(set(now) - set(held))):
                is_first = order.get(process.name, 0) <= order.get(other, 0)
                pair = (process.name, other) if is_first else (other, process.name)
                claims[pair].append((time_s, -1 if other in held else 1))
            held = now
    found = [edge for (a, b), changes in claims.items() for edge in _spans(a, b, changes)]
    return sorted(found, key=lambda edge: (edge.began_s, order.get(edge.a, 0), order.get(edge.b, 0)))


def _spans(a: str, b: str, changes: list[tuple[float, int]]) -> Iterable[Edge]:
    """Joins what both ends said of one pair; spans of no length, as between two notices of one moment, are left out."""
    since_s, count = 0.0, 0
    for time_s, change in sorted(changes, key=lambda change: change[0]):
        if count and time_s > since_s:
            yield Edge(a, b, since_s, time_s, count > 1)
        since_s, count = time_s, count + change


def _exchanging(record: RunRecord) -> list[Edge]:
    order = {name: place for place, name in enumerate(record.names())}
    found = []
    for process in record.processes:
        mixes = list(process.told(Exchanged))
        nexts = [*(time_s for time_s, _ in mixes[1:]), min(process.ended_s, record.until_s)]
        for (time_s, notice), next_s in zip(mixes, nexts):
            for other in notice.partners:
                a, b = sorted((process.name, other), key=lambda name: order.get(name, 0))
                found.append((a, b, time_s - notice.seconds, next_s))
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for a, b, began_s, ended_s in found:
        pairs[a, b].append((began_s, ended_s))
    result = [Edge(a, b, *span, True) for (a, b), spans in pairs.items() for span in union(spans)]
    return sorted(result, key=lambda edge: (edge.began_s, order.get(edge.a, 0), order.get(edge.b, 0)))


def union(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Joins intervals that touch."""
    joined: list[tuple[float, float]] = []
    for began_s, ended_s in sorted(spans):
        if joined and began_s <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], ended_s))
        else:
            joined.append((began_s, ended_s))
    return joined


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A peer left another out of mixing from `began_s` until it answered or was given up, or the run's end."""

    by: str
    of: str
    began_s: float
    ended_s: float


def suspicions(record: RunRecord) -> list[Suspicion]:
    """Every suspicion of the run, in order of the peers that had them; a peer's end ends its own."""
    found = []
    for process in record.processes:
        since_s: dict[str, float] = {}
        for time_s, notice in process.told(PeerSuspected, PeerRecovered, PeerDied, PeerLeft, PeerJoined):
            if isinstance(notice, PeerSuspected):
                since_s.setdefault(notice.peer, time_s)
            elif notice.peer in since_s:
                found.append(Suspicion(process.name, notice.peer, since_s.pop(notice.peer), time_s))
        end_s = min(process.ended_s, record.until_s)
        found += [Suspicion(process.name, of, began_s, max(began_s, end_s)) for of, began_s in since_s.items()]
    return found


def suspected(record: RunRecord, found: Iterable[Suspicion] | None = None) -> dict[str, list[tuple[float, int]]]:
    """By how many living peers each peer was suspected: (seconds, so many from then on), by the suspect's name."""
    changes: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for suspicion in suspicions(record) if found is None else found:
        changes[suspicion.of].append((suspicion.began_s, 1))
        if suspicion.ended_s < record.until_s:
            changes[suspicion.of].append((suspicion.ended_s, -1))
    return {peer: _running(found) for peer, found in changes.items()}


def _running(changes: list[tuple[float, int]]) -> list[tuple[float, int]]:
    counted: list[tuple[float, int]] = []
    count = 0
    for time_s, change in sorted(changes):
        count += change
        if counted and counted[-1][0] == time_s:
            counted[-1] = (time_s, count)
        else:
            counted.append((time_s, count))
    return counted


def standing(record: RunRecord) -> dict[str, list[tuple[float, float]]]:
    """When the faults of a simulation held a peer's training still, by name."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for fault in record.faults:
        if fault.kind in STANDS_STILL:
            for peer in fault.peers:
                found[peer].append((fault.began_s, fault.ended_s))
    return {peer: union(spans) for peer, spans in found.items()}


def rewirings(record: RunRecord, apart_s: float | None = None) -> list[tuple[float, float, int]]:
    """When the graph was laid anew: (first, last, how many peers did), joined where less than `apart_s` lies between.

    Default of `apart_s`: a second, or a 300th of a longer run.
    """
    apart_s = max(1.0, record.until_s / 300) if apart_s is None else apart_s
    times_s = sorted(time_s for process in record.processes for time_s, _ in process.told(Rewired))
    found: list[tuple[float, float, int]] = []
    for time_s in times_s:
        if found and time_s - found[-1][1] <= apart_s:
            found[-1] = (found[-1][0], time_s, found[-1][2] + 1)
        else:
            found.append((time_s, time_s, 1))
    return found


def graph_at(record: RunRecord, time_s: float, found: list[Edge] | None = None) -> nx.Graph:
    """The graph of the peers that lived and mixed at a time, without others' edges; each edge says if it is `mutual`."""
    graph = nx.Graph()
    graph.add_nodes_from(sorted({process.name for process in record.mixing_at(time_s)}))
    for edge in edges(record) if found is None else found:
        if edge.began_s <= time_s < edge.ended_s and edge.a in graph and edge.b in graph:
            graph.add_edge(edge.a, edge.b, mutual=edge.mutual)
    return graph


def spectral_gaps(record: RunRecord, found: list[Edge] | None = None, work: float = GAP_WORK) -> tuple[Array, Array]:
    """The spectral gap of the mixing peers' graph with Metropolis-Hastings weights, over time: (seconds [T], gap [T]).

    It is looked at whenever the graph may have changed, or less often in large runs (a decomposition takes n^3), where
    it is within 1e-4. 0 means
    that the graph was in parts.
    """
    found = edges(record) if found is None else found
    changes = {edge.began_s for edge in found} | {edge.ended_s for edge in found}
    changes |= {process.joined_s for process in record.processes}
    changes |= {process.ended_s for process in record.processes}
    times = np.array(sorted(time_s for time_s in changes if 0 <= time_s < record.until_s))
    n = max(1, len(record.names()))
    most = int(np.clip(work / (n**3 if n <= EXACT_MAX else 80 * n**2), 24, 400))
    if len(times) > most:
        times = np.unique(np.linspace(0.0, record.until_s, most, endpoint=False))
    gaps = [_gap(graph) for graph in _graphs(record, found, times)]
    return times, np.array(gaps, dtype=np.float64)


def _graphs(record: RunRecord, found: list[Edge], times: Array) -> Iterable[nx.Graph]:
    """`graph_at` for ascending times, without looking at every edge each time."""
    waiting, current = sorted(found, key=lambda edge: edge.began_s, reverse=True), []
    for time_s in times:
        while waiting and waiting[-1].began_s <= time_s:
            current.append(waiting.pop())
        current = [edge for edge in current if edge.ended_s > time_s]
        yield graph_at(record, float(time_s), current)


def _gap(graph: nx.Graph) -> float:
    if len(graph) == 0:
        return float("nan")
    W_NN = topologies.metropolis_hastings(graph)
    return topologies.spectral_gap(W_NN) if len(graph) <= EXACT_MAX else krylov_gap(W_NN)


def krylov_gap(W_NN: Array) -> float:
    """The spectral gap of a large symmetric W by the Lanczos process, within 1e-4, much sooner than a decomposition.

    On the complement of the constant vector the greatest modulus is |lambda_2|. A Ritz value's residual bounds its distance
    from an eigenvalue (Paige 1980, "Accuracy and effectiveness of the Lanczos algorithm"); where it stays large, as on long
    rings, whose gap is tiny, the whole decomposition is made after all.
    """
    n = len(W_NN)
    q_N = np.sin(np.arange(1, n + 1) ** 2 * 0.7390851)  # any vector that no structure of a graph is orthogonal to
    rows, columns = np.nonzero(W_NN)  # each node has few neighbours
    weights = W_NN[rows, columns]
    basis_KN = np.empty((min(LANCZOS_MAX, n - 1), n))
    alphas: list[float] = []
    betas: list[float] = []
    q_N = _centred_unit(q_N)
    for k in range(len(basis_KN)):
        basis_KN[k] = q_N
        w_N = np.bincount(rows, weights * q_N[columns], minlength=n)
        alphas.append(float(q_N @ w_N))
        for _ in range(2):  # once leaves rounding errors that grow
            w_N = w_N - basis_KN[: k + 1].T @ (basis_KN[: k + 1] @ w_N)
            w_N = w_N - w_N.mean()
        betas.append(float(np.linalg.norm(w_N)))
        if len(alphas) % 10 == 0 or betas[-1] < 1e-9:
            values, vectors = np.linalg.eigh(np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1))
            place = int(np.argmax(np.abs(values)))
            if betas[-1] * abs(vectors[-1, place]) < LANCZOS_TOLERANCE:
                return float(np.clip(1.0 - abs(values[place]), 0.0, 1.0))
        q_N = w_N / max(betas[-1], 1e-300)
    return topologies.spectral_gap(W_NN)


def _centred_unit(x_N: Array) -> Array:
    centred_N = x_N - x_N.mean()
    return centred_N / np.linalg.norm(centred_N)
