"""What must always hold, what must hold in the end, and what should have happened at least once.

| invariant | checked |
|---|---|
| I1 nothing spoilt enters the mix | at every `Mix` and `Adopt`: each payload carries a mark of what was done to it |
| I2 weights in (0, 1), of sum at most 1, equal at both ends; both ends commit or neither | at every `Mix`, and later |
| I3 bounded memory: snapshots, transfers, members, links | at every boundary |
| I4 nobody alive stays dead in a view, nobody dead stays alive in one | by the clock |
| I5 equal views, a connected graph, links mutual | by the clock, when nothing was hurt for a while |
| I6 a snapshot is used once, one incarnation of a name in a mix | at every `Mix` |
| I7 training waits for others no longer than a round may last; whoever is not hurt trains | by the clock |
| I10 nothing that arrives makes the protocol raise; what is rejected is counted | at every event; by the clock |
| the driver's contract: pins, expectations, links | at every effect |

I8 (checkpoints) has no disk here; I9 (equal seeds, equal traces) compares two runs: `Report.trace_hash`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, fields, replace
from math import isfinite, log2
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import networkx as nx

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.config import MembershipConfig
from gossiptrain.protocol.effects import Mix
from gossiptrain.protocol.events import Event
from gossiptrain.protocol.messages import ExchangeId
from gossiptrain.protocol.notices import ExchangeFailed, Notice, PeerDied, PeerLeft, SnapshotRefused
from gossiptrain.protocol.open_exchange import PULL_NUMBERS
from sim.network_options import NetworkOptions

if TYPE_CHECKING:
    from sim.peer import SimulatedPeer
    from sim.training_thread import Payload

WEIGHT_TOLERANCE = 1e-9
NEVER_S = -1e30
PROBES_TO_NOTICE = 6
# Into an outage of 15 seconds TCP sends again after 0.2, 0.6, 1.4, 3, 6.2, 12.6 and 25.4 seconds.
OUTAGE_PAUSES_S = 12.0
# A member gives its state to four newcomers at a time, and they share its line.
JOIN_S = 60.0
STATES_SERVED = 4
# A slot, two exchanges set aside and two donations pin one version each, beside the newest.
SNAPSHOTS_MAX = 6


class InvariantBroken(AssertionError):
    """Something that must hold did not. The message names the invariant, the time, the peer, and how to replay it.

    Attributes:
        invariant: "I1" ... "I10" or "driver contract". time_s: virtual seconds. replay: the command that shows it again.
    """

    def __init__(self, invariant: str, time_s: float, peer: str, detail: str, replay: str) -> None:
        self.invariant, self.time_s, self.peer, self.detail, self.replay = invariant, time_s, peer, detail, replay
        super().__init__(f"{invariant} broken at {time_s:.6f} s by {peer}: {detail}\n{replay}")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, in seconds of virtual time.

    Attributes:
        detect_s: until a peer that ended is out of every view; None derives it from the membership's time-outs: a silent
            host with a single accuser has T_max, and some probe periods pass before somebody asks it.
        heal_s: after the last fault, until every view holds exactly the living and their graph is connected; None derives
            it: TCP's pauses after an outage, which double, libzmq's after a refusal, the attempts at those taken for dead,
            and the rest before lists are sent.
        join_s: until a peer that is not hurt has joined and trains; None derives it from the time that a state takes on
            the slowest line: newcomers wait for each other, and one becomes a donor when it has what it needs.
        half_commit_s: until the other end of a committed exchange has committed too.
        every_s: how often the checks by the clock run.
    """

    detect_s: float | None = None
    heal_s: float | None = None
    join_s: float | None = None
    half_commit_s: float = 60.0
    every_s: float = 1.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"limits: {item.name}={value!r}: must be positive")

    def derived(
        self,
        membership: MembershipConfig,
        network: NetworkOptions,
        peers: int,
        state_bytes: int = 0,
        budget_mbps: float = float("inf"),
    ) -> Limits:
        """Returns these limits with those that are None filled in; `budget_mbps` is the least of the peers' budgets."""
        period_s = membership.probe_period_s
        detect_s = membership.suspicion_max_s(peers) + (PROBES_TO_NOTICE + membership.local_health_max) * period_s
        pauses_s = OUTAGE_PAUSES_S + network.reconnect_s_max
        heal_s = pauses_s + 2 * membership.sync_settle_s + 5 * period_s
        state_s = state_bytes / 125e3 / min(budget_mbps, network.slowest_mbps(peers))
        join_s = JOIN_S + STATES_SERVED * state_s * log2(peers + 1)
        return replace(
            self, detect_s=self.detect_s or detect_s, heal_s=self.heal_s or heal_s, join_s=self.join_s or join_s
        )


@dataclass(slots=True)
class _HalfCommit:
    peer: SimulatedPeer
    partner: str
    weight: float
    at_s: float


class _Views:
    """Views as sets; almost all peers have the same, so it is made once, and equal tuples are cheap to compare."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._view: frozenset[str] = frozenset()

    def of(self, peer: SimulatedPeer) -> frozenset[str]:
        names = peer.living()
        if names is not self._names and names != self._names:
            self._names, self._view = names, frozenset(names)
        return self._view


class Guest(NamedTuple):
    """A process that must not be let in, and why: it `differs` in its "name" (which is taken), "run", "model", ..."""

    peer: SimulatedPeer
    differs: str


class Checkers:
    """Holds what has been seen of all peers; each method raises `InvariantBroken` when something does not hold."""

    def __init__(self, limits: Limits, now: Callable[[], float], replay: Callable[[], str], is_static: bool) -> None:
        """
        Args:
            replay: makes the text that tells how to run this again.
            is_static: the graph does not change from round to round, so that it can be checked at one moment.
        """
        self.limits = limits
        assert limits.detect_s is not None, "limits are derived"
        assert limits.heal_s is not None, "limits are derived"
        assert limits.join_s is not None, "limits are derived"
        self._detect_s, self._heal_s, self._join_s = limits.detect_s, limits.heal_s, limits.join_s
        self.saw: Counter[str] = Counter()
        self.seeds: frozenset[str] | None = None
        """Names of those whose addresses every newcomer has; None: no newcomer is at a loss."""
        self._now, self._replay, self._is_static = now, replay, is_static
        self._names: dict[int, str] = {}
        self._used: dict[tuple[int, int, int, bool], int] = {}
        self._half: dict[tuple[int, ...], _HalfCommit] = {}
        self._gave_up: dict[tuple[str, str], float] = {}
        self._rejected: Counter[int] = Counter()
        self._members_max = 0
        self._met_s: dict[tuple[int, int], float] = {}

    def fail(self, invariant: str, peer: SimulatedPeer | None, detail: str) -> NoReturn:
        """Raises `InvariantBroken`."""
        raise InvariantBroken(invariant, self._now(), peer.name if peer else "all", detail, self._replay())

    def half_commits(self) -> int:
        """How many exchanges are committed at one end only: while there is none, the sum of all peers is what it was."""
        return len(self._half)

    # At every event

    def began(self, peer: SimulatedPeer) -> None:
        """A process started."""
        self._names[peer.boot] = peer.name
        self._members_max = len(set(self._names.values()))

    def protocol_raised(self, peer: SimulatedPeer, event: Event, error: Exception) -> NoReturn:
        """I10: the protocol raised."""
        detail = f"{type(event).__name__} made the protocol raise {type(error).__name__}: {error}"
        raise InvariantBroken("I10", self._now(), peer.name, detail, self._replay()) from error

    def noticed(self, peer: SimulatedPeer, notice: Notice) -> None:
        """Counts what happened for the "sometimes" checks."""
        self.saw[type(notice).__name__] += 1
        if isinstance(notice, (PeerDied, PeerLeft)):
            self._gave_up[(peer.name, notice.peer)] = self._now()
        elif isinstance(notice, ExchangeFailed) and peer.config.kind == "round":
            # Training waits for a round, so its doubts end with a suspicion or the deadline (`protocol.rounds`).
            self._gave_up[(peer.name, notice.partner)] = self._now()
        elif isinstance(notice, SnapshotRefused):
            self._rejected[peer.boot] += 1

    def mixed(self, peer: SimulatedPeer, effect: Mix, payloads: Sequence[Payload]) -> None:
        """I1, I2 and I6 of one mix."""
        for payload in payloads:
            if payload.fault:
                self.fail("I1", peer, f"mixes a snapshot that was spoilt ({payload.fault})")
        weights = [weight for _, weight in effect.inbox]
        if not all(isfinite(weight) and 0 < weight < 1 for weight in weights) or sum(weights) > 1 + WEIGHT_TOLERANCE:
            self.fail("I2", peer, f"weights {weights} must be in (0, 1), of sum at most 1")
        names = [self._names.get(key.sender_boot, f"boot {key.sender_boot}") for key, _ in effect.inbox]
        if len(names) != len(set(names)) or peer.name in names:
            self.fail("I6", peer, f"one mix holds {names}: a name twice, or the peer's own")
        for (key, weight), name in zip(effect.inbox, names):
            self._use_once(peer, key.sender_boot, key.exchange)
            self._match(peer, name, self._edge(peer, key.sender_boot, key.exchange), weight)

    def adopted(self, peer: SimulatedPeer, payload: Payload) -> None:
        """I1 of an adoption."""
        self.saw["adopted"] += 1
        if payload.fault:
            self.fail("I1", peer, f"adopts a state that was spoilt ({payload.fault})")

    def boundary(self, peer: SimulatedPeer) -> None:
        """I3 and I7 of one peer at the end of a block."""
        held = len(peer.training.snapshots)
        if held > SNAPSHOTS_MAX:
            self.fail("I3", peer, f"holds {held} snapshots; {SNAPSHOTS_MAX} are enough")
        transfers = len(peer.expected) + len(peer.received)
        if transfers > 2 * self._members_max + 8:
            self.fail("I3", peer, f"keeps room for {transfers} snapshots, of {self._members_max} peers")
        links = len(peer.control_links) + len(peer.data_links)
        if links > 2 * self._members_max + 8:
            self.fail("I3", peer, f"keeps {links} links, to {self._members_max} peers")

    def _use_once(self, peer: SimulatedPeer, sender_boot: int, exchange: ExchangeId) -> None:
        # Pulls are numbered apart from pairs and rounds.
        key = (peer.boot, sender_boot, exchange.initiator_boot, exchange.number >= PULL_NUMBERS)
        if exchange.number <= self._used.get(key, -1):
            self.fail(
                "I6", peer, f"uses exchange {exchange.number} of boot {exchange.initiator_boot} again or too late"
            )
        self._used[key] = exchange.number

    @staticmethod
    def _edge(peer: SimulatedPeer, sender_boot: int, exchange: ExchangeId) -> tuple[int, ...]:
        """Names what both ends commit: a pair's exchange, or two peers in a round."""
        if peer.config.kind == "round":
            return (min(peer.boot, sender_boot), max(peer.boot, sender_boot), exchange.number)
        return tuple(exchange)

    def _match(self, peer: SimulatedPeer, partner: str, edge: tuple[int, ...], weight: float) -> None:
        other = self._half.pop(edge, None)
        if other is None:
            self._half[edge] = _HalfCommit(peer, partner, weight, self._now())
        elif other.peer is peer or abs(other.weight - weight) > WEIGHT_TOLERANCE:
            self.fail("I2", peer, f"gives weight {weight} to {partner}, which gives {other.weight}: the mean moves")

    # By the clock

    def look(self, peers: Sequence[SimulatedPeer], quiet_s: Sequence[float]) -> None:
        """Runs the checks by the clock.

        Args:
            peers: the latest process of each peer, dead or alive.
            quiet_s: per host, since when no fault acts on it; infinity while one does.
        """
        now = self._now()
        living = [peer for peer in peers if peer.alive]
        self._check_commits(now)
        for peer in living:
            self._check_steps(peer, now)
            self._check_joined(peer, now - max(peer.began_s, quiet_s[peer.host]))
            self._check_counted(peer)
        self._check_views(peers, living, quiet_s, now)
        calm_s = now - max(max(quiet_s, default=0.0), max((peer.began_s for peer in peers), default=0.0))
        since_end_s = now - max((peer.ended_s for peer in peers if not peer.alive), default=NEVER_S)
        if calm_s > self._heal_s and since_end_s > max(self._detect_s, self._heal_s):
            self._check_graph(living)

    def look_at_guests(self, guests: Sequence[Guest], peers: Sequence[SimulatedPeer], quiet_s: Sequence[float]) -> None:
        """Nobody takes in who must not be, and each of these learns why and gives up."""
        now = self._now()
        for guest in guests:
            peer, differs = guest
            holder = next((p for p in peers if p.name == peer.name and p.alive and p.began_s <= peer.began_s), None)
            if differs == "name" and (holder is None or now - quiet_s[holder.host] < self._join_s):
                continue  # a name whose holder is gone, or out of reach, may be taken
            if differs != "name" and any(peer.name in other.living() for other in peers if other.alive):
                self.fail("I1", peer, f"is of another {differs} and was let in")
            if peer.alive and now - max(peer.began_s, quiet_s[peer.host]) > self._join_s:
                self.fail("I6" if differs == "name" else "I10", peer, f"was not told that its {differs} is refused")

    def _check_steps(self, peer: SimulatedPeer, now: float) -> None:
        waits_since_s = peer.training.waits_since_s
        if waits_since_s is None or now < peer.stalled_until_s + 1:
            return
        longest_s = 2 * peer.config.exchange.round_timeout_s + 1
        if now - max(waits_since_s, peer.stalled_until_s) > longest_s:
            self.fail("I7", peer, f"training waits for a round since {now - waits_since_s:.1f} s")

    def _check_joined(self, peer: SimulatedPeer, undisturbed_s: float) -> None:
        if undisturbed_s > self._join_s and not peer.training.is_training:
            self.fail("I7", peer, f"has not joined, though nothing hurt it for {undisturbed_s:.0f} s")

    def _check_counted(self, peer: SimulatedPeer) -> None:
        counters = peer.protocol.counters
        counted = sum(counters.get(f"snapshot_{reason}", 0) for reason in ("non-finite", "size", "checksum"))
        if counted < self._rejected[peer.boot]:
            self.fail("I10", peer, f"refused {self._rejected[peer.boot]} snapshots but counted {counted}")

    def _check_views(
        self, peers: Sequence[SimulatedPeer], living: Sequence[SimulatedPeer], quiet_s: Sequence[float], now: float
    ) -> None:
        detect_s, heal_s = self._detect_s, self._heal_s
        lost = {p.name: p for p in peers if not p.alive and now - p.ended_s > detect_s}
        settled = {p.name: p for p in living if now - max(quiet_s[p.host], p.began_s) > heal_s}
        lost_names, settled_names = lost.keys(), settled.keys()
        views = _Views()
        for peer in living:
            undisturbed_s = now - max(quiet_s[peer.host], peer.began_s)
            if undisturbed_s <= min(detect_s, heal_s):
                continue
            view = views.of(peer)
            if undisturbed_s > detect_s:
                for name in sorted(view & lost_names):
                    ago_s = now - lost[name].ended_s
                    self.fail(
                        "I4", peer, f"{name} ended {ago_s:.1f} s ago ({lost[name].end}) and is still taken for alive"
                    )
            if peer.name in settled and not view >= settled_names:
                for name in sorted(settled_names - view):
                    if self._should_have_met(peer, settled[name], settled_names, now):
                        detail = f"{name} lives, nothing was hurt for {heal_s:g} s, and it is not in the view"
                        self.fail("I4", peer, detail)

    def _should_have_met(self, one: SimulatedPeer, other: SimulatedPeer, settled: Set[str], now: float) -> bool:
        """Whether a seed was there that could have told two of each other, or they know of each other for long.

        A newcomer knows the seeds' addresses alone: while all of them are gone or hurt, it can find nobody.
        """
        if self.seeds is None or not self.seeds.isdisjoint(settled):
            return True
        known = (member.name for peer in (one, other) for member in peer.protocol.members())
        if {one.name, other.name}.isdisjoint(known):
            return False
        return now - self._met_s.setdefault((one.boot, other.boot), now) > self._heal_s

    def _check_graph(self, living: Sequence[SimulatedPeer]) -> None:
        """All views are equal by `_check_views`; the graph over them must be one, and mutual."""
        if not self._is_static or len(living) < 2:
            return
        names = {peer.name for peer in living}
        around = {peer.name: set(peer.protocol.neighbours()) for peer in living}
        for peer in living:
            for name in sorted(around[peer.name]):
                if name not in names or peer.name not in around[name]:
                    self.fail("I5", peer, f"has {name} for a neighbour, which is gone or does not have it for one")
        graph = nx.Graph([(name, other) for name, others in around.items() for other in others])
        graph.add_nodes_from(names)
        if not nx.is_connected(graph):
            parts = sorted(sorted(part) for part in nx.connected_components(graph))
            self.fail("I5", None, f"the graph of the living falls apart: {parts}")
        self.saw["graph connected"] += 1

    def _check_commits(self, now: float) -> None:
        """Drops half commits that the protocol cannot heal (an end died or gave the other up); others are a fault."""
        limit_s = self.limits.half_commit_s
        for edge, half in list(self._half.items()):
            if now - half.at_s <= limit_s:
                break  # in order of time
            del self._half[edge]
            ended = not half.peer.alive or self._names_of_the_dead(half)
            gave_up_s = max(
                self._gave_up.get((half.peer.name, half.partner), NEVER_S),
                self._gave_up.get((half.partner, half.peer.name), NEVER_S),
            )
            if ended or gave_up_s >= half.at_s - limit_s:
                self.saw["half committed"] += 1
            else:
                self.fail("I2", half.peer, f"committed an exchange {limit_s:g} s ago that {half.partner} has not")

    def _names_of_the_dead(self, half: _HalfCommit) -> bool:
        return half.partner in self.dead_since(half.at_s - self.limits.half_commit_s)

    dead_since: Callable[[float], set[str]] = staticmethod(lambda since_s: set())
    """Names of peers of which a process ended after a time; set by the simulation."""
