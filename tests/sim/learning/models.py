"""Small models and data for the tests of `TorchWorkload`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sim

FEATURES, CLASSES = 12, 4


def blobs(samples: int = 400, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Classes around centres of their own."""
    chance = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(99), dtype=dtype)
    y = torch.randint(0, CLASSES, (samples,), generator=chance)
    return centres[y] + torch.randn(samples, FEATURES, generator=chance, dtype=dtype), y


def seeded(make: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return make().to(dtype)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, CLASSES))


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, CLASSES))


def convolutional() -> nn.Module:
    body = (nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Dropout2d(0.2), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(48, CLASSES))


class Reads(nn.Module):
    """Looks at a value: nothing that vmap can take."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        scale = 2.0 if x.mean().item() > 0 else 1.0
        return scale * self.body(x)


def workload(model: Any, dtype: torch.dtype = torch.float32, **options: Any) -> sim.TorchWorkload:
    data, held_out = blobs(dtype=dtype), blobs(100, dtype, seed=1)
    steps = sim.LogNormalSteps(0.05, 0.4, 0.1)
    made = model if isinstance(model, nn.Module) else seeded(model, dtype)
    options = {"batch_size": 8, "evaluate": held_out, "step_times": steps, "threads": 1, **options}
    return sim.TorchWorkload(made, F.cross_entropy, data, **options)


def simulate(work: sim.TorchWorkload, until_s: float = 3.5, **options: Any) -> tuple[sim.Report, Tensor]:
    """Runs a simulation; returns its report and the living peers' values, [N, M]."""
    simulation = sim.Simulation(**{"peers": 5, "workload": work, "seed": 3, **options})
    report = simulation.run(until_s)
    values = [work.vector(work.publish(peer.host)).clone() for peer in simulation.living()]
    return report, torch.stack(values)
