"""How many cores a process may use: those it may run on, and those its control group pays for. Imports nothing heavy.

A container with `--cpus=2` on a machine of 64 cores may run on all 64, and is stopped for the rest of each tenth of a
second once it has used up its two. Frameworks that start 64 threads there are slower than with two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

FILES = Path("/")
# From so many cores a peer on, one of them is left to its network thread; with fewer the two take turns.
CORES_WITH_ONE_TO_SPARE = 4
# Where other launchers say how many processes share this machine.
_LOCAL_PEERS = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "GOSSIPTRAIN_PEERS")


def allowed() -> int:
    """Counts the cores that this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def quota(files: Path = FILES) -> float | None:
    """Returns how many cores' time the control group of this process gets; None where nothing limits it.

    Limits of all groups above count as well; the least is what is left.

    Args:
        files: the root of the file system.
    """
    try:
        lines = (files / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found: list[float] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2
            for root in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
                found += _along(files / root, path, _quota_v2)
        elif "cpu" in controllers.split(","):
            found += _along(files / "sys/fs/cgroup/cpu", path, _quota_v1)
    return min(found, default=None)


def usable(files: Path = FILES) -> float:
    """Returns how many cores' time this process gets, above 0: the lesser of `allowed` and `quota`."""
    limit = quota(files)
    return float(allowed()) if limit is None else min(float(allowed()), limit)


def threads_for(cores: float, peers: int) -> int:
    """Returns how many threads each of several peers computes with, at least 1.

    Args:
        cores: what they share, `usable`.
        peers: how many they are.
    """
    share = int(cores / max(1, peers))
    return max(1, share - 1 if share >= CORES_WITH_ONE_TO_SPARE else share)


def peers_here(environ: Mapping[str, str]) -> int:
    """Returns how many peers were started together on this machine, as their launcher says; 1 where none does."""
    for variable in _LOCAL_PEERS:
        text = environ.get(variable, "")
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return 1


def _along(root: Path, path: str, read: Callable[[Path], float | None]) -> list[float]:
    """Reads a group's limit and those of the groups around it; inside a container its own is mounted at the root."""
    group = root / path.strip().lstrip("/")
    folders = [group, *(parent for parent in group.parents if parent.is_relative_to(root))]
    return [limit for folder in folders if (limit := read(folder)) is not None]


def _quota_v2(folder: Path) -> float | None:
    words = _words(folder / "cpu.max")
    return _ratio(*words) if len(words) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
    return _ratio(*words) if len(words) == 2 else None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return []


def _ratio(part: str, whole: str) -> float | None:
    """Reads microseconds of a period; "max" and -1 mean no limit."""
    if not part.isdecimal() or not whole.isdecimal() or not int(part) or not int(whole):
        return None
    return int(part) / int(whole)
