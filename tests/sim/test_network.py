"""Links as TCP and libzmq keep them, delays, outages, and what is told of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gossiptrain.errors import ConfigurationError
from sim.network_options import NetworkOptions

sys.path.insert(0, str(Path(__file__).parent))
from fake_process import FakeProcess, hosts

TRIP_S = 0.02
UP_S = 1.5 * TRIP_S


def test_a_message_takes_the_delay_and_the_time_of_its_bytes():
    clock, _, (one, other) = hosts(2, uplink_mbps=8.0)
    one.link(1)
    clock.run(1.0)
    one.say(1, "hello", size=1000)
    clock.run(2.0)
    assert other.messages == [(pytest.approx(1.0 + 0.01 + 1000 * 8 / 8e6), "hello")]


def test_a_latency_matrix_is_read_by_sender_and_receiver():
    clock, _, (one, other) = hosts(2, latency_s=[[0.0, 0.1], [0.3, 0.0]])
    one.link(1)
    other.link(0)
    clock.run(1.0)
    one.say(1, "there", size=0)
    other.say(0, "back", size=0)
    clock.run(2.0)
    assert other.messages == [(pytest.approx(1.1), "there")]
    assert one.messages == [(pytest.approx(1.3), "back")]


def test_regions_have_half_their_published_round_trip():
    rows = NetworkOptions(regions=("virginia", "tokyo")).latencies_s(4)
    assert rows[0][1] == rows[1][0] == rows[2][3] == 0.0715
    assert rows[0][2] == 0.0005


def test_what_is_sent_before_the_link_is_up_arrives_in_order_once_it_is():
    clock, _, (one, other) = hosts(2)
    one.link(1)
    for number in range(5):
        one.say(1, number)
    clock.run(1.0)
    assert [text for _, text in other.messages] == [0, 1, 2, 3, 4]
    assert one.evidence[0] == (pytest.approx(UP_S), ("control:1", "control", "up"))


def test_jitter_never_lets_one_message_overtake_another():
    clock, _, (one, other) = hosts(2, jitter=10.0)
    one.link(1)
    clock.run(1.0)
    for number in range(200):
        clock.at(1.0 + number * 0.001, lambda n: one.say(1, n), number)
    clock.run(5.0)
    assert [text for _, text in other.messages] == list(range(200))


def test_loss_delays_by_tcp_time_outs_and_keeps_order():
    clock, _, (one, other) = hosts(2, loss=0.5)
    one.link(1)
    clock.run(1.0)
    for number in range(100):
        clock.at(1.0 + number * 1000.0, lambda n: one.say(1, n, size=0), number)
    clock.run(2e5)
    assert [text for _, text in other.messages] == list(range(100))
    late_s = [round(time_s - (1.0 + 1000.0 * n) - 0.01, 4) for time_s, n in other.messages]
    on_time = sum(late == 0 for late in late_s)
    assert 30 < on_time < 70
    assert set(late_s) <= {round(0.2 * (2**k - 1), 4) for k in range(10)}


def test_duplicates_and_reordering_happen_only_where_asked_for():
    clock, network, (one, other) = hosts(2, duplicate=0.3, reorder=0.3)
    one.link(1)
    clock.run(1.0)
    for number in range(300):
        clock.at(1.0 + number * 0.001, lambda n: one.say(1, n), number)
    clock.run(5.0)
    texts = [text for _, text in other.messages]
    assert len(texts) == 300 + network.counters["duplicated"]
    assert network.counters["duplicated"] > 0
    assert texts != sorted(texts)
    assert set(texts) == set(range(300))


def test_a_killed_process_breaks_its_links_at_once_and_its_host_refuses():
    clock, _, (one, other) = hosts(2)
    one.link(1)
    clock.run(1.0)
    other.die()
    clock.run(1.2)
    assert one.kinds() == ["up", "down", "refused"]
    assert one.evidence[2][0] == pytest.approx(1.01)
    assert one.evidence[4][0] == pytest.approx(1.01 + 0.1 + TRIP_S)


def test_a_process_that_comes_back_is_connected_again_and_gets_no_old_message():
    clock, network, (one, other) = hosts(2)
    one.link(1)
    clock.run(1.0)
    other.die()
    clock.run(1.5)
    again = FakeProcess(network, clock, 1)
    clock.run(8.0)
    one.say(1, "new")
    clock.run(9.0)
    assert one.kinds()[-1] == "up"
    assert [text for _, text in again.messages] == ["new"]
    assert other.messages == []


def test_a_silent_host_tells_nothing_on_the_control_lane():
    clock, network, (one, other) = hosts(2)
    one.link(1)
    clock.run(1.0)
    network.set_silent(1, True)
    other.die()
    for second in range(2, 40):
        clock.at(float(second), lambda s: one.say(1, s), second)
    clock.run(40.0)
    assert one.kinds() == ["up"]
    assert one.kinds("data") == ["up", "down"]  # idle, so keepalive finds it


def test_a_short_cut_delays_messages_until_tcp_sends_again():
    clock, network, (one, other) = hosts(2)
    one.link(1)
    clock.run(1.0)
    network.cut([(0, 1)])
    one.say(1, "first")
    one.say(1, "second")
    clock.at(2.0, lambda _: network.mend([(0, 1)]))
    clock.run(10.0)
    # sent again 0.2, 0.6 and 1.4 seconds later; the last finds the way open
    assert [(round(t, 2), text) for t, text in other.messages] == [(2.41, "first"), (2.41, "second")]


def test_a_long_outage_breaks_the_link_when_it_ends_and_loses_what_waited():
    clock, network, (one, other) = hosts(2)
    one.link(1)
    clock.run(1.0)
    network.cut([(0, 1), (1, 0)])
    one.say(1, "lost")
    clock.at(21.0, lambda _: network.mend([(0, 1), (1, 0)]))
    clock.run(26.0)
    assert one.kinds() == ["up"]
    clock.run(60.0)
    assert one.kinds() == ["up", "down", "up"]
    assert other.messages == []


def test_a_one_way_cut_leaves_the_other_direction_open():
    clock, network, (one, other) = hosts(2)
    one.link(1)
    other.link(0)
    clock.run(1.0)
    network.cut([(0, 1)])
    one.say(1, "lost for now")
    other.say(0, "heard")
    clock.run(1.5)
    assert [text for _, text in one.messages] == ["heard"]
    assert other.messages == []


def test_cuts_add_up_so_that_one_mend_does_not_heal_two():
    _, network, _ = hosts(2)
    network.cut([(0, 1)])
    network.cut([(0, 1)])
    network.mend([(0, 1)])
    assert not network.is_connected(0, 1)
    network.mend([(0, 1)])
    assert network.is_connected(0, 1)


def test_an_address_without_host_is_never_answered():
    clock, _, (one,) = hosts(1)
    one.network.connect(one, "control:7", "control")
    clock.run(30.0)
    assert one.evidence == []


def test_disconnecting_drops_what_waits_and_tells_nothing():
    clock, network, (one, other) = hosts(2)
    one.link(1)
    one.say(1, "never")
    network.disconnect(one, "control:1", "control")
    clock.run(1.0)
    one.say(1, "no link")
    assert one.kinds() == []
    assert other.messages == []
    assert network.counters["no_link"] == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"loss": 0.95}, "loss=0.95"),
        ({"uplink_mbps": 0.0}, "uplink_mbps=0.0"),
        ({"latency_s": [[0.0]]}, "2 rows"),
        ({"latency_s": -1.0}, "latency_s=-1.0"),
        ({"regions": ("mars",)}, "'mars'"),
        ({"regions": ("madrid", "oregon")}, "no published round trip"),
        ({"rto_s": 0.0}, "rto_s=0.0"),
    ],
)
def test_options_out_of_range_are_named(options, named):
    with pytest.raises(ConfigurationError, match=named):
        hosts(2, **options)
