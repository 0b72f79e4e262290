"""Random fault schedules by the thousand: each is drawn from its number alone and run in a process of its own.

Like `progress` it reads a clock, and it starts processes: both run simulations, they are no part of one.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gossiptrain.errors import ConfigurationError
from sim.checkers import InvariantBroken
from sim.scenario import Scenario, dumps, from_dict
from sim.streams import generator

SHOW_EVERY_S = 0.5
SHOW_EVERY_S_IN_A_FILE = 30.0
# What a thousand schedules must have brought about at least once; a tenth of them may miss the rarer ones.
SOMETIMES = ("Joined", "PeerJoined", "PeerSuspected", "PeerRecovered", "PeerDied", "PeerLeft", "Rewired", "Exchanged")
SOMETIMES_FROM = 50


@dataclass(frozen=True, slots=True)
class Schedule:
    """One random run, fixed by its seed and by how large it may be.

    Attributes:
        peers_max: most peers at the start; most runs have far fewer. minutes: virtual minutes.
    """

    seed: int
    peers_max: int = 64
    minutes: float = 10.0

    def scenario(self) -> Scenario:
        """Draws size, mixer, step time, network and faults."""
        chance = generator(self.seed, "soak", self.peers_max, self.minutes)
        # Logarithmically between 2 and the most, with a preference for few: small runs find most of what there is to find.
        peers = round(2.0 * (self.peers_max / 2.0) ** float(chance.random() ** 1.5))
        is_far = bool(chance.random() < 0.3)
        values: dict[str, Any] = {
            "peers": peers,
            "seed": self.seed,
            "until_s": 60.0 * self.minutes,
            "mixer": "d_psgd" if chance.random() < 0.3 else "ad_psgd",
            "seeds": 8 if chance.random() < 0.7 else 3,
            "founders": 1 if chance.random() < 0.8 else peers,
            "checks_wire": bool(chance.random() < 0.1),
            "workload": {
                # Within what the slowest network below carries in a few seconds: 2.4 Mbit/s under its loss.
                "snapshot_bytes": int(10 ** chance.uniform(4, 5.7 if is_far else 7)),
                "steps": {"kind": "lognormal", "median_s": round(float(chance.uniform(0.1, 0.6)), 3)},
            },
            "random_faults": {"seed": self.seed, "per_minute": round(float(chance.uniform(1, 10)), 2)},
        }
        if is_far:
            values["network"] = {"latency_s": 0.03, "uplink_mbps": 100.0, "loss": 0.01}
        return from_dict(values)

    def command(self) -> str:
        """The command that runs this one again."""
        return f"python -m sim soak --only {self.seed} --peers-max {self.peers_max} --minutes {self.minutes:g}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run went.

    Attributes:
        schedule: which. peers: how many started. error: "" or what broke, in words. scenario: as TOML, of a failure.
        events, cpu_s: what it took. trace_hash: of a run that held. saw: how often things happened.
    """

    schedule: Schedule
    peers: int
    error: str
    scenario: str
    events: int
    cpu_s: float
    trace_hash: str
    saw: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Returns one line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(line: str) -> Outcome:
        """Reads such a line."""
        values = json.loads(line)
        return Outcome(**{**values, "schedule": Schedule(**values["schedule"])})


def run_one(schedule: Schedule) -> Outcome:
    """Runs one schedule to its end, or to what breaks in it; no exception gets out."""
    began_s = time.process_time()
    scenario = schedule.scenario()
    simulation = scenario.simulation(replay=schedule.command())
    error = text = trace_hash = ""
    try:
        trace_hash = simulation.run(scenario.until_s).trace_hash
    except InvariantBroken as broken:
        error = str(broken)
    except Exception as fault:  # a fault of the simulator itself is a failure to be told, too
        error = f"{type(fault).__name__}: {fault}"
    if error:
        with suppress(ConfigurationError):
            text = dumps(simulation.options, scenario.until_s)
    cpu_s = round(time.process_time() - began_s, 3)
    saw = dict(sorted(simulation.checkers.saw.items()))
    return Outcome(schedule, simulation.size, error, text, simulation.clock.count, cpu_s, trace_hash, saw)


