"""The virtual network: links that behave like TCP under libzmq, delays, outages, and snapshots that share bandwidth.

Theory of operation. A control message takes its link's delay and arrives in order. A lost packet is sent again, so it
is late and holds up those behind it; only a broken link loses messages. Into an outage TCP sends again after 0.2, 0.4,
0.8 ... seconds, so what waited arrives some time after the outage ends; after a long one the other end has closed, and
the link breaks then. What the links tell ("up", "down", "refused") is what libzmq's monitor would: the death of a process
breaks its links within a delay and its host refuses new ones; a silent host, or a cut, says nothing at all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from gossiptrain.protocol.events import Lane
from gossiptrain.protocol.messages import Envelope, TransferKey
from sim.bandwidth import Bandwidth, Flow
from sim.clock import Clock
from sim.links import Link, Process
from sim.network_options import NetworkOptions, throughput_bps
from sim.streams import Uniforms

STRANDED: Any = (None, 0)  # holds up all that is sent after it on a link that leads nowhere

Meddler = Callable[[Link, Envelope, float], bool]


class Network:
    """Carries messages and snapshots between processes; see the module's text.

    Attributes:
        meddlers: by the sender's host: each is shown (link, message, time of its arrival) and says whether it took it.
        listening: the process that accepts connections at each address.
        counters: what happened to messages on their way.
    """

    def __init__(self, clock: Clock, options: NetworkOptions, hosts: int, seed: int) -> None:
        self.clock = clock
        self._options = options
        latencies_s = options.latencies_s(hosts)
        self._latency_s = 0.0 if isinstance(latencies_s, list) else latencies_s
        self._latency_rows_s = latencies_s if isinstance(latencies_s, list) else None
        self._pairs_mbps = options.pairs_mbps(hosts)
        self._extra_s = [0.0] * hosts
        self._slowed = 0  # how often delays and bandwidths have changed
        self._chance = Uniforms(seed, "network")
        self._cuts: Counter[tuple[int, int]] = Counter()
        self._silent: set[int] = set()
        self._hosts: dict[str, int] = {}
        self.listening: dict[str, Process] = {}
        self._links_to: list[dict[Link, None]] = [{} for _ in range(hosts)]
        self._jitter = options.jitter
        self._plain = not (options.loss or options.duplicate or options.reorder)
        self.bandwidth = Bandwidth(
            clock,
            up_mbps=options.bandwidths_mbps("uplink_mbps", hosts),
            down_mbps=options.bandwidths_mbps("downlink_mbps", hosts),
            may_run=self._may_run,
            cap_bps=self._cap_bps,
            arrived=self._arrived,
        )
        self.counters: Counter[str] = Counter()
        self.meddlers: dict[int, list[Meddler]] = {}

    # For the peers

    def assign(self, host: int, addresses: Iterable[str]) -> None:
        """Gives a host its addresses. It refuses connections to them while no process listens."""
        self._hosts.update(dict.fromkeys(addresses, host))

    def listen(self, process: Process, addresses: Iterable[str]) -> None:
        """A process begins to accept connections at these addresses."""
        self.listening.update(dict.fromkeys(addresses, process))

    def connect(self, process: Process, address: str, lane: Lane) -> None:
        """Opens a link unless there is one."""
        links = process.control_links if lane == "control" else process.data_links
        if address in links:
            return
        link = links[address] = Link(process, address, lane, self._hosts.get(address))
        if link.target_host is None:
            return  # an address that nobody ever had: no host to refuse it
        self._links_to[link.target_host][link] = None
        self._attempt(link)

    def disconnect(self, process: Process, address: str, lane: Lane) -> None:
        """Closes a link and drops what waits on it."""
        links = process.control_links if lane == "control" else process.data_links
        link = links.pop(address, None)
        if link is not None:
            self._close(link)

    def send(self, process: Process, address: str, envelope: Envelope, size: int) -> None:
        """Sends a control message of so many bytes over an open link; without one it is dropped and counted."""
        link = process.control_links.get(address)
        if link is None:
            self.counters["no_link"] += 1
        elif link.is_up:
            self._transmit(link, envelope, size)
        elif link.waiting_bytes + size > self._options.control_queue_bytes:
            self.counters["control_queue_full"] += 1
        else:
            link.waiting.append((envelope, size))
            link.waiting_bytes += size

    def send_snapshot(self, process: Process, address: str, key: TransferKey, payload: Any, size: int) -> bool:
        """Sends a snapshot of so many bytes after the one under way on this link; one that still waits is replaced.

        Returns:
            False without a data link.
        """
        link = process.data_links.get(address)
        if link is None:
            return False
        if link.target_host is not None and key not in link.flows:
            if len(link.flows) > 1:
                link.flows.popitem()
                self.counters["transfers_replaced"] += 1
            link.flows[key] = Flow(process.host, link.target_host, 8.0 * size, (link, key, payload))
            self._start_first(link)
        return True

    def cancel_snapshot(self, process: Process, address: str, key: TransferKey) -> None:
        """Stops sending a snapshot, if it is still under way."""
        link = process.data_links.get(address)
        flow = link.flows.pop(key, None) if link is not None else None
        if flow is not None:
            self._end_flow(flow)
            self._start_first(flow.cargo[0])

    def forget(self, process: Process, key: TransferKey) -> None:
        """The receiver no longer wants a snapshot: its sender is told and stops."""
        flow = process.incoming.get(key)
        if flow is not None:
            flow.cargo[0].flows.pop(key, None)
            self._end_flow(flow)
            self._start_first(flow.cargo[0])

    # For the faults

    def kill(self, process: Process) -> None:
        """The process has ended (`alive` is False already): its links break, its host refuses new ones."""
        now = self.clock.now
        for link in [*process.control_links.values(), *process.data_links.values()]:
            self._close(link)
        for address, listener in list(self.listening.items()):
            if listener is process:
                del self.listening[address]
        for link in self._links_to[process.host]:
            if link.target is process and self._is_open(process.host, link.source.host):
                self.clock.at(now + self.delay_s(process.host, link.source.host), self._break, link)
        for flow in list(process.incoming.values()):
            flow.cargo[0].flows.pop(flow.cargo[1], None)
            self._end_flow(flow)
        self._keep_alive()

    def set_silent(self, host: int, is_silent: bool) -> None:
        """A host falls silent (power or cable gone), or answers again."""
        (self._silent.add if is_silent else self._silent.discard)(host)
        self.bandwidth.look_again()
        self._keep_alive()

    def cut(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Cuts these directions (sender's host, receiver's host); cuts add up."""
        self._cuts.update(pairs)
        self.bandwidth.look_again()
        self._keep_alive()

    def mend(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Takes back one cut of each of these directions."""
        for pair in pairs:
            self._cuts[pair] -= 1
            if self._cuts[pair] <= 0:
                del self._cuts[pair]
        self.bandwidth.look_again()

    def slow(self, host: int, factor: float, extra_latency_s: float) -> None:
        """Multiplies a host's bandwidths and adds to its delays; call again with the inverse to take it back."""
        up_mbps, down_mbps = self.bandwidth.link_mbps(host)
        self.bandwidth.set_link(host, up_mbps * factor, down_mbps * factor)
        self._extra_s[host] = max(0.0, self._extra_s[host] + extra_latency_s)
        self._slowed += 1

    def stall_changed(self, host: int) -> None:
        """A process of this host stopped or goes on: snapshots from and to it do the same."""
        self.bandwidth.look_again(self.bandwidth.at_host(host))

    def break_links(self, host: int, at_once: bool) -> None:
        """All connections of a host break now, or lead nowhere from now on, which keepalive finds out."""
        links = [link for links in self._links_to for link in links if host in (link.source.host, link.target_host)]
        for link in (link for link in links if link.is_up):
            if at_once:
                self._broken(link)
                continue
            self._drop_waiting(link)
            link.held_since_s = -math.inf
            link.held.append(STRANDED)
            self.clock.at(self.clock.now + self._options.keepalive_s, self._break, link)

    def is_connected(self, one: int, other: int) -> bool:
        """Says whether packets pass between two hosts both ways."""
        return self._is_open(one, other) and self._is_open(other, one)

    def delay_s(self, source: int, target: int) -> float:
        """One-way delay in seconds, without jitter."""
        rows = self._latency_rows_s
        base_s = self._latency_s if rows is None else rows[source][target]
        return base_s + self._extra_s[source] + self._extra_s[target]

    # Control messages

    def _transmit(self, link: Link, envelope: Envelope, size: int) -> None:
        source, receiver, clock = link.source.host, link.target, self.clock
        assert receiver is not None
        target = receiver.host
        if link.held or ((self._cuts or self._silent) and not self._is_open(source, target)):
            self._hold(link, envelope, size)
            return
        if not receiver.alive:  # its host answers with a reset
            clock.at(clock.now + 2 * self.delay_s(source, target), self._break, link)
            return
        if link.measured != self._slowed:
            link.measured = self._slowed
            link.delay_s, link.bps = self.delay_s(source, target), self.bandwidth.slowest_bps(source, target)
        delay_s = link.delay_s * (1.0 + self._jitter * self._chance.next())
        arrives_s = clock.now + delay_s + 8 * size / link.bps
        if self._plain:
            arrives_s = link.last_s = arrives_s if arrives_s > link.last_s else link.last_s
        else:
            arrives_s = self._disturb(link, arrives_s, delay_s, envelope)
        if self.meddlers and any(meddle(link, envelope, arrives_s) for meddle in self.meddlers.get(source, ())):
            return
        clock.at(arrives_s, receiver.take_message, envelope)

    def _disturb(self, link: Link, arrives_s: float, delay_s: float, envelope: Envelope) -> float:
        """Loses (late by the time-outs), duplicates and reorders; returns when the message arrives."""
        options, chance = self._options, self._chance
        wait_s = options.rto_s
        while options.loss and chance.next() < options.loss:
            arrives_s += wait_s
            wait_s = min(2 * wait_s, options.rto_s_max)
        if options.reorder and chance.next() < options.reorder:
            self.counters["reordered"] += 1
            return arrives_s + 3 * delay_s
        link.last_s = arrives_s = max(arrives_s, link.last_s)
        if options.duplicate and chance.next() < options.duplicate:
            self.counters["duplicated"] += 1
            assert link.target is not None
            self.clock.at(arrives_s + delay_s * chance.next(), link.target.take_message, envelope)
        return arrives_s

    def _hold(self, link: Link, envelope: Envelope, size: int) -> None:
        if not link.held:
            link.held_since_s = self.clock.now
            link.pause_s = self._options.rto_s
            self.clock.at(self.clock.now + link.pause_s, self._send_again, link)
        link.held.append((envelope, size))

    def _send_again(self, link: Link) -> None:
        if link.closed or not link.held or not link.is_up:
            return
        assert link.target_host is not None
        source, target, now = link.source.host, link.target_host, self.clock.now
        if not self._is_open(source, target):
            link.pause_s = min(2 * link.pause_s, self._options.rto_s_max)
            self.clock.at(now + link.pause_s, self._send_again, link)
        elif now - link.held_since_s > self._options.keepalive_s:
            self.clock.at(now + 2 * self.delay_s(source, target), self._break, link)
        else:
            held, link.held = link.held, []
            for envelope, size in held:
                self._transmit(link, envelope, size)

    # Links

    def _attempt(self, link: Link) -> None:
        if link.closed or link.is_up or not link.source.alive:
            return
        assert link.target_host is not None
        now, options = self.clock.now, self._options
        source, host = link.source.host, link.target_host
        target = self.listening.get(link.address)
        trip_s = self.delay_s(source, host) + self.delay_s(host, source)
        if link.source.stalled_until_s > now:
            self.clock.at(link.source.stalled_until_s, self._attempt, link)
        elif not self.is_connected(source, host):
            link.pause_s = min(max(2 * link.pause_s, options.connect_s), options.connect_s_max)
            self.clock.at(now + link.pause_s, self._attempt, link)
        elif target is None:
            self.clock.at(now + trip_s, link.source.take_evidence, (link.address, link.lane, "refused"))
            link.pause_s = min(max(2 * link.pause_s, options.reconnect_s), options.reconnect_s_max)
            self.clock.at(now + trip_s + link.pause_s, self._attempt, link)
        elif target.stalled_until_s > now:
            self.clock.at(target.stalled_until_s, self._attempt, link)
        else:
            self.clock.at(now + 1.5 * trip_s, self._greeted, (link, target))

    def _greeted(self, item: tuple[Link, Process]) -> None:
        link, target = item
        if link.closed or not link.source.alive:
            return
        assert link.target_host is not None
        if not target.alive or not self.is_connected(link.source.host, link.target_host):
            self._attempt(link)
            return
        link.is_up, link.target, link.pause_s = True, target, 0.0
        link.source.take_evidence((link.address, link.lane, "up"))
        while link.waiting and link.is_up and not link.closed:
            self._transmit(link, *link.waiting.popleft())
        link.waiting_bytes = 0
        self._start_first(link)

    def _keep_alive(self) -> None:
        self.clock.at(self.clock.now + self._options.keepalive_s, self._probe_idle)

    def _probe_idle(self, _: None) -> None:
        """Keepalive finds data links, which say nothing for long, whose other end is gone or out of reach."""
        for links in self._links_to:
            for link in list(links):
                if link.lane == "data" and link.is_up and link.target is not None and link.source.alive:
                    reachable = self.is_connected(link.source.host, link.target.host)
                    if not reachable or not link.target.alive:
                        self._broken(link)

    def _break(self, link: Link) -> None:
        """A reset arrives, unless the link has another end by now."""
        if link.is_up and not (link.target is not None and link.target.alive and not link.held):
            self._broken(link)

    def _broken(self, link: Link) -> None:
        """The connection is gone, as the source learns now; libzmq tries to open it again."""
        if link.closed:
            return
        self._drop_waiting(link)
        link.is_up, link.target, link.pause_s = False, None, 0.0
        link.source.take_evidence((link.address, link.lane, "down"))
        self.clock.at(self.clock.now + self._options.reconnect_s, self._attempt, link)

    def _close(self, link: Link) -> None:
        link.closed = True
        if link.target_host is not None:
            self._links_to[link.target_host].pop(link, None)
        self._drop_waiting(link)

    def _drop_waiting(self, link: Link) -> None:
        link.waiting.clear()
        link.waiting_bytes = 0
        link.held = []
        flows, link.flows = link.flows, {}
        for flow in flows.values():
            self._end_flow(flow)

    def _is_open(self, source: int, target: int) -> bool:
        return (source, target) not in self._cuts and source not in self._silent and target not in self._silent

    # Snapshots

    def _start_first(self, link: Link) -> None:
        """The oldest snapshot of a link goes on its way; the next waits behind it."""
        flow = next(iter(link.flows.values()), None)
        if flow is None or not link.is_up or flow.has_begun:
            return
        assert link.target is not None
        if link.target.alive:
            link.target.incoming[flow.cargo[1]] = flow
            self.bandwidth.start(flow)
        elif self.is_connected(flow.source, flow.target):
            self.clock.at(self.clock.now + 2 * self.delay_s(flow.source, flow.target), self._break, link)

    def _end_flow(self, flow: Flow) -> None:
        link, key, _ = flow.cargo
        if link.target is not None and link.target.incoming.get(key) is flow:
            del link.target.incoming[key]
        self.bandwidth.stop(flow)

    def _may_run(self, flow: Flow) -> bool:
        link, now = flow.cargo[0], self.clock.now
        if not self.is_connected(flow.source, flow.target):
            return False
        return link.source.stalled_until_s <= now and link.target.stalled_until_s <= now

    def _cap_bps(self, source: int, target: int) -> float:
        loss, pairs_mbps = self._options.loss, self._pairs_mbps
        pair_bps = 1e6 * (pairs_mbps[source][target] if isinstance(pairs_mbps, list) else pairs_mbps)
        trip_s = self.delay_s(source, target) + self.delay_s(target, source)
        return min(pair_bps, throughput_bps(trip_s, loss))

    def _arrived(self, flow: Flow) -> None:
        link, key, payload = flow.cargo
        link.flows.pop(key, None)
        link.target.incoming.pop(key, None)
        delay_s = self.delay_s(flow.source, flow.target) + self._options.snapshot_overhead_s
        self.clock.at(self.clock.now + delay_s, self._hand_over, (link.target, key, payload))
        self._start_first(link)

    def _hand_over(self, item: tuple[Process, TransferKey, Any]) -> None:
        target, key, payload = item
        target.take_snapshot(key, payload)
