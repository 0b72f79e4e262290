"""What a peer's protocol is told at its start. Every default says how to choose another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Literal

import networkx as nx

from gossiptrain.errors import ConfigurationError

TopologySpec = str | nx.Graph | Callable[[tuple[str, ...]], nx.Graph]


@dataclass(frozen=True, slots=True)
class MembershipConfig:
    """When others are asked for a sign of life, and when they are given up.

    Attributes:
        ping_period_s: seconds between two pings to each member; (0, 60]. Shorter notices hangs sooner, for more traffic.
        suspect_after_s: silence after which a member is left out of mixing; above two ping periods, so that one
            late answer accuses nobody.
        dead_after_s: silence after which a member is taken for dead and the graph is re-wired. Above the longest pause
            a healthy peer takes (checkpoint, compilation): re-wiring for a pause costs more than waiting.
        refused_after_s: how long an address must refuse connections before its member is taken for dead. A refusal means
            that the process is gone; the wait covers a quick restart.
        hello_retry_s: seconds between two attempts at an address that has not answered.
        lost_retry_s: seconds between two attempts at a member that was taken for dead; this heals a long partition.
        join_timeout_s: how long a peer with seeds tries to find anybody before it fails.
        settle_s: how long a peer waits for somebody to begin from before the first by name declares itself the beginning.
    """

    ping_period_s: float = 1.0
    suspect_after_s: float = 3.0
    dead_after_s: float = 30.0
    refused_after_s: float = 1.0
    hello_retry_s: float = 1.0
    lost_retry_s: float = 10.0
    join_timeout_s: float = 20.0
    settle_s: float = 5.0

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) > 0:
                raise ConfigurationError(
                    f"{item.name}={getattr(self, item.name)!r}: must be a positive number of seconds"
                )
        if self.suspect_after_s < 2 * self.ping_period_s:
            raise ConfigurationError(
                f"suspect_after_s={self.suspect_after_s} is below two ping periods "
                f"(ping_period_s={self.ping_period_s}): a single late answer would suspect a healthy peer"
            )
        if self.dead_after_s <= self.suspect_after_s:
            raise ConfigurationError(
                f"dead_after_s={self.dead_after_s} must be above suspect_after_s={self.suspect_after_s}"
            )


@dataclass(frozen=True, slots=True)
class ExchangeConfig:
    """How exchanges of snapshots are bounded in time.

    Attributes:
        offer_timeout_s: how long an offer may stay unanswered. The partner's network thread answers even while its
            training is busy, so a few seconds mean that it hangs.
        transfer_timeout_s: how long an accepted exchange may last, besides the time that the bytes take.
        slowest_mbps: the slowest link, in megabit a second, that an exchange should still succeed on; it sets the time
            allowed for the bytes.
        retry_s: pause after all neighbours were busy.
        round_timeout_s: the deadline of a synchronous round; edges not finished by then are skipped by both ends.
        quarantine_s: how long a peer that sent an unusable snapshot is left out; doubles with each further one.
        state_mbps: how fast a peer gives its state to newcomers, all of them together, in megabit a second. Faster ones
            join sooner and take more of the giver's cores away from its training.
    """

    offer_timeout_s: float = 3.0
    transfer_timeout_s: float = 30.0
    slowest_mbps: float = 10.0
    retry_s: float = 0.01
    round_timeout_s: float = 10.0
    quarantine_s: float = 10.0
    state_mbps: float = 800.0

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) > 0:
                raise ConfigurationError(f"{item.name}={getattr(self, item.name)!r}: must be positive")

    def transfer_s(self, snapshot_bytes: int) -> float:
        """Returns how long an accepted exchange may last: a snapshot each way on the slowest link, and the slack."""
        return self.transfer_timeout_s + 2 * snapshot_bytes * 8e-6 / self.slowest_mbps


@dataclass(frozen=True, slots=True)
class ProtocolConfig:
    """Who this peer is and how it takes part.

    Attributes:
        name: unique among the living members of the run.
        boot: drawn anew by each process, below 2**64.
        run_id: peers of other runs are refused.
        control_address, data_address: where others reach this peer.
        parameters: one line a mixed parameter, in order ("conv1.weight float32 [8, 1, 3, 3]"); peers whose lines differ
            are refused, naming the first difference.
        snapshot_bytes: bytes of one snapshot; sets the time allowed for an exchange.
        founder: this peer's parameters are where the run begins. Others take theirs from a peer already in the run.
        expects_seeds: addresses of other peers will come as `SeedsFound`; without any answer the peer fails.
        topology: a family or schedule by name, a networkx graph, or a function of the sorted living names.
        kind: "pair" for pairwise averaging at any time, "round" for synchronous neighbourhood rounds.
        mixer: how this peer mixes, in full; peers with another are refused, since unequal weights lose the mean.
        pair_weight: weight given to the partner in a pair; in (0, 0.5].
        sync_every: local steps between two boundaries, at least 1.
        seed: fixes the graph (must be equal on all peers).
    """

    name: str
    boot: int
    run_id: str
    control_address: str
    data_address: str
    parameters: tuple[str, ...]
    snapshot_bytes: int
    founder: bool = True
    expects_seeds: bool = False
    topology: TopologySpec = "overlay"
    kind: Literal["pair", "round"] = "pair"
    mixer: str = "ad_psgd"
    pair_weight: float = 0.5
    sync_every: int = 4
    seed: int = 0
    membership: MembershipConfig = field(default_factory=MembershipConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 128:
            raise ConfigurationError(f"name={self.name!r}: must have 1 to 128 characters")
        for field_name, limit in (("run_id", 256), ("mixer", 256), ("control_address", 256), ("data_address", 256)):
            if not 0 < len(getattr(self, field_name)) <= limit:
                raise ConfigurationError(
                    f"{field_name}={getattr(self, field_name)!r}: must have 1 to {limit} characters"
                )
        if not 0 <= self.boot < 1 << 64:
            raise ConfigurationError(f"boot={self.boot}: must be from 0 to 2**64 - 1")
        if self.sync_every < 1:
            raise ConfigurationError(f"sync_every={self.sync_every}: must be at least 1 local step")
        if not 0 < self.pair_weight <= 0.5:
            raise ConfigurationError(f"pair_weight={self.pair_weight}: must be above 0 and at most 0.5")
        if self.kind not in ("pair", "round"):
            raise ConfigurationError(f'kind={self.kind!r}: must be "pair" or "round"')
