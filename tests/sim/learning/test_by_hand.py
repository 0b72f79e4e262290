"""Steps written by hand against autograd and the loop, and for which models they are used."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sim
from sim.learning.by_hand import HandWritten
from sim.learning.workspace import Workspace

PEERS, SAMPLES, FEATURES, CLASSES = 3, 7, 6, 4


def dense(*activations: nn.Module, bias: bool = True) -> nn.Module:
    sizes = (FEATURES, 5, 8)[: len(activations) + 1]
    layers = [layer for a, b, act in zip(sizes, sizes[1:], activations) for layer in (nn.Linear(a, b, bias=bias), act)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], CLASSES, bias=bias))


MODELS: dict[str, nn.Module] = {
    "regression": nn.Linear(FEATURES, CLASSES),
    "relu": dense(nn.ReLU(), nn.ReLU()),
    "tanh, sigmoid": dense(nn.Tanh(), nn.Sigmoid()),
    "no bias": dense(nn.Tanh(), nn.Identity(), bias=False),
    "pictures": nn.Sequential(nn.Flatten(), dense(nn.ReLU())),
    "bounded outputs": nn.Sequential(nn.Linear(FEATURES, 5), nn.Linear(5, CLASSES), nn.Tanh()),
}
OTHERS: dict[str, nn.Module] = {
    "gelu": dense(nn.GELU()),
    "twice": nn.Sequential(nn.Linear(FEATURES, CLASSES), nn.ReLU(), nn.Tanh()),
    "first": nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, CLASSES)),
    "dropout": dense(nn.Dropout(0.5)),
    "none": nn.Sequential(nn.Flatten()),
}
TARGETS = torch.arange(PEERS * SAMPLES) % CLASSES


def stepped(model: nn.Module, x: Tensor, y: Tensor, lr: float) -> tuple[dict[str, Tensor], float]:
    """One step by autograd and `torch.optim.SGD`."""
    model = copy.deepcopy(model)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    torch.optim.SGD(model.parameters(), lr).step()
    return {name: value.detach() for name, value in model.named_parameters()}, loss.item()


@pytest.mark.parametrize("lr", [0.3, [0.3, 0.0, 0.05]], ids=["one rate", "a rate each"])
@pytest.mark.parametrize("name", MODELS)
def test_steps_by_hand_are_those_of_autograd(name: str, lr: Any) -> None:
    torch.manual_seed(1)
    shape = (2, 3) if name == "pictures" else (FEATURES,)
    peers = [copy.deepcopy(MODELS[name]).double() for _ in range(PEERS)]
    for peer in peers:
        for parameter in peer.parameters():
            nn.init.normal_(parameter)
    by_hand, space = HandWritten.of(peers[0], F.cross_entropy, TARGETS), Workspace()
    assert by_hand is not None
    for _ in range(2):  # the second step uses the same memory again
        x, y = torch.randn(PEERS, SAMPLES, *shape, dtype=torch.float64), TARGETS[: PEERS * SAMPLES].view(PEERS, -1)
        leaves = {n: torch.stack([p.get_parameter(n).detach() for p in peers]) for n, _ in peers[0].named_parameters()}
        losses = by_hand.step(leaves, x, y, lr, space)
        for number, peer in enumerate(peers):
            expected, loss = stepped(peer, x[number], y[number], lr if isinstance(lr, float) else lr[number])
            assert losses[number].item() == pytest.approx(loss, rel=1e-12)
            for leaf, value in expected.items():
                torch.testing.assert_close(leaves[leaf][number], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OTHERS)
def test_other_layers_are_left_to_autograd(name: str) -> None:
    assert HandWritten.of(OTHERS[name], F.cross_entropy, TARGETS) is None


def test_other_losses_and_targets_are_left_to_autograd() -> None:
    model = MODELS["relu"]
    assert HandWritten.of(model, nn.CrossEntropyLoss(), TARGETS) is not None
    assert HandWritten.of(model, nn.CrossEntropyLoss(label_smoothing=0.1), TARGETS) is None
    assert HandWritten.of(model, F.mse_loss, TARGETS) is None
    assert HandWritten.of(model, F.cross_entropy, TARGETS - 1) is None
    assert HandWritten.of(model, F.cross_entropy, torch.rand(8, CLASSES)) is None


def test_a_run_names_its_kernel_and_ends_where_the_loop_ends() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(200, FEATURES, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(FEATURES, CLASSES, generator=generator, dtype=torch.float64)).argmax(1)
    reports = []
    for mode, optimizer, kernel in (
        ("batched", None, "hand-written"),
        ("batched", {"momentum": 0.5}, "stacked"),
        ("loop", None, "loop"),
    ):
        make: dict[str, Any] = (
            {} if optimizer is None else {"optimizer": lambda p: torch.optim.SGD(p, 0.1, momentum=0.5)}
        )
        schedule = lambda step: 0.99**step  # noqa: E731
        workload = sim.TorchWorkload(
            copy.deepcopy(MODELS["relu"]).double(), F.cross_entropy, (x, y), mode=mode, schedule=schedule, **make
        )
        reports.append(sim.Simulation(4, workload=workload, seed=2, formed=True).run(3.0))
        assert kernel in workload.describe()
    by_hand, stacked, loop = (report.samples[-1].values for report in reports)
    assert by_hand["train_loss"] == pytest.approx(loop["train_loss"], rel=1e-9)
    assert by_hand["consensus_distance"] == pytest.approx(loop["consensus_distance"], rel=1e-9)
    assert stacked["train_loss"] != pytest.approx(loop["train_loss"], rel=1e-3), "momentum is another rule"
