"""Which mode a model gets, what is said of it, and which input is refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import sim
from gossiptrain.errors import ConfigurationError
from tests.sim.learning.models import CLASSES, FEATURES, Reads, blobs, mlp, seeded, simulate, with_dropout, workload


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if x.sum() > 0 else self.body(-x)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x + torch.randn_like(x))


class Counts(nn.Module):
    """Keeps something outside of parameters and buffers, so that peers would disturb each other in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.body(x) * (1 + self.calls % 7)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Reads, r"item\(\) cannot be batched \(models.py, line \d+\)"),
        (Branches, r"__bool__\(\) cannot be batched \(test_choosing.py, line \d+\)"),
        (Noisy, r"randn_like\(\) draws random numbers"),
        (Counts, "batched and single steps differ"),
    ],
)
def test_a_model_that_cannot_be_batched_falls_back_to_the_loop_and_says_why(model: Any, said: str) -> None:
    with pytest.warns(RuntimeWarning, match=said):
        work = workload(model)
    assert work.choice.mode == "loop"
    assert work.choice.is_forced
    assert work.choice.reason in work.describe()
    with pytest.raises(ConfigurationError, match=said):
        workload(model, mode="batched")


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (lambda p: torch.optim.RMSprop(p, lr=1e-3), "RMSprop"),
        (lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3), "LBFGS"),
        (lambda p: torch.optim.Adam(p, amsgrad=True), "amsgrad=True"),
        (lambda p: torch.optim.SGD([{"params": list(p)[:2]}, {"params": list(p)[2:]}], lr=0.1), "2 parameter groups"),
    ],
)
def test_any_optimizer_trains_in_the_loop(optimizer: Any, said: str) -> None:
    with pytest.warns(RuntimeWarning, match=said):
        work = workload(mlp, optimizer=optimizer)
    work.prepare(2, seed=0)
    work.begin(0, 0)
    before = work.measure([0])["loss"]
    work.train(0, 20)
    assert work.measure([0])["loss"] < before


def test_an_optimizers_own_state_goes_with_the_version_in_the_loop() -> None:
    optimizer = lambda p: torch.optim.RMSprop(p, lr=1e-2)  # noqa: E731
    with pytest.warns(RuntimeWarning):
        work = workload(mlp, torch.float64, optimizer=optimizer)
    work.prepare(2, seed=0)
    ends = []
    for blocks in ((5,), (2, 3)):
        work.begin(0, 0)
        work.begin(0, 1)
        work.train(1, 7)  # another's steps in between must not reach it
        for steps in blocks:
            work.train(0, steps)
            work.vector(work.publish(0))
        ends.append(work.vector(work.publish(0)).clone())
    assert torch.equal(ends[0], ends[1])


def test_random_numbers_of_a_model_in_the_loop_depend_on_seed_peer_and_step_alone() -> None:
    with pytest.warns(RuntimeWarning):
        work = workload(Noisy)
    found = []
    for others in (0, 3):
        work.prepare(4, seed=2)
        for peer in range(others, -1, -1):
            work.begin(2, peer)
            work.train(peer, 3)
            work.vector(work.publish(peer))
        found.append(work.vector(work.publish(0)).clone())
    assert torch.equal(found[0], found[1])


def test_large_steps_are_left_to_the_loop_without_a_warning_unless_batches_are_asked_for() -> None:
    wide = lambda: nn.Sequential(nn.Linear(FEATURES, 1500), nn.Tanh(), nn.Linear(1500, 1500), nn.Linear(1500, CLASSES))  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        work = workload(wide)
        assert workload(with_dropout).choice.mode == "batched"
    assert work.choice.mode == "loop"
    assert "floating-point operations" in work.describe()
    assert not work.choice.is_forced


def test_dropout_masks_depend_on_seed_peer_and_step_and_keep_the_share_they_should() -> None:
    from sim.learning.dropout import KeyedDropout, base_key, step_key

    masks = []
    for seed, peer, step in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)):
        key = torch.tensor(step_key(base_key(seed, peer), step))
        with KeyedDropout(key):
            layers = [F.dropout(torch.ones(100, 300), 0.3) for _ in range(2)]
        assert not torch.equal(*layers)
        kept = (layers[0] > 0).float()
        assert abs(float(kept.mean()) - 0.7) < 0.01
        assert float(kept.mean(0).std()) < 0.06  # binomial: sqrt(0.21 / 100) = 0.046
        assert float(layers[0].max()) == pytest.approx(1 / 0.7)
        masks.append(layers[0])
    assert torch.equal(masks[0], masks[-1])
    agreement = [float(((masks[0] > 0) == (other > 0)).float().mean()) for other in masks[1:4]]
    assert agreement == pytest.approx([0.58] * 3, abs=0.01)  # 0.7^2 + 0.3^2: independent


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size=0: must be between 1 and the number of samples, 400"),
        ({"batch_size": 401}, "batch_size=401"),
        ({"mode": "fast"}, "mode='fast': must be one of auto, batched, loop"),
        ({"threads": 0}, "threads=0"),
        ({"snapshot_bytes": 0}, "snapshot_bytes=0"),
        ({"evaluation_samples": 0}, "evaluation_samples=0"),
        ({"device": "meta"}, "device='meta'"),
        ({"evaluate": (torch.zeros(3, FEATURES + 1), torch.zeros(3).long())}, r"evaluate: has inputs of shape \[13\]"),
        ({"evaluate": (torch.zeros(3, FEATURES), torch.zeros(3))}, "evaluate: has targets"),
        ({"evaluate": (torch.zeros(3, FEATURES), torch.full((3,), 4))}, r"evaluate: has labels up to 4.*\[0, 4\)"),
        ({"evaluate": (torch.zeros(0, FEATURES), torch.zeros(0).long())}, "evaluate: has 0 inputs"),
        ({"optimizer": torch.optim.SGD}, "optimizer"),
        ({"optimizer": lambda p: 3}, "optimizer: returned int"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options: dict[str, Any], said: str) -> None:
    if options.get("optimizer") is torch.optim.SGD:
        options = {"optimizer": lambda p: torch.optim.SGD(p, lr=-1.0)}
    with pytest.raises(ConfigurationError, match=said):
        workload(mlp, **options)


