"""Random lives of a run, step by step: peers come, are killed, freeze, leave and are cut off; then all is healed."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gossiptrain.protocol.notices import Exchanged
from tests.protocol.virtual_network import VirtualNetwork, config
from tests.protocol.virtual_peer import VirtualPeer

SIZE_MAX = 7
SECONDS = st.floats(0.05, 4.0)
CHOICE = st.integers(0, SIZE_MAX)


class LifeOfARun(RuleBasedStateMachine):
    """`VirtualNetwork` checks pins, weights and hurried deadlines at every event; this checks the rest at every step."""

    kind = "pair"

    def __init__(self) -> None:
        super().__init__()
        self.net = VirtualNetwork()
        self.started = 0

    @initialize(size=st.integers(1, 4), topology=st.sampled_from(["overlay", "ring", "one_peer_exponential", "base_k"]))
    def begin(self, size: int, topology: str) -> None:
        self.topology = topology
        for _ in range(size):
            self.add(0)
        self.net.run(1.0)

    def awake(self) -> list[VirtualPeer]:
        return [peer for peer in self.net.living() if peer.frozen_until_s <= self.net.now]

    def pick(self, choice: int) -> VirtualPeer:
        living = self.net.living()
        return living[choice % len(living)]

    @precondition(lambda self: len(self.net.living()) < SIZE_MAX)
    @rule(seed=CHOICE)
    def add(self, seed: int) -> None:
        index = self.started
        self.started += 1
        seeds = tuple({self.pick(seed).protocol.config.control_address, "control:0"}) if index else ()
        peer_config = config(f"peer-{index:02d}", index, kind=self.kind, topology=self.topology)
        self.net.add(peer_config, float(index), 0.15 + 0.07 * (index % 3), tuple(sorted(seeds)))

    @precondition(lambda self: len(self.net.living()) > 1)
    @rule(choice=CHOICE)
    def kill(self, choice: int) -> None:
        self.net.kill(self.pick(choice).name)

    @precondition(lambda self: len(self.net.living()) > 1)
    @rule(choice=CHOICE)
    def leave(self, choice: int) -> None:
        peer = self.pick(choice)
        if peer.frozen_until_s <= self.net.now:
            self.net.leave(peer.name)

    @rule(choice=CHOICE, seconds=SECONDS)
    def freeze(self, choice: int, seconds: float) -> None:
        self.net.freeze(self.pick(choice).name, 3 * seconds)

    @rule(choice=CHOICE, seconds=SECONDS)
    def cut_off(self, choice: int, seconds: float) -> None:
        self.net.partition([self.pick(choice).name], for_s=2 * seconds)

    @rule(percent=st.sampled_from([0, 5, 30]))
    def lose(self, percent: int) -> None:
        self.net.loses = lambda source, target: self.net.chance.below(100) < percent

    @rule(percent=st.sampled_from([0, 10]))
    def spoil(self, percent: int) -> None:
        self.net.spoil = lambda key: "non-finite" if self.net.chance.below(100) < percent else None

    @rule(seconds=SECONDS)
    def pass_time(self, seconds: float) -> None:
        before = {peer.name: peer.steps for peer in self.awake()}
        self.net.run(self.net.now + seconds)
        if self.kind == "pair":
            for name, steps in before.items():
                peer = self.net[name]
                assert peer.steps >= steps + int(seconds / peer.step_s) - 1, f"{name} waited"

    @invariant()
    def deadlines_are_not_in_the_past(self) -> None:
        for peer in self.awake():
            late_s = self.net.now - peer.protocol.next_deadline()
            assert late_s <= 0 or peer.deadline_s <= self.net.now, f"{peer.name}'s deadline is {late_s} s ago"

    def teardown(self) -> None:
        net = self.net
        if not net.peers:
            return
        net.sides.clear()
        net.cut = net.loses = lambda source, target: False
        net.spoil = lambda key: None
        # Out of every freeze, over every suspicion and quarantine, and a round of tries at the lost.
        net.run(max([net.now, *(peer.frozen_until_s for peer in net.living())]) + 80.0)
        joined = [peer for peer in net.living() if not peer.failures]
        for part in self.reachable(joined):
            names = tuple(sorted(peer.name for peer in part))
            assert {peer.protocol.living() for peer in part} == {names}
            assert all(peer.protocol.caught_up for peer in part)
            if len(part) > 1:
                values = [net._settled(peer) for peer in part]
                assert max(values) - min(values) < 0.01
                assert all(peer.told_at(Exchanged)[-1] > net.now - 5.0 for peer in part)

    def reachable(self, peers: list[VirtualPeer]) -> list[list[VirtualPeer]]:
        """Groups peers that know of each other at all; two that never met have no way to."""
        parts: list[list[VirtualPeer]] = []
        for peer in peers:
            known = set(peer.protocol.living())
            part = next((p for p in parts if known & {other.name for other in p}), None)
            if part is None:
                parts.append([peer])
            else:
                part.append(peer)
        return parts


class LifeOfASynchronousRun(LifeOfARun):
    kind = "round"


QUICK = settings(
    max_examples=10,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


class TestPairs(LifeOfARun.TestCase):
    pytestmark = pytest.mark.slow
    settings = QUICK


class TestRounds(LifeOfASynchronousRun.TestCase):
    pytestmark = pytest.mark.slow
    settings = QUICK
