"""Carries a fault schedule out on a running simulation, and knows which hosts are being hurt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from sim import trace
from sim.clock import FAULTS
from sim.faults import Fault, FaultSchedule
from sim.meddling import Garbling, Replaying, Slander
from sim.network import Meddler
from sim.streams import Uniforms, generator

if TYPE_CHECKING:
    from sim.peer import SimulatedPeer
    from sim.simulation import Simulation

INFINITY = float("inf")


class Injector:
    """Strikes at the scheduled times.

    Attributes:
        quiet_s: per host, since when no fault acts on it; infinity while one does.
    """

    def __init__(self, simulation: Simulation, schedule: FaultSchedule, hosts: int) -> None:
        self._simulation = simulation
        self._acting = [0] * hosts
        self.quiet_s = [0.0] * hosts
        self._joined = self._guests = 0
        self._first_guest = hosts - schedule.guests()
        for fault in schedule.faults:
            self._at(fault.at_s, partial(self._strike, fault))

    def _at(self, time_s: float, action: Callable[[], None]) -> None:
        self._simulation.clock.at(time_s, lambda _: action(), None, FAULTS)

    def _strike(self, fault: Fault) -> None:
        now = self._simulation.clock.now
        text = f"{fault.kind} {fault.peers} {fault.groups}"
        self._simulation.trace.add(now, fault.peers[0] if fault.peers else 0, trace.FAULT, text.encode())
        self._simulation.checkers.saw[f"fault {fault.kind}"] += 1
        getattr(self, f"_{fault.kind}")(fault)

    def _hurt(self, hosts: Iterable[int], for_s: float, undo: Callable[[], None] | None = None) -> None:
        """Marks hosts as hurt for a while, then takes the fault back."""
        chosen = list(hosts)
        for host in chosen:
            self._acting[host] += 1
            self.quiet_s[host] = INFINITY
        self._at(self._simulation.clock.now + for_s, partial(self._heal, chosen, undo))

    def _heal(self, hosts: list[int], undo: Callable[[], None] | None) -> None:
        if undo is not None:
            undo()
        for host in hosts:
            self._acting[host] -= 1
            if not self._acting[host]:
                self.quiet_s[host] = self._simulation.clock.now

    def _everybody(self) -> range:
        return range(len(self._acting))

    # Life and death

    def _crash(self, fault: Fault) -> None:
        host = fault.peers[0]
        if fault.options.get("silent"):
            self._simulation.network.set_silent(host, True)
        self._simulation.process(host).stop("crashed")

    def _restart(self, fault: Fault) -> None:
        host = fault.peers[0]
        self._simulation.network.set_silent(host, False)
        self._simulation.start(host, same_boot=fault.options.get("boot") == "same")

    def _crash_loop(self, fault: Fault) -> None:
        host, every_s = fault.peers[0], fault.options["every_s"]
        now = self._simulation.clock.now
        self._hurt([host], fault.for_s)
        for turn in range(fault.options["times"]):
            self._at(now + turn * every_s, lambda: self._simulation.process(host).stop("crashed"))
            self._at(now + (turn + 0.5) * every_s, lambda: self._simulation.start(host))

    def _leave(self, fault: Fault) -> None:
        peer = self._simulation.process(fault.peers[0])
        if peer.stalled_until_s > self._simulation.clock.now:
            self._at(peer.stalled_until_s, partial(peer.leave, "told to stop"))
        else:
            peer.leave("told to stop")

    def _join(self, fault: Fault) -> None:
        for _ in range(fault.options["count"]):
            self._simulation.start(self._simulation.size + self._joined)
            self._joined += 1

    def _stall(self, fault: Fault) -> None:
        peer = self._simulation.process(fault.peers[0])
        if peer.alive:
            peer.stall(fault.for_s)
            self._hurt(fault.peers, fault.for_s)

    def _pause(self, fault: Fault) -> None:
        peer = self._simulation.process(fault.peers[0])
        if peer.alive:
            peer.training.delay(fault.for_s)

    def _hostile(self, fault: Fault) -> None:
        peer = self._simulation.process(fault.peers[0])
        peer.hostile = fault.options["payload"]
        self._hurt(fault.peers, fault.for_s, partial(setattr, peer, "hostile", ""))

    def _fail_slow(self, fault: Fault) -> None:
        training = self._simulation.process(fault.peers[0]).training
        training.slowness = fault.options["factor"]
        self._at(fault.end_s, partial(setattr, training, "slowness", 1.0))

    def _starve(self, fault: Fault) -> None:
        peer, period_s = self._simulation.process(fault.peers[0]), fault.options["period_s"]
        for turn in range(int(fault.for_s / period_s)):
            self._at(
                fault.at_s + turn * period_s, partial(_stall_if_alive, peer, period_s * (1 - fault.options["share"]))
            )
        self._hurt(fault.peers, fault.for_s)

    def _slander(self, fault: Fault) -> None:
        peer = self._simulation.process(fault.peers[0])
        peer.alter(Slander(peer.name, self._chance(fault)))
        # Everybody may be out of some views while it lasts; nobody may stay so.
        self._hurt(self._everybody(), fault.for_s, partial(peer.alter, None))

    # Those who must not be let in

    def _impostor(self, fault: Fault) -> None:
        self._guest(f"peer-{fault.peers[0]}", "name")

    def _stranger(self, fault: Fault) -> None:
        self._guest(f"stranger-{self._guests}", fault.options["differs"])

    def _guest(self, name: str, differs: str) -> None:
        self._simulation.start_guest(self._first_guest + self._guests, name, differs)
        self._guests += 1

    # The network

    def _meddle(self, fault: Fault, meddler: Meddler) -> None:
        """Has somebody meddle with what a host sends, for as long as the fault lasts."""
        meddlers = self._simulation.network.meddlers
        host = fault.peers[0]
        meddlers.setdefault(host, []).append(meddler)

        def undo() -> None:
            meddlers[host].remove(meddler)
            if not meddlers[host]:
                del meddlers[host]

        self._at(fault.end_s, undo)

    def _chance(self, fault: Fault) -> Uniforms:
        return Uniforms(self._simulation.options.seed, fault.kind, fault.at_s, *fault.peers)

    def _garble(self, fault: Fault) -> None:
        options, network = fault.options, self._simulation.network
        self._meddle(fault, Garbling(network, options["how"], options["share"], self._chance(fault)))
        self._hurt(fault.peers, fault.for_s)

    def _replay(self, fault: Fault) -> None:
        options, network, host = fault.options, self._simulation.network, fault.peers[0]
        self._meddle(fault, Replaying(network, host, options["share"], options["later_s"], self._chance(fault)))

    def _reset(self, fault: Fault) -> None:
        self._simulation.network.break_links(fault.peers[0], at_once=True)
        self._hurt(fault.peers, 0.0)

    def _address_change(self, fault: Fault) -> None:
        self._simulation.network.break_links(fault.peers[0], at_once=False)
        self._hurt(fault.peers, self._simulation.options.network.keepalive_s)

    def _flip_flop(self, fault: Fault) -> None:
        host, half_s = fault.peers[0], fault.options["period_s"] / 2
        others = [other for other in self._everybody() if other != host]
        pairs = [(other, host) if fault.options["direction"] == "in" else (host, other) for other in others]
        self._hurt([host], fault.for_s)
        begin_s = fault.at_s
        while begin_s < fault.end_s:
            lasts_s = min(half_s, fault.end_s - begin_s)
            self._at(begin_s, partial(self._cut, pairs, [host], lasts_s))
            begin_s += 2 * half_s

    def _cut(self, pairs: list[tuple[int, int]], hosts: Iterable[int], for_s: float) -> None:
        network = self._simulation.network
        network.cut(pairs)
        self._hurt(hosts, for_s, partial(network.mend, pairs))

    def _partition(self, fault: Fault) -> None:
        side = {peer: number for number, group in enumerate(fault.groups) for peer in group}
        hosts = self._everybody()
        pairs = [(i, j) for i in hosts for j in hosts if i != j and side.get(i, -1) != side.get(j, -1)]
        self._cut(pairs, hosts, fault.for_s)

    def _one_way(self, fault: Fault) -> None:
        source, target = fault.peers
        self._cut([(source, target)], fault.peers, fault.for_s)

    def _around(self, host: int) -> list[tuple[int, int]]:
        others = [other for other in self._everybody() if other != host]
        return [(host, other) for other in others] + [(other, host) for other in others]

    def _slow_link(self, fault: Fault) -> None:
        host, network = fault.peers[0], self._simulation.network
        factor, extra_s = fault.options["mbps_factor"], fault.options["extra_latency_s"]
        network.slow(host, factor, extra_s)
        self._hurt([host], fault.for_s, partial(network.slow, host, 1 / factor, -extra_s))

    def _flapping(self, fault: Fault) -> None:
        host, period_s = fault.peers[0], fault.options["period_s"]
        down_s = period_s * (1 - fault.options["up_share"])
        now, turns = self._simulation.clock.now, int(fault.for_s / period_s)
        self._hurt([host], fault.for_s)
        for turn in range(turns):
            self._at(now + turn * period_s, partial(self._cut, self._around(host), [host], down_s))

    def _swizzle(self, fault: Fault) -> None:
        chance = generator(fault.options["seed"], "swizzle", fault.at_s)
        chosen = [peer for peer in fault.peers if chance.random() < 0.5] or list(fault.peers[:1])
        now, half_s = self._simulation.clock.now, fault.for_s / 2
        order = [chosen[int(i)] for i in chance.permutation(len(chosen))]
        release = [int(i) for i in chance.permutation(len(chosen))]
        for place, host in enumerate(order):
            cut_s = now + half_s * place / len(order)
            open_s = now + half_s + half_s * (release[place] + 1) / len(order)
            self._at(cut_s, partial(self._cut, self._around(host), [host], open_s - cut_s))


def _stall_if_alive(peer: SimulatedPeer, for_s: float) -> None:
    if peer.alive:
        peer.stall(for_s)
