"""Several peers on this machine: start them, hear them, end them.

`LocalRun` has no thread and no screen. Its owner calls `poll` until nobody runs; everything that happens comes back from
there as a list. The command line (`gossiptrain launch`) and `examples/demo.py` are two such owners.
"""

from __future__ import annotations

import os
import secrets
import selectors
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from gossiptrain import intervals
from gossiptrain.budgets import check_mbps, check_megabytes
from gossiptrain.errors import ConfigurationError
from gossiptrain.launchers import devices, run_folder
from gossiptrain.launchers.env import (
    LOOPBACK_ANY_PORT,
    NAME_PATTERN,
    PREFIX,
    PeerSettings,
    check_address,
    is_loopback,
)
from gossiptrain.launchers.processes import PeerProcess

PEERS_MAX = 1024
TERMINATE_AFTER_S = 3.0  # from the polite SIGINT to SIGTERM ...
KILL_AFTER_S = 4.5  # ... and to SIGKILL, so that all have ended within 5 s


def check_listen(listen: str, insecure: bool) -> None:
    """Refuses what is no address, and one that other machines can reach unless that was agreed to.

    Raises:
        ConfigurationError: With the address and the ways out.
    """
    host, _ = check_address("listen", listen)
    if not is_loopback(host) and not insecure:
        raise ConfigurationError(
            f"listen={listen!r}: other machines can reach this address, and traffic is neither encrypted nor "
            "authenticated; say insecure (--insecure) if the network is trusted, or listen on 127.0.0.1"
        )


@dataclass(frozen=True)
class LaunchConfig:
    """What is started on this machine.

    Attributes:
        script: The training script.
        arguments: What follows it, handed on untouched.
        peers: How many peers, at least 1.
        topology, mixer, codec, sync_every: As in `PeerSettings`.
        run_dir: The run's folder; None makes runs/DATE-TIME-SCRIPT.
        join: Addresses of peers of a run to join; empty begins a new run.
        run_id: Which run that is; None draws a new one.
        listen: Where the first peer binds; the others take free ports of the same host.
        insecure: Allow `listen` to be an address that other machines can reach.
        threads: CPU threads per peer; None divides the cores.
        names: The peers' names; None takes peer-0, peer-1, ..., and random ones for peers that join.
        checkpoint_every, keep_checkpoints: As in `PeerSettings`.
        resume: The folder of a run to go on with, from its checkpoints; its own `run_dir`, under its id.
        max_mbps, max_buffer_mb: As in `PeerSettings`, for each peer.
    """

    script: Path
    arguments: tuple[str, ...] = ()
    peers: int = 2
    topology: str = "overlay"
    mixer: str = "ad_psgd"
    codec: str = "none"
    sync_every: int | str = 4
    run_dir: Path | None = None
    join: tuple[str, ...] = ()
    run_id: str | None = None
    listen: str = LOOPBACK_ANY_PORT
    insecure: bool = False
    threads: int | None = None
    names: tuple[str, ...] | None = None
    checkpoint_every: str = ""
    keep_checkpoints: int = 3
    resume: Path | None = None
    max_mbps: float = 0.0
    max_buffer_mb: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.peers <= PEERS_MAX:
            raise ConfigurationError(f"peers={self.peers}: must be 1 to {PEERS_MAX}; 1 trains alone until others join")
        if not self.script.is_file():
            raise ConfigurationError(f"script={str(self.script)!r}: no such file")
        intervals.parse_sync_every(self.sync_every)
        if self.threads is not None and self.threads < 1:
            raise ConfigurationError(f"threads={self.threads}: must be at least 1 per peer")
        if self.resume is not None and (self.join or self.run_dir is not None):
            other = "join" if self.join else "run_dir"
            raise ConfigurationError(
                f"resume={str(self.resume)!r}: goes on with that run, in its folder; leave {other} out"
            )
        check_mbps("max_mbps", self.max_mbps)
        check_megabytes("max_buffer_mb", self.max_buffer_mb)
        self._check_addresses()
        self._check_names()

    def _check_addresses(self) -> None:
        check_listen(self.listen, self.insecure)
        for address in self.join:
            check_address("join", address)

    def _check_names(self) -> None:
        names = self.names or ()
        if self.names is not None and (len(names) != self.peers or len(set(names)) != len(names)):
            raise ConfigurationError(f"names={names!r}: must be {self.peers} different names, one per peer")
        for name in names:
            if not NAME_PATTERN.match(name):
                raise ConfigurationError(f"names={name!r}: must be letters, digits, '.', '_' or '-'; it names files")


