"""Who is taken for dead, how soon, and at what price: the shipped membership in the simulator, beside SWIM and Lifeguard.

SWIM and Lifeguard are settings of the same code (`MembershipConfig.swim`, `.lifeguard`), so the rows differ in nothing but
these. Steps are long and snapshots small here: what is measured is membership, not exchanges. Real processes are measured
by `chaos.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from common import RESULTS, machine, print_table, write_results

from gossiptrain.protocol.config import MembershipConfig
from gossiptrain.protocol.notices import PeerDied, PeerSuspected, Rewired
from sim import ConstantSteps, FaultSchedule, Limits, Simulation, TimedWorkload
from sim.streams import generator

VARIANTS: dict[str, Callable[[], MembershipConfig]] = {
    "SWIM": MembershipConfig.swim,
    "Lifeguard": MembershipConfig.lifeguard,
    "gossiptrain": MembershipConfig,
}
MEMBERSHIP_MESSAGES = ("Ping", "Ack", "PingRequest", "PingResult", "Gossip", "Sync", "Hello", "Leave")
SECTIONS = ("false_deaths", "deaths", "recovery", "traffic")
WARM_UP_S = 20.0
# Times of the checkers are not what is measured here; plain SWIM would break them.
LOOSE = Limits(detect_s=1e6, heal_s=1e6, join_s=1e6, half_commit_s=1e6, every_s=10.0)


def simulation(
    peers: int, seed: int, variant: str = "gossiptrain", faults: FaultSchedule | None = None, **options: Any
):
    """A run in which steps take half a second and snapshots a hundred kilobytes."""
    workload = TimedWorkload(100_000, ConstantSteps(0.5))
    settings = {"workload": workload, "membership": VARIANTS[variant](), "limits": LOOSE, **options}
    return Simulation(peers, seed=seed, faults=faults, **settings)


class Stalls(NamedTuple):
    """False verdicts of one run: distinct (observer, victim) and distinct victims' stalls, and the member-hours watched."""

    verdicts: int
    stalls_lost: int
    member_hours: float


