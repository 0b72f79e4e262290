"""The bandwidth budget: a bucket that never grants too much, and links that keep to it."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossiptrain.budgets import MBPS_MIN
from gossiptrain.errors import ConfigurationError
from gossiptrain.transport import TransportConfig
from gossiptrain.transport.throttle import CHUNK_BYTES_MIN, Throttle

WINDOW_S = 2.0


def most_in_a_window(sent: list[tuple[float, int]], window_s: float = WINDOW_S) -> int:
    """The most bytes sent in any interval of this length, whose ends are where sending began and ended."""
    best, total, first = 0, 0, 0
    for at_s, nbytes in sent:
        total += nbytes
        while at_s - sent[first][0] > window_s:
            total -= sent[first][1]
            first += 1
        best = max(best, total)
    return best


@given(
    mbps=st.floats(MBPS_MIN, 10_000),
    pauses_s=st.lists(st.floats(0, 5), min_size=1, max_size=20),
    chunk=st.integers(CHUNK_BYTES_MIN, 1 << 22),
)
def test_no_two_seconds_hold_a_tenth_more_than_the_budget(mbps, pauses_s, chunk):
    throttle, now, sent = Throttle(mbps), 0.0, []
    chunk = throttle.chunk_bytes(chunk)
    for pause_s in pauses_s:
        now += pause_s
        for _ in range(30):
            now += throttle.wait_s(chunk, now) + 1e-9
            if throttle.take(chunk, now):
                sent.append((now, chunk))
    assert most_in_a_window(sent) <= 1.1 * WINDOW_S * mbps * 125e3


@given(mbps=st.floats(MBPS_MIN, 10_000), count=st.integers(2, 200))
def test_a_budget_is_used_fully_by_who_always_has_something_to_send(mbps, count):
    throttle, now, nbytes = Throttle(mbps), 0.0, 0
    chunk = throttle.chunk_bytes(1 << 20)
    for _ in range(count):
        now += throttle.wait_s(chunk, now) + 1e-9
        assert throttle.take(chunk, now)
        nbytes += chunk
    assert nbytes >= 0.99 * now * mbps * 125e3


def test_what_nobody_took_is_given_back():
    throttle = Throttle(1.0)
    chunk = throttle.chunk_bytes(1 << 20)
    assert throttle.take(chunk, 0.0)
    assert not throttle.take(chunk, 0.0)
    throttle.give_back(chunk)
    assert throttle.take(chunk, 0.0)


def test_no_budget_grants_everything():
    throttle = Throttle(0.0)
    assert all(throttle.take(1 << 40, 0.0) for _ in range(3))
    assert throttle.wait_s(1 << 40, 0.0) == 0.0
    assert (throttle.chunk_bytes(7), throttle.credit_bytes(9)) == (7, 9)


@pytest.mark.parametrize("mbps", [-1.0, 0.1, float("nan"), float("inf")])
def test_a_budget_that_cannot_be_kept_is_refused(mbps):
    with pytest.raises(ConfigurationError, match=r"max_mbps=.*must be at least 0\.2 megabit a second"):
        TransportConfig(max_mbps=mbps)


def test_two_links_share_the_budget_of_their_peer(wire, key, snapshot):
    """6 MB in all at 16 Mbit/s take three seconds; what each poll has sent is noted with its time."""
    one = wire.open(max_mbps=16.0, chunk_bytes=1 << 20, credit_bytes=8 << 20)
    others = [wire.open(chunk_bytes=1 << 20, credit_bytes=8 << 20) for _ in range(2)]
    size = 3_000_000
    buffers = [np.zeros(size, dtype=np.uint8) for _ in others]
    for number, (other, buffer) in enumerate(zip(others, buffers)):
        one.connect(other.data_address, "data")
        other.connect(one.control_address, "control")
        other.expect(key(number), buffer.data, one.control_address)
    wire.drive(lambda: len(wire.of(one, "LinkChanged")) == 2)
    began_s = time.monotonic()
    for number, other in enumerate(others):
        one.send_snapshot(other.data_address, key(number), snapshot(size))
    sent = [(began_s, 0)]

    def all_here() -> bool:
        sent.append((time.monotonic(), one.counters["bytes_sent"]))
        return all(wire.of(other, "TransferReceived") for other in others)

    wire.drive(all_here)
    lasted_s = time.monotonic() - began_s
    pieces = [(after[0], after[1] - before[1]) for before, after in itertools.pairwise(sent)]
    assert most_in_a_window(pieces) <= 1.1 * WINDOW_S * 2e6
    assert lasted_s == pytest.approx(3.0, rel=0.2)
    for buffer in buffers:
        np.testing.assert_array_equal(buffer, snapshot(size))


def test_shared_memory_is_no_part_of_the_budget(wire, key, snapshot):
    one, other = wire.pair(max_mbps=MBPS_MIN, shared_memory=True, segment_bytes=1 << 20)
    size = 4_000_000  # 160 s at this budget
    buffer = np.zeros(size, dtype=np.uint8)
    other.expect(key(1), buffer.data, one.control_address)
    one.send_snapshot(other.data_address, key(1), snapshot(size))
    wire.drive(lambda: bool(wire.of(other, "TransferReceived")))
    np.testing.assert_array_equal(buffer, snapshot(size))


def test_a_peer_that_waits_for_its_budget_sleeps_and_hears_others_at_once(wire, key, snapshot):
    """2 MB at 1 Mbit/s: polling for a second takes little CPU time, and a frame that comes meanwhile is there soon."""
    one, other = wire.pair(max_mbps=1.0, chunk_bytes=1 << 20, credit_bytes=8 << 20)
    buffer = np.zeros(2_000_000, dtype=np.uint8)
    other.expect(key(1), buffer.data, one.control_address)
    one.send_snapshot(other.data_address, key(1), snapshot(2_000_000))
    began_s, cpu_s = time.monotonic(), time.thread_time()
    while time.monotonic() < began_s + 1.0:
        one.poll(0.25)
    assert time.thread_time() - cpu_s < 0.3
    other.send(one.control_address, b"hello")
    wire.drive(lambda: bool(wire.of(one, "ControlFrame")), limit_s=1.0)
