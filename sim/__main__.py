"""Rehearses failures: a scenario file, random faults from a seed (`--random-faults`), or many of them (`soak`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gossiptrain.errors import ConfigurationError
from sim.checkers import InvariantBroken
from sim.report import Report
from sim.scenario import Scenario, from_dict, load
from sim.simulation import KINDS
from sim.soak import Schedule, Soak

COLUMNS = (
    "peer",
    "state",
    "steps",
    "steps_per_s",
    "longest_gap_s",
    "exchanges",
    "suspected",
    "died",
    "rewired",
    "members",
    "messages_per_s",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a scenario and prints a table; returns 0, 1 when an invariant broke, 2 when the scenario cannot be read."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["soak"]:
        return soak(words[1:])
    options = _parser().parse_args(words)
    try:
        scenario, replay = _scenario(options)
        return _rehearse(
            scenario, replay, quiet=options.quiet, seed=options.seed, until_s=options.until, save=options.report
        )
    except ConfigurationError as error:
        print(f"sim: {error}", file=sys.stderr)
        return 2


def _rehearse(
    scenario: Scenario,
    replay: str,
    *,
    quiet: bool,
    seed: int | None = None,
    until_s: float | None = None,
    save: Path | None = None,
) -> int:
    simulation = scenario.simulation(seed, replay)
    until_s = scenario.until_s if until_s is None else until_s
    if not until_s > 0:
        raise ConfigurationError(f"--until {until_s}: must be a positive number of seconds")
    if save is not None and save.suffix not in (".html", ".json"):
        raise ConfigurationError(f"--report {save}: must end in .html (a page) or .json (a trace)")
    try:
        report = simulation.run(until_s, progress=not quiet)
    except InvariantBroken as broken:
        _print_report(simulation.report())
        print(f"\n{broken}", file=sys.stderr)
        return 1
    if report.interrupted:
        print("stopped; the report so far:", file=sys.stderr)
    _print_report(report)
    if save is not None:
        print(f"report: {report.save(save)}")
    return 0


def soak(arguments: Sequence[str]) -> int:
    """Runs random fault schedules by the thousand; returns 0, 1 when something broke, 2 when an option is out of range."""
    parser = argparse.ArgumentParser(prog="python -m sim soak", description=soak.__doc__)
    parser.add_argument("--schedules", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--seed-from", type=int, default=0, help="the first one's seed; the others follow (default 0)")
    parser.add_argument("--only", type=int, metavar="SEED", help="run this one alone, and write no file")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--peers-max", type=int, default=64, help="most peers at the start (default 64)")
    parser.add_argument("--minutes", type=float, default=10.0, help="virtual minutes of each (default 10)")
    parser.add_argument(
        "--results", type=Path, default=Path("soak.jsonl"), help="what is done is kept here, and skipped"
    )
    parser.add_argument("--failures", type=Path, default=Path("soak_failures"), help="folder for scenarios that failed")
    options = parser.parse_args(arguments)
    if min(options.schedules, options.jobs) < 1 or options.peers_max < 2 or not options.minutes > 1.2:
        print("sim: at least 1 schedule, 1 job, 2 peers and more than 1.2 minutes", file=sys.stderr)
        return 2
    if options.only is not None:
        schedule = Schedule(options.only, options.peers_max, options.minutes)
        return _rehearse(schedule.scenario(), schedule.command(), quiet=False)
    seeds = range(options.seed_from, options.seed_from + options.schedules)
    schedules = [Schedule(seed, options.peers_max, options.minutes) for seed in seeds]
    return 0 if Soak(schedules, options.jobs, options.results, options.failures).run() else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sim", description=__doc__)
    parser.add_argument("scenario", nargs="?", help="a TOML file")
    parser.add_argument("--seed", type=int, help="another seed than the scenario's")
    parser.add_argument("--until", type=float, metavar="S", help="virtual seconds; default the scenario's, or 600")
    parser.add_argument(
        "--random-faults", type=int, metavar="SEED", help="draw faults, and everything else, from a seed"
    )
    parser.add_argument("--peers", type=int, default=8, help="with --random-faults: how many peers (default 8)")
    parser.add_argument("--mixer", choices=sorted(KINDS), default="ad_psgd", help="with --random-faults")
    parser.add_argument(
        "--per-minute", type=float, default=6.0, help="with --random-faults: faults a minute (default 6)"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write a page with a replay (.html), or a trace for Perfetto (.json)",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


def _scenario(options: argparse.Namespace) -> tuple[Scenario, str]:
    """Returns what to run and the command that repeats it."""
    if options.random_faults is not None:
        if options.scenario is not None:
            raise ConfigurationError("give a scenario file or --random-faults, not both")
        until_s = 600.0 if options.until is None else options.until
        return random_scenario(options.random_faults, options.peers, until_s, options.mixer, options.per_minute)
    if options.scenario is None:
        raise ConfigurationError("give a scenario file, or --random-faults SEED; --help tells more")
    replay = f"python -m sim {options.scenario}"
    replay += f" --seed {options.seed}" if options.seed is not None else ""
    replay += f" --until {options.until:g}" if options.until is not None else ""
    return load(options.scenario), replay


def random_scenario(
    seed: int, peers: int, until_s: float, mixer: str = "ad_psgd", per_minute: float = 6.0
) -> tuple[Scenario, str]:
    """Returns the scenario of `--random-faults` and the command that runs it: everything is drawn from the seed."""
    values = {
        "peers": peers,
        "seed": seed,
        "until_s": until_s,
        "mixer": mixer,
        "workload": {"snapshot_bytes": 400_000, "steps": {"kind": "lognormal", "median_s": 0.1}},
        "random_faults": {"seed": seed, "per_minute": per_minute},
    }
    command = f"python -m sim --random-faults {seed} --peers {peers} --until {until_s:g}"
    command += f" --mixer {mixer}" if mixer != "ad_psgd" else ""
    command += f" --per-minute {per_minute:g}" if per_minute != 6.0 else ""
    return from_dict(values), command


def _print_report(report: Report) -> None:
    rows = [[str(row[column]) for column in COLUMNS] for row in report.to_rows()]
    widths = [max(len(text) for text in column) for column in zip(COLUMNS, *rows)]
    for row in (list(COLUMNS), *rows):
        print(
            "  ".join(text.rjust(width) if i else text.ljust(width) for i, (text, width) in enumerate(zip(row, widths)))
        )
    for peer in report.peers:
        for failure in peer.failures:
            print(f"{peer.name} gave up at {peer.ended_s:.1f} s: {failure}")
    seen = ", ".join(f"{name} {count}" for name, count in sorted(report.saw.items()))
    print(
        f"\n{report.until_s:g} s, {report.events} events, seed {report.seed}, trace {report.trace_hash}\nseen: {seen}"
    )


if __name__ == "__main__":
    sys.exit(main())
