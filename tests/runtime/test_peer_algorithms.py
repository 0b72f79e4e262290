"""What peers compute over real sockets, against naive loops and conservation laws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

import gossiptrain as gt
import topologies

STEPS, LR = 12, 0.2


class Vector(torch.nn.Module):
    """A bare vector of parameters."""

    def __init__(self, values: Any) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(torch.as_tensor(values, dtype=torch.float32).clone())


def quadratic_step(model: Vector, optimizer: torch.optim.Optimizer, target: torch.Tensor) -> None:
    optimizer.zero_grad()
    (0.5 * ((model.x - target) ** 2).sum()).backward()
    optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("graph", [nx.path_graph(3), nx.complete_graph(3)], ids=["path", "complete"])
def test_dpsgd_equals_the_naive_loop(crew: Any, graph: nx.Graph) -> None:
    targets = torch.tensor([[0.0, 1.0], [5.0, -2.0], [10.0, 7.0]])
    start = torch.tensor([3.0, 4.0])
    models = [Vector(start + 100 * number) for number in range(3)]

    def job(number: int) -> torch.Tensor:
        model = models[number]
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        rounds = gt.ExchangeConfig(round_timeout_s=30.0)
        settings = {"mixer": "d_psgd", "topology": graph, "sync_every": 1, "wait_for_peers": 3, "exchange": rounds}
        with crew.peer(number, model, optimizer, **settings):
            for _ in range(STEPS):
                quadratic_step(model, optimizer, targets[number])
            return model.x.detach().clone()

    found = torch.stack(crew.train(*(lambda number=number: job(number) for number in range(3))))

    weights = torch.tensor(topologies.metropolis_hastings(graph), dtype=torch.float32)
    expected = start.repeat(3, 1)
    for _ in range(STEPS):
        expected = weights @ (expected - LR * (expected - targets))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


class Normed(torch.nn.Module):
    """A linear layer and a BatchNorm layer, whose statistics are buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(5, 4, dtype=torch.float64)
        self.norm = torch.nn.BatchNorm1d(4, dtype=torch.float64)

    def numbers(self) -> np.ndarray:
        floating = [t for t in self.state_dict().values() if t.is_floating_point()]
        return torch.cat([t.reshape(-1) for t in floating]).numpy().copy()

    def scatter(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in self.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + seed)


@pytest.mark.slow
def test_adpsgd_conserves_the_sum_of_parameters_and_of_batch_norm_statistics(crew: Any, until: Callable) -> None:
    models = [Normed(), Normed()]
    peers: dict[int, gt.Peer] = {}
    finished: list[bool] = []

    def job(number: int) -> None:
        model = models[number]
        model.scatter(number)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        # Two founders: neither begins from the other's values.
        peers[number] = crew.peer(number, model, optimizer, sync_every=1, wait_for_peers=2, founder=True)
        with peers[number]:
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            until(lambda: optimizer.step() or agree(), "both hold the average")
            finished.append(True)
            until(lambda: len(finished) == 2, "both are finished")

    def agree() -> bool:
        return bool(np.allclose(models[0].numbers(), models[1].numbers(), rtol=0, atol=1e-9))

    before = [Normed(), Normed()]
    for number, model in enumerate(before):
        model.scatter(number)
    total = before[0].numbers() + before[1].numbers()
    crew.train(lambda: job(0), lambda: job(1))
    for model in models:
        np.testing.assert_allclose(2 * model.numbers(), total, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_integer_buffers_come_with_the_state_and_are_not_mixed(crew: Any, until: Callable) -> None:
    models = [torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)) for _ in range(2)]
    peers: dict[int, gt.Peer] = {}

    def job(number: int) -> None:
        models[number][1].num_batches_tracked.fill_(1000 + number)
        with crew.peer(number, models[number], sync_every=1, wait_for_peers=2) as peers[number]:
            assert int(models[number][1].num_batches_tracked) == 1000, "the newcomer has the founder's"
            models[number][1].num_batches_tracked.add_(number)
            until(lambda: peers[number].step() or all(p.exchange_count >= 3 for p in peers.values()), "exchanges")

    crew.train(lambda: job(0), lambda: job(1))
    assert [int(model[1].num_batches_tracked) for model in models] == [1000, 1001]


@pytest.mark.slow
@pytest.mark.parametrize(
    "topology",
    ["one_peer_exponential", "base_k", "hypercube_matchings", "random_matchings", "exponential", "ring"],
)
def test_named_topologies_and_schedules_bring_four_peers_together(crew: Any, until: Callable, topology: str) -> None:
    models = [Vector([0.0, 0.0]) for _ in range(4)]
    done: list[bool] = []

    def job(number: int) -> None:
        model = models[number]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        target = torch.tensor([float(number), 0.0])
        with crew.peer(number, model, optimizer, topology=topology, sync_every=1, wait_for_peers=4):

            def first_value() -> float:
                quadratic_step(model, optimizer, target)
                return float(model.x.detach()[0])

            until(lambda: 1.0 < first_value() < 2.0, "the target 1.5 of all pulls further than the own")
            done.append(True)
            until(lambda: first_value() and len(done) == 4, "everybody was pulled")

    crew.train(*(lambda number=number: job(number) for number in range(4)))


@pytest.mark.slow
def test_a_peer_that_leaves_lets_the_open_exchange_end_first(crew: Any, until: Callable) -> None:
    """Both keep exchanging a vector large enough that leaving at once would nearly always cut an exchange off."""
    models = [Vector(torch.full((500_000,), float(number))) for number in range(2)]
    total = float(sum(model.x.detach().double().sum() for model in models))
    gone: list[int] = []

    def job(number: int) -> None:
        optimizer = torch.optim.SGD(models[number].parameters(), lr=0.0)
        models[number].x.grad = torch.zeros_like(models[number].x)
        peer = crew.peer(number, models[number], optimizer, sync_every=1, wait_for_peers=2, founder=True)
        with peer:
            until(lambda: optimizer.step() or peer.exchange_count >= 5, "they exchange")
            if number == 1:
                until(lambda: optimizer.step() or gone, "the other leaves")
        gone.append(number)

    crew.train(lambda: job(0), lambda: job(1))
    told = (crew.run_dir / "events" / "peer-0.jsonl").read_text()
    assert '"reason":"leaving"' not in told
    assert float(sum(model.x.detach().double().sum() for model in models)) == pytest.approx(total, rel=1e-9)