def false_deaths(task: tuple[str, int, int, float]) -> Stalls:
    """A quarter of the peers stand still for 5 to 20 s in each minute; nobody ever dies."""
    variant, peers, seed, minutes = task
    chance = generator(seed, "stalls", peers)
    faults = FaultSchedule()
    for minute in range(int(minutes)):
        for peer in sorted(chance.choice(peers, max(1, peers // 4), replace=False).tolist()):
            at_s = WARM_UP_S + 60.0 * minute + chance.uniform(0.0, 38.0)
            faults = faults.stall(int(peer), at_s, float(chance.uniform(5.0, 20.0)))
    until_s = WARM_UP_S + 60.0 * minutes + 20.0
    report = simulation(peers, seed, variant, faults).run(until_s)
    deaths = [notice for peer in report.peers for _, notice in peer.told(PeerDied)]
    return Stalls(len(deaths), len({notice.peer for notice in deaths}), peers * until_s / 3600)


class Death(NamedTuple):
    """Seconds from a peer's end until: no neighbour mixes with it, all call it dead, all have re-wired."""

    out_of_mixing_s: float
    dead_s: float
    rewired_s: float


def death(task: tuple[str, int, int, bool]) -> Death:
    """One peer is killed, or its host falls silent."""
    variant, peers, seed, silent = task
    chance = generator(seed, "death", peers)
    victim, at_s = int(chance.integers(peers)), WARM_UP_S + float(chance.uniform(0.0, 5.0))
    run = simulation(peers, seed, variant, FaultSchedule().crash(victim, at_s, silent=silent))
    run.run(at_s - 0.001)
    around = set(run.process(victim).protocol.neighbours())
    report = run.run(at_s + (150.0 if silent else 30.0))
    name = f"peer-{victim}"
    skipped = {p.name: t for p in report.peers for t, n in reversed(p.told(PeerSuspected, at_s)) if n.peer == name}
    dead = {p.name: t for p in report.peers for t, n in reversed(p.told(PeerDied, at_s)) if n.peer == name}
    rewired = {p.name: t for p in report.peers for t, n in reversed(p.told(Rewired, at_s)) if n.members == peers - 1}
    never = float("inf")
    out_s = [min(skipped.get(other, never), dead.get(other, never)) for other in around]
    others = [p.name for p in report.peers if p.name != name]
    return Death(
        max(out_s) - at_s,
        max(dead.get(other, never) for other in others) - at_s,
        max(rewired.get(other, never) for other in others) - at_s,
    )


class Heal(NamedTuple):
    """Seconds after the partition's end until all views were equal, and the fewest steps on a side while it lasted."""

    healed_s: float
    steps_min: int
    were_apart: bool


def partition(task: tuple[int, int]) -> Heal:
    """The network splits in halves for a minute."""
    peers, seed = task
    sides = [list(range(peers // 2)), list(range(peers // 2, peers))]
    faults = FaultSchedule().partition(sides, at_s=WARM_UP_S, for_s=60.0)
    run = simulation(peers, seed, faults=faults)
    run.run(WARM_UP_S)
    before = [run.process(host).training.steps for host in range(peers)]
    run.run(WARM_UP_S + 59.9)
    steps = min(run.process(host).training.steps - before[host] for host in range(peers))
    apart = len({peer.living() for peer in run.living()}) > 1
    return Heal(until_all_agree(run, WARM_UP_S + 60.0, peers), steps, apart)


def restart(task: tuple[int, int]) -> float:
    """A killed peer comes back under its name a second later; seconds from its start until all hold its new process."""
    peers, seed = task
    victim, at_s = 1 + seed % (peers - 1), WARM_UP_S
    run = simulation(peers, seed, faults=FaultSchedule().crash(victim, at_s).restart(victim, at_s + 1.0))
    run.run(at_s + 1.0)
    return until_all_agree(run, at_s + 1.0, peers)


def until_all_agree(run: Simulation, since_s: float, peers: int) -> float:
    """Steps on until every peer's view holds the latest processes of all, and no suspects."""
    boots = {f"peer-{host}": run.process(host).boot for host in range(peers)}
    while run.now < since_s + 120.0:
        run.run(run.now + 0.05)
        boots = {f"peer-{host}": run.process(host).boot for host in range(peers)}
        if all(_agrees(peer, boots) for peer in run.living()):
            return run.now - since_s
    return float("inf")


def _agrees(peer: Any, boots: dict[str, int]) -> bool:
    members = peer.protocol.members()
    return len(members) == len(boots) - 1 and all(m.state == "alive" and m.boot == boots[m.name] for m in members)


class Traffic(NamedTuple):
    """What a member sends, in a minute in which nothing happens: messages and bytes a second; and the run's CPU time."""

    messages_per_s: float
    bytes_per_s: float
    join_bytes: float
    cpu_s: float


def traffic(task: tuple[int, int]) -> Traffic:
    """Membership's messages; a member exchanges with its neighbours beside that.

    The rates are of a group that has been formed: the news of its forming take minutes to die away when it is large.
    """
    peers, seed = task
    began_s = time.process_time()
    run = simulation(peers, seed, formed=True)
    run.clock.run(WARM_UP_S)
    before = [sent(peer) for peer in run.living()]
    run.clock.run(WARM_UP_S + 60.0)
    after = [sent(peer) for peer in run.living()]
    messages = sum(b[0] - a[0] for a, b in zip(before, after)) / 60 / peers
    size = sum(b[1] - a[1] for a, b in zip(before, after)) / 60 / peers
    forms_s = min(30.0, 0.03 * peers)
    forming = simulation(peers, seed, start_within_s=forms_s, seeds=8)
    forming.clock.run(WARM_UP_S + forms_s)
    joined = sum(sent(peer)[1] for peer in forming.living())
    return Traffic(messages, size, joined / peers, time.process_time() - began_s)


def sent(peer: Any) -> tuple[int, int]:
    """Messages and bytes of membership that a process has sent."""
    counts, sizes = peer.traffic(), peer.bytes_by_kind()
    return sum(counts.get(kind, 0) for kind in MEMBERSHIP_MESSAGES), sum(sizes.get(k, 0) for k in MEMBERSHIP_MESSAGES)


def spread(values: Iterable[float]) -> str:
    """Median and worst."""
    found = list(values)
    return f"{statistics.median(found):.2f} / {max(found):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="runs of each row")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 32, 128], help="peers in the rows on false deaths")
    parser.add_argument(
        "--traffic", type=int, nargs="+", default=[8, 32, 128, 1000], help="peers in the rows on traffic"
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="virtual minutes of stalls in a run")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="parts; the others' results are kept"
    )
    arguments = parser.parse_args()
    path = RESULTS / "membership.json"
    results = json.loads(path.read_text()) if path.exists() and arguments.only != SECTIONS else {}
    with ProcessPoolExecutor(arguments.jobs) as pool:
        if "false_deaths" in arguments.only:
            results["false_deaths"] = show_false_deaths(pool, arguments)
        if "deaths" in arguments.only:
            results["deaths"] = show_deaths(pool, arguments.seeds)
        if "recovery" in arguments.only:
            results["recovery"] = show_recovery(pool, arguments.seeds)
        if "traffic" in arguments.only:
            results["traffic"] = show_traffic(pool, arguments.traffic)
    write_results("membership", {**results, "machine": machine(), "seeds": arguments.seeds})


def show_false_deaths(pool: ProcessPoolExecutor, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The table of false verdicts; the plain variants, which re-wire all the time, are shown with fewer seeds."""
    found = []
    for variant in VARIANTS:
        for peers in arguments.sizes:
            seeds = (
                arguments.seeds if variant == "gossiptrain" else max(1, arguments.seeds // (4 if peers <= 32 else 16))
            )
            runs = list(pool.map(false_deaths, [(variant, peers, seed, arguments.minutes) for seed in range(seeds)]))
            kills = list(pool.map(death, [(variant, peers, seed, False) for seed in range(min(seeds, 5))]))
            hours = sum(run.member_hours for run in runs)
            found.append(
                {
                    "variant": variant,
                    "peers": peers,
                    "runs": seeds,
                    "member_hours": hours,
                    "false_dead_per_member_hour": sum(run.stalls_lost for run in runs) / hours,
                    "verdicts": sum(run.verdicts for run in runs),
                    "killed_dead_s_median": statistics.median(kill.dead_s for kill in kills),
                }
            )
    columns = (
        "variant",
        "peers",
        "runs",
        "member-hours",
        "members falsely dead / member-hour",
        "killed: all say dead, s",
    )
    rows = [
        (
            f["variant"],
            f["peers"],
            f["runs"],
            f"{f['member_hours']:.1f}",
            f"{f['false_dead_per_member_hour']:.2f}",
            f"{f['killed_dead_s_median']:.2f}",
        )
        for f in found
    ]
    print_table("A quarter of the peers stand still for 5 to 20 s in each minute", columns, rows)
    return found


def show_deaths(pool: ProcessPoolExecutor, seeds: int) -> list[dict[str, Any]]:
    """The table of deaths."""
    found, rows = [], []
    for peers, silent in ((8, False), (32, False), (128, False), (32, True)):
        runs = list(pool.map(death, [("gossiptrain", peers, seed, silent) for seed in range(seeds)]))
        found.append({"peers": peers, "silent": silent, "runs": [run._asdict() for run in runs]})
        columns = [spread(getattr(run, field) for run in runs) for field in Death._fields]
        rows.append(["host silent" if silent else "process killed", str(peers), str(seeds), *columns])
    titles = ("what", "peers", "runs", "out of mixing, s", "dead for all, s", "re-wired, s")
    print_table("Until a peer's end is known (median / worst)", titles, rows)
    return found


def show_recovery(pool: ProcessPoolExecutor, seeds: int) -> dict[str, Any]:
    """The table of partitions and restarts."""
    found: dict[str, Any] = {}
    rows = []
    for peers in (8, 32):
        heals = list(pool.map(partition, [(peers, seed) for seed in range(seeds)]))
        again = list(pool.map(restart, [(peers, seed) for seed in range(seeds)]))
        found[str(peers)] = {"partition": [heal._asdict() for heal in heals], "restart_s": again}
        apart = sum(heal.were_apart for heal in heals)
        rows.append(
            (
                peers,
                spread(heal.healed_s for heal in heals),
                min(heal.steps_min for heal in heals),
                f"{apart} of {seeds}",
                spread(again),
            )
        )
    titles = (
        "peers",
        "views equal after partition, s",
        "fewest steps in it",
        "views differed",
        "restart: all alive, s",
    )
    print_table("Coming back (median / worst)", titles, rows)
    return found


def show_traffic(pool: ProcessPoolExecutor, sizes: list[int]) -> list[dict[str, Any]]:
    """The table of traffic."""
    runs = list(pool.map(traffic, [(peers, 1) for peers in sizes]))
    rows = [
        (
            peers,
            f"{run.messages_per_s:.2f}",
            f"{run.bytes_per_s:.0f}",
            f"{run.join_bytes / 1024:.1f}",
            f"{run.cpu_s:.0f}",
        )
        for peers, run in zip(sizes, runs)
    ]
    titles = ("peers", "messages/s", "bytes/s", "KiB to form the group", "CPU s")
    print_table("What a member sends for membership", titles, rows)
    return [{"peers": peers, **run._asdict()} for peers, run in zip(sizes, runs)]


if __name__ == "__main__":
    main()