@dataclass(frozen=True)
class Printed:
    """A peer printed these lines."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Exited:
    """A peer's process has ended.

    Attributes:
        returncode: The exit code, or minus the number of the signal.
        stopped: The run was being stopped, so the code says nothing about the training.
        seconds: How long it ran.
        last_words: The last line it printed, "" for none.
    """

    name: str
    returncode: int
    stopped: bool
    seconds: float
    last_words: str = ""

    @property
    def failed(self) -> bool:
        return self.returncode != 0 and not self.stopped

    @property
    def cause(self) -> str:
        """How it ended, in words."""
        if self.returncode >= 0:
            return "finished" if self.returncode == 0 else f"exit code {self.returncode}"
        try:
            return f"killed by {signal.Signals(-self.returncode).name}"
        except ValueError:
            return f"killed by signal {-self.returncode}"


class LocalRun:
    """Peers on this machine. Used as a context manager, it leaves no process behind.

    Start it from a thread that lives as long as the run (see `processes`).

    Args:
        config: What is started.
        environ: The environment that the peers inherit; None takes this process's own.

    Attributes:
        folder: The run's folder.
        run_id: The run's name on the network.
        settings: Of each peer, in the order of their start.
        exited: How those that have ended did so, by name.
    """

    def __init__(self, config: LaunchConfig, environ: Mapping[str, str] | None = None) -> None:
        self.config = config
        self.folder, self.run_id = _folder_and_id(config)
        self.settings = [self._peer_settings(position) for position in range(config.peers)]
        self.exited: dict[str, Exited] = {}
        self.began = time.time()
        self._environ = dict(os.environ if environ is None else environ)
        self._gpus = devices.gpus(self._environ)
        self._processes: dict[str, PeerProcess] = {}
        self._last_words: dict[str, str] = {}
        self._selector = selectors.DefaultSelector()
        self._stop_began: float | None = None
        self._stop_signals: list[tuple[float, Callable[[PeerProcess], None]]] = []

    def __enter__(self) -> LocalRun:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def names(self) -> list[str]:
        return [settings.name for settings in self.settings]

    @property
    def running(self) -> list[str]:
        """Names of the peers that have not ended, as `poll` last saw them."""
        return [name for name in self._processes if name not in self.exited]

    @property
    def stopping(self) -> bool:
        return self._stop_began is not None

    @property
    def failures(self) -> list[Exited]:
        return [exited for exited in self.exited.values() if exited.failed]

    def start(self) -> None:
        """Writes the run's config and starts every peer."""
        config = replace(self.config, run_dir=self.folder.path, resume=None)
        record = "config.json" if self.config.resume is None else f"config-{time.strftime('%Y%m%d-%H%M%S')}.json"
        if not (self.folder.path / record).exists():
            self.folder.write_json(record, _describe(config, self.run_id, self.names))
        self.began = time.time()
        command = [sys.executable, "-u", str(config.script), *config.arguments]
        for position, settings in enumerate(self.settings):
            share = devices.environment(position, config.peers, self._gpus, self._environ, config.threads)
            variables = {**self._environ, **share, **settings.environment(), PREFIX + "PEERS": str(config.peers)}
            process = PeerProcess(settings.name, command, variables, self.folder.log(settings.name))
            self._processes[settings.name] = process
            self._selector.register(process.output, selectors.EVENT_READ, process)

    def poll(self, timeout_s: float = 0.1) -> list[Printed | Exited]:
        """Waits for something to happen, at most `timeout_s`, and carries a stop further.

        Returns:
            What peers printed and which have ended, in order for each peer; its end is its last.
        """
        ready = self._selector.select(timeout_s) if self._selector.get_map() else []
        happened: list[Printed | Exited] = []
        for key, _ in ready:
            happened += self._read(key.data)
        if not self._selector.get_map() and self.running:
            time.sleep(min(timeout_s, 0.02))  # all have closed their output but still run: there is nothing to wait on
        for name in self.running:
            happened += self._look_for_end(self._processes[name])
        self._carry_stop_on()
        return happened

    def signal(self, name: str, number: int = signal.SIGKILL) -> None:
        """Sends one peer a signal, for those who want to see what the others do."""
        if name not in self._processes:
            raise ConfigurationError(f"name={name!r}: no such peer; there are {', '.join(self.names)}")
        self._processes[name].signal(number)

    def stop(self, at_once: bool = False) -> None:
        """Begins to end all peers: SIGINT now, SIGTERM and SIGKILL to those that do not follow; `poll` carries it on.

        Args:
            at_once: Kill everything now.
        """
        if at_once:
            for name in self.running:
                self._processes[name].kill()
        if self._stop_began is None:
            self._stop_began = time.monotonic()
            self._stop_signals = [
                (0.0, lambda process: process.signal(signal.SIGINT)),
                (TERMINATE_AFTER_S, lambda process: process.signal(signal.SIGTERM)),
                (KILL_AFTER_S, PeerProcess.kill),
            ]
            self._carry_stop_on()

    def close(self) -> None:
        """Kills what still runs and frees everything; idempotent."""
        for process in self._processes.values():
            process.close()
        self._selector.close()

    def _carry_stop_on(self) -> None:
        if self._stop_began is None:
            return
        elapsed_s = time.monotonic() - self._stop_began
        while self._stop_signals and elapsed_s >= self._stop_signals[0][0]:
            _, act = self._stop_signals.pop(0)
            for name in self.running:
                act(self._processes[name])

    def _read(self, process: PeerProcess) -> list[Printed]:
        lines = process.read_lines()
        if not process.output_open:
            self._selector.unregister(process.output)
        return self._printed(process.name, lines)

    def _look_for_end(self, process: PeerProcess) -> list[Printed | Exited]:
        if process.poll() is None:
            return []
        assert process.returncode is not None
        if process.output_open:
            self._selector.unregister(process.output)
        printed = self._printed(process.name, process.drain())
        exited = Exited(
            process.name,
            process.returncode,
            self.stopping,
            process.seconds,
            self._last_words.get(process.name, ""),
        )
        self.exited[process.name] = exited
        return [*printed, exited]

    def _printed(self, name: str, lines: Sequence[str]) -> list[Printed]:
        said = [line for line in lines if line.strip()]
        if said:
            self._last_words[name] = said[-1]
        return [Printed(name, tuple(lines))] if lines else []

    def _peer_settings(self, position: int) -> PeerSettings:
        config = self.config
        joins = bool(config.join)
        default = f"peer-{secrets.token_hex(3)}" if joins else f"peer-{position}"
        return PeerSettings(
            name=config.names[position] if config.names else default,
            run_id=self.run_id,
            run_dir=self.folder.path,
            listen=config.listen if position == 0 else config.listen.rpartition(":")[0] + ":0",
            seeds=config.join or (f"@{self.folder.peers}",),
            founder=position == 0 and not joins,
            topology=config.topology,
            mixer=config.mixer,
            codec=config.codec,
            sync_every=config.sync_every,
            insecure=config.insecure,
            checkpoint_every=config.checkpoint_every,
            keep_checkpoints=config.keep_checkpoints,
            resume="1" if config.resume is not None else "",
            max_mbps=config.max_mbps,
            max_buffer_mb=config.max_buffer_mb,
        )


def _folder_and_id(config: LaunchConfig) -> tuple[run_folder.RunFolder, str]:
    if config.resume is None:
        folder = run_folder.create(config.run_dir, config.script, shared=bool(config.join))
        return folder, config.run_id or secrets.token_hex(4)
    folder = run_folder.reopen(config.resume)
    return folder, config.run_id or str(folder.recorded().get("run_id") or secrets.token_hex(4))


def _describe(config: LaunchConfig, run_id: str, names: list[str]) -> dict[str, object]:
    return {
        "run_id": run_id,
        "script": str(config.script),
        "arguments": list(config.arguments),
        "peers": names,
        "topology": config.topology,
        "mixer": config.mixer,
        "codec": config.codec,
        "sync_every": config.sync_every,
        "join": list(config.join),
        "listen": config.listen,
        "threads": config.threads,
        "checkpoint_every": config.checkpoint_every,
        "keep_checkpoints": config.keep_checkpoints,
        "max_mbps": config.max_mbps,
        "max_buffer_mb": config.max_buffer_mb,
        **run_folder.provenance(sys.argv),
    }
