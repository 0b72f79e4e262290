"""States of models on a GPU: frozen while training goes on, and taken over where they belong."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from gossiptrain.runtime.keeper import Freeze, FrozenState, Keeper
from gossiptrain.runtime.parameters import ParameterVector
from gossiptrain.runtime.state import Identity, Model, view_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

IDENTITY = Identity("a", "run", 0, "", {})


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> Model:
    return Model(model, optimizer, frozenset(spec.name for spec in ParameterVector(model).schema))


def frozen(keeper: Keeper, step: int) -> FrozenState:
    results: list[FrozenState | Exception] = []
    keeper.want(Freeze(with_frozen=True, done=results.append))
    deadline_s = time.monotonic() + 30
    while not results and time.monotonic() < deadline_s:
        keeper.at_step(step)
        time.sleep(0.001)
    assert isinstance(results[0], FrozenState)
    return results[0]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 6, generator=generator).cuda()).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"capturable": True}, {"foreach": True}])
def test_who_takes_a_state_over_on_the_gpu_goes_on_as_its_owner(options: dict) -> None:
    models = [nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)).cuda() for _ in range(2)]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.01, **options) for model in models]
    ours, theirs = (state_of(*pair) for pair in zip(models, optimizers))
    train(models[0], optimizers[0], 3)
    keeper = Keeper(ours, IDENTITY, torch.device("cuda", torch.cuda.current_device()))
    state = frozen(keeper, 3)
    theirs.check(state.manifest)
    data = torch.frombuffer(bytearray(state.data), dtype=torch.uint8)
    assert theirs.adopt(state.manifest, data) == ""
    for model, optimizer in zip(models, optimizers):
        train(model, optimizer, 2)
    for one, other in zip(models[0].state_dict().values(), models[1].state_dict().values()):
        assert torch.equal(one, other)
    keeper.close(5)


def test_a_frozen_state_is_that_of_one_step_though_the_device_runs_behind() -> None:
    model = nn.Linear(2000, 2000, bias=False).cuda()
    keeper = Keeper(state_of(model, None), IDENTITY, torch.device("cuda", torch.cuda.current_device()))
    results: list[FrozenState] = []
    keeper.want(Freeze(with_frozen=False, done=results.append))  # pyright: ignore[reportArgumentType]
    number, deadline_s = 0, time.monotonic() + 30
    while not results and time.monotonic() < deadline_s:
        number += 1
        torch.cuda._sleep(2_000_000)
        with torch.no_grad():
            model.weight.fill_(float(number))
        keeper.at_step(number)
    data = torch.frombuffer(bytearray(results[0].data), dtype=torch.uint8)
    weight = view_of(results[0].manifest.entries[0], data)
    assert (weight == float(results[0].manifest.step)).all()
    keeper.close(5)
