"""Snapshots on their way: flows that share their sender's uplink and their receiver's downlink equally.

Processor sharing: a flow from i to j runs at min(up_i / flows on that uplink, down_j / flows on that downlink), and is
re-timed whenever one of these counts changes. Where a host has a bandwidth budget, up_i is no more than that: the token
bucket of `transport.throttle`, whose burst is a twentieth of a second's worth, as the fluid that it is on average. What a
flow cannot use because its other end is slower is not handed on (max-min fairness would): TCP takes about as long to find
it as a snapshot lasts. A flow that cannot run (its link is cut, an end is stalled) keeps its place but takes no share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sim.clock import Clock


class Flow:
    """One snapshot on its way.

    Attributes:
        source, target: host numbers. has_begun, is_over: its life.
        rate: bit/s now, 0 while it cannot run. left_bits: as of `since_s`.
        cargo: what the network needs when it has arrived.
    """

    __slots__ = (
        "cargo",
        "generation",
        "has_begun",
        "is_over",
        "left_bits",
        "rate",
        "runs",
        "since_s",
        "source",
        "target",
    )

    def __init__(self, source: int, target: int, bits: float, cargo: Any) -> None:
        self.source, self.target = source, target
        self.left_bits = bits
        self.cargo = cargo
        self.rate = 0.0
        self.runs = False
        self.since_s = 0.0
        self.generation = 0
        self.has_begun = self.is_over = False


class Bandwidth:
    """All flows, and the links' bandwidths in bit/s, which may be changed through `set_link`."""

    def __init__(
        self,
        clock: Clock,
        *,
        up_mbps: list[float],
        down_mbps: list[float],
        may_run: Callable[[Flow], bool],
        cap_bps: Callable[[int, int], float],
        arrived: Callable[[Flow], None],
    ) -> None:
        """
        Args:
            may_run: says whether a flow's bytes can move now.
            cap_bps: the fastest a single flow between two hosts can be (TCP under loss).
            arrived: is called when a flow's last bit has been received.
        """
        self._clock = clock
        self._up_bps = [1e6 * value for value in up_mbps]
        self._budget_bps = [float("inf")] * len(up_mbps)
        self._down_bps = [1e6 * value for value in down_mbps]
        self._may_run, self._cap_bps, self._arrived = may_run, cap_bps, arrived
        self._leaving: list[dict[Flow, None]] = [{} for _ in up_mbps]
        self._coming: list[dict[Flow, None]] = [{} for _ in up_mbps]
        self._leaving_count = [0] * len(up_mbps)
        self._coming_count = [0] * len(up_mbps)

    def slowest_bps(self, source: int, target: int) -> float:
        """The bandwidth between two hosts that a control message sees."""
        up_bps, down_bps = self._up_bps[source], self._down_bps[target]
        return up_bps if up_bps < down_bps else down_bps

    def set_link(self, host: int, up_mbps: float, down_mbps: float) -> None:
        """Changes a host's bandwidths."""
        self._up_bps[host], self._down_bps[host] = 1e6 * up_mbps, 1e6 * down_mbps
        self._share([host], [host])

    def set_budget(self, host: int, mbps: float) -> None:
        """Bounds what all flows from a host take together; 0 for no bound."""
        self._budget_bps[host] = 1e6 * mbps or float("inf")
        self._share([host], [])

    def link_mbps(self, host: int) -> tuple[float, float]:
        """A host's (uplink, downlink) in megabit a second."""
        return self._up_bps[host] / 1e6, self._down_bps[host] / 1e6

    def start(self, flow: Flow) -> None:
        """Begins to send."""
        flow.has_begun = True
        flow.since_s = self._clock.now
        self._leaving[flow.source][flow] = None
        self._coming[flow.target][flow] = None
        if self._may_run(flow):
            self._set_runs(flow, True)
            self._share([flow.source], [flow.target])

    def stop(self, flow: Flow) -> None:
        """Ends a flow, whether it has arrived or not; does nothing when it has ended before."""
        if flow.is_over:
            return
        flow.is_over = True
        flow.generation += 1
        self._leaving[flow.source].pop(flow, None)
        self._coming[flow.target].pop(flow, None)
        if flow.runs:
            self._set_runs(flow, False)
            self._share([flow.source], [flow.target])

    def look_again(self, flows: Iterable[Flow] | None = None) -> None:
        """Asks anew which flows may run: some (default: all) may be cut, stalled, or free again."""
        chosen = [f for row in self._leaving for f in row] if flows is None else list(flows)
        changed = [flow for flow in chosen if flow.runs != self._may_run(flow)]
        for flow in changed:
            self._set_runs(flow, not flow.runs)
        if changed:
            self._share(sorted({f.source for f in changed}), sorted({f.target for f in changed}))

    def at_host(self, host: int) -> list[Flow]:
        """The flows from and to a host."""
        return [*self._leaving[host], *self._coming[host]]

    def _set_runs(self, flow: Flow, runs: bool) -> None:
        if not runs:
            self._settle(flow)
            flow.rate = 0.0
            flow.generation += 1
        flow.runs = runs
        self._leaving_count[flow.source] += 1 if runs else -1
        self._coming_count[flow.target] += 1 if runs else -1

    def _settle(self, flow: Flow) -> None:
        now = self._clock.now
        flow.left_bits = max(0.0, flow.left_bits - flow.rate * (now - flow.since_s))
        flow.since_s = now

    def _share(self, sources: list[int], targets: list[int]) -> None:
        affected: dict[Flow, None] = {}
        for host in sources:
            affected.update(self._leaving[host])
        for host in targets:
            affected.update(self._coming[host])
        for flow in affected:
            if flow.runs:
                self._re_time(flow)

    def _re_time(self, flow: Flow) -> None:
        source, target = flow.source, flow.target
        rate = min(
            min(self._up_bps[source], self._budget_bps[source]) / self._leaving_count[source],
            self._down_bps[target] / self._coming_count[target],
            self._cap_bps(source, target),
        )
        if rate == flow.rate:
            return
        self._settle(flow)
        flow.rate = rate
        flow.generation += 1
        self._clock.at(self._clock.now + flow.left_bits / rate, self._finish, (flow, flow.generation))

    def _finish(self, item: tuple[Flow, int]) -> None:
        flow, generation = item
        if flow.generation == generation and not flow.is_over:
            self.stop(flow)
            self._arrived(flow)
