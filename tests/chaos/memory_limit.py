"""A limit on the memory of a process that the kernel enforces by killing it: a memory control group (version 1)."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup/memory")
_numbers = itertools.count()


class MemoryLimit:
    """A context manager around one control group; leave it when its processes are gone.

    Args:
        limit_bytes: what all its processes together may take.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._folder = _ROOT / f"gossiptrain-{os.getpid()}-{next(_numbers)}"

    def __enter__(self) -> MemoryLimit:
        self._folder.mkdir()
        (self._folder / "memory.limit_in_bytes").write_text(str(self._limit_bytes))
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            for pid in (self._folder / "cgroup.procs").read_text().split():
                (_ROOT / "cgroup.procs").write_text(pid)
            self._folder.rmdir()

    def add(self, pid: int) -> None:
        """Puts a process under the limit; what it has already does not count."""
        (self._folder / "cgroup.procs").write_text(str(pid))


def why_not() -> str:
    """What keeps this machine from such limits; "" where nothing does."""
    if not (_ROOT / "memory.limit_in_bytes").exists():
        return f"no memory control group (version 1) at {_ROOT}"
    try:
        with MemoryLimit(1 << 30):
            return ""
    except OSError as error:
        return str(error)
