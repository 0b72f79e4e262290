"""How a transport is set up: addresses it listens on, and the bounds of everything it holds."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from gossiptrain.budgets import check_mbps
from gossiptrain.errors import ConfigurationError

CONTROL_FRAME_BYTES_MAX = 65536


@dataclass(frozen=True, slots=True)
class TransportConfig:
    """Addresses and bounds of one peer's transport.

    Attributes:
        listen: where control messages come in, "tcp://HOST:PORT"; port 0 takes a free one. HOST is an IP address of this
            machine, "localhost", or "0.0.0.0" for all of its addresses. Snapshots come in on a free port of the same host.
        advertise: the host that others reach this peer at, where it is not the one listened on: needed with "0.0.0.0",
            and behind address translation. Empty: the listening host.
        insecure: listen on a non-loopback address although nothing is encrypted or authenticated: anybody who reaches
            the port can disturb training. Only on a network of which every machine is trusted.
        chunk_bytes: bytes of a snapshot in one message; [4 KiB, 64 MiB]. Smaller chunks let control messages pass
            sooner on a thin line, larger ones cost less per byte. All peers must accept each other's: equal everywhere.
        credit_bytes: bytes of a snapshot that may be under way to a peer before it has confirmed any; at least one chunk.
            It is what a stalled receiver can cost each side, and should cover bandwidth x round trip
            (1 Gbit/s x 50 ms = 6 MB).
        control_queue_bytes: control messages kept for a link that is not up yet, or whose receiver is slow; at least
            64 KiB.
        checksum: send a CRC-32C with each chunk. TCP's own checksum misses about one damaged packet in 65,536, network
            cards and links check as well; choose it on hardware that you have reason to distrust. It costs a tenth more
            CPU time an exchange (measured with 100 MB: 8 % over TCP, 15 % through shared memory).
        shared_memory: hand snapshots to peers of the same host through shared memory (Linux); notices still go over
            ZeroMQ. Where the other side cannot open it, the bytes go over TCP.
        segment_bytes: shared memory of one link to a peer of the same host, in place of credit_bytes; [16 KiB, 1 GiB].
            A quarter of it is one chunk: fewer and larger chunks mean fewer changes between processes (measured with
            100 MB: quarters of 4 MiB cost 25 % less CPU time than of 1 MiB, and larger ones hardly less).
        max_mbps: what all snapshots and states together may take of the network, sent, in megabit a second; at least 0.2,
            and 0 for no limit. Averaged over two seconds it is passed by less than 10 %. Shared memory does not count.
        linger_s: how long `close` may take to deliver what is queued on the control lane; [0, 10].
        retransmit_timeout_s: how long what was sent on the control lane may stay unacknowledged by the other's kernel
            before the link counts as broken and is opened anew; [0.5, 600]. Longer than the interruptions that the
            network has by itself, shorter than you want to wait after longer ones. Snapshots have 30 s at least.
        connect_timeout_s: how long one attempt to connect may take; [0.05, 600], above the longest round trip.
        reconnect_s, reconnect_s_max: pauses between two attempts, the first and the longest; they double in between.
            In [0.01, 600]. Whoever comes back is heard of after at most the longest.
    """

    listen: str = "tcp://127.0.0.1:0"
    advertise: str = ""
    insecure: bool = False
    chunk_bytes: int = 1 << 20
    credit_bytes: int = 8 << 20
    control_queue_bytes: int = 1 << 20
    checksum: bool = False
    shared_memory: bool = True
    segment_bytes: int = 16 << 20
    max_mbps: float = 0.0
    linger_s: float = 0.2
    retransmit_timeout_s: float = 5.0
    connect_timeout_s: float = 2.0
    reconnect_s: float = 0.1
    reconnect_s_max: float = 1.0

    def __post_init__(self) -> None:
        host, _ = split_address(self.listen)
        if not is_loopback(host) and not self.insecure:
            raise ConfigurationError(
                f"listen={self.listen!r}: other machines could reach this address and nothing is encrypted or"
                " authenticated; listen on 127.0.0.1, or set insecure=True on a network that you trust"
            )
        if is_wildcard(host) and not self.advertise:
            raise ConfigurationError(
                f"listen={self.listen!r}: others cannot connect to a wildcard; give advertise=HOST, this machine's"
                " address as others see it"
            )
        _check_range("chunk_bytes", self.chunk_bytes, 4096, 64 << 20)
        _check_range("credit_bytes", self.credit_bytes, self.chunk_bytes, 1 << 40)
        _check_range("segment_bytes", self.segment_bytes, 16384, 1 << 30)
        _check_range("control_queue_bytes", self.control_queue_bytes, CONTROL_FRAME_BYTES_MAX, 1 << 40)
        check_mbps("max_mbps", self.max_mbps)
        _check_range("linger_s", self.linger_s, 0, 10)
        _check_range("retransmit_timeout_s", self.retransmit_timeout_s, 0.5, 600)
        _check_range("connect_timeout_s", self.connect_timeout_s, 0.05, 600)
        _check_range("reconnect_s", self.reconnect_s, 0.01, 600)
        _check_range("reconnect_s_max", self.reconnect_s_max, self.reconnect_s, 600)


def _check_range(name: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise ConfigurationError(f"{name}={value!r}: must be in [{lowest}, {highest}]")


def split_address(address: str) -> tuple[str, int]:
    """Splits "tcp://HOST:PORT" into host (without brackets) and port.

    Raises:
        ConfigurationError: the address has another form.
    """
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    if not address.startswith("tcp://") or not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(f"address {address!r}: must have the form tcp://HOST:PORT, with a port in [0, 65535]")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    """The inverse of `split_address`."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host; False for names, whose meaning depends on the network."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """Whether the host stands for all addresses of this machine."""
    return host in ("*", "0.0.0.0", "::")
