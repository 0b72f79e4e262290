from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossiptrain.errors import AddressInUseError, ConfigurationError
from gossiptrain.transport import TransportConfig, ZeroMQTransport
from gossiptrain.transport.config import is_loopback, join_address, split_address


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "example.org", "*"])
def test_an_address_that_others_can_reach_is_refused_unless_insecure(host: str) -> None:
    with pytest.raises(ConfigurationError, match="insecure=True"):
        TransportConfig(listen=f"tcp://{host}:0", advertise="10.1.2.3")
    TransportConfig(listen=f"tcp://{host}:0", advertise="10.1.2.3", insecure=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "[::]"])
def test_a_wildcard_needs_a_host_to_advertise(host: str) -> None:
    with pytest.raises(ConfigurationError, match="advertise=HOST"):
        TransportConfig(listen=f"tcp://{host}:0", insecure=True)


def test_the_advertised_host_stands_in_the_addresses() -> None:
    config = TransportConfig(listen="tcp://0.0.0.0:0", advertise="127.0.0.1", insecure=True)
    transport = ZeroMQTransport(config, boot=1)
    try:
        for address in (transport.control_address, transport.data_address):
            host, port = split_address(address)
            assert host == "127.0.0.1"
            assert port > 0
    finally:
        transport.close()


@pytest.mark.parametrize("address", ["", "127.0.0.1:1", "tcp://", "tcp://:1", "tcp://h:", "tcp://h:70000", "ipc://x:1"])
def test_an_address_of_another_form_is_refused_and_named(address: str) -> None:
    with pytest.raises(ConfigurationError, match="tcp://HOST:PORT") as raised:
        split_address(address)
    assert repr(address) in str(raised.value)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_an_address_splits_into_what_it_was_joined_from(host: object, port: int) -> None:
    assert split_address(join_address(str(host), port)) == (str(host), port)


def test_loopback_is_told_from_the_rest() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.8.9.1", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.1", "node7"]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chunk_bytes", 100),
        ("chunk_bytes", 1 << 30),
        ("credit_bytes", 1000),
        ("control_queue_bytes", 10),
        ("linger_s", -1),
        ("segment_bytes", 100),
        ("retransmit_timeout_s", 0),
        ("connect_timeout_s", 0),
        ("reconnect_s", 0),
        ("reconnect_s_max", 0.01),
    ],
)
def test_a_bound_out_of_range_is_refused_by_name_and_value(name: str, value: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}={value}"):
        TransportConfig(**{name: value})


def test_an_occupied_port_is_named_with_what_to_do() -> None:
    first = ZeroMQTransport(TransportConfig(), boot=1)
    try:
        with pytest.raises(AddressInUseError, match="choose another port") as raised:
            ZeroMQTransport(TransportConfig(listen=first.control_address), boot=2)
        assert first.control_address in str(raised.value)
    finally:
        first.close()


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(ConfigurationError, match=r"203\.0\.113\.7"):
        ZeroMQTransport(TransportConfig(listen="tcp://203.0.113.7:0", insecure=True), boot=1)


def test_localhost_may_be_written_as_a_name() -> None:
    transport = ZeroMQTransport(TransportConfig(listen="tcp://localhost:0"), boot=1)
    assert transport.control_address.startswith("tcp://127.0.0.1:")
    transport.close()
