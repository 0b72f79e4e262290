"""What a peer computes on, found once and said with reasons: device, CPU threads, pinned memory.

Nothing that somebody chose is changed: a thread count in the environment, one that the script has set, the model's own
device. What nobody chose is picked here, since the defaults of frameworks know neither of other peers on the machine nor of
a container's limits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from gossiptrain.runtime import cores

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_OWN_CORES = "SLURM_CPUS_PER_TASK"
_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")


@dataclass(frozen=True)
class Resources:
    """What was picked, and why.

    Attributes:
        device: "cpu" or "cuda:0", ...
        device_because: the reason, in words.
        threads: how many threads torch computes one operation with.
        threads_because: the reason, in words.
        cores: how many cores' time this process and the peers beside it get, all together.
        peers_here: peers started together on this machine, as far as the launcher says.
        pinned: whether what is sent and received is staged in pinned host memory.
    """

    device: str
    device_because: str
    threads: int
    threads_because: str
    cores: float
    peers_here: int
    pinned: bool

    def described(self) -> dict[str, Any]:
        """Returns the fields of a "Resources" line in the event log."""
        return asdict(self)


def device() -> torch.device:
    """Returns the device for this peer's model: its GPU where there is one, else the CPU.

    Of several visible GPUs it is the one of the process's local rank, in turn; `gossiptrain launch` shows each peer one.
    """
    return torch.device(pick_device(os.environ)[0])


def resources(model_device: torch.device | None = None) -> Resources:
    """Returns what this process computes with, and sets torch's thread count where nobody has chosen one.

    Args:
        model_device: where the model is; None picks one, see `device`.
    """
    picked, because = pick_device(os.environ)
    if model_device is not None and _indexed(model_device) != picked:
        picked, because = _indexed(model_device), "the model is there"
    threads, threads_because = pick_threads(os.environ, torch.get_num_threads())
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return Resources(
        device=picked,
        device_because=because,
        threads=threads,
        threads_because=threads_because,
        cores=cores.usable(),
        peers_here=cores.peers_here(os.environ),
        pinned=picked.startswith("cuda"),
    )


def pick_device(environ: Mapping[str, str]) -> tuple[str, str]:
    """Returns a device and the reason for it."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        hidden = environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        return "cpu", "CUDA_VISIBLE_DEVICES hides all GPUs" if hidden else "torch finds no CUDA device"
    if count == 1:
        return "cuda:0", "the only GPU that this process sees"
    for variable in _LOCAL_RANKS:
        if environ.get(variable, "").isdecimal():
            rank = int(environ[variable])
            return f"cuda:{rank % count}", f"{variable}={rank} of {count} GPUs"
    return f"cuda:{torch.cuda.current_device()}", f"torch's current one of {count} GPUs"


def pick_threads(environ: Mapping[str, str], present: int) -> tuple[int, str]:
    """Returns how many threads torch is to use, and the reason.

    Args:
        present: how many it would use now.
    """
    for variable in _THREAD_VARIABLES:
        if environ.get(variable):
            return present, f"{variable}={environ[variable]}"
    if present not in _defaults():
        return present, "set by the script"
    own = environ.get(_OWN_CORES, "")
    if own.isdecimal() and int(own) > 0:
        return min(present, cores.threads_for(int(own), 1)), f"{_OWN_CORES}={own}"
    peers, total = cores.peers_here(environ), cores.usable()
    share = cores.threads_for(total, peers)
    return min(present, share), f"{total:g} core{'s' * (total != 1)} for {peers} peer{'s' * (peers > 1)}"


def _defaults() -> set[int]:
    """Returns the counts that torch begins with: the cores that it may run on, or half of them where they come in pairs."""
    seen = {cores.allowed(), os.cpu_count() or 1}
    return seen | {max(1, count // 2) for count in seen}


def _indexed(found: torch.device) -> str:
    return f"cuda:{found.index or 0}" if found.type == "cuda" else found.type
