"""What a run showed: notices, counters, steps and gaps, traffic, measures over time, and the hash of its trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from gossiptrain.protocol.notices import Notice, PeerDied, PeerSuspected, Rewired
from gossiptrain.reports.record import RunRecord
from gossiptrain.reports.reporting import Reporting
from sim.faults import Fault
from sim.records import record_of, settings_of
from sim.training_thread import Block
from sim.workload import Measures

if TYPE_CHECKING:
    from sim.peer import SimulatedPeer
    from sim.simulation import Simulation

Kind = TypeVar("Kind", bound=Notice)


@dataclass(frozen=True, slots=True)
class Sample:
    """The workload's measures over the living peers at one moment.

    Attributes:
        time_s: virtual seconds. peers: how many lived and counted in mixing.
        values: numbers over all of them.
        hosts: their numbers; "peer-3" has 3. per_peer: a number for each of them, in this order.
    """

    time_s: float
    peers: int
    values: dict[str, float]
    hosts: tuple[int, ...] = ()
    per_peer: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @staticmethod
    def of(time_s: float, hosts: Sequence[int], measures: Measures) -> Sample:
        """Sorts what a workload measured over these peers into numbers over all and numbers of each."""
        values = {name: float(value) for name, value in measures.items() if isinstance(value, (int, float))}
        each = {name: tuple(value) for name, value in measures.items() if not isinstance(value, (int, float))}
        return Sample(time_s, len(hosts), values, tuple(hosts), each)


@dataclass(frozen=True, slots=True)
class PeerReport:
    """One process of a peer.

    Attributes:
        name, boot: a restart has the same name and another boot id.
        began_s, ended_s: its life in virtual seconds; infinity while it lives. end: "", "crashed", "left" or "failed".
        failures: what its protocol gave up for, in words.
        steps: optimizer steps completed. blocks: (end_s, steps, gap_s) of each block of local steps.
        notices: (virtual seconds, notice). counters: the protocol's. traffic: messages sent by kind, and bytes.
        frames_refused: control frames that were no message.
        living, neighbours: its last view.
        samples: samples of the shared data that it trained; None where none are shared.
    """

    name: str
    boot: int
    began_s: float
    ended_s: float
    end: str
    failures: tuple[str, ...]
    steps: int
    blocks: tuple[Block, ...]
    notices: tuple[tuple[float, Notice], ...]
    counters: dict[str, int]
    traffic: dict[str, int]
    frames_refused: int
    living: tuple[str, ...]
    neighbours: tuple[str, ...]
    samples: int | None = None

    def told(self, kind: type[Kind], since_s: float = 0.0) -> list[tuple[float, Kind]]:
        """The notices of one kind with their times, since a time."""
        return [(time_s, notice) for time_s, notice in self.notices if isinstance(notice, kind) and time_s >= since_s]

    def longest_gap_s(self, since_s: float = 0.0, until_s: float = float("inf")) -> float:
        """The longest time between two steps among the blocks that ended in [since_s, until_s]; 0 when none did."""
        return max((block.gap_s for block in self.blocks if since_s <= block.end_s <= until_s), default=0.0)

    def exchanges(self) -> int:
        """How many mixes were decided."""
        return sum(type(notice).__name__ == "Exchanged" for _, notice in self.notices)


@dataclass(frozen=True, slots=True)
class Report(Reporting):
    """A run as far as it went.

    Attributes:
        until_s: virtual seconds simulated. events: events that happened. seed: the run's.
        trace_hash: of everything that happened in order; equal for equal runs, on any machine, whatever PYTHONHASHSEED is.
        peers: every process, in the order of the peers' numbers and of their starts.
        saw: how often things happened: each kind of notice and fault, for "sometimes" checks.
        network: counters of the network. samples: the workload's measures over time.
        interrupted: Ctrl-C ended the run at `until_s`.
        environment: the cluster as `Environment.from_dict` reads it: compute, network, churn.
        faults: what was done to the run. settings: what fixed it, in words.
        bytes_sent: (virtual seconds, bytes that all processes had sent since the beginning), at the times of observation.
    """

    until_s: float
    events: int
    seed: int
    trace_hash: str
    peers: tuple[PeerReport, ...]
    saw: Counter[str] = field(default_factory=Counter)
    network: dict[str, int] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    interrupted: bool = False
    environment: dict[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    bytes_sent: tuple[tuple[float, int], ...] = ()

    @staticmethod
    def of(simulation: Simulation) -> Report:
        """Reads a simulation."""
        return Report(
            until_s=simulation.now,
            events=simulation.clock.count,
            seed=simulation.options.seed,
            trace_hash=simulation.trace.hexdigest(),
            peers=tuple(_peer_report(peer) for peer in simulation.all_processes()),
            saw=Counter(simulation.checkers.saw),
            network=dict(sorted(simulation.network.counters.items())),
            samples=tuple(simulation.samples),
            interrupted=simulation.interrupted,
            environment=simulation.environment().summary(),
            faults=simulation.options.faults.faults,
            settings=settings_of(simulation.options),
            bytes_sent=tuple(simulation.bytes_sent),
        )

    def record(self) -> RunRecord:
        """The run in the form that simulated and real runs share."""
        return record_of(self)

    def peer(self, name: str) -> PeerReport:
        """The latest process of a peer.

        Raises:
            KeyError: there was none of this name.
        """
        found = [peer for peer in self.peers if peer.name == name]
        if not found:
            raise KeyError(f"no peer {name!r}; there were {', '.join(dict.fromkeys(p.name for p in self.peers))}")
        return found[-1]

    def living(self) -> list[PeerReport]:
        """The processes that live."""
        return [peer for peer in self.peers if not peer.end]

    def require(self, *names: str) -> Report:
        """A "sometimes" check: returns the report if each of these was seen, such as "Rewired" or "fault crash".

        Raises:
            AssertionError: one was not; what was seen is named.
        """
        missing = [name for name in names if not self.saw[name]]
        if missing:
            seen = ", ".join(f"{name} {count}" for name, count in sorted(self.saw.items()))
            raise AssertionError(f"never happened: {', '.join(missing)} (seed {self.seed}); seen: {seen or 'nothing'}")
        return self

    def since_fault(
        self, kind: type[PeerSuspected] | type[PeerDied] | type[Rewired], at_s: float, of: str = ""
    ) -> dict[str, float]:
        """How long after a fault each peer that lived through it told the first notice of a kind (about one peer).

        Args:
            kind: `PeerSuspected` (out of mixing), `PeerDied` or `Rewired`.
            at_s: when the fault struck.
            of: the peer that was hurt; "" for any.

        Returns:
            Seconds by name; peers that told none are left out.
        """
        found = {}
        for peer in self.living():
            if peer.began_s > at_s:
                continue
            times_s = [t for t, notice in peer.told(kind, at_s) if not of or getattr(notice, "peer", of) == of]
            if times_s:
                found[peer.name] = times_s[0] - at_s
        return found

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary a process, for a table or a data frame."""
        return [_row(peer, self.until_s) for peer in self.peers]


