"""Peers with a codec, over real sockets: fewer bytes, the same mean, and no mixing with those that have another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gossiptrain as gt
from gossiptrain.compression import Codec, int8
from gossiptrain.errors import ConfigurationError, MixerMismatchError


class Truncated:
    """A user's own codec: the upper two bytes of each float32."""

    def __repr__(self) -> str:
        return "Truncated()"

    def encoded_bytes(self, numel: int, dtype: torch.dtype) -> int:
        assert dtype == torch.float32
        return 2 * numel

    def encode(self, x: torch.Tensor, out: torch.Tensor) -> None:
        out.view(torch.int16).copy_(x.view(torch.int16)[1::2])

    def decode(self, data: torch.Tensor, out: torch.Tensor) -> None:
        out.zero_()
        out.view(torch.int16)[1::2] = data.view(torch.int16)


def model(number: int) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Linear(300, 40)
    with torch.no_grad():
        made.bias.fill_(float(number))
    return made


def step(made: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    made(torch.ones(2, 300)).mean().backward()
    optimizer.step()


@pytest.mark.parametrize(("codec", "ratio"), [("int8", 3.9), ("bfloat16", 2.0), (Truncated(), 2.0)], ids=str)
def test_peers_come_together_with_fewer_bytes(crew: Any, until: Callable, codec: Codec | str, ratio: float) -> None:
    """The learning rate is 0, so that mixing alone changes anything: biases begin at 0 (the founder's), and are moved."""
    models, peers = [model(0), model(1)], {}
    moved = threading.Event()

    def job(number: int) -> None:
        optimizer = torch.optim.SGD(models[number].parameters(), lr=0.0)
        peers[number] = crew.peer(number, models[number], optimizer, codec=codec, sync_every=1, wait_for_peers=2)
        with peers[number] as peer:
            if number == 1:
                with torch.no_grad():
                    models[1].bias.fill_(2.0)
                moved.set()
            until(lambda: step(models[number], optimizer) or (moved.is_set() and peer.exchange_count >= 8), "mixing")
            over.append(number)
            until(lambda: step(models[number], optimizer) or len(over) == 2, "the other")

    over: list[int] = []
    crew.train(lambda: job(0), lambda: job(1))
    means = [float(made.bias.detach().mean()) for made in models]
    assert means == pytest.approx([1.0, 1.0], abs=0.1)
    assert sum(means) == pytest.approx(2.0, abs=0.05)
    for peer in peers.values():
        plain_bytes = 4 * (300 * 40 + 40)
        each = peer.traffic()["bytes_received"] / peer.exchange_count
        assert each < 1.6 * plain_bytes / ratio


def test_a_peer_with_another_codec_is_refused_and_both_are_named(crew: Any, until: Callable) -> None:
    is_over = threading.Event()
    seen: list[str] = []

    def founder() -> None:
        made = model(0)
        optimizer = torch.optim.SGD(made.parameters(), lr=0.0)
        with crew.peer(0, made, optimizer, codec="int8"):
            until(lambda: step(made, optimizer) or is_over.is_set(), "the refusal")

    def stranger() -> None:
        try:
            with pytest.raises(MixerMismatchError) as refused, crew.peer(1, model(1), codec=int8(64), wait_for_peers=2):
                pass
            seen.append(str(refused.value))
        finally:
            is_over.set()

    crew.train(founder, stranger)
    assert "through Int8(block=256)" in seen[0]
    assert "through Int8(block=64)" in seen[0]
    assert "same mixer and codec" in seen[0]


@pytest.mark.parametrize("codec", ["zip", 8, nn.Linear(1, 1)])
def test_what_is_no_codec_is_refused_at_attach(codec: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)codec=.*known are none|codec=.*must be a codec or one of none"):
        gt.attach(model(0), codec=codec)


def test_the_environment_names_the_codec_and_an_argument_overrides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOSSIPTRAIN_CODEC", "bfloat16")
    assert gt.attach(model(0)).config.described()["codec"] == "Cast(dtype=torch.bfloat16)"
    assert gt.attach(model(0), codec="none").config.described()["codec"] == "none"
    assert gt.attach(model(0), codec=int8()).config.codec == int8()
    monkeypatch.setenv("GOSSIPTRAIN_CODEC", "best")
    with pytest.raises(ConfigurationError, match="codec='best' is unknown"):
        gt.attach(model(0))


def test_a_memory_budget_counts_what_a_codec_needs() -> None:
    with pytest.raises(ConfigurationError, match=r"max_buffer_mb=0\.05: .*must be at least (.*)") as refused:
        gt.attach(model(0), codec="int8", max_buffer_mb=0.05)
    least = float(str(refused.value).rsplit(" ", 1)[1])
    plain_mb = 4 * (300 * 40 + 48) / 1e6
    assert 5 * plain_mb < least < 6 * plain_mb
    assert gt.attach(model(0), codec="int8", max_buffer_mb=least).config.settings.max_buffer_mb == least