X, Y = blobs()


@pytest.mark.parametrize(
    ("model", "loss", "data", "said"),
    [
        (nn.ReLU(), F.cross_entropy, (X, Y), "ReLU: has no trainable parameter"),
        (3, F.cross_entropy, (X, Y), "model: is int"),
        (lambda: 3, F.cross_entropy, (X, Y), "model: the function returned int"),
        (nn.Linear(7, 4), F.cross_entropy, (X, Y), r"model: fails on a batch \[32, 12\]"),
        (nn.Linear(12, 3), F.cross_entropy, (X, Y), "data: has labels up to 3, but the model has 3 outputs"),
        (
            nn.Linear(12, 4),
            nn.CrossEntropyLoss(reduction="none"),
            (X, Y),
            r"loss_fn: returned \[32\]; must be a scalar",
        ),
        (nn.Linear(12, 4), lambda out, y: 1.0, (X, Y), "loss_fn: returned float"),
        (nn.Linear(12, 4), lambda out, y: out.detach().mean(), (X, Y), "does not depend on a trainable parameter"),
        (nn.Linear(12, 4), F.mse_loss, (X, Y), "loss_fn: fails on the model's output"),
        (nn.Linear(12, 4), F.cross_entropy, (X, Y[:7]), "data: has 400 inputs and 7 targets"),
        (nn.Linear(12, 4), F.cross_entropy, (X[:0], Y[:0]), "data: has 0 inputs"),
        (nn.Linear(12, 4), F.cross_entropy, X, "data: is Tensor"),
        (nn.Linear(12, 4), F.cross_entropy, (X.tolist(), Y), "data: holds list"),
        (nn.Linear(12, 4).bfloat16(), F.cross_entropy, (X, Y), "torch.bfloat16"),
    ],
)
def test_models_losses_and_data_that_cannot_work_are_refused(model: Any, loss: Any, data: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        sim.TorchWorkload(model, loss, data)


class Pairs(Dataset):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return X[index].numpy(), int(Y[index])


@pytest.mark.parametrize(
    "data", [(X.numpy(), Y.numpy()), TensorDataset(X, Y), Pairs()], ids=["arrays", "tensors", "set"]
)
def test_data_comes_in_several_forms_and_gives_the_same_numbers(data: Any) -> None:
    values = []
    for given in ((X, Y), data):
        work = sim.TorchWorkload(seeded(mlp), F.cross_entropy, given)
        work.prepare(2, seed=1)
        work.begin(1, 1)
        work.train(1, 3)
        values.append(work.vector(work.publish(1)).clone())
    assert torch.equal(*values)


def test_a_set_of_the_library_brings_its_own_evaluation_set() -> None:
    from gossiptrain.data import load

    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    work = sim.TorchWorkload(model, F.cross_entropy, load("fashion-mnist"))
    work.prepare(2, seed=0)
    work.begin(0, 0)
    assert {"loss", "accuracy", "average_loss", "average_accuracy"} <= set(work.measure([0]))


def test_a_function_that_makes_the_model_begins_another_one_for_another_seed() -> None:
    work = workload(mlp)  # a module: the same for all seeds
    made = sim.TorchWorkload(mlp, F.cross_entropy, (X, Y))
    for given, differ in ((work, False), (made, True)):
        begun = []
        for seed in (1, 2, 1):
            given.prepare(2, seed)
            given.begin(seed, 0)
            begun.append(given.vector(given.publish(0)).clone())
        assert torch.equal(begun[0], begun[2])
        assert torch.equal(begun[0], begun[1]) is not differ


@pytest.mark.slow
def test_a_run_that_diverges_has_its_snapshots_refused_and_goes_on() -> None:
    work = workload(mlp, optimizer=lambda p: torch.optim.SGD(p, lr=3e38), evaluate=None)
    report, _ = simulate(work, 3.0, peers=3, founders=3)
    report.require("SnapshotRefused")
