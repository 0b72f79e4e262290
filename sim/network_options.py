"""How the virtual network behaves: delays, bandwidths, loss, and the time-outs of TCP and of libzmq."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gossiptrain.errors import ConfigurationError
from sim import regions
from sim.streams import generator

Matrix = Sequence[Sequence[float]]
UNLIMITED_MBPS = math.inf


SEGMENT_BITS = 8 * 1460


def throughput_bps(trip_s: float, loss: float) -> float:
    """Returns what TCP gets through at most with such loss: 1.22 MSS / (RTT sqrt(p)) (Mathis et al. 1997, eq. 3)."""
    return 1.22 * SEGMENT_BITS / (trip_s * math.sqrt(loss)) if loss and trip_s else float("inf")


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """The network between the peers' hosts. Host i is that of peer-i.

    Attributes:
        latency_s: one-way delay in seconds; one number, or a matrix [n][n] whose row is the sender.
        regions: instead of `latency_s`: the region of each host, repeated over the hosts in turn; the delays are half of
            the published round trips of `sim.regions`, and a pair of hosts gets the published bandwidth.
        latency_lognormal: instead of `latency_s`: (mu, sigma) of the natural logarithm of the one-way delay in
            milliseconds; each pair of hosts draws one delay for both directions.
        pair_mbps: the most that passes from one host to another, megabit a second; one number, or a matrix whose row is
            the sender. Each snapshot on its way may have that much; uplinks and downlinks limit them together.
        extends: matrices and lists may be smaller than the number of hosts: each host beyond them is like one of the
            hosts in them, drawn by `draw_seed`; between two that are like the same one lies the median of all pairs.
        draw_seed: fixes what `latency_lognormal` and `extends` draw, apart from the run's seed: the same hosts in each run.
        jitter: each control message takes up to this share longer than its delay; [0, 10].
        uplink_mbps, downlink_mbps: megabit a second of each host's link; one number, or one a host. Snapshots share
            them; control messages are too small to wait for each other and pay only for their own bytes.
        snapshot_overhead_s: what each snapshot takes beside its delay and its bytes: copies, threads that get to it late.
        loss: share of packets lost, [0, 0.9]. TCP sends them again, so a lost control message is late and those behind it
            wait; a snapshot flows no faster than 1.22 MSS / (RTT sqrt(loss)) (Mathis et al. 1997, eq. 3).
        duplicate: share of control messages that arrive twice. TCP never does this: for tests of robustness.
        reorder: share of control messages that may be overtaken. TCP never does this either.
        rto_s, rto_s_max: first and longest wait of TCP before it sends again; it doubles (Linux: 0.2 and 120).
        keepalive_s: an outage longer than this breaks data links, and leaves the receiver's end of control links closed, so
            that the sender's next attempt breaks the link and loses what waited (the transport's keepalive is
            2 + 3 x 1 seconds; it does not act while sent bytes are not acknowledged, as pings see to on control links).
        connect_s, connect_s_max: first and longest wait before a connection attempt that nobody answered is repeated.
        reconnect_s, reconnect_s_max: the same after a refusal or a broken link (libzmq's RECONNECT_IVL and _MAX).
        control_queue_bytes: what a control link keeps while it is not up; more is dropped and counted.
    """

    latency_s: float | Matrix = 0.0005
    regions: tuple[str, ...] = ()
    latency_lognormal: tuple[float, float] | None = None
    pair_mbps: float | Matrix = UNLIMITED_MBPS
    extends: bool = False
    draw_seed: int = 0
    jitter: float = 0.2
    uplink_mbps: float | Sequence[float] = 1000.0
    downlink_mbps: float | Sequence[float] = 1000.0
    snapshot_overhead_s: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    rto_s: float = 0.2
    rto_s_max: float = 120.0
    keepalive_s: float = 5.0
    connect_s: float = 1.0
    connect_s_max: float = 64.0
    reconnect_s: float = 0.1
    reconnect_s_max: float = 5.0
    control_queue_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name, highest in (("jitter", 10.0), ("loss", 0.9), ("duplicate", 1.0), ("reorder", 1.0)):
            value = getattr(self, name)
            if not 0 <= value <= highest:
                raise ConfigurationError(f"{name}={value!r}: must be between 0 and {highest:g}")
        for name in ("rto_s", "rto_s_max", "connect_s", "connect_s_max", "reconnect_s", "reconnect_s_max"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: must be a positive number of seconds")
        if not 0 <= self.snapshot_overhead_s < math.inf:
            raise ConfigurationError(f"snapshot_overhead_s={self.snapshot_overhead_s!r}: must not be negative")
        for region in self.regions:
            regions.check(region)
        if self.latency_lognormal is not None:
            _check_lognormal(self.latency_lognormal)
        if self.regions and self.latency_lognormal is not None:
            raise ConfigurationError("latency_lognormal: give it or regions, not both")

    def latencies_s(self, hosts: int) -> float | list[list[float]]:
        """Returns the one-way delay in seconds, one for all or a list of rows [hosts][hosts].

        Raises:
            ConfigurationError: the matrix is too small or holds a negative delay, or two regions have no known delay.
        """
        if self.regions:
            places = self._places(hosts)
            return [[regions.path(one, other).round_trip_ms / 2000 for other in places] for one in places]
        if self.latency_lognormal is not None:
            return _drawn_s(*self.latency_lognormal, self.draw_seed, hosts)
        return self._spread("latency_s", hosts, lambda value: 0 <= value < math.inf, "not be negative")

    def pairs_mbps(self, hosts: int) -> float | list[list[float]]:
        """Returns the bandwidth between two hosts, one for all or a list of rows [hosts][hosts]; infinity is no limit.

        Raises:
            ConfigurationError: the matrix is too small or a bandwidth is not positive.
        """
        if self.regions and self.pair_mbps == UNLIMITED_MBPS:
            places = self._places(hosts)
            return [[1000 * regions.path(one, other).gbps for other in places] for one in places]
        return self._spread("pair_mbps", hosts, lambda value: value > 0, "be positive")

    def slowest_mbps(self, hosts: int) -> float:
        """Returns what passes at least between any two of so many hosts, as long as nobody else uses their links."""
        pairs_mbps, latencies_s = self.pairs_mbps(hosts), self.latencies_s(hosts)
        least_mbps = min(map(min, pairs_mbps)) if isinstance(pairs_mbps, list) else pairs_mbps
        longest_s = max(map(max, latencies_s)) if isinstance(latencies_s, list) else latencies_s
        links_mbps = [*self.bandwidths_mbps("uplink_mbps", hosts), *self.bandwidths_mbps("downlink_mbps", hosts)]
        return min(least_mbps, *links_mbps, throughput_bps(2 * longest_s, self.loss) / 1e6)

    def bandwidths_mbps(self, name: str, hosts: int) -> list[float]:
        """Returns `uplink_mbps` or `downlink_mbps` of every host.

        Raises:
            ConfigurationError: there are too few, or one is not positive.
        """
        value = getattr(self, name)
        values = [float(value)] * hosts if isinstance(value, (int, float)) else [float(v) for v in value]
        if self.extends and values:
            values = [values[like] for like in self._likes(len(values), hosts)]
        if len(values) < hosts or not all(v > 0 for v in values):
            raise ConfigurationError(f"{name}={value!r}: must be positive, one number or {hosts} of them")
        return values

    def _places(self, hosts: int) -> list[str]:
        return [self.regions[host % len(self.regions)] for host in range(hosts)]

    def _likes(self, told: int, hosts: int) -> list[int]:
        """For each host the one among those told that it is like: itself, or one drawn."""
        beyond = [int(generator(self.draw_seed, "host like", host).integers(told)) for host in range(told, hosts)]
        return [*range(min(told, hosts)), *beyond]

    def _spread(self, name: str, hosts: int, accepts: Callable[[float], bool], must: str) -> float | list[list[float]]:
        given = getattr(self, name)
        if isinstance(given, (int, float)):
            if not accepts(given):
                raise ConfigurationError(f"{name}={given}: must {must}")
            return float(given)
        rows = [[float(value) for value in row] for row in given]
        if any(len(row) < len(rows) for row in rows) or not rows or (len(rows) < hosts and not self.extends):
            raise ConfigurationError(f"{name}: the matrix must have {hosts} rows and columns, one a host")
        if not all(accepts(value) for i, row in enumerate(rows) for j, value in enumerate(row) if i != j):
            raise ConfigurationError(f"{name}: the matrix holds a value that must {must}")
        if len(rows) >= hosts:
            return rows
        apart = [value for i, row in enumerate(rows) for j, value in enumerate(row) if i != j]
        alike = float(np.median(apart)) if apart else rows[0][0]
        likes = self._likes(len(rows), hosts)
        return [
            [alike if likes[i] == likes[j] and i != j else rows[likes[i]][likes[j]] for j in range(hosts)]
            for i in range(hosts)
        ]


def _check_lognormal(told: Sequence[float]) -> None:
    if len(told) != 2 or not -20 < told[0] < 20 or not 0 <= told[1] < 5:
        raise ConfigurationError(
            f"latency_lognormal={told!r}: must be (mu, sigma), mu within -20 and 20, sigma below 5"
        )


def _drawn_s(mu: float, sigma: float, seed: int, hosts: int) -> list[list[float]]:
    """Draws a symmetric matrix, a row from a stream of its own, so that more hosts change nothing between the first."""
    rows_s = np.zeros((hosts, hosts))
    for host in range(1, hosts):
        row_s = np.exp(mu + sigma * generator(seed, "latencies", host).standard_normal(host)) / 1000
        rows_s[host, :host] = rows_s[:host, host] = row_s
    return rows_s.tolist()
