"""The options of every socket, in one place, and how the inboxes find their addresses."""

from __future__ import annotations

import errno

import zmq

from gossiptrain.errors import AddressInUseError, ConfigurationError
from gossiptrain.transport.chunks import HEADER_BYTES
from gossiptrain.transport.config import CONTROL_FRAME_BYTES_MAX, TransportConfig, join_address, split_address
from gossiptrain.transport.events import Lane

# Messages that libzmq may hold for one connection on the control lane; at 64 KiB each this bounds it to 16 MiB.
_CONTROL_MESSAGES_MAX = 256
_PREFIX_BYTES = 1
# Also how `fork_guard` tells a transport's connections from others of the process.
KEEPALIVE_IDLE_S = 2
# How long a receiver of snapshots may stand still with its buffers full (a checkpoint, a compilation) and keep its links.
DATA_STALL_S = 30.0


def frame_bytes_max(config: TransportConfig, lane: Lane) -> int:
    """The longest message accepted on a lane; libzmq drops the connection of whoever sends a longer one."""
    if lane == "control":
        return CONTROL_FRAME_BYTES_MAX + _PREFIX_BYTES
    return config.chunk_bytes + HEADER_BYTES


def messages_max(config: TransportConfig, lane: Lane) -> int:
    """The high-water mark: on the data lane credit is what binds, this is only the net below it."""
    return _CONTROL_MESSAGES_MAX if lane == "control" else config.credit_bytes // config.chunk_bytes + 2


def _configure(socket: zmq.Socket, config: TransportConfig, lane: Lane, host: str) -> None:
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = messages_max(config, lane)
    socket.set(zmq.MAXMSGSIZE, frame_bytes_max(config, lane))
    socket.set(zmq.HANDSHAKE_IVL, 5000)
    # A host that lost power or its network says nothing; keepalive notices after 2 + 1 x 3 seconds of silence.
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S)
    socket.set(zmq.TCP_KEEPALIVE_INTVL, 1)
    socket.set(zmq.TCP_KEEPALIVE_CNT, 3)
    # What was sent and is not acknowledged: without this the kernel goes on for a quarter of an hour, and longer each time.
    # It also ends a connection whose receiver takes nothing for so long, which on the data lane a stalled peer may do.
    lasts_s = config.retransmit_timeout_s if lane == "control" else max(DATA_STALL_S, config.retransmit_timeout_s)
    socket.set(zmq.TCP_MAXRT, int(1000 * lasts_s))
    if ":" in host:
        socket.set(zmq.IPV6, 1)


def open_link(context: zmq.Context, config: TransportConfig, lane: Lane, address: str) -> zmq.Socket:
    """Returns an outgoing socket for the address, not yet connected, so that its monitor misses nothing."""
    socket = context.socket(zmq.DEALER)
    _configure(socket, config, lane, split_address(address)[0])
    # Without this, what is sent while the peer is away would reach its next incarnation.
    socket.set(zmq.IMMEDIATE, 1)
    # The kernel repeats a lost SYN after 1, 2, 4, 8, ... seconds; a fresh attempt finds a healed network sooner.
    socket.set(zmq.CONNECT_TIMEOUT, int(1000 * config.connect_timeout_s))
    socket.set(zmq.RECONNECT_IVL, int(1000 * config.reconnect_s))
    socket.set(zmq.RECONNECT_IVL_MAX, int(1000 * config.reconnect_s_max))
    return socket


def open_inbox(context: zmq.Context, config: TransportConfig, lane: Lane, listen: str) -> zmq.Socket:
    """Returns an inbox bound to `listen`.

    Raises:
        AddressInUseError: another socket listens there.
        ConfigurationError: the address is not one of this machine's, or needs rights this process lacks.
    """
    host, port = split_address(listen)
    socket = context.socket(zmq.ROUTER)
    _configure(socket, config, lane, host)
    try:
        socket.bind(join_address("127.0.0.1" if host == "localhost" else host, port))
    except zmq.ZMQError as error:
        socket.close(0)
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(
                f"listen={listen!r}: another process listens there; stop it, choose another port,"
                " or use port 0 for a free one"
            ) from error
        raise ConfigurationError(
            f"listen={listen!r}: cannot listen there ({error.strerror}); HOST must be an IP address of this machine"
        ) from error
    return socket


def reachable_address(inbox: zmq.Socket, config: TransportConfig) -> str:
    """The address of a bound inbox as others reach it."""
    host, port = split_address(inbox.get_string(zmq.LAST_ENDPOINT))
    return join_address(config.advertise or host, port)
