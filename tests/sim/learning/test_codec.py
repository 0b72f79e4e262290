"""Codecs in simulations: the rule of real peers, in both modes, with sizes and times to match."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sim
from gossiptrain.compression import Codec, bfloat16, float16, int8, rounded
from gossiptrain.errors import ConfigurationError
from tests.sim.learning.models import CLASSES, FEATURES, mlp, simulate, with_batch_norm, workload

CODECS = ["bfloat16", "float16", "int8"]
STEP = {"bfloat16": 2**-8, "float16": 2**-11, "int8": 1 / 127}


def begun(peers: int, model: Any = mlp, **options: Any) -> sim.TorchWorkload:
    """Peers that have taken 1, 2, ... steps."""
    work = workload(model, torch.float64, **options)
    work.prepare(peers, seed=1)
    for peer in range(peers):
        work.begin(1, peer)
        work.train(peer, peer + 1)
    return work


def values(work: sim.TorchWorkload, peers: int) -> list[Tensor]:
    return [work.vector(work.publish(peer)).clone() for peer in range(peers)]


@pytest.mark.parametrize("mode", ["batched", "loop"])
@pytest.mark.parametrize("codec", [bfloat16(), float16(), int8(16)], ids=repr)
def test_what_is_mixed_is_what_was_read_and_the_mean_stays(mode: str, codec: Codec) -> None:
    work = begun(2, mode=mode, codec=codec)
    one, other = work.publish(0), work.publish(1)
    x, y = values(work, 2)
    work.correct(0, work.mix(one, [(other, 0.5)]))
    work.correct(1, work.mix(other, [(one, 0.5)]))
    change = 0.5 * (rounded(codec, y) - rounded(codec, x))
    mine, yours = values(work, 2)
    torch.testing.assert_close(mine, x + change, rtol=0, atol=1e-15)
    torch.testing.assert_close(mine + yours, x + y, rtol=0, atol=1e-15)
    assert not torch.equal(mine, (x + y) / 2)


@pytest.mark.parametrize("mode", ["batched", "loop"])
def test_buffers_are_not_rounded(mode: str) -> None:
    work = begun(2, with_batch_norm, mode=mode, codec="int8")
    one, other = work.publish(0), work.publish(1)
    x, y = values(work, 2)
    work.correct(0, work.mix(one, [(other, 0.5)]))
    size = sum(parameter.numel() for parameter in work.model_of(0).parameters())
    torch.testing.assert_close(values(work, 1)[0][size:], ((x + y) / 2)[size:], rtol=0, atol=1e-15)


@pytest.mark.parametrize("codec", CODECS)
def test_many_are_mixed_together_with_the_bits_of_one_alone(codec: str) -> None:
    together, alone = begun(5, mode="batched", codec=codec), begun(5, mode="batched", codec=codec)
    for work in (together, alone):
        published = [work.publish(peer) for peer in range(5)]
        for peer, (own, other) in enumerate(pairwise([*published, published[0]])):
            work.correct(peer, work.mix(own, [(other, 0.5)]))
            if work is alone:
                work.vector(work.publish(peer))
    for one, other in zip(values(together, 5), values(alone, 5)):
        assert torch.equal(one, other)


def test_a_block_is_scaled_by_its_exact_values() -> None:
    work = begun(1, mode="batched", codec="int8")
    base = work.publish(0)
    work.train(0, 3)
    own = work.publish(0)
    x, y = work.vector(base).clone(), work.vector(own).clone()
    work.correct(0, work.scale(own, base, 0.25))
    torch.testing.assert_close(values(work, 1)[0], x + 0.25 * (y - x), rtol=0, atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_both_modes_have_the_same_events_and_agree_within_the_codecs_steps(codec: str) -> None:
    ends = {}
    for mode in ("batched", "loop"):
        work = workload(mlp, torch.float64, mode=mode, codec=codec)
        report, values = simulate(work, faults=sim.FaultSchedule().crash(2, 1.51).restart(2, 2.2))
        report.require("Exchanged", "adopted")
        ends[mode] = (report.trace_hash, values)
    assert ends["batched"][0] == ends["loop"][0]
    one, other = ends["batched"][1], ends["loop"][1]
    torch.testing.assert_close(one, other, rtol=0, atol=2 * STEP[codec] * float(other.abs().max()))


def test_snapshots_are_smaller_and_states_are_not() -> None:
    sizes = {}
    for codec in ("none", *CODECS):
        work = workload(with_batch_norm, torch.float64, codec=codec)
        sizes[codec] = work.snapshot_bytes
        assert work.state_bytes == sizes["none"]
        assert ("sent by" in work.describe()) == (codec != "none")
    model = with_batch_norm()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert sizes["none"] - sizes["bfloat16"] == sizes["none"] - sizes["float16"] == 6 * parameters
    assert sizes["none"] - sizes["int8"] == 7 * parameters - 4 * -(-parameters // 256)


def test_over_a_slow_line_peers_exchange_more_often() -> None:
    lines = sim.NetworkOptions(uplink_mbps=4.0)
    counts = {}
    for codec in ("none", "int8"):
        work = workload(nn.Sequential(nn.Linear(FEATURES, 4000), nn.ReLU(), nn.Linear(4000, CLASSES)), codec=codec)
        report, _ = simulate(work, 6.0, network=lines)
        counts[codec] = sum(peer.exchanges() for peer in report.peers)
    assert counts["int8"] > 2 * counts["none"] > 0


def test_a_number_that_is_infinite_as_others_read_it_is_not_finite() -> None:
    for codec, is_read in (("none", True), ("bfloat16", True), ("int8", True), ("float16", False)):
        work = begun(1, codec=codec)
        value = work.publish(0)
        work.vector(value)[0] = 1e5
        value.reach = 1e5
        assert work.is_finite(value) == is_read, codec


def test_an_unknown_codec_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"codec='zip' is unknown; known are none, bfloat16, float16, int8"):
        workload(mlp, codec="zip")
