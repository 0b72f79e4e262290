"""How fast the simulator is: CPU seconds and cost of an event with the real protocol, and what an event costs by itself.

Two workloads: steps of 0.05 s, where most events are exchanges, and of 0.5 s (`TimedWorkload.protocol_scale`), where most
are the membership's. Snapshots have 4 MB.

The "own cost" rows replace the protocol by one that only sends three messages a second and answers each: what remains is
the simulator's own work, with every message encoded for its size and its trace line hashed.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import dataclass
from typing import Any
from unittest import mock

from common import machine, print_table, write_results

from gossiptrain.protocol import messages as m
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.effects import Connect, Effect, Notify, Send
from gossiptrain.protocol.events import DeadlineReached, Event, MessageReceived, Started
from gossiptrain.protocol.notices import Joined
from sim import ConstantSteps, LogNormalSteps, Simulation, TimedWorkload

# The first seconds, in which everybody joins and news of n peers goes to n peers, are told apart.
START_S = 10.0
COLUMNS = (
    "",
    "steps",
    "peers",
    "virtual s",
    "events",
    "CPU s",
    "of it start",
    "us/event",
    "CPU ms/peer/virtual s",
    "peak MB",
)


class Chatter:
    """A protocol without a mind: three pings a second to the next peers, each answered."""

    peers = 8

    def __init__(self, config: ProtocolConfig) -> None:
        self.config = config
        self.counters: dict[str, int] = {}
        self.caught_up = True
        own = int(config.name.removeprefix("peer-"))
        self._others = [f"sim://peer-{(own + k) % self.peers}/control" for k in (1, 2, 3)]
        self._askers = [f"sim://peer-{(own - k) % self.peers}/control" for k in (1, 2, 3)]
        self._by_name = {f"peer-{i}": f"sim://peer-{i}/control" for i in range(self.peers)}
        self._next_s = 1.0

    def handle(self, event: Event, now: float) -> list[Effect]:
        if isinstance(event, MessageReceived):
            if isinstance(event.envelope.message, m.Ping):
                return [Send(self._by_name[event.envelope.sender], m.Ack(1, 0, 0))]
            return []
        if isinstance(event, DeadlineReached):
            self._next_s = now + 1.0
            ping = m.Ping(1, 0, 0)
            return [Send(address, ping) for address in self._others]
        if isinstance(event, Started):
            return [*(Connect(a, "control") for a in (*self._others, *self._askers)), Notify(Joined(""))]
        return []

    def envelope(self, message: m.Message) -> m.Envelope:
        return m.Envelope(self.config.name, self.config.boot, message, 0)

    def next_deadline(self) -> float:
        return self._next_s

    def living(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    def neighbours(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    steps: str
    peers: int
    virtual_s: float
    events: int
    cpu_s: float
    cpu_s_start: float
    peak_rss_mb: int

    def row(self) -> list[str]:
        return [
            self.name,
            self.steps,
            str(self.peers),
            f"{self.virtual_s:g}",
            f"{self.events:,}",
            f"{self.cpu_s:.2f}",
            f"{self.cpu_s_start:.2f}",
            f"{1e6 * self.cpu_s / self.events:.1f}",
            f"{1e3 * (self.cpu_s - self.cpu_s_start) / (self.peers * (self.virtual_s - START_S)):.2f}",
            str(self.peak_rss_mb),
        ]

    def as_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "us_per_event": 1e6 * self.cpu_s / self.events}


def measure(name: str, steps: str, peers: int, virtual_s: float, **options: Any) -> Figure:
    """Runs one simulation and takes its CPU time, construction included, and that of its first seconds, when all join."""
    began_s = time.process_time()
    simulation = Simulation(peers, seed=7, start_within_s=min(5.0, 0.5 * peers / 32), **options)
    simulation.run(START_S)
    start_s = time.process_time() - began_s
    report = simulation.run(virtual_s)
    cpu_s = time.process_time() - began_s
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return Figure(name, steps, peers, virtual_s, report.events, cpu_s, start_s, rss_mb)


def own_cost(peers: int, virtual_s: float) -> Figure:
    """The simulator's own work for each event."""
    Chatter.peers = peers
    still = TimedWorkload(1000, ConstantSteps(1e6))
    with mock.patch("sim.peer.PeerProtocol", Chatter), mock.patch("sim.checkers.Checkers.look"):
        return measure("own cost", "none", peers, virtual_s, workload=still)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs, up to 32 peers")
    parser.add_argument("--peers-max", type=int, default=128, help="1000 adds the run of 1,000 peers, of many minutes")
    options = parser.parse_args()
    described = machine()
    usual = TimedWorkload(4_000_000, LogNormalSteps(0.05, 0.3, 0.05))
    scale = TimedWorkload.protocol_scale()
    long_s, short_s = (60.0, 20.0) if options.quick else (300.0, 60.0)
    figures = [own_cost(peers, 100.0 if options.quick else 1000.0) for peers in (8, 32)]
    for mixer in ("ad_psgd", "d_psgd"):
        figures += [measure(mixer, "0.05 s", n, long_s, workload=usual, mixer=mixer) for n in (8, 32)]
    runs = [(32, long_s)] if options.quick else [(32, long_s), (128, short_s), (1000, 600.0)]
    chosen = [(peers, virtual_s) for peers, virtual_s in runs if peers <= options.peers_max]
    figures += [measure("ad_psgd", "0.5 s", n, virtual_s, workload=scale) for n, virtual_s in chosen]
    print_table("The simulator's speed", COLUMNS, [figure.row() for figure in figures])
    write_results("simulator_core", {"machine": described, "figures": [figure.as_dict() for figure in figures]})


if __name__ == "__main__":
    main()
