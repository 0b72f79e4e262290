"""One peer of the virtual network: a real protocol, a model of one number, and what a driver would keep for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from gossiptrain.protocol.effects import Fail, Mix
from gossiptrain.protocol.messages import TransferKey
from gossiptrain.protocol.notices import Notice
from gossiptrain.protocol.peer_protocol import PeerProtocol
from tests.protocol.virtual_state import States


@dataclass
class VirtualPeer:
    """One peer: its protocol, its one-number model and what a driver would keep for it."""

    protocol: PeerProtocol
    value: float
    step_s: float
    alive: bool = True
    frozen_until_s: float = 0.0
    steps: int = 0
    publish: bool = False
    waits_for_round: bool = False
    version: int = 0
    snapshots: dict[int, float] = field(default_factory=dict)
    pins: dict[int, int] = field(default_factory=dict)
    expected: set[TransferKey] = field(default_factory=set)
    arrived: dict[TransferKey, float] = field(default_factory=dict)
    pending: list[Callable[[float], float]] = field(default_factory=list)
    applied: int = 0
    states: States = field(default_factory=States)
    steps_adopted: int = 0
    links: set[tuple[str, str]] = field(default_factory=set)
    notices: list[tuple[float, Notice]] = field(default_factory=list)
    failures: list[Fail] = field(default_factory=list)
    mixes: list[tuple[float, Mix]] = field(default_factory=list)
    deadline_s: float = float("inf")
    hurried: int = 0
    deadline_handled_s: float = -1.0
    step_times_s: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.protocol.config.name

    def told(self, kind: type) -> list:
        """The notices of one kind, in order."""
        return [notice for _, notice in self.notices if isinstance(notice, kind)]

    def told_at(self, kind: type) -> list[float]:
        """When the notices of one kind came."""
        return [time_s for time_s, notice in self.notices if isinstance(notice, kind)]

    def holds(self) -> dict[str, int]:
        """How much memory its exchanges hold, in snapshots."""
        return {"pins": len(self.pins), "expected": len(self.expected), "arrived": len(self.arrived)}

    def longest_gap_s(self, since_s: float = 0.0) -> float:
        """The longest time between two of its steps that ended after `since_s`."""
        times_s = self.step_times_s
        return max((b - a for a, b in itertools.pairwise(times_s) if b > since_s), default=0.0)
