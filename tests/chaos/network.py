"""Hosts of a network of its own, that can be cut, slowed and made to lose packets: network namespaces, joined by a bridge.

Each host is a namespace with one address, joined by a veth pair to a switch, which is a namespace as well, so that
nothing of the machine's own network is touched. A partition moves hosts to another bridge: packets vanish without a word,
as they do when a switch fails. Needs root and the `ip` and `tc` programs.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterable

_NAMESPACES = "/var/run/netns"
_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()
# A classic BPF program: matches one packet in K by chance. "ld random; mod K; if 0 return match; return nothing".
_ONE_IN = "5,32 0 0 4294963256,148 0 0 {k},21 0 1 0,6 0 0 4294967295,6 0 0 0"


class NetworkError(RuntimeError):
    """The machine cannot make such a network; the text is what it answered."""


class Network:
    """A context manager: when left, all of it is gone, also when it could not be made whole."""

    def __init__(self, hosts: int) -> None:
        """
        Args:
            hosts: how many; host k has the address 10.77.0.(k + 1).
        """
        self._prefix = f"gt{os.getpid():x}n{next(_numbers)}"
        self._switch = f"{self._prefix}s"
        self._made: list[str] = []
        self.hosts = range(hosts)

    def namespace(self, host: int) -> str:
        """The name to be entered by the processes of a host."""
        return f"{self._prefix}h{host}"

    def listen(self, host: int) -> str:
        """Where a peer on this host listens."""
        return f"tcp://10.77.0.{host + 1}:0"

    def __enter__(self) -> Network:
        try:
            self._add(self._switch)
            self._on_switch("link", "add", "b0", "type", "bridge")
            self._on_switch("link", "set", "b0", "up")
            for host in self.hosts:
                self._add_host(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    # Hurting

    def partition(self, *groups: Iterable[int]) -> None:
        """Splits the hosts: who is in no group stays with the first; packets between groups vanish."""
        for number, group in enumerate(groups[1:], start=1):
            self._on_switch("link", "add", f"b{number}", "type", "bridge")
            self._on_switch("link", "set", f"b{number}", "up")
            for host in group:
                self._on_switch("link", "set", f"p{host}", "master", f"b{number}")

    def heal(self) -> None:
        """Joins all hosts again."""
        for host in self.hosts:
            self._on_switch("link", "set", f"p{host}", "master", "b0")

    def unplug(self, host: int) -> None:
        """Pulls a host's cable."""
        self._on_switch("link", "set", f"p{host}", "down")

    def plug_in(self, host: int) -> None:
        """Puts the cable back."""
        self._on_switch("link", "set", f"p{host}", "up")

    def slow_down(self, host: int, mbps: float) -> None:
        """Limits what a host receives, and what it sends, to so many megabit a second each; queues half a second."""
        shape = ("root", "tbf", "rate", f"{mbps}mbit", "burst", "16kb", "latency", "500ms")
        _run("tc", "-n", self._switch, "qdisc", "add", "dev", f"p{host}", *shape)
        _run("tc", "-n", self.namespace(host), "qdisc", "add", "dev", "e0", *shape)

    def lose(self, host: int, one_in: int) -> None:
        """Loses one in so many of the packets to a host, by chance; 1 loses all, and the host still sends."""
        tc = ("tc", "-n", self._switch)
        port = ("dev", f"p{host}")
        _run(*tc, "qdisc", "add", *port, "root", "handle", "1:", "htb", "default", "1")
        for number in (1, 2):
            _run(*tc, "class", "add", *port, "parent", "1:", "classid", f"1:{number}", "htb", "rate", "10gbit")
        _run(*tc, "qdisc", "add", *port, "parent", "1:2", "pfifo", "limit", "0")
        match = ("bpf", "bytecode", _ONE_IN.format(k=one_in), "flowid", "1:2")
        _run(*tc, "filter", "add", *port, "parent", "1:", "protocol", "all", *match)

    def dropped(self, host: int) -> int:
        """How many packets to a host were lost on purpose."""
        text = _run("tc", "-n", self._switch, "-s", "qdisc", "show", "dev", f"p{host}")
        lines = text.split("qdisc pfifo", 1)[1]
        return int(lines.split("dropped ", 1)[1].split(",", 1)[0])

    # How it is made

    def _add(self, name: str) -> None:
        self._made.append(name)
        _run("ip", "netns", "add", name)

    def _add_host(self, host: int) -> None:
        name = self.namespace(host)
        self._add(name)
        self._on_switch("link", "add", f"p{host}", "type", "veth", "peer", "name", "e0", "netns", name)
        self._on_switch("link", "set", f"p{host}", "master", "b0", "up")
        _run("ip", "-n", name, "addr", "add", f"10.77.0.{host + 1}/24", "dev", "e0")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", name, "link", "set", "e0", "up")

    def _on_switch(self, *words: str) -> None:
        _run("ip", "-n", self._switch, *words)


def why_not() -> str:
    """What keeps this machine from making such networks, in the kernel's words; "" where nothing does."""
    if missing := [program for program in ("ip", "tc") if shutil.which(program) is None]:
        return f"not installed: {', '.join(missing)}"
    try:
        with Network(1) as network:
            network.slow_down(0, 10)
    except NetworkError as error:
        return str(error)
    return ""


def enter(namespace: str) -> None:
    """Moves the calling thread, and all that it starts from now on, into a network namespace.

    Raises:
        OSError: there is none of this name, or it is not allowed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"{_NAMESPACES}/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NetworkError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
