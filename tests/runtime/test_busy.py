"""Pauses that are announced: by hand, around long copies, and for the first step of a compiled model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gossiptrain as gt
from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.events import BusyAnnounced
from gossiptrain.protocol.peer_protocol import PeerProtocol
from gossiptrain.runtime import keeper
from gossiptrain.runtime.busy import BusyLeases, is_compiled, original

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the protocol is told of pauses, in whole seconds."""
    heard: list[float] = []
    handle = PeerProtocol.handle

    def listening(self: PeerProtocol, event: Any, now: float) -> Any:
        if isinstance(event, BusyAnnounced):
            heard.append(round(event.seconds))
        return handle(self, event, now)

    monkeypatch.setattr(PeerProtocol, "handle", listening)
    return heard


def test_a_pause_is_announced_and_over_also_when_something_is_raised(announced: list[float]) -> None:
    with gt.attach(nn.Linear(2, 2)) as peer:
        with pytest.raises(ZeroDivisionError), peer.busy(60):
            raise ZeroDivisionError
        peer.step()
    assert announced == [60, 0]


def test_a_pause_within_a_pause_does_not_end_the_longer_one() -> None:
    told: list[float] = []
    leases = BusyLeases(lambda event: told.append(round(event.seconds)))
    with leases.during(60):
        with leases.during(5):
            pass
        with leases.during(100):
            pass
    assert told == [60, 60, 60, 100, 60, 0]


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_pause_without_an_end_is_refused(seconds: float) -> None:
    with gt.attach(nn.Linear(2, 2)) as peer, pytest.raises(ConfigurationError, match="seconds="), peer.busy(seconds):
        pass


@pytest.mark.parametrize("how", ["wrapper", "in place", "inner"])
def test_the_first_step_of_a_compiled_model_is_announced(announced: list[float], how: str) -> None:
    model: Any = nn.Sequential(nn.Linear(2, 2))
    if how == "wrapper":
        model = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    else:
        model[0].compile(backend="eager")
    assert is_compiled(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gt.attach(model, optimizer, compile_busy_s=120):
        for _ in range(3):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    assert announced == [120, 0]


def test_a_model_that_is_not_compiled_announces_nothing(announced: list[float]) -> None:
    model = nn.Linear(2, 2)
    assert not is_compiled(model)
    assert original(model) is model
    with gt.attach(model) as peer:
        peer.step()
    assert announced == []


def test_a_compiled_model_has_the_names_of_the_model_itself(tmp_path: Any) -> None:
    plain: Any = nn.Sequential(nn.Linear(2, 2))
    with gt.attach(torch.compile(plain, backend="eager"), run_dir=tmp_path, name="a") as peer:
        names = [spec.name for spec in peer._vector.schema]
    assert names == ["0.weight", "0.bias"]


def test_a_long_copy_is_announced(announced: list[float], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with gt.attach(nn.Linear(2, 2), run_dir=tmp_path) as peer:
        peer.checkpoint(wait=True)
        monkeypatch.setattr(keeper, "PAUSE_BYTES_MIN", 1)
        peer.checkpoint(wait=True)
    assert announced == [keeper.PAUSE_S, 0]