class Soak:
    """Many schedules in parallel, with progress; what is done is in a file, and is not done again.

    Attributes:
        outcomes: of all schedules so far, those of former runs of the same file included.
    """

    def __init__(self, schedules: list[Schedule], jobs: int, results: Path, failures: Path) -> None:
        """
        Args:
            jobs: processes at a time, at least 1.
            results: one line of JSON an outcome is appended to it; schedules found in it are skipped.
            failures: folder for the scenarios of failures, named by their seeds.
        """
        self._jobs, self._results, self._failures = jobs, results, failures
        wanted = dict.fromkeys(schedules)
        known = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        found = [Outcome.from_json(line) for line in known if line.endswith("}")]
        self.outcomes = [outcome for outcome in found if wanted.pop(outcome.schedule, self) is None]
        self._todo = list(wanted)
        self._skipped = len(self.outcomes)
        self._began_s = self._shown_s = 0.0

    def run(self) -> bool:
        """Runs what is left to do; says whether everything held. Ctrl-C ends it with the summary so far."""
        self._began_s = self._shown_s = time.monotonic()
        if self._skipped:
            print(f"{self._skipped} of {self._skipped + len(self._todo)} are done already, in {self._results}")
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self._jobs, mp_context=context, initializer=_follow_parent)
        stopped = False
        before = signal.signal(signal.SIGTERM, _stop)
        try:
            with self._results.open("a", encoding="utf-8") as file:
                for outcome in self._each(pool):
                    file.write(outcome.to_json() + "\n")
                    file.flush()
                    self._note(outcome)
        except KeyboardInterrupt:
            stopped = True
            print("\nstopped", file=sys.stderr)
            for process in list((pool._processes or {}).values()):
                process.terminate()
        finally:
            signal.signal(signal.SIGTERM, before)
            pool.shutdown(wait=not stopped, cancel_futures=True)
        return self._summary(stopped)

    def _each(self, pool: ProcessPoolExecutor) -> Iterator[Outcome]:
        """Yields outcomes as they come; no more are waiting in line than keep the processes busy."""
        waiting = iter(self._todo)
        running: set[Future[Outcome]] = set()
        while True:
            for schedule in waiting:
                running.add(pool.submit(run_one, schedule))
                if len(running) >= 2 * self._jobs:
                    break
            if not running:
                return
            done, running = wait(running, timeout=SHOW_EVERY_S, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            self._show()

    def _note(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if outcome.error:
            path = self._failures / f"seed_{outcome.schedule.seed}.toml"
            if outcome.scenario:
                self._failures.mkdir(parents=True, exist_ok=True)
                path.write_text(f"# {outcome.error.splitlines()[0]}\n{outcome.scenario}", encoding="utf-8")
            print(
                f"\nFAILED: {outcome.error.splitlines()[0]}\n  replay: {outcome.schedule.command()}\n  kept:   {path}"
            )

    def _show(self) -> None:
        now_s = time.monotonic()
        is_terminal = sys.stderr.isatty()
        if now_s - self._shown_s < (SHOW_EVERY_S if is_terminal else SHOW_EVERY_S_IN_A_FILE):
            return
        self._shown_s = now_s
        done, total = len(self.outcomes), self._skipped + len(self._todo)
        took_s = now_s - self._began_s
        left_s = took_s / max(1, done - self._skipped) * (total - done)
        failures = sum(bool(outcome.error) for outcome in self.outcomes)
        line = f"{done} of {total} schedules, {failures} failed, {took_s:.0f} s so far, about {left_s:.0f} s to go"
        print(f"\r{line}  " if is_terminal else line, end="" if is_terminal else "\n", file=sys.stderr, flush=True)

    def _summary(self, stopped: bool) -> bool:
        outcomes = self.outcomes
        failed = [outcome for outcome in outcomes if outcome.error]
        saw: Counter[str] = Counter()
        for outcome in outcomes:
            saw.update(outcome.saw)
        hours = sum(outcome.schedule.minutes for outcome in outcomes) / 60
        events, cpu_s = sum(o.events for o in outcomes), sum(o.cpu_s for o in outcomes)
        print(f"\n{len(outcomes)} schedules, {hours:.1f} virtual hours, {events:,} events, {cpu_s:.0f} CPU-s")
        print("saw: " + ", ".join(f"{name} {count}" for name, count in sorted(saw.items())))
        for outcome in failed:
            print(f"FAILED: {outcome.error.splitlines()[0]}\n  replay: {outcome.schedule.command()}")
        missing = [name for name in SOMETIMES if not saw[name]] if len(outcomes) >= SOMETIMES_FROM else []
        if missing:
            print(f"FAILED: never happened in any schedule: {', '.join(missing)}")
        if not failed and not missing:
            print("everything held" + (" so far" if stopped else ""))
        return not failed and not missing


def _follow_parent() -> None:
    """In a worker: Ctrl-C reaches all processes of a terminal, but the first one decides; when that is gone, end too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a worker"

    def wait_for_the_end() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait_for_the_end, daemon=True).start()


def _stop(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt
