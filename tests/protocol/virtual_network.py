"""Real `PeerProtocol`s back to back on a virtual network and clock: every effect is carried out, on plain numbers.

A snapshot is one float; a `Mix` changes it exactly as a driver would change a vector. So a test sees the sum of all
peers' values, who mixed with whom, and every notice; and the same seed gives the same story. On the way it checks what
must hold at every event: nothing is pinned or expected twice, mixed unpinned or released too often, nobody hurries a
deadline that finds nothing to do, and what an exchange holds in memory stays bounded.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import blake2b

from gossiptrain.protocol import wire
from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.effects import (
    CancelSnapshot,
    Connect,
    Discard,
    Disconnect,
    Effect,
    ExpectSnapshot,
    Fail,
    Mix,
    Notify,
    Release,
    RunSteps,
    Send,
    SendSnapshot,
)
from gossiptrain.protocol.events import (
    DeadlineReached,
    Event,
    LeaveRequested,
    LinkEvidence,
    MessageReceived,
    SeedsFound,
    SnapshotReceived,
    SnapshotRejected,
    Started,
    StepsCompleted,
)
from gossiptrain.protocol.messages import Envelope, TransferKey
from gossiptrain.protocol.peer_protocol import PeerProtocol
from tests.protocol import virtual_state
from tests.protocol.virtual_peer import VirtualPeer

# Of deadlines in a row at one moment; more means that they find nothing to do.
HURRIED_MAX = 5


class VirtualNetwork:
    """Peers, a clock, and a network with delay that can drop, cut and kill."""

    def __init__(self, seed: int = 0, delay_s: float = 0.001, transfer_s: float = 0.02) -> None:
        self.now = 0.0
        self.delay_s, self.transfer_s = delay_s, transfer_s
        self.chance = Chance("network", seed)
        self.peers: dict[str, VirtualPeer] = {}
        self.by_address: dict[str, VirtualPeer] = {}
        self.cut: Callable[[str, str], bool] = lambda source, target: False
        self.sides: list[frozenset[str]] = []
        self.loses: Callable[[str, str], bool] = lambda source, target: False
        self.doubles: Callable[[str, str], bool] = lambda source, target: False
        self.spoil: Callable[[TransferKey], str | None] = lambda key: None
        self.state_bytes = 4
        self.digest = virtual_state.digest_of_value
        self.loses_piece: Callable[[TransferKey], bool] = lambda key: False
        self.spoils_state: Callable[[float], bool] = lambda value: False
        self.sent: Counter[str] = Counter()
        self.rests = False
        self.records = False
        self.trace = blake2b(digest_size=16)
        self.drift = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._last_s: dict[tuple[str, str], float] = {}

    # Building

    def add(
        self,
        config: ProtocolConfig,
        value: float,
        step_s: float = 0.05,
        seeds: tuple[str, ...] = (),
        known_as: str | None = None,
    ) -> VirtualPeer:
        """Starts a peer; `known_as` is its key here, for a name that another one has."""
        peer = VirtualPeer(PeerProtocol(config), value, step_s)
        self.peers[known_as or config.name] = peer
        self.by_address[config.control_address] = peer
        self.by_address[config.data_address] = peer
        self._publish(peer)
        self.give(peer, Started())
        self.give(peer, StepsCompleted(0, peer.version, 0))
        if seeds:
            self.give(peer, SeedsFound(seeds))
        self.at(self.now + step_s, lambda: self._step(peer))
        return peer

    def __getitem__(self, name: str) -> VirtualPeer:
        return self.peers[name]

    def living(self) -> list[VirtualPeer]:
        """The peers whose process runs."""
        return [peer for peer in self.peers.values() if peer.alive]

    def run(self, until_s: float) -> None:
        while self._heap and self._heap[0][0] <= until_s:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = until_s

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (time_s, self._count, action))

    # Hurting

    def kill(self, name: str) -> None:
        """SIGKILL: links break at once, later attempts are refused."""
        victim = self.peers[name]
        victim.alive = False
        for peer in self.peers.values():
            for address, lane in sorted(peer.links):
                if peer is not victim and self.by_address.get(address) is victim:
                    self._evidence(peer, address, lane, "down", self.delay_s)
                    self.at(self.now + self.delay_s + 0.1, lambda p=peer, a=address, n=lane: self._reconnect(p, a, n))

    def freeze(self, name: str, for_s: float) -> None:
        """SIGSTOP: nothing is sent, nothing breaks; what arrives waits."""
        peer = self.peers[name]
        peer.frozen_until_s = max(peer.frozen_until_s, self.now + for_s)

    def restart(self, name: str, value: float, seeds: tuple[str, ...], **changes) -> VirtualPeer:
        """A new process takes a killed one's name, and its addresses unless others are given."""
        old = self.peers[name]
        config = replace(old.protocol.config, boot=old.protocol.config.boot + 1_000_000, **changes)
        return self.add(config, value, old.step_s, seeds)

    def partition(self, one_side: Iterable[str], for_s: float) -> None:
        """Nothing passes between these and the others for a while; no link reports anything."""
        side = frozenset(one_side)
        self.sides.append(side)
        self.at(self.now + for_s, lambda: side in self.sides and self.sides.remove(side))

    def quieten(self, mending_s: float = 8.0, resting_s: float = 6.0) -> None:
        """Heals everything; then training stops, so that nobody begins anew and what is open comes to its end."""
        self.sides.clear()
        self.cut = self.loses = self.doubles = lambda source, target: False
        self.spoil = lambda key: None
        self.run(self.now + mending_s)
        self.rests = True
        self.run(self.now + resting_s)

    def leave(self, name: str) -> None:
        self.give(self.peers[name], LeaveRequested("finished"))
        self.peers[name].alive = False

    def total(self) -> float:
        """Sum of all living peers' values with everything pending applied, less what local steps added."""
        return sum(self._settled(peer) for peer in self.living())

    def spread(self) -> float:
        """The greatest difference between two living peers' values."""
        values = [self._settled(peer) for peer in self.living()]
        return max(values) - min(values)

    # One event

    def give(self, peer: VirtualPeer, event: Event) -> None:
        if not peer.alive:
            return
        if self.now < peer.frozen_until_s:
            self.at(peer.frozen_until_s, lambda: self.give(peer, event))
            return
        effects = peer.protocol.handle(event, self.now)
        if self.records:
            self.trace.update(repr((self.now, peer.name, effects)).encode())
        for effect in effects:
            self._carry_out(peer, effect)
        self._check(peer)
        self._arm(peer)

    def _check(self, peer: VirtualPeer) -> None:
        slots = 6 if peer.protocol.config.kind == "pair" else len(peer.protocol.living()) + 3
        assert max(len(peer.pins), len(peer.expected), len(peer.arrived)) <= slots, f"{peer.name}: {peer.holds()}"

    def _arm(self, peer: VirtualPeer) -> None:
        deadline_s = max(peer.protocol.next_deadline(), self.now)
        if deadline_s < peer.deadline_s:
            peer.deadline_s = deadline_s
            self.at(deadline_s, lambda: self._deadline(peer, deadline_s))

    def _deadline(self, peer: VirtualPeer, deadline_s: float) -> None:
        if peer.deadline_s == deadline_s:
            peer.deadline_s = float("inf")
            peer.hurried = peer.hurried + 1 if self.now == peer.deadline_handled_s else 0
            peer.deadline_handled_s = self.now
            assert peer.hurried < HURRIED_MAX, f"{peer.name}'s deadline at {self.now} comes again and again"
            self.give(peer, DeadlineReached())

    def _evidence(self, peer: VirtualPeer, address: str, lane, kind, after_s: float) -> None:
        self.at(
            self.now + after_s,
            lambda: (address, lane) in peer.links and self.give(peer, LinkEvidence(address, lane, kind)),
        )

    # Training

    def _publish(self, peer: VirtualPeer) -> None:
        peer.version += 1
        peer.snapshots = {v: x for v, x in peer.snapshots.items() if peer.pins.get(v)}
        peer.snapshots[peer.version] = peer.value

    def _apply(self, peer: VirtualPeer) -> None:
        for change in peer.pending:
            peer.value = change(peer.value)
            peer.applied += 1
        peer.pending.clear()

    def _step(self, peer: VirtualPeer) -> None:
        if not peer.alive or self.rests:
            return
        if self.now < peer.frozen_until_s:
            self.at(peer.frozen_until_s, lambda: self._step(peer))
            return
        peer.steps += 1
        peer.step_times_s.append(self.now)
        peer.value += self.drift
        synchronous = peer.protocol.config.kind == "round"
        if not synchronous:
            self._apply(peer)
        if peer.publish or synchronous:
            self._publish(peer)
        peer.waits_for_round = synchronous
        self.give(peer, StepsCompleted(peer.steps, peer.version if peer.publish or synchronous else None, peer.applied))
        if not synchronous:
            self.at(self.now + peer.step_s, lambda: self._step(peer))

    def _settled(self, peer: VirtualPeer) -> float:
        value = peer.value
        for change in peer.pending:
            value = change(value)
        return value - self.drift * peer.steps

    # Effects

    def _carry_out(self, peer: VirtualPeer, effect: Effect) -> None:
        match effect:
            case Connect(address, lane):
                self._connect(peer, address, lane)
            case Disconnect(address, lane):
                peer.links.discard((address, lane))
            case Send(address, message):
                self._send(peer, address, peer.protocol.envelope(message))
            case ExpectSnapshot(key, _):
                assert key not in peer.expected, "expected twice"
                peer.expected.add(key)
            case SendSnapshot(address, key, version):
                assert (address, "data") in peer.links, "no data link"
                peer.pins[version] = peer.pins.get(version, 0) + 1
                self._send_snapshot(peer, address, key, peer.snapshots[version])
            case Mix(version, inbox):
                assert peer.pins.get(version), "mixed with a snapshot that is not pinned"
                assert 0 < sum(weight for _, weight in inbox) <= 1 + 1e-12
                own = peer.snapshots[version]
                correction = sum(weight * (peer.arrived.pop(key) - own) for key, weight in inbox)
                peer.pending.append(lambda value: value + correction)
                peer.mixes.append((self.now, effect))
            case Discard(key):
                peer.expected.discard(key)
                peer.states.awaited.pop(key, None)
                peer.arrived.pop(key, None)
            case Release(version):
                assert peer.pins.get(version, 0) > 0, "released more often than pinned"
                peer.pins[version] -= 1
                if not peer.pins[version]:
                    del peer.pins[version]
            case RunSteps(_, publish):
                peer.publish = publish
                self._go(peer)
            case Notify(notice):
                peer.notices.append((self.now, notice))
            case Fail():
                peer.failures.append(effect)
            case CancelSnapshot():
                pass
            case _:
                virtual_state.carry_out(self, peer, effect)

    def _go(self, peer: VirtualPeer) -> None:
        if peer.protocol.config.kind == "round" and peer.waits_for_round:
            peer.waits_for_round = False
            self._apply(peer)
            self.at(self.now + peer.step_s, lambda: self._step(peer))

    def _connect(self, peer: VirtualPeer, address: str, lane) -> None:
        if (address, lane) in peer.links:
            return
        peer.links.add((address, lane))
        target = self.by_address.get(address)
        kind = "up" if target is not None and target.alive else "refused"
        self._evidence(peer, address, lane, kind, self.delay_s)
        if kind == "refused":
            self.at(self.now + 1.0, lambda: self._reconnect(peer, address, lane))

    def _reconnect(self, peer: VirtualPeer, address: str, lane) -> None:
        """A broken link is tried again until it is closed."""
        if (address, lane) in peer.links and peer.alive:
            peer.links.discard((address, lane))
            self._connect(peer, address, lane)

    def reaches(self, peer: VirtualPeer, target: VirtualPeer | None) -> bool:
        """Whether what one sends comes to the other."""
        if target is None or not target.alive or self.cut(peer.name, target.name):
            return False
        return all((peer.name in side) == (target.name in side) for side in self.sides)

    def _send(self, peer: VirtualPeer, address: str, envelope: Envelope) -> None:
        if (address, "control") not in peer.links:
            return
        self.sent[type(envelope.message).__name__] += 1
        target = self.by_address.get(address)
        if self.reaches(peer, target) and not self.loses(peer.name, target.name):
            envelope = wire.decode(wire.encode(envelope))
            arrives_s = self.now + self.delay_s * (0.5 + self.chance.uniform())
            link = (peer.name, target.name)
            self._last_s[link] = arrives_s = max(arrives_s, self._last_s.get(link, 0.0))
            for _ in range(2 if self.doubles(peer.name, target.name) else 1):
                self.at(arrives_s, lambda: self.give(target, MessageReceived(envelope)))

    def _send_snapshot(self, peer: VirtualPeer, address: str, key: TransferKey, value: float) -> None:
        target = self.by_address.get(address)
        if self.reaches(peer, target):
            delay_s = self.transfer_s * (0.5 + self.chance.uniform())
            self.at(self.now + delay_s, lambda: self._arrive(peer, target, key, value))

    def _arrive(self, peer: VirtualPeer, target: VirtualPeer, key: TransferKey, value: float) -> None:
        if not peer.alive or key not in target.expected:
            return
        target.expected.discard(key)
        if reason := self.spoil(key):
            self.give(target, SnapshotRejected(key, reason))
            return
        target.arrived[key] = value
        self.give(target, SnapshotReceived(key))


