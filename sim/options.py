"""What fixes a simulation, checked before it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import topologies
from gossiptrain.budgets import check_mbps
from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.budget import SendLimits
from gossiptrain.protocol.config import ExchangeConfig, MembershipConfig
from gossiptrain.protocol.pacing import PacingConfig
from sim.checkers import Limits
from sim.environment import Environment
from sim.faults import FaultSchedule
from sim.network_options import NetworkOptions
from sim.sampling import SharedData
from sim.workload import Workload

KINDS = {"ad_psgd": "pair", "d_psgd": "round"}


@dataclass(frozen=True, slots=True)
class Options:
    """Everything a simulation is made of, but for the run's length; see `Simulation`."""

    peers: int
    topology: Any
    faults: FaultSchedule
    seed: int
    workload: Workload
    network: NetworkOptions
    mixer: str
    membership: MembershipConfig
    exchange: ExchangeConfig
    sync_every: int | str
    normalise: bool
    founders: int
    formed: bool
    seeds: int
    start_within_s: float
    limits: Limits
    checks_wire: bool
    observe_every_s: float
    environment: Environment | None = None
    until_s: float | None = None
    written_faults: FaultSchedule = field(default_factory=FaultSchedule)
    max_mbps: float | Sequence[float] = 0.0
    data: SharedData | None = None

    def budgets_mbps(self, hosts: int) -> list[float]:
        """Returns the bandwidth budget of every host, joiners and guests among them; 0 for none.

        Raises:
            ConfigurationError: there are too few, or one cannot be kept: see `SendLimits.check`.
        """
        given = self.max_mbps
        if isinstance(given, (int, float)) and not isinstance(given, bool):
            values = [float(given)] * hosts
        elif isinstance(given, Sequence) and not isinstance(given, str) and len(given) >= hosts:
            values = [float(value) for value in given]
        else:
            raise ConfigurationError(f"max_mbps={given!r}: must be one number of megabit a second or {hosts} of them")
        for value in set(values):
            check_mbps("max_mbps", value)
            timing = self.exchange
            SendLimits(value).check(
                self.workload.snapshot_bytes, timing.transfer_timeout_s, timing.round_timeout_s, KINDS[self.mixer]
            )
        return values


def topology_of(topology: Any) -> Any:
    """Turns a function of `topologies` into its name: the protocol asks a family for names, not for a number."""
    name = getattr(topology, "__name__", "")
    known = (*topologies.known_families(), *topologies.known_schedules())
    return name if name in known and getattr(topologies, name, None) is topology else topology


def check(options: Options) -> None:
    """Raises ConfigurationError where an option is out of range; the message names it and what is accepted."""
    ranges: Mapping[str, tuple[float, float]] = {
        "peers": (1, 4096),
        "founders": (1, options.peers),
        "seeds": (1, 4096),
        "start_within_s": (0.0, 1e6),
        "observe_every_s": (1e-3, float("inf")),
    }
    PacingConfig.of(options.sync_every)
    for name, (low, high) in ranges.items():
        if not low <= getattr(options, name) <= high:
            raise ConfigurationError(f"{name}={getattr(options, name)!r}: must be between {low:g} and {high:g}")
    early = next((f for f in options.faults.faults if f.kind != "join" and f.at_s < options.start_within_s), None)
    if early is not None:
        raise ConfigurationError(
            f"{early.kind} at {early.at_s:g} s: faults begin after all peers have started, at "
            f"start_within_s={options.start_within_s:g} s"
        )
    if options.mixer not in KINDS:
        raise ConfigurationError(f"mixer={options.mixer!r}: must be one of {', '.join(KINDS)}")
