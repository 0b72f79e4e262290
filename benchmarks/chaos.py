"""What a killed peer costs the others, with real processes on one machine: how soon it is left out, and comes back.

Eight peers with a tiny model and the default time-outs train in one run. One after another is killed (kill -9) and
started again under its name: first some seconds after the others have laid their graph without it, then at once. All
figures are read from the peers' own logs; a figure is that of the slowest survivor.

- left out: until all survivors keep it out of mixing. re-wired: until all have laid the graph without it.
- all alive: from when the new process listens, just before its first message, until it and all others take each other
  for living.
- longest gap: between two steps of a survivor, within 10 s of a kill or a restart, against the longest of the same
  survivor in the quiet parts of the same run.

    python benchmarks/chaos.py [--peers 8] [--kills 7]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, print_table, write_results

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.chaos.harness import Swarm
from tests.chaos.invariants import lives, longest_gap_s, view, views_agree, wait_until_whole

QUIET_S = 60.0
AFTER_FAULT_S = 10.0
PACE_S = 0.02


def main() -> None:
    """Runs all kills and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--kills", type=int, default=7, help="of each kind")
    options = parser.parse_args()
    described = machine()
    with tempfile.TemporaryDirectory() as folder, Swarm(Path(folder), value=1.0, pace_s=PACE_S) as swarm:
        names = swarm.start_together(options.peers)
        wait_until_whole(swarm, names)
        began_s = time.time()
        swarm.pause(QUIET_S)
        victims = [names[1 + number % (len(names) - 1)] for number in range(options.kills)]
        late = [kill_and_restart(swarm, names, victim, at_once=False) for victim in victims]
        soon = [kill_and_restart(swarm, names, victim, at_once=True) for victim in victims]
        gaps = survivors_gaps(swarm, names, began_s, [*late, *soon])
        swarm.finish(*names)
    report(described, options, late, soon, gaps)


def kill_and_restart(swarm: Swarm, names: list[str], victim: str, at_once: bool) -> dict[str, Any]:
    """Kills one peer, starts it again, waits until all is well; returns how long each took, in seconds."""
    survivors = [name for name in names if name != victim]
    before = len(lives(swarm, victim))
    killed_s = swarm.kill(victim)
    row: dict[str, Any] = {"victim": victim, "killed_s": killed_s, "restarted_s": killed_s}
    if not at_once:
        swarm.until(lambda: views_agree(swarm, survivors), f"all miss {victim}")
        row["left_out_s"] = max(first(swarm, n, killed_s, ("PeerSuspected", "PeerDied"), victim) for n in survivors)
        swarm.pause(AFTER_FAULT_S)
        row["rewired_s"] = max(rewired_s(swarm, name, killed_s, len(survivors)) for name in survivors)
        row["restarted_s"] = time.time()
    swarm.start(victim)
    swarm.until(lambda: len(lives(swarm, victim)) > before, f"the next {victim} writes")
    listens_s = (swarm.run_dir / "peers" / f"{victim}.address").stat().st_mtime
    swarm.until(lambda: all(swarm.events(n, "PeerJoined", killed_s, peer=victim) for n in survivors), "all know it")
    swarm.until(lambda: view(swarm, victim) == frozenset(names), f"{victim} knows all")
    alive_s = max(first(swarm, name, killed_s, ("PeerJoined",), victim) for name in survivors) + killed_s
    knows_s = max(first(swarm, victim, listens_s - 0.1, ("PeerJoined",), name) for name in survivors) + listens_s - 0.1
    row["all_alive_s"] = max(alive_s, knows_s) - listens_s
    wait_until_whole(swarm, names)
    swarm.pause(AFTER_FAULT_S)
    return row


def first(swarm: Swarm, name: str, since: float, kinds: Iterable[str], peer: str) -> float:
    """How long after `since` a peer told any of these of another."""
    return min(event["t"] for kind in kinds for event in swarm.events(name, kind, since, peer=peer)) - since


def rewired_s(swarm: Swarm, name: str, since: float, members: int) -> float:
    """How long after `since` a peer laid its graph for so many members."""
    return swarm.events(name, "Rewired", since, members=members)[0]["t"] - since


def survivors_gaps(swarm: Swarm, names: list[str], began_s: float, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The longest gap of each survivor near each fault of another, and in the quiet of the same run."""
    ended_s = time.time()
    faults = sorted({(row[key], row["victim"]) for row in rows for key in ("killed_s", "restarted_s")})
    edges = [began_s, *(edge for at_s, _ in faults for edge in (at_s, at_s + AFTER_FAULT_S)), ended_s]
    quiet = [(a, b) for a, b in zip(edges[::2], edges[1::2]) if b > a]
    gaps = []
    for name in names:
        times = swarm.steps(name)
        # Its own absence is no gap: each process of the name is looked at by itself.
        processes = np.split(times, np.searchsorted(times, [at_s for at_s, victim in faults if victim == name]))
        quiet_s = max(longest_gap_s(own[(own >= a) & (own <= b)]) for own in processes for a, b in quiet)
        for at_s, victim in faults:
            if victim != name:
                near_s = max(longest_gap_s(own, at_s, at_s + AFTER_FAULT_S) for own in processes)
                gaps.append({"survivor": name, "fault_s": at_s - began_s, "gap_s": near_s, "quiet_gap_s": quiet_s})
    return gaps


def report(
    described: dict[str, Any],
    options: argparse.Namespace,
    late: list[dict[str, Any]],
    soon: list[dict[str, Any]],
    gaps: list[dict[str, Any]],
) -> None:
    """Prints the table and writes the JSON."""
    figures = {
        "killed: left out of all survivors' mixing, s": [row["left_out_s"] for row in late],
        "killed: re-wired at all survivors, s": [row["rewired_s"] for row in late],
        "restarted later, same name: all alive, s": [row["all_alive_s"] for row in late],
        "restarted at once, same name: all alive, s": [row["all_alive_s"] for row in soon],
        "survivors' longest gap within 10 s of a fault, s": [gap["gap_s"] for gap in gaps],
        "  the longest in the quiet of the same run, s": [gap["quiet_gap_s"] for gap in gaps],
        "  ratio of the two": [gap["gap_s"] / gap["quiet_gap_s"] for gap in gaps],
    }
    print_table(
        f"{options.peers} peers, {options.kills} kills and restarts of each kind",
        ("", "median", "worst"),
        [(name, f"{statistics.median(values):.3f}", f"{max(values):.3f}") for name, values in figures.items()],
    )
    summary = {name.strip(): spread(values) for name, values in figures.items()}
    results = {"machine": described, "peers": options.peers, "kills": options.kills, "pace_s": PACE_S}
    write_results("chaos", {**results, "summary": summary, "later": late, "at_once": soon, "gaps": gaps})


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and worst."""
    return {"median": statistics.median(values), "worst": max(values)}


if __name__ == "__main__":
    main()
