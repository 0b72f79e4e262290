"""What a silent host, a split network, a slow or lossy line and a stopped process cost, with real processes.

Four peers, each on a host of its own (a network namespace: needs root on Linux), with a tiny model and the default
time-outs, so that each part takes as long as it does in a run. Figures are read from the peers' own logs; one is that of
the slowest peer. "longest gap" is between two steps of a peer that nothing was done to, against its longest before.

    python benchmarks/networks.py [--split-s 60]
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from common import machine, print_table, write_results

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.chaos.harness import Swarm
from tests.chaos.hosts import start_on
from tests.chaos.invariants import agreed_at_s, graph_is_whole, longest_gap_s, views_agree
from tests.chaos.network import Network, why_not

Figures = dict[str, float]
PATIENCE_S = 150.0
QUIET_S = 10.0


def main() -> None:
    """Runs each part and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split-s", type=float, default=60.0, help="how long the long split lasts")
    options = parser.parse_args()
    if reason := why_not():
        print(f"nothing is measured, since this machine makes no network namespaces: {reason}")
        return
    described, figures = machine(), {}
    parts: list[tuple[str, Callable[[Swarm, Network, list[str]], Figures], int]] = [
        ("host unplugged", silent_host, 64),
        ("split of 20 s", partial(split, seconds=20.0), 64),
        (f"split of {options.split_s:g} s", partial(split, seconds=options.split_s), 64),
        ("line of 10 Mbit/s, 2 MB models", slow_line, 500_000),
        ("10 % of packets lost", lossy_lines, 64),
        ("process stopped for 20 s", stopped, 64),
    ]
    for title, part, width in parts:
        with (
            tempfile.TemporaryDirectory() as folder,
            Network(4) as network,
            Swarm(Path(folder), value=1.0, width=width, pace_s=0.02) as swarm,
        ):
            names = start_on(swarm, network)
            swarm.pause(QUIET_S)
            figures[title] = part(swarm, network, names)
    rows = [(title, name, f"{value:.2f}") for title, found in figures.items() for name, value in found.items()]
    print_table("4 peers on 4 hosts, default time-outs", ("what happens", "measured", "value"), rows)
    write_results("networks", {"machine": described, "figures": figures})


def silent_host(swarm: Swarm, network: Network, names: list[str]) -> Figures:
    """A host loses its cable, and gets it back when it is dead to all."""
    others, at_s = names[:3], time.time()
    network.unplug(3)
    swarm.until(lambda: all(swarm.events(n, "PeerDied", at_s, peer="peer-3") for n in others), "dead", PATIENCE_S)
    plugged_s = time.time()
    network.plug_in(3)
    return {
        "skipped after, s": latest_s(swarm, others, at_s, "PeerSuspected", ["peer-3"]),
        "dead after, s": latest_s(swarm, others, at_s, "PeerDied", ["peer-3"]),
        "plugged in: all views equal after, s": equal_after_s(swarm, names, plugged_s),
        **gaps(swarm, others, at_s),
    }


def split(swarm: Swarm, network: Network, names: list[str], seconds: float) -> Figures:
    """Two hosts are cut off from the two others for a while."""
    at_s, sides = time.time(), (names[:2], names[2:])
    network.partition((0, 1), (2, 3))
    swarm.pause(seconds)
    mended_s = time.time()
    network.heal()
    recovered = lambda n, o: [e for k in ("PeerRecovered", "PeerJoined") for e in swarm.events(n, k, mended_s, peer=o)]  # noqa: E731
    pairs = [(n, o) for mine, theirs in (sides, sides[::-1]) for n in mine for o in theirs]
    swarm.until(lambda: all(recovered(n, o) for n, o in pairs), "all are heard again", PATIENCE_S)
    heard_s = max(min(event["t"] for event in recovered(n, o)) for n, o in pairs) - mended_s
    equal_s = equal_after_s(swarm, names, mended_s)
    own_dead = sum(e["peer"] in side for side in sides for n in side for e in swarm.events(n, "PeerDied"))
    return {
        "mended: all are heard again after, s": heard_s,
        "mended: all views equal after, s": max(heard_s, equal_s),
        "deaths told of the own side (0 is right)": own_dead,
        **gaps(swarm, names, at_s),
    }


def slow_line(swarm: Swarm, network: Network, names: list[str]) -> Figures:
    """One host's line takes 10 Mbit a second each way; each exchange with it fills it for seconds."""
    at_s = time.time()
    network.slow_down(3, mbps=10)
    swarm.pause(30)
    return {**verdicts(swarm, names, at_s), **gaps(swarm, names, at_s)}


def lossy_lines(swarm: Swarm, network: Network, names: list[str]) -> Figures:
    """One in ten of the packets to each host is lost."""
    at_s = time.time()
    for host in network.hosts:
        network.lose(host, one_in=10)
    swarm.pause(30)
    return {**verdicts(swarm, names, at_s), **gaps(swarm, names, at_s)}


def stopped(swarm: Swarm, network: Network, names: list[str]) -> Figures:
    """A process stands still, and wakes."""
    others, at_s = names[:3], swarm.signal("peer-3", signal.SIGSTOP)
    swarm.pause(20)
    woken_s = swarm.signal("peer-3", signal.SIGCONT)
    for name in others:
        swarm.wait_for(name, "PeerRecovered", since=woken_s, peer="peer-3")
    swarm.wait_for("peer-3", "Exchanged", since=woken_s)
    return {
        "skipped after, s": latest_s(swarm, others, at_s, "PeerSuspected", ["peer-3"]),
        "awake: trusted by all after, s": latest_s(swarm, others, woken_s, "PeerRecovered", ["peer-3"]),
        "deaths": verdicts(swarm, names, at_s)["deaths"],
        **gaps(swarm, others, at_s),
    }


def latest_s(swarm: Swarm, names: Iterable[str], since: float, kind: str, of: Iterable[str]) -> float:
    """How long after `since` the last of these peers first told this of each of those."""
    return max(swarm.events(n, kind, since, peer=o)[0]["t"] for n in names for o in of if n != o) - since


def equal_after_s(swarm: Swarm, names: list[str], since: float) -> float:
    """How long after `since` all views were equal and the graph whole; 0 if they never were otherwise."""
    swarm.until(lambda: views_agree(swarm, names) and graph_is_whole(swarm, names), "all views are equal", PATIENCE_S)
    return max(0.0, agreed_at_s(swarm, names) - since)


def verdicts(swarm: Swarm, names: Iterable[str], since: float) -> Figures:
    """How many suspicions and deaths were told."""
    kinds = {"suspicions": "PeerSuspected", "deaths": "PeerDied"}
    return {word: sum(len(swarm.events(name, kind, since)) for name in names) for word, kind in kinds.items()}


def gaps(swarm: Swarm, names: Iterable[str], since: float) -> Figures:
    """The longest gaps between steps before and after."""
    times = [swarm.steps(name) for name in names]
    return {
        "longest gap before, s": max(longest_gap_s(own[own < since]) for own in times),
        "longest gap during and after, s": max(longest_gap_s(own, since) for own in times),
    }


if __name__ == "__main__":
    main()
