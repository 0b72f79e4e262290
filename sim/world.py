"""What all peers of a simulation share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.checkers import Checkers
from sim.clock import Clock
from sim.network import Network
from sim.sampling import SharedData
from sim.step_times import StepTimes
from sim.trace import Trace
from sim.workload import Workload

if TYPE_CHECKING:
    from sim.peer import SimulatedPeer


@dataclass(slots=True)
class World:
    """The world around the peers. `seeds` tells a peer's seeds; `checks_wire` has messages encoded and decoded.

    `step_times` take the place of the workload's, where an environment tells them. `data`: what the peers share, if any.
    """

    clock: Clock
    network: Network
    workload: Workload
    trace: Trace
    checkers: Checkers
    seed: int
    checks_wire: bool
    seeds: Callable[[SimulatedPeer], tuple[str, ...]]
    step_times: StepTimes | None = None
    data: SharedData | None = None