def _peer_report(peer: SimulatedPeer) -> PeerReport:
    return PeerReport(
        name=peer.name,
        boot=peer.boot,
        began_s=peer.began_s,
        ended_s=peer.ended_s,
        end=peer.end,
        failures=tuple(f"{failure.kind}: {failure.text}" for failure in peer.failures),
        steps=peer.training.steps,
        blocks=tuple(peer.training.blocks),
        notices=tuple(peer.notices),
        counters=dict(sorted(peer.protocol.counters.items())),
        traffic=peer.traffic(),
        frames_refused=peer.frames_refused,
        living=peer.protocol.living(),
        neighbours=peer.protocol.neighbours(),
        samples=peer.training.sampling.trained if peer.world.data is not None else None,
    )


def _row(peer: PeerReport, until_s: float) -> dict[str, Any]:
    lived_s = max(min(peer.ended_s, until_s) - peer.began_s, 1e-9)
    messages = sum(n for kind, n in peer.traffic.items() if kind not in ("bytes", "snapshots", "snapshot_bytes"))
    return {
        "peer": peer.name,
        "state": peer.end or "living",
        "began_s": round(peer.began_s, 3),
        "lived_s": round(lived_s, 3),
        "steps": peer.steps,
        "steps_per_s": round(peer.steps / lived_s, 3),
        "longest_gap_s": round(peer.longest_gap_s(), 4),
        "exchanges": peer.exchanges(),
        "suspected": len(peer.told(PeerSuspected)),
        "died": len(peer.told(PeerDied)),
        "rewired": len(peer.told(Rewired)),
        "members": len(peer.living),
        "messages_per_s": round(messages / lived_s, 2),
        "control_bytes_per_s": round(peer.traffic.get("bytes", 0) / lived_s, 1),
        "snapshot_mb": round(peer.traffic.get("snapshot_bytes", 0) / 1e6, 3),
    }