def config(name: str, index: int, **changes) -> ProtocolConfig:
    """A peer's config on the virtual network; the peer of index 0 founds the run."""
    values = {
        "name": name,
        "boot": 1000 + index,
        "run_id": "run",
        "control_address": f"control:{index}",
        "data_address": f"data:{index}",
        "parameters": ("weight float32 [1]",),
        "snapshot_bytes": 4,
        "founder": index == 0,
        "expects_seeds": index > 0,
    }
    return ProtocolConfig(**{**values, **changes})


def cluster(size: int, seed: int = 0, pace: float = 1.0, **changes) -> VirtualNetwork:
    """A network of `size` peers, all seeded with peer 0, that start within half a second.

    A step takes `pace` times 0.03 to 0.07 s.
    """
    net = VirtualNetwork(seed)
    for index in range(size):
        step_s = pace * (0.03 + 0.04 * net.chance.uniform())
        peer_config = config(f"peer-{index}", index, **changes)
        seeds = ("control:0",) if index else ()
        net.at(0.5 * index / size, lambda c=peer_config, v=float(index), s=step_s, d=seeds: net.add(c, v, s, d))
    net.run(0.5)
    return net


def equals(size: int, seed: int = 0, pace: float = 1.0, **changes) -> VirtualNetwork:
    """A cluster of founders: each begins with its own value, so that the sum of all is known from the start."""
    return cluster(size, seed, pace, founder=True, **changes)
