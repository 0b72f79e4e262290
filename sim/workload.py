"""What the peers train: how long their steps take, how large a snapshot is and, if it has values, how they change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from gossiptrain.errors import ConfigurationError
from sim.step_times import ConstantSteps, LogNormalSteps, StepTimes

Measures = Mapping[str, "float | Sequence[float]"]


class Workload(ABC):
    """Holds every peer's parameters, named by the peer's number; a value `Any` is whatever the workload publishes.

    Attributes:
        snapshot_bytes: bytes of one snapshot on the wire.
        state_bytes: bytes of the state that a newcomer is given; 0: as many as a snapshot's.
        step_times: how long local steps last.
        table: what stood under [workload] in the scenario file that it was read from; None where a program made it.
    """

    snapshot_bytes: int
    state_bytes: int = 0
    step_times: StepTimes
    table: Mapping[str, Any] | None = None

    def parameters(self) -> tuple[str, ...]:
        """Describes the parameters; peers compare it when they greet each other."""
        return (f"parameters float32 [{max(1, self.snapshot_bytes // 4)}]",)

    def describe(self) -> str:
        """Says in one line what is trained, for a report's head."""
        return type(self).__name__

    def prepare(self, peers: int, seed: int) -> None:  # noqa: B027
        """A simulation of so many peers is to begin; more may join, with higher numbers. What was before is forgotten."""

    def plan(self, peer: int, steps: int) -> None:  # noqa: B027
        """The peer begins a block of steps: unless it dies, `train` with so many follows, and nothing changes before."""

    @abstractmethod
    def begin(self, seed: int, peer: int) -> None:
        """A process of this peer starts, with parameters of its own."""

    @abstractmethod
    def train(self, peer: int, steps: int) -> None:
        """The peer takes local steps."""

    @abstractmethod
    def publish(self, peer: int) -> Any:
        """Returns the peer's parameters as they are now; the value never changes."""

    @abstractmethod
    def mix(self, own: Any, inbox: Sequence[tuple[Any, float]]) -> Any:
        """Returns the correction sum_j w_j (x_j - own) of a published value."""

    def scale(self, own: Any, base: Any, factor: float) -> Any:
        """Returns the correction (factor - 1) (own - base), which multiplies a block's change."""
        return self.mix(own, [(base, 1 - factor)])

    @abstractmethod
    def correct(self, peer: int, correction: Any) -> None:
        """Adds a correction to the peer's parameters."""

    @abstractmethod
    def adopt(self, peer: int, value: Any) -> None:
        """Sets the peer's parameters to a published value."""

    def spoil(self, value: Any) -> Any:
        """Returns what a hostile peer sends instead of a value."""
        return value

    def is_finite(self, value: Any) -> bool:
        """Says whether every number of a published value is finite."""
        return True

    def distance(self, one: Any, other: Any) -> float | None:
        """Returns the norm of the difference of two published values' parameters; None where there are no values."""
        return None

    def sample(self, value: Any) -> Any:
        """Returns some of a published value's parameters, always the same ones, [S]; None where there are no values."""
        return None

    def measure(self, peers: Sequence[int]) -> Measures:
        """Returns what is to be recorded now over the living peers, such as losses; {} for nothing.

        A value is one number for all, or one for each of these peers, in their order.
        """
        return {}


class TimedWorkload(Workload):
    """No values at all: only sizes and times, so that bandwidth and waiting count and nothing is computed."""

    def __init__(self, snapshot_bytes: int = 4_000_000, step_times: StepTimes | None = None) -> None:
        """
        Args:
            snapshot_bytes: bytes of one snapshot, at least 1.
            step_times: default `ConstantSteps()`, 0.05 s a step.
        """
        if snapshot_bytes < 1:
            raise ConfigurationError(f"snapshot_bytes={snapshot_bytes!r}: must be at least 1")
        self.snapshot_bytes = snapshot_bytes
        self.step_times = step_times or ConstantSteps()

    @staticmethod
    def protocol_scale(step_s: float = 0.5, snapshot_bytes: int = 4_000_000) -> TimedWorkload:
        """Returns a workload for runs of many peers, whose subject is the protocol: few, long, unequal steps.

        A model worth many machines takes half a second or more for a step; exchanges, which come with the boundaries, then
        do not outnumber the membership's messages, and a simulation is several times faster.
        """
        return TimedWorkload(snapshot_bytes, LogNormalSteps(step_s, between=0.3, within=0.05))

    def begin(self, seed: int, peer: int) -> None:
        """Nothing to prepare."""

    def train(self, peer: int, steps: int) -> None:
        """Nothing to compute."""

    def publish(self, peer: int) -> None:
        """Nothing is published but the fact."""

    def mix(self, own: Any, inbox: Sequence[tuple[Any, float]]) -> None:
        """Nothing to add."""

    def correct(self, peer: int, correction: Any) -> None:
        """Nothing changes."""

    def adopt(self, peer: int, value: Any) -> None:
        """Nothing changes."""
