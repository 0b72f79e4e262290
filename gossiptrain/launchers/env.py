"""What a launcher tells a peer, carried by environment variables.

`gossiptrain launch` sets GOSSIPTRAIN_*; a script that finds none of them runs as one peer alone. Other launchers
(srun, mpirun, a Kubernetes Indexed Job, torchrun) give every process a rank, from which a name is made; where the
peers find each other is then said by GOSSIPTRAIN_SEEDS, or by GOSSIPTRAIN_RUN_DIR on a shared file system.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gossiptrain import intervals
from gossiptrain.budgets import check_mbps, check_megabytes
from gossiptrain.errors import ConfigurationError

PREFIX = "GOSSIPTRAIN_"
LOOPBACK_ANY_PORT = "tcp://127.0.0.1:0"
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")  # names become file names
_ADDRESS_PATTERN = re.compile(r"tcp://(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.-]+|\*):(\d{1,5})\Z")
_LOOPBACK = re.compile(r"(127(\.\d{1,3}){3}|localhost|\[::1\])\Z")
_RANKS = (  # where a rank and the number of ranks are found, in this order
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("JOB_COMPLETION_INDEX", None),
)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


@dataclass(frozen=True)
class PeerSettings:
    """How one peer takes part in a run.

    Attributes:
        name: Unique among the living members; letters, digits, ".", "_", "-".
        run_id: Peers of other runs are refused.
        run_dir: Where events and the final model are written; None writes nothing.
        listen: Where to bind, "tcp://host:port"; port 0 takes a free one.
        seeds: Where other peers are found: addresses, or "@folder" for every *.address file in a folder, now or later.
            None of them makes a peer alone.
        founder: The run begins from this peer's parameters; others begin from those of a peer already in the run.
        topology: A family or schedule of `topologies`, by name.
        mixer: How received parameters are mixed, by name.
        codec: How snapshots are written on the wire, by name.
        sync_every: Local steps between two exchanges, at least 1; or a time ("2s"), or "auto": see `attach`.
        insecure: Allow an address that other machines can reach, without keys.
        checkpoint_every: Steps ("500") or time ("10min") between two checkpoints; "" writes none.
        keep_checkpoints: So many of the newest checkpoints are kept, at least 1.
        resume: Begin from a checkpoint: "1" of this run's folder, else the folder of a run; "" begins anew.
        max_mbps: What snapshots and states may take of the network, sent, in megabit a second; 0 for no limit.
        max_buffer_mb: What the buffers of exchanges may take of memory, in megabytes; 0 for no limit.
    """

    name: str = "peer-0"
    run_id: str = "local"
    run_dir: Path | None = None
    listen: str = LOOPBACK_ANY_PORT
    seeds: tuple[str, ...] = ()
    founder: bool = True
    topology: str = "overlay"
    mixer: str = "ad_psgd"
    codec: str = "none"
    sync_every: int | str = 4
    insecure: bool = False
    checkpoint_every: str = ""
    keep_checkpoints: int = 3
    resume: str = ""
    max_mbps: float = 0.0
    max_buffer_mb: float = 0.0

    def __post_init__(self) -> None:
        if not NAME_PATTERN.match(self.name):
            raise ConfigurationError(
                f"name={self.name!r}: must be 1 to 128 letters, digits, '.', '_' or '-', beginning with one of the "
                "first two; it names files"
            )
        check_address("listen", self.listen)
        check_mbps("max_mbps", self.max_mbps)
        check_megabytes("max_buffer_mb", self.max_buffer_mb)
        for seed in self.seeds:
            if not seed.startswith("@"):
                check_address("seeds", seed)
        intervals.parse_sync_every(self.sync_every)
        if self.checkpoint_every:
            intervals.parse("checkpoint_every", self.checkpoint_every)
        if self.keep_checkpoints < 1:
            raise ConfigurationError(f"keep_checkpoints={self.keep_checkpoints}: must be at least 1")
        if self.run_dir is None and (self.checkpoint_every or self.resume == "1"):
            what = "checkpoint_every" if self.checkpoint_every else "resume"
            raise ConfigurationError(f"{what}={getattr(self, what)!r}: needs a folder for checkpoints; give run_dir")

    def environment(self) -> dict[str, str]:
        """Returns the variables from which `from_environment` makes equal settings."""
        values = {
            "NAME": self.name,
            "RUN_ID": self.run_id,
            "LISTEN": self.listen,
            "SEEDS": ",".join(self.seeds),
            "FOUNDER": str(int(self.founder)),
            "TOPOLOGY": self.topology,
            "MIXER": self.mixer,
            "CODEC": self.codec,
            "SYNC_EVERY": str(self.sync_every),
            "INSECURE": str(int(self.insecure)),
            "CHECKPOINT_EVERY": self.checkpoint_every,
            "KEEP_CHECKPOINTS": str(self.keep_checkpoints),
            "RESUME": self.resume,
            "MAX_MBPS": str(self.max_mbps),
            "MAX_BUFFER_MB": str(self.max_buffer_mb),
        }
        if self.run_dir is not None:
            values["RUN_DIR"] = str(self.run_dir)
        return {PREFIX + key: value for key, value in values.items()}


def from_environment(environ: Mapping[str, str] | None = None) -> PeerSettings:
    """Reads this process's settings; every variable that is absent leaves a default.

    Args:
        environ: The variables; None reads `os.environ`.

    Raises:
        ConfigurationError: A variable holds what cannot be used, or a rank above 0 has no way to find the others; the
            message names the variable, its value and what is accepted.
    """
    environ = os.environ if environ is None else environ
    given = {key[len(PREFIX) :]: value for key, value in environ.items() if key.startswith(PREFIX)}
    rank_variable, rank = _rank(environ)
    run_dir = Path(given["RUN_DIR"]) if given.get("RUN_DIR") else None
    seeds = _seeds(given.get("SEEDS"), run_dir, launched="NAME" in given or rank is not None)
    if rank and not seeds and "NAME" not in given:
        raise ConfigurationError(
            f"{rank_variable}={rank}: this is one process of several, but nothing says where the others are; set "
            f"{PREFIX}SEEDS to the address of one of them (tcp://host:port), or {PREFIX}RUN_DIR to one shared folder"
        )
    default = PeerSettings()
    founder = rank == 0 if rank is not None and "NAME" not in given else not seeds
    return PeerSettings(
        name=given.get("NAME") or (f"peer-{rank}" if rank is not None else default.name),
        run_id=given.get("RUN_ID") or default.run_id,
        run_dir=run_dir,
        listen=given.get("LISTEN") or default.listen,
        seeds=seeds,
        founder=_flag("FOUNDER", given, founder),
        topology=given.get("TOPOLOGY") or default.topology,
        mixer=given.get("MIXER") or default.mixer,
        codec=given.get("CODEC") or default.codec,
        sync_every=_steps_or_time(PREFIX + "SYNC_EVERY", given.get("SYNC_EVERY") or default.sync_every),
        insecure=_flag("INSECURE", given, default.insecure),
        checkpoint_every=given.get("CHECKPOINT_EVERY", ""),
        keep_checkpoints=_whole(
            PREFIX + "KEEP_CHECKPOINTS", given.get("KEEP_CHECKPOINTS") or str(default.keep_checkpoints)
        ),
        resume=_resume(given.get("RESUME", "")),
        max_mbps=_amount("MAX_MBPS", given),
        max_buffer_mb=_amount("MAX_BUFFER_MB", given),
    )


def _steps_or_time(variable: str, value: int | str) -> int | str:
    intervals.parse_sync_every(value, variable)
    return int(value) if str(value).isdecimal() else value


def place_among(name: str, environ: Mapping[str, str] | None = None) -> tuple[int, int] | None:
    """Returns (which of the peers launched together this one is, how many they are); None where nothing says so.

    Args:
        name: the peer's; a launcher calls them "peer-0", "peer-1", ...
        environ: the variables; None reads `os.environ`.
    """
    environ = os.environ if environ is None else environ
    for variable, size_variable in _RANKS:
        if size_variable is not None and environ.get(variable) and environ.get(size_variable):
            return _whole(variable, environ[variable]), _whole(size_variable, environ[size_variable])
    number = re.search(r"(\d+)\Z", name)
    peers = environ.get(PREFIX + "PEERS")
    if number is None or not peers:
        return None
    return int(number[1]), _whole(PREFIX + "PEERS", peers)


def seed_addresses(seeds: Iterable[str]) -> list[str]:
    """Expands seeds to the addresses known now, each once, in order.

    A folder that does not exist yet, or a file in it that holds no address, counts as empty: peers that start together
    find each other's files whenever these appear.
    """
    found: dict[str, None] = {}
    for seed in seeds:
        lines = _address_files(Path(seed[1:])) if seed.startswith("@") else [seed]
        found.update(dict.fromkeys(lines))
    return list(found)


def check_address(parameter: str, address: str) -> tuple[str, int]:
    """Returns (host, port) of "tcp://host:port"; raises ConfigurationError, naming the parameter, for anything else."""
    match = _ADDRESS_PATTERN.match(address)
    if match is None or int(match[2]) > 65535:
        raise ConfigurationError(
            f"{parameter}={address!r}: must be tcp://host:port with a port of 0 to 65535, such as tcp://127.0.0.1:7400"
        )
    return match[1], int(match[2])


def is_loopback(host: str) -> bool:
    """Tells whether only this machine can reach the host."""
    return _LOOPBACK.match(host) is not None


def _address_files(folder: Path) -> list[str]:
    addresses = []
    for path in sorted(folder.glob("*.address")):
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            continue  # removed between the listing and the reading, or not a peer's file
        if _ADDRESS_PATTERN.match(text):
            addresses.append(text)
    return addresses


def _rank(environ: Mapping[str, str]) -> tuple[str, int | None]:
    for variable, size_variable in _RANKS:
        if environ.get(variable):
            rank = _whole(variable, environ[variable])
            alone = size_variable is not None and environ.get(size_variable) == "1"
            return variable, None if alone else rank
    return "", None


def _seeds(text: str | None, run_dir: Path | None, launched: bool) -> tuple[str, ...]:
    if text is not None:
        return tuple(seed.strip() for seed in text.split(",") if seed.strip())
    return (f"@{run_dir / 'peers'}",) if run_dir is not None and launched else ()


def _resume(text: str) -> str:
    """Reads "1" or "0", or a folder."""
    if text.strip().lower() in _TRUE + _FALSE:
        return "1" if text.strip().lower() in _TRUE else ""
    return text


def _whole(variable: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text.strip()):
        raise ConfigurationError(f"{variable}={text!r}: must be a whole number, 0 or more")
    return int(text)


def _amount(name: str, given: Mapping[str, str]) -> float:
    text = given.get(name) or "0"
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"{PREFIX}{name}={text!r}: must be a number, 0 for no limit") from None


def _flag(name: str, given: Mapping[str, str], default: bool) -> bool:
    text = given.get(name, str(int(default))).strip().lower()
    if text not in _TRUE + _FALSE:
        raise ConfigurationError(f"{PREFIX}{name}={given[name]!r}: must be 1 or 0")
    return text in _TRUE
