"""Many real protocols, one virtual clock and network: `Simulation(...).run(until_s)` returns a `Report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

import topologies
from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.budget import SendLimits
from gossiptrain.protocol.config import ExchangeConfig, MembershipConfig, ProtocolConfig
from gossiptrain.protocol.messages import Hello, MemberEntry, Message
from gossiptrain.protocol.pacing import PacingConfig
from sim.checkers import Checkers, Guest, Limits
from sim.clock import OBSERVERS, Clock
from sim.environment import Environment, network_of
from sim.faults import FaultSchedule
from sim.injection import Injector
from sim.network import Network
from sim.network_options import NetworkOptions
from sim.options import KINDS, Options, check, topology_of
from sim.peer import SimulatedPeer
from sim.progress import drive
from sim.report import Report, Sample
from sim.sampling import SharedData
from sim.streams import generator
from sim.trace import Trace
from sim.workload import TimedWorkload, Workload
from sim.world import World


class Simulation:
    """A run under virtual time. The same arguments give the same events, in the same order, on every machine.

    Attributes:
        options: everything that fixes the run.
        clock: virtual time.
        processes: the latest process of each peer by its number, dead or alive; None before its start.
        former: processes that were replaced by a restart.
        guests: impostors and strangers, who must not be let in.
        interrupted: whether Ctrl-C ended the last `run`.
    """

    def __init__(
        self,
        peers: int = 32,
        *,
        topology: Any = "overlay",
        faults: FaultSchedule | None = None,
        seed: int = 0,
        workload: Workload | None = None,
        network: NetworkOptions | None = None,
        mixer: str = "ad_psgd",
        membership: MembershipConfig | None = None,
        exchange: ExchangeConfig | None = None,
        sync_every: int | str = 4,
        normalise: bool = False,
        founders: int = 1,
        formed: bool = False,
        seeds: int = 3,
        start_within_s: float = 0.5,
        limits: Limits | None = None,
        checks_wire: bool = False,
        observe_every_s: float = 1.0,
        replay: str = "",
        environment: Environment | None = None,
        until_s: float | None = None,
        data: SharedData | None = None,
        max_mbps: float | Sequence[float] = 0.0,
    ) -> None:
        """
        Args:
            peers: how many start; more may join by `faults`. Their names are "peer-0", "peer-1", ...
            topology: a family or schedule by name or as the function of `topologies`, a networkx graph whose nodes are
                numbers or names, or a function of the sorted names.
            faults: what goes wrong; default nothing.
            seed: fixes every random choice, of the protocol too.
            workload: default `TimedWorkload()`, 4 MB snapshots and 0.05 s a step.
            network: default `NetworkOptions()`, 0.5 ms and 1 Gbit/s.
            mixer: "ad_psgd" (pairs at any time) or "d_psgd" (synchronous neighbourhood rounds).
            membership, exchange: the protocol's time-outs.
            sync_every: local steps between two boundaries; a time ("2s"), or "auto": see `gossiptrain.attach`.
            normalise: weigh each block's change so that slow and fast peers count alike.
            founders: so many peers begin with parameters of their own and count as the run's beginning; the others adopt.
            formed: all peers are founders, start at the same moment and know each other from the beginning: spares the
                time in which each learns of each, which grows with the square of the peers and takes minutes with 1,000.
            seeds: the addresses of the first so many peers are everybody's seeds.
            start_within_s: peers start one after the other within this time.
            limits: of the checkers.
            checks_wire: encode and decode every message on its way, as the sockets do.
            observe_every_s: how often the workload's measures are recorded.
            replay: the command that repeats this run, for the message of `InvariantBroken`; default the scenario as TOML.
            environment: instead of `network`: the cluster, with its network, its devices' step times (instead of the
                workload's) and who comes and goes (besides `faults`, and sparing the peers that these name).
            until_s: until when the environment's churn acts; needed where it has one.
            data: an epoch of data that the peers share by the data ledger; default none.
            max_mbps: the bandwidth budget of each peer, as `attach` takes it: what its snapshots and states take together
                on their way out, control messages apart; one number, or one a host (joiners among them); 0 for none.

        Raises:
            ConfigurationError: an argument is out of range; the message names it and what is accepted.
        """
        written = faults or FaultSchedule()
        self.options = Options(
            peers=peers,
            topology=topology_of(topology),
            faults=written,
            seed=seed,
            workload=workload or TimedWorkload(),
            network=network_of(environment, network),
            mixer=mixer,
            membership=membership or MembershipConfig(),
            exchange=exchange or ExchangeConfig(),
            sync_every=sync_every,
            normalise=normalise,
            founders=peers if formed else founders,
            formed=formed,
            seeds=seeds,
            start_within_s=0.0 if formed else start_within_s,
            limits=limits or Limits(),
            checks_wire=checks_wire,
            observe_every_s=observe_every_s,
            environment=environment,
            until_s=until_s,
            written_faults=written,
            max_mbps=max_mbps,
            data=data,
        )
        check(self.options)
        if environment is not None:
            drawn = environment.faults(peers, seed, until_s, max(1.0, start_within_s), written)
            self.options = replace(self.options, faults=drawn)
        self.options.workload.prepare(peers, seed)
        if data is not None:
            data.prepare()
        self.size = peers
        self._replay = replay
        schedule = self.options.faults.check(peers)
        hosts = peers + schedule.joiners() + schedule.guests()
        self._budgets_mbps = self.options.budgets_mbps(hosts)
        self.clock = Clock()
        self.trace = Trace()
        self.network = Network(self.clock, self.options.network, hosts, seed)
        self.checkers = self._make_checkers(hosts)
        self.processes: list[SimulatedPeer | None] = [None] * hosts
        self.former: list[SimulatedPeer] = []
        self.guests: list[Guest] = []
        self.samples: list[Sample] = []
        self.interrupted = False
        self.bytes_sent: list[tuple[float, int]] = []
        self._boots = generator(seed, "boots")
        self._known = self._members_known() if formed else ()
        self._world = World(
            self.clock,
            self.network,
            self.options.workload,
            self.trace,
            self.checkers,
            seed,
            checks_wire,
            self._seed_addresses,
            environment.compute if environment is not None else None,
            data,
        )
        self.injector = Injector(self, self.options.faults, hosts)
        for host in range(hosts):
            self.network.assign(host, (_address(host, "control"), _address(host, "data")))
            self.network.bandwidth.set_budget(host, self._budgets_mbps[host])
        for host in range(peers):
            self.clock.at(self.options.start_within_s * host / peers, self.start, host)
        self.clock.at(self.options.limits.every_s, self._look, None, OBSERVERS)
        self.clock.at(0.0, self._observe, None, OBSERVERS)

    # Running

    def run(self, until_s: float, progress: bool | None = None) -> Report:
        """Lets everything happen up to a time and reports; may be called again with a later time.

        Ctrl-C ends the run between two events: the report then tells what happened so far, `interrupted` is True, and
        `run` goes on from there when it is called again.

        Args:
            until_s: virtual seconds since the start.
            progress: show virtual time, speed and the time to go on stderr; default on a terminal and in a notebook.

        Raises:
            ConfigurationError: until_s is no number of seconds.
            InvariantBroken: something did not hold that must; the message tells how to replay it.
        """
        if not 0 <= until_s < float("inf"):
            raise ConfigurationError(f"until_s={until_s!r}: must be a number of seconds, at least 0")
        self.interrupted = not drive(self, until_s, progress)
        return self.report()

    def step(self) -> bool:
        """Lets one event happen; False when nothing is left."""
        return self.clock.step()

    def report(self) -> Report:
        """Reports the run so far."""
        return Report.of(self)

    def environment(self) -> Environment:
        """The cluster that is simulated, also where its parts were given one by one."""
        options = self.options
        return options.environment or Environment(options.workload.step_times, options.network)

    @property
    def now(self) -> float:
        """Virtual seconds since the start."""
        return self.clock.now

    def all_processes(self) -> list[SimulatedPeer]:
        """Every process there ever was, in the order of the peers' numbers and of their starts."""
        guests = [guest.peer for guest in self.guests]
        processes = [*self.former, *guests, *(peer for peer in self.processes if peer is not None)]
        return sorted(processes, key=lambda peer: (peer.host, peer.began_s))

    def process(self, host: int) -> SimulatedPeer:
        """The latest process of a peer, dead or alive.

        Raises:
            LookupError: it has not started yet.
        """
        peer = self.processes[host]
        if peer is None:
            raise LookupError(f"peer-{host} has not started at {self.now:g} s")
        return peer

    def living(self) -> list[SimulatedPeer]:
        """The processes that live."""
        return [peer for peer in self.processes if peer is not None and peer.alive]

    def start(self, host: int, same_boot: bool = False) -> None:
        """Starts a process on a host: a peer's first, or its next after a crash."""
        before = self.processes[host]
        if before is not None:
            if before.alive:
                return  # a crash loop met a peer that had been restarted
            self.former.append(before)
        is_first = before is None
        known = self._known if is_first and host < self.size else ()
        if known:
            boot = known[host].boot
        else:
            boot = before.boot if same_boot and before is not None else int(self._boots.integers(1, 2**63))
        peer = SimulatedPeer(self.config(host, boot, is_first), host, self._world)
        self.processes[host] = peer
        self.checkers.began(peer)
        peer.start(known)

    def start_guest(self, host: int, name: str, differs: str) -> None:
        """Starts a process under a name, that is taken or differs from the run in one thing ("run", "model", ...)."""
        changes: dict[str, dict[str, Any]] = {
            "run": {"run_id": "another run"},
            "model": {"parameters": ("another float32 [7]",)},
            "mixer": {"mixer": "another"},
        }
        config = self.config(host, int(self._boots.integers(1, 2**63)), is_first=False)
        peer = SimulatedPeer(replace(config, name=name, **changes.get(differs, {})), host, self._world)
        if differs == "version":
            peer.alter(_of_another_version)
        self.guests.append(Guest(peer, differs))
        self.checkers.began(peer)
        peer.start()

    def config(self, host: int, boot: int, is_first: bool) -> ProtocolConfig:
        """The protocol's configuration of a process."""
        options = self.options
        founder = is_first and host < options.founders
        return ProtocolConfig(
            name=f"peer-{host}",
            boot=boot,
            run_id=f"simulation {options.seed}",
            control_address=_address(host, "control"),
            data_address=_address(host, "data"),
            parameters=options.workload.parameters(),
            snapshot_bytes=options.workload.snapshot_bytes,
            founder=founder,
            expects_seeds=not founder,
            topology=options.topology,
            kind=KINDS[options.mixer],  # type: ignore[arg-type]
            mixer=options.mixer,
            pacing=PacingConfig.of(options.sync_every, options.normalise),
            seed=options.seed,
            membership=options.membership,
            exchange=options.exchange,
            limits=SendLimits(self._budgets_mbps[host]),
        )

    def replay_text(self) -> str:
        """Tells how to run this again: the command, or the scenario where only a file can hold it."""
        from sim.scenario import replay_text

        return replay_text(self.options, self._replay, self.clock.now)

    def _make_checkers(self, hosts: int) -> Checkers:
        options = self.options
        least_mbps = min((value for value in self._budgets_mbps if value), default=float("inf"))
        largest = max(options.workload.snapshot_bytes, options.workload.state_bytes)
        limits = options.limits.derived(options.membership, options.network, hosts, largest, least_mbps)
        is_static = options.topology not in topologies.known_schedules()
        checkers = Checkers(limits, lambda: self.clock.now, self.replay_text, is_static)
        checkers.dead_since = self._ended_since
        checkers.seeds = frozenset(f"peer-{host}" for host in range(min(options.seeds, self.size)))
        return checkers

    # By the clock

    def _members_known(self) -> tuple[MemberEntry, ...]:
        """The first process of every peer, as all know it who start from one list."""
        return tuple(
            MemberEntry(
                name=f"peer-{host}",
                boot=int(self._boots.integers(1, 2**63)),
                control_address=_address(host, "control"),
                data_address=_address(host, "data"),
                incarnation=0,
                state="alive",
                caught_up=True,
            )
            for host in range(self.size)
        )

    def _seed_addresses(self, peer: SimulatedPeer) -> tuple[str, ...]:
        addresses = (_address(host, "control") for host in range(min(self.options.seeds, self.size)))
        return tuple(address for address in addresses if address != peer.config.control_address)

    def _look(self, _: None) -> None:
        begun = [peer for peer in self.processes if peer is not None]
        self.checkers.look(begun, self.injector.quiet_s)
        self.checkers.look_at_guests(self.guests, begun, self.injector.quiet_s)
        self.clock.at(self.now + self._look_every_s(), self._look, None, OBSERVERS)

    def _look_every_s(self) -> float:
        """Looking at all views costs n^2, if little: with many peers it is done less often, with 1,000 every 10 s."""
        return self.options.limits.every_s * max(1.0, self.size / 100)

    def _observe(self, _: None) -> None:
        peers = [peer.host for peer in self.living() if peer.protocol.caught_up]
        measures = self.options.workload.measure(peers)
        if measures:
            self.samples.append(Sample.of(self.now, peers, measures))
        self.bytes_sent.append((self.now, self._bytes_sent()))
        self.clock.at(self.now + self.options.observe_every_s, self._observe, None, OBSERVERS)

    def _bytes_sent(self) -> int:
        processes = [*self.former, *(peer for peer in self.processes if peer is not None)]
        return sum(peer.bytes_sent() for peer in processes)

    def _ended_since(self, since_s: float) -> set[str]:
        return {peer.name for peer in self.all_processes() if since_s <= peer.ended_s < float("inf")}


def _address(host: int, lane: str) -> str:
    return f"sim://peer-{host}/{lane}"


def _of_another_version(message: Message) -> Message:
    return msgspec.structs.replace(message, version_min=99, version_max=99) if isinstance(message, Hello) else message
