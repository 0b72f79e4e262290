"""Bytes from others are a message of this protocol, or a `WireError`; nothing else."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossiptrain.errors import WireError
from gossiptrain.protocol import messages as m
from gossiptrain.protocol import wire

CHARACTERS = st.characters(exclude_categories=["Cs"])
U64 = st.integers(0, 2**64 - 1)
ROUNDS = st.integers(0, 2**32 - 1)
NAMES = st.one_of(st.text(CHARACTERS, min_size=1, max_size=8), st.just("n" * 128))
ADDRESSES = st.one_of(st.text(CHARACTERS, min_size=1, max_size=8), st.just("a" * 256))
TEXTS = st.one_of(st.text(CHARACTERS, max_size=8), st.just("t" * 4096))
INTEGERS = st.integers(-(2**63), 2**64 - 1)
EXCHANGES = st.builds(m.ExchangeId, U64, U64)
ENTRIES = st.builds(
    m.MemberEntry,
    NAMES,
    U64,
    ADDRESSES,
    ADDRESSES,
    incarnation=st.integers(0, m.INCARNATION_MAX - 1),
    state=st.sampled_from(m.STATES),
    caught_up=st.booleans(),
    busy_s=st.floats(0, m.BUSY_S_MAX),
    accuser=st.text(CHARACTERS, max_size=8),
    refused=st.booleans(),
)
UPDATES = st.lists(ENTRIES, max_size=6).map(tuple)
SHORT = st.text(CHARACTERS, max_size=8)

EPOCHS = st.integers(0, (1 << 40) - 1)
CHUNKS = st.integers(0, m.CHUNKS_MAX - 1)
HANDS = st.builds(
    m.ChunkHand,
    NAMES,
    U64,
    U64,
    st.floats(0, 1e12),
    st.lists(st.builds(m.ChunkId, EPOCHS, CHUNKS), max_size=4).map(tuple),
    st.lists(st.tuples(EPOCHS, U64), max_size=4).map(tuple),
)
DONE = st.lists(st.tuples(EPOCHS, st.binary(max_size=m.CHUNKS_MAX // 8)), max_size=3).map(tuple)
MESSAGES: dict[type, st.SearchStrategy[m.Message]] = {
    m.Hello: st.builds(
        m.Hello,
        version_min=INTEGERS,
        version_max=INTEGERS,
        run_id=TEXTS,
        mixer=TEXTS,
        schema_hash=st.binary(max_size=32),
        parameter_hashes=st.binary(max_size=40),
        control_address=ADDRESSES,
        data_address=ADDRESSES,
        step=U64,
        caught_up=st.booleans(),
        wants_reply=st.booleans(),
    ),
    m.Refuse: st.builds(m.Refuse, SHORT, TEXTS, INTEGERS, st.booleans(), ADDRESSES),
    m.Gossip: st.builds(m.Gossip, UPDATES),
    m.Sync: st.builds(m.Sync, UPDATES, st.booleans()),
    m.Ping: st.builds(m.Ping, U64, U64, U64, UPDATES),
    m.Ack: st.builds(m.Ack, U64, U64, U64, UPDATES),
    m.PingRequest: st.builds(m.PingRequest, U64, NAMES, UPDATES),
    m.PingResult: st.builds(m.PingResult, U64, st.booleans()),
    m.Leave: st.builds(m.Leave, TEXTS),
    m.Offer: st.builds(m.Offer, EXCHANGES, SHORT, ROUNDS, U64),
    m.Accept: st.builds(m.Accept, EXCHANGES, U64),
    m.Reject: st.builds(m.Reject, EXCHANGES, SHORT, ROUNDS),
    m.Received: st.builds(m.Received, EXCHANGES, st.booleans()),
    m.Abort: st.builds(m.Abort, EXCHANGES, TEXTS),
    m.StateReady: st.builds(m.StateReady, EXCHANGES, U64, U64, st.integers(1, 64 << 20), st.integers(1, 1 << 48)),
    m.PieceWanted: st.builds(m.PieceWanted, EXCHANGES, EXCHANGES, U64, U64, U64),
    m.LedgerNews: st.builds(
        m.LedgerNews, U64, U64, U64, EPOCHS, DONE, st.lists(HANDS, max_size=3).map(tuple), st.booleans()
    ),
    m.ChunksWanted: st.builds(m.ChunksWanted, EPOCHS, st.integers(1, m.HAND_CHUNKS_MAX)),
    m.ChunksGiven: st.builds(m.ChunksGiven, EPOCHS, st.lists(CHUNKS, max_size=m.HAND_CHUNKS_MAX).map(tuple)),
    m.StatusRequest: st.builds(m.StatusRequest, ADDRESSES),
    m.StatusReply: st.builds(m.StatusReply, st.binary(max_size=40)),
}
ENVELOPES = st.builds(m.Envelope, NAMES, U64, st.one_of(*MESSAGES.values()), U64)


def test_every_message_of_the_protocol_is_generated_here() -> None:
    assert set(MESSAGES) == set(get_args(m.Message))


@pytest.mark.slow
@given(ENVELOPES)
@settings(max_examples=150, deadline=None)
def test_what_is_encoded_decodes_to_an_equal_envelope(envelope: m.Envelope) -> None:
    assert wire.decode(wire.encode(envelope)) == envelope


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_random_bytes_raise_wire_error_and_nothing_else(frame: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode(frame)


@pytest.mark.slow
@given(ENVELOPES, st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_frame_decodes_to_valid_fields_or_raises_wire_error(envelope: m.Envelope, data) -> None:
    frame = bytearray(wire.encode(envelope))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = wire.decode(bytes(frame))
    except WireError:
        return
    assert wire.decode(wire.encode(decoded)) == decoded


@pytest.mark.slow
@given(ENVELOPES, st.data())
@settings(max_examples=100, deadline=None)
def test_a_truncated_frame_raises_wire_error(envelope: m.Envelope, data) -> None:
    frame = wire.encode(envelope)
    with pytest.raises(WireError):
        wire.decode(frame[: data.draw(st.integers(0, len(frame) - 1))])


def test_a_frame_over_64_kib_is_not_even_looked_at() -> None:
    with pytest.raises(WireError, match="65537 bytes"):
        wire.decode(b"\x00" * 65537)


def test_a_message_that_would_pass_64_kib_is_not_sent() -> None:
    entry = m.MemberEntry("n" * 128, 1, "c" * 256, "d" * 256)
    with pytest.raises(ValueError, match="65536"):
        wire.encode(m.Envelope("peer", 1, m.Gossip((entry,) * 128)))


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(WireError):
        wire.decode(wire.encode(m.Envelope("peer", 1, m.Leave("x"))) + b"\x00")


def raw(*fields: object) -> bytes:
    return msgspec.msgpack.encode(["peer", 1, list(fields)])


@pytest.mark.parametrize(
    "frame",
    [
        raw("Ping", 1, 2, 3, [], 4),
        raw("Ping", 1, 2),
        raw("Shutdown"),
        raw("Ping", -1, 2, 3),
        raw("Ping", "1", 2, 3),
        raw("Leave", "x" * 4097),
        raw("Offer", [1, 2], "round", 1 << 32, 2),
        raw("Offer", [1], "pair", 0, 2),
        raw("StatusRequest", ""),
        msgspec.msgpack.encode(["", 1, ["Leave", "x"]]),
        msgspec.msgpack.encode(["peer", 1, ["Leave", "x"], 5, "more"]),
        raw("Gossip", [["MemberEntry", "a", 1, "b", "c", 1 << 48]]),
        raw("Gossip", [["MemberEntry", "a", 1, "b", "c", 1, "undead"]]),
        raw("Gossip", [["MemberEntry", "a", 1, "b", "c", 1, "alive", True, float("nan")]]),
        msgspec.msgpack.encode({"sender": "peer", "boot": 1, "message": ["Leave", "x"]}),
        raw("Leave", "x").replace(b"\xa1x", b"\xa1\xff"),
    ],
    ids=[
        "field too many",
        "field too few",
        "unknown message",
        "negative",
        "text for a number",
        "long text",
        "round beyond the pulls",
        "half an exchange",
        "empty address",
        "no name",
        "envelope too long",
        "incarnation beyond all",
        "no such state",
        "busy for no number of seconds",
        "map for an array",
        "not utf-8",
    ],
)
def test_a_message_outside_the_schema_raises_wire_error(frame: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode(frame)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\xdd\x00\x00\x00\x01"])
def test_deep_nesting_raises_wire_error(opening: bytes) -> None:
    for prefix in (b"", b"\x93\xa1p\x01", b"\x93\xa1p\x01\x92\xa5Leave"):
        with pytest.raises(WireError):
            wire.decode(prefix + opening * (60_000 // len(opening)))


@pytest.mark.parametrize("header", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"])
def test_a_claimed_length_of_four_thousand_million_takes_no_memory(header: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode(header + b"\x00" * 100)
    with pytest.raises(WireError):
        wire.decode(b"\x93\xa1p\x01\x92\xa6Gossip" + header + b"\x00" * 100)
