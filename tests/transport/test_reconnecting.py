"""Links to where nothing answers: attempts end and are repeated; and a link is cheap to open and to close."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import psutil
import pytest
import zmq

from gossiptrain.transport import TransportConfig
from gossiptrain.transport.monitor import LinkMonitor
from gossiptrain.transport.sockets import DATA_STALL_S, open_inbox, open_link


@pytest.fixture
def black_hole() -> Iterator[socket.socket]:
    """A listener whose queue is full: the kernel drops every further SYN without a word, as a firewall would."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(8):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    probe = socket.socket()
    probe.settimeout(0.5)
    try:
        probe.connect(listener.getsockname())
    except TimeoutError:
        yield listener
    else:
        pytest.skip("this system's listeners accept more than their queue holds")
    finally:
        for each in (probe, *fillers, listener):
            each.close()


@pytest.mark.slow
def test_a_link_to_where_nothing_answers_is_tried_again_and_again(black_hole: socket.socket) -> None:
    host, port = black_hole.getsockname()
    config = TransportConfig(connect_timeout_s=0.1, reconnect_s=0.02, reconnect_s_max=0.1)
    context = zmq.Context()
    link = open_link(context, config, "control", f"tcp://{host}:{port}")
    monitor = LinkMonitor(context, link)
    retries: list[float] = []
    try:
        link.connect(f"tcp://{host}:{port}")
        deadline_s = time.monotonic() + 20
        while len(retries) < 5 and time.monotonic() < deadline_s:
            if monitor.socket.poll(100):
                retries += [time.monotonic() for seen in monitor.read() if seen.is_retry]
    finally:
        monitor.close()
        link.close(0)
        context.term()
    assert len(retries) == 5, "the kernel alone would try for two minutes before it says anything"


@pytest.mark.parametrize("lane", ["control", "data"])
def test_every_socket_bounds_how_long_the_unacknowledged_is_waited_for(lane) -> None:
    context = zmq.Context()
    config = TransportConfig(retransmit_timeout_s=7, connect_timeout_s=3, reconnect_s=0.2, reconnect_s_max=4)
    link, inbox = (
        open_link(context, config, lane, "tcp://127.0.0.1:9"),
        open_inbox(context, config, lane, config.listen),
    )
    try:
        expected = 7000 if lane == "control" else int(1000 * DATA_STALL_S)
        assert [each.get(zmq.TCP_MAXRT) for each in (link, inbox)] == [expected] * 2
        assert link.get(zmq.CONNECT_TIMEOUT) == 3000
        assert (link.get(zmq.RECONNECT_IVL), link.get(zmq.RECONNECT_IVL_MAX)) == (200, 4000)
    finally:
        link.close(0)
        inbox.close(0)
        context.term()


def test_a_link_that_is_opened_and_closed_often_costs_little_and_leaves_nothing(wire) -> None:
    one, other = wire.open(), wire.open()
    cycle(wire, one, other)
    process = psutil.Process(os.getpid())
    before = process.num_fds()
    began_s, count = time.process_time(), 50
    for _ in range(count):
        cycle(wire, one, other)
    spent_s = (time.process_time() - began_s) / count
    wire.settle()
    assert len(one.link_addresses()) == 0
    wire.drive(lambda: process.num_fds() <= before + 2)
    assert spent_s < 0.1, "both ends together; one such cycle a second is to be a small part of a core"


def cycle(wire, one, other) -> None:
    """Opens a control link, says one word over it, and closes it."""
    heard = len(wire.of(other, "ControlFrame"))
    one.connect(other.control_address, "control")
    one.send(other.control_address, b"hello")
    wire.drive(lambda: len(wire.of(other, "ControlFrame")) > heard)
    one.disconnect(other.control_address, "control")
