"""What a peer records of how long its links take."""

from __future__ import annotations

from gossiptrain.protocol.messages import Ack, ExchangeId, Ping, TransferKey
from gossiptrain.runtime.link_times import EVERY_S, PENDING_MAX, SAMPLES_MAX, LinkTimes


def ping(number: int) -> Ping:
    return Ping(number, 0, 0)


def ack(number: int) -> Ack:
    return Ack(number, 0, 0)


def key(number: int) -> TransferKey:
    return TransferKey(7, ExchangeId(9, number))


def test_a_round_trip_goes_from_a_ping_to_its_own_answer():
    times = LinkTimes()
    times.sends("tcp://b", ping(1), 10.0)
    times.sends("tcp://b", ping(2), 10.5)
    times.hears("b", ack(2), 10.75)
    times.hears("b", ack(1), 11.0)
    times.hears("b", ack(1), 12.0)  # once more: says nothing
    (record,) = times.take(20.0, 400)
    assert record == {"peer": "b", "round_trips_s": [0.25, 1.0], "snapshots_s": [], "snapshot_bytes": 400}


def test_a_snapshots_time_waits_for_its_senders_name_and_what_is_given_up_leaves_none():
    times = LinkTimes()
    times.expects(key(1), "tcp://b", 1.0)
    times.expects(key(2), "tcp://b", 1.0)
    times.received(key(1), 1.5)
    times.forget(key(2))
    times.received(key(2), 9.0)
    assert times.take(10.0, 400) == []
    times.sends("tcp://b", ping(1), 11.0)
    times.hears("b", ack(1), 11.25)
    (record,) = times.take(20.0, 400)
    assert record["snapshots_s"] == [0.5]


def test_records_are_given_out_every_few_seconds_and_at_the_end():
    times = LinkTimes()
    assert times.take(100.0, 400) == []
    times.sends("tcp://b", ping(1), 100.0)
    times.hears("b", ack(1), 100.5)
    assert times.take(100.0 + EVERY_S - 0.1, 400) == []
    assert len(times.take(100.0 + EVERY_S - 0.1, 400, is_last=True)) == 1
    assert times.take(200.0, 400) == []


def test_what_is_kept_is_bounded():
    times = LinkTimes()
    for number in range(3 * PENDING_MAX):
        times.sends(f"tcp://{number}", ping(number), 1.0)
        times.expects(key(number), "tcp://b", 1.0)
    assert len(times._pings) == len(times._snapshots) == PENDING_MAX
    for number in range(1000, 1000 + 3 * SAMPLES_MAX):
        times.sends("tcp://b", ping(number), 1.0)
        times.hears("b", ack(number), 2.0)
    assert len(times.take(10.0, 400)[0]["round_trips_s"]) == SAMPLES_MAX
