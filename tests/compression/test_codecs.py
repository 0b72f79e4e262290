"""Codecs: what is read again is what was written, within their steps; what is not finite stays so; equal in any layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossiptrain.compression import Cast, Int8, bfloat16, by_name, float16, int8, known_codecs, rounded
from gossiptrain.compression.base import PIECE
from gossiptrain.compression.registry import codec_of
from gossiptrain.errors import ConfigurationError
from gossiptrain.mixing.base import weighted_difference

CODECS = [bfloat16(), float16(), int8(), int8(block=16)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Half of the distance between two neighbouring numbers, as a part of the number: 2^-(significant bits).
HALF_STEP = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 2**-24, torch.float64: 2**-53}


def vector(length: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def through(codec, x: torch.Tensor) -> torch.Tensor:
    data = torch.full((codec.encoded_bytes(x.numel(), x.dtype),), 0xA5, dtype=torch.uint8)
    out = torch.full_like(x, 7.0)
    codec.encode(x, data)
    codec.decode(data, out)
    return out


def naive_int8(x: torch.Tensor, block: int) -> list[float]:
    """The rule written down value by value."""
    found = []
    for start in range(0, x.numel(), block):
        values = [float(value) for value in x[start : start + block]]
        scale = float(torch.tensor(max(map(abs, values)) / 127, dtype=torch.float32)) or 1.0
        found += [max(-127, min(127, round(value / scale))) * scale for value in values]
    return found


@settings(deadline=None, max_examples=60)
@given(
    codec=st.sampled_from(CODECS),
    length=st.integers(1, 700),
    dtype=st.sampled_from(DTYPES),
    size=st.sampled_from([1e-3, 1.0, 300.0]),
    seed=st.integers(0, 1000),
)
def test_no_value_is_off_by_more_than_half_a_step(codec, length, dtype, size, seed):
    x = (vector(length, seed=seed) * size).to(dtype)
    error = (through(codec, x).double() - x.double()).abs()
    own = HALF_STEP[dtype] * x.double().abs() * 1.01
    if isinstance(codec, Cast):
        smallest = torch.finfo(codec.dtype).smallest_normal * 2**-10
        allowed = HALF_STEP[codec.dtype] * x.double().abs() + smallest + own
    else:
        blocks = x.double().abs().split(codec.block)
        allowed = torch.cat([block.amax().expand(len(block)) for block in blocks]) * (0.5 / 127 + 2**-20) + 2 * own
    assert bool((error <= allowed).all())


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 100), seed=st.integers(0, 1000))
def test_int8_is_the_rule_value_by_value(length, seed):
    x = vector(length, seed=seed)
    expected = torch.tensor(naive_int8(x, 16), dtype=torch.float64)
    torch.testing.assert_close(through(Int8(16), x).double(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("length", [1, 15, 16, 17, 256, 1000, PIECE - 1, PIECE, 2 * PIECE + 19])
def test_rows_together_in_pieces_or_one_by_one_are_rounded_alike(codec, length):
    rows = torch.stack([vector(length, seed=seed) for seed in range(3)])
    each = torch.stack([through(codec, row) for row in rows])
    assert torch.equal(rounded(codec, rows), each)
    assert torch.equal(rounded(codec, rows[1]), each[1])
    view = torch.cat([rows, rows], dim=1)[:, :length]  # as a part of longer rows
    assert torch.equal(rounded(codec, view), each)
    assert torch.equal(rounded(codec, rows, out=rows), each)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_what_was_rounded_is_not_rounded_further(codec):
    once = through(codec, vector(1000))
    assert torch.equal(through(codec, once), once)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 255, 299])
def test_what_is_not_finite_is_read_as_not_finite(codec, value, place):
    x = vector(300)
    x[place] = value
    assert not bool(through(codec, x).isfinite().all())


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 6e4, -1.0])
def test_constant_vectors_keep_sign_and_size(codec, value):
    x = torch.full((300,), value)
    torch.testing.assert_close(through(codec, x), x, rtol=2**-8, atol=2e-7)


def test_numbers_near_the_largest_of_float32_stay_finite_in_int8():
    x = torch.full((300,), 3.4e38)
    torch.testing.assert_close(through(int8(), x), x)


@settings(deadline=None, max_examples=50)
@given(codec=st.sampled_from(CODECS), data=st.binary(min_size=0, max_size=80), length=st.integers(1, 60))
def test_any_bytes_are_read_as_something(codec, data, length):
    size = codec.encoded_bytes(length, torch.float32)
    encoded = torch.tensor(list((data + bytes(size))[:size]), dtype=torch.uint8)
    codec.decode(encoded, torch.empty(length))


@settings(deadline=None, max_examples=40)
@given(codec=st.sampled_from(CODECS), length=st.integers(1, 600), distance=st.floats(1e-6, 10), seed=st.integers(0, 99))
def test_a_pair_adds_exact_negatives_so_that_the_mean_stays(codec, length, distance, seed):
    x = vector(length, torch.float64, seed)
    y = x + distance * vector(length, torch.float64, seed + 1)
    mine, yours = through(codec, x), through(codec, y)
    to_mine, _ = weighted_difference(mine, [(yours, 0.5)])
    to_yours, _ = weighted_difference(yours, [(mine, 0.5)])
    assert torch.equal(to_mine, -to_yours)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_gossip_brings_peers_within_the_codecs_steps_and_keeps_their_mean(codec):
    """Random pairs average what they read of each other; the mean of all stays, and so agreement is with it."""
    peers = [vector(500, torch.float64, seed) for seed in range(8)]
    mean, chance = torch.stack(peers).mean(0), torch.Generator().manual_seed(5)
    for _ in range(300):
        i, j = torch.randperm(8, generator=chance)[:2].tolist()
        difference = through(codec, peers[j]) - through(codec, peers[i])
        peers[i], peers[j] = peers[i] + 0.5 * difference, peers[j] - 0.5 * difference
    torch.testing.assert_close(torch.stack(peers).mean(0), mean, rtol=0, atol=1e-12)
    step = 2 * HALF_STEP[codec.dtype] if isinstance(codec, Cast) else 1 / 127
    largest = torch.stack(peers).abs().amax()
    assert all(float((peer - mean).abs().amax()) <= 1.5 * step * largest for peer in peers)


@pytest.mark.parametrize(
    ("codec", "ratio"), [(bfloat16(), 2.0), (float16(), 2.0), (int8(), 3.938)], ids=["bfloat16", "float16", "int8"]
)
def test_a_million_float32_values_take_so_many_times_fewer_bytes(codec, ratio):
    assert 4e6 / codec.encoded_bytes(1_000_000, torch.float32) == pytest.approx(ratio, rel=1e-3)


def test_codecs_are_known_by_name_and_by_what_they_can_do():
    assert [codec_of(name) for name in known_codecs()] == [None, bfloat16(), float16(), int8()]
    assert codec_of(int8(64)) == Int8(64)
    with pytest.raises(ConfigurationError, match=r"codec='int4' is unknown; known are none, bfloat16, float16, int8"):
        by_name("int4")
    with pytest.raises(ConfigurationError, match=r"codec=8: must be a codec or one of none"):
        codec_of(8)


@pytest.mark.parametrize("block", [0, 8, 100, 1 << 17, 2.0])
def test_a_block_that_is_no_power_of_two_is_refused(block):
    with pytest.raises(ConfigurationError, match=r"block=.*: must be a power of two from 16 to 65536"):
        int8(block)


def test_a_cast_to_no_half_is_refused():
    with pytest.raises(ConfigurationError, match=r"dtype=torch.float64: must be torch.bfloat16 or torch.float16"):
        Cast(torch.float64)
