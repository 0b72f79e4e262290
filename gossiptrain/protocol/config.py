"""What a peer's protocol is told at its start. Every default says how to choose another."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import networkx as nx

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.budget import SendLimits
from gossiptrain.protocol.pacing import PacingConfig

TopologySpec = str | nx.Graph | Callable[[tuple[str, ...]], nx.Graph]


@dataclass(frozen=True, slots=True)
class MembershipConfig:
    """When others are asked for a sign of life, and when they are given up: SWIM (Das et al. 2002) with Lifeguard's local
    health (Dadgar et al. 2018), a tolerance for stalls, and what refused connections tell.

    Attributes:
        probe_period_s: seconds between two probes by one peer; (0, 60]. A hang is noticed after about 1.6 periods and two
            more; shorter notices sooner, for more traffic (two small messages a period and peer, whatever their number).
        probe_timeout_s: how long a probe waits for its answer before others are asked to try; below the period, above the
            round trip of the slowest link.
        indirect_probes: others that are asked to probe one that does not answer; 0 asks nobody. More help where links lose
            much: with loss p, suspicion comes wrongly with probability [1-(1-p)^2] [1-(1-p)^4]^k a probe.
        local_health_max: a peer that misses answers it should get doubts itself, and waits up to so many periods longer;
            0 is plain SWIM.
        gossip_period_s, gossip_fanout: news go to so many random members in each period, as long as there are any.
        retransmit_factor: each piece of news is passed on this many times max(2, ceil(log10(n + 1))) by each peer.
        stall_tolerance_s: how long a suspect has, at least, to speak up before it is taken for dead. Above the longest
            pause a healthy peer takes unannounced (checkpoint, compilation, garbage collection): re-wiring costs more than
            waiting, since a suspect is left out of mixing anyhow. 0 is plain SWIM.
        suspicion_factor: the suspect's time is at least this many max(1, log10 n) probe periods.
        suspicion_max_factor: with one accuser only, the time is so many times longer; at least 1.
        confirmations: other accusers that shorten it to the least: T = T_max - (T_max - T_min) log(c + 1) / log(k + 1).
        refused_after_s: times max(1, log10 n): how long after the first refused connection a member is taken for dead. A
            refusal means that the process is gone; the wait covers a quick restart.
        refused_observers: so many peers must have seen refused connections; 0 leaves them out of account.
        minds_own_stalls: a peer that stood still itself accuses nobody for the time it missed.
        sync_settle_s: how long a view rests before a difference from another's is mended by sending whole lists.
        lost_retry_s: seconds between two attempts at members taken for dead, per living member in the view (within 2 and
            30 s each): so all members together try about 1 / lost_retry_s times a second. This heals partitions.
        tombstone_s: how long the dead and the gone are remembered, so that late news do not revive them.
        hello_retry_s: seconds between two attempts at an address that has not answered.
        join_timeout_s: how long a peer with seeds tries to find anybody before it fails.
        settle_s: how long a peer waits for somebody to begin from before the first by name declares itself the beginning.
        rewire_debounce_s: the graph is laid anew when the view has rested so long, so that many deaths cost one re-wiring.
        rewire_within_s: ... or at the latest so long after the first change. With n > 100 members both are n / 100 times
            as long.
        overlap_s: for so long after a re-wiring the former neighbours, if alive, count as neighbours too, as long as they
            may not know yet: make before break.
    """

    probe_period_s: float = 1.0
    probe_timeout_s: float = 0.5
    indirect_probes: int = 3
    local_health_max: int = 8
    gossip_period_s: float = 0.2
    gossip_fanout: int = 3
    retransmit_factor: int = 4
    stall_tolerance_s: float = 30.0
    suspicion_factor: float = 4.0
    suspicion_max_factor: float = 2.0
    confirmations: int = 3
    refused_after_s: float = 1.0
    refused_observers: int = 2
    minds_own_stalls: bool = True
    sync_settle_s: float = 2.0
    lost_retry_s: float = 0.5
    tombstone_s: float = 4 * 3600.0
    hello_retry_s: float = 0.5
    join_timeout_s: float = 20.0
    settle_s: float = 5.0
    rewire_debounce_s: float = 0.2
    rewire_within_s: float = 0.6
    overlap_s: float = 2.0

    def __post_init__(self) -> None:
        may_be_zero = {"indirect_probes", "local_health_max", "stall_tolerance_s", "refused_observers", "confirmations"}
        may_be_zero |= {"minds_own_stalls", "rewire_debounce_s", "rewire_within_s", "overlap_s"}
        for item in fields(self):
            value = getattr(self, item.name)
            if not (value >= 0 if item.name in may_be_zero else value > 0):
                accepted = "0 or more" if item.name in may_be_zero else "positive"
                raise ConfigurationError(f"{item.name}={value!r}: must be {accepted}")
        if self.probe_timeout_s >= self.probe_period_s:
            raise ConfigurationError(
                f"probe_timeout_s={self.probe_timeout_s} must be below probe_period_s={self.probe_period_s}: "
                "the rest of the period is for those who are asked to try too"
            )
        if self.suspicion_max_factor < 1:
            raise ConfigurationError(f"suspicion_max_factor={self.suspicion_max_factor}: must be at least 1")

    @classmethod
    def swim(cls, **changes: Any) -> MembershipConfig:
        """Returns plain SWIM: a fixed short suspicion, no local health, no heed of stalls and refusals."""
        plain: dict[str, Any] = {"local_health_max": 0, "suspicion_max_factor": 1.0, "confirmations": 0}
        return cls.lifeguard(**{**plain, **changes})

    @classmethod
    def lifeguard(cls, **changes: Any) -> MembershipConfig:
        """Returns plain Lifeguard (its paper's alpha 5, beta 6): local health and shrinking suspicion only."""
        plain: dict[str, Any] = {
            "stall_tolerance_s": 0.0,
            "suspicion_factor": 5.0,
            "suspicion_max_factor": 6.0,
            "refused_observers": 0,
            "minds_own_stalls": False,
        }
        return cls(**{**plain, **changes})

    def suspicion_min_s(self, living: int) -> float:
        """Returns T_min: how long a suspect of `living` members has when several accuse it."""
        return max(self.stall_tolerance_s, self.suspicion_factor * log_size(living) * self.probe_period_s)

    def suspicion_max_s(self, living: int) -> float:
        """Returns T_max: how long a suspect of `living` members has when one accuses it."""
        return self.suspicion_max_factor * self.suspicion_min_s(living)

    def retransmissions(self, living: int) -> int:
        """Returns how often each peer passes a piece of news on among `living` members: a member misses all with e^-r."""
        return self.retransmit_factor * max(2, math.ceil(math.log10(living + 1)))


def log_size(living: int) -> float:
    """Returns max(1, log10 n), by which time-outs grow with the number of members."""
    return max(1.0, math.log10(max(1, living)))


@dataclass(frozen=True, slots=True)
class ExchangeConfig:
    """How exchanges of snapshots are bounded in time.

    Attributes:
        offer_timeout_s: how long an offer may stay unanswered. The partner's network thread answers even while its
            training is busy, so a few seconds mean that it hangs.
        transfer_timeout_s: how long an accepted exchange may last, besides the time that the bytes take.
        slowest_mbps: the slowest link, in megabit a second, that an exchange should still succeed on; it sets the time
            allowed for the bytes.
        retry_s: so long at least a busy neighbour is trusted to call back when it is free, before it is asked again.
        round_timeout_s: the deadline of a synchronous round; edges not finished by then are skipped by both ends.
        quarantine_s: how long a peer that sent an unusable snapshot is left out; doubles with each further one.
        state_mbps: how fast a peer gives its state to newcomers, all of them together, in megabit a second. Faster ones
            join sooner and take more of the giver's cores away from its training.
    """

    offer_timeout_s: float = 3.0
    transfer_timeout_s: float = 30.0
    slowest_mbps: float = 10.0
    retry_s: float = 2.0
    round_timeout_s: float = 10.0
    quarantine_s: float = 10.0
    state_mbps: float = 200.0

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
        pacing: how many local steps there are between two boundaries.
        seed: fixes the graph (must be equal on all peers).
        limits: what bounds this peer's exchanges; others may have other limits.
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
    pacing: PacingConfig = field(default_factory=PacingConfig)
    seed: int = 0
    membership: MembershipConfig = field(default_factory=MembershipConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    limits: SendLimits = field(default_factory=SendLimits)

    def __post_init__(self) -> None:
        timing = self.exchange
        self.limits.check(self.snapshot_bytes, timing.transfer_timeout_s, timing.round_timeout_s, self.kind)
        if not self.name or len(self.name) > 128:
            raise ConfigurationError(f"name={self.name!r}: must have 1 to 128 characters")
        for field_name, limit in (("run_id", 256), ("mixer", 256), ("control_address", 256), ("data_address", 256)):
            if not 0 < len(getattr(self, field_name)) <= limit:
                raise ConfigurationError(
                    f"{field_name}={getattr(self, field_name)!r}: must have 1 to {limit} characters"
                )
        if not 0 <= self.boot < 1 << 64:
            raise ConfigurationError(f"boot={self.boot}: must be from 0 to 2**64 - 1")
        if not 0 < self.pair_weight <= 0.5:
            raise ConfigurationError(f"pair_weight={self.pair_weight}: must be above 0 and at most 0.5")
        if self.kind not in ("pair", "round"):
            raise ConfigurationError(f'kind={self.kind!r}: must be "pair" or "round"')
