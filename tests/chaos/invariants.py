"""What must hold whatever happens, read from what the peers wrote: views, graphs, steps, values, endings."""

from __future__ import annotations

from collections.abc import Iterable

import networkx as nx
import numpy as np

from tests.chaos.harness import Event, Swarm

_CAME, _WENT = ("PeerJoined", "PeerRecovered"), ("PeerDied", "PeerLeft")


def lives(swarm: Swarm, name: str) -> list[list[Event]]:
    """The lines of a peer, one list a process that bore its name."""
    processes: list[list[Event]] = []
    began_s = float("-inf")
    for event in swarm.events(name):
        if event["t"] - event["elapsed_s"] > began_s + 0.05:
            began_s = event["t"] - event["elapsed_s"]
            processes.append([])
        processes[-1].append(event)
    return processes


def views(events: Iterable[Event], name: str) -> list[tuple[float, frozenset[str]]]:
    """Whom a process took for living, itself included: (since when, names), at each change."""
    living = {name}
    found: list[tuple[float, frozenset[str]]] = []
    for event in events:
        if event["kind"] in _CAME:
            living.add(event["peer"])
        elif event["kind"] in _WENT:
            living.discard(event["peer"])
        else:
            continue
        if not found or found[-1][1] != living:
            found.append((event["t"], frozenset(living)))
    return found


def view(swarm: Swarm, name: str) -> frozenset[str]:
    """Whom a peer takes for living now."""
    processes = lives(swarm, name)
    changes = views(processes[-1], name) if processes else []
    return changes[-1][1] if changes else frozenset({name})


def views_agree(swarm: Swarm, names: Iterable[str]) -> bool:
    """Whether each of these peers takes exactly these peers for living."""
    names = frozenset(names)
    return all(view(swarm, name) == names for name in names)


def agreed_at_s(swarm: Swarm, names: Iterable[str]) -> float:
    """When the last of these peers came to the view that it has now."""
    return max(views(lives(swarm, name)[-1], name)[-1][0] for name in names)


def graph_is_whole(swarm: Swarm, names: Iterable[str]) -> bool:
    """Whether the neighbours that these peers name make one connected graph on exactly them, with mutual edges."""
    names = sorted(names)
    arrows = nx.DiGraph()
    arrows.add_nodes_from(names)
    for name in names:
        rewired = [event for event in lives(swarm, name)[-1] if event["kind"] == "Rewired"]
        if len(names) > 1 and (not rewired or rewired[-1]["members"] != len(names)):
            return False
        arrows.add_edges_from((name, other) for other in (rewired[-1]["neighbours"] if rewired else ()))
    is_mutual = all(arrows.has_edge(b, a) for a, b in arrows.edges)
    return sorted(arrows) == names and is_mutual and nx.is_weakly_connected(arrows)


def wait_until_whole(swarm: Swarm, names: Iterable[str]) -> None:
    """Waits until these peers, and nobody else, are each other's members and their graph is whole."""
    names = list(names)
    try:
        swarm.until(lambda: views_agree(swarm, names) and graph_is_whole(swarm, names), f"{names} agree on each other")
    except AssertionError as error:
        found = {name: sorted(view(swarm, name)) for name in names}
        raise AssertionError(f"{names} do not agree on each other: {found}") from error


def falsely_dead(swarm: Swarm, observers: Iterable[str], truly: Iterable[str] = ()) -> list[Event]:
    """The verdicts of these observers on peers that were not killed."""
    return [
        event for name in observers for event in swarm.events(name, "PeerDied") if event["peer"] not in frozenset(truly)
    ]


def longest_gap_s(times: np.ndarray, since: float = -np.inf, until: float = np.inf) -> float:
    """The longest time between two of a peer's steps that touches this span; what is still open does not count."""
    gaps = np.diff(times)
    return float(gaps[(times[1:] > since) & (times[:-1] < until)].max(initial=0.0))


def check_ended_well(
    swarm: Swarm, names: Iterable[str], lowest: float = float("-inf"), highest: float = float("inf")
) -> None:
    """Ends the run; these peers must have ended in order, with no exception, and with values between these two only."""
    names = list(names)
    codes = swarm.finish(*names)
    for name in names:
        log = swarm.log(name)
        assert codes[name] == 0, log
        assert "Traceback" not in log, log
        assert swarm.events(name, "Finished")[-1]["ok"] is True, f"{name} did not end in order: {log}"
        final = swarm.model(name)
        assert np.isfinite(final).all(), f"{name} ended with {final}"
        assert lowest <= final.min() <= final.max() <= highest, f"{name} ended with {final.min()} to {final.max()}"
        told = [event["value"] for event in swarm.events(name, "Progress") if "value" in event]
        wrong = [value for value in told if value is None or not lowest <= value <= highest]
        assert not wrong, f"foreign values were in the mix of {name}: {wrong[:9]}"
