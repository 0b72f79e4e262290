"""Measures over the living peers: each one's loss and accuracy, those of the average, and how far they are apart.

Each peer is evaluated on a fixed random part of the evaluation set (256 samples unless told otherwise), all peers stacked;
the average of their parameters on the whole set. A loss is taken for a mean over samples.

Legend: G peers, W width of a row, E samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from sim.learning.layout import StateLayout
from sim.learning.samples import Samples, classes_of, correct_share
from sim.learning.stacked import StackedForward
from sim.learning.task import Task
from sim.learning.versions import Version

AVERAGE_SAMPLES = 1024
STACKED_BYTES = 8 << 20


class Evaluation:
    """Evaluates versions on a set.

    Attributes:
        stacks: peers are evaluated together; else one after the other.
    """

    def __init__(self, task: Task, samples: Samples, part: Tensor, activations_each: int) -> None:
        """
        Args:
            samples: the whole set. part: numbers of the samples that each peer is evaluated on.
            activations_each: numbers that one sample's forward pass makes.
        """
        self._task, self._samples = task, samples
        self._part = Samples(samples.x[part], samples.y[part])
        self._model = task.copy_of_model().eval()
        self._kernel = StackedForward.of(self._model)
        self.stacks = True
        each = task.layout.dtype.itemsize * (task.layout.width + len(part) * activations_each)
        self._chunk = max(2, STACKED_BYTES // each)

    @torch.no_grad()
    def each(self, versions: Sequence[Version]) -> dict[str, list[float]]:
        """Returns "loss", and "accuracy" where the set has classes, one number a version."""
        rows = [version.row for version in versions]
        found: dict[str, list[float]] = {}
        step = self._chunk if self.stacks else 1
        for start in range(0, len(rows), step):
            for name, numbers in self._of_rows(rows[start : start + step]).items():
                found.setdefault(name, []).extend(numbers)
        return found

    @torch.no_grad()
    def average(self, row_W: Tensor, integers_I: Tensor) -> dict[str, float]:
        """Returns "loss" and "accuracy" of one row on the whole set."""
        self._task.layout.load(self._model, row_W, integers_I)
        totals: dict[str, float] = {}
        count = len(self._samples.x)
        for x, y in _pieces(self._samples, AVERAGE_SAMPLES):
            for name, number in self._measures(self._model(x), y).items():
                totals[name] = totals.get(name, 0.0) + float(number) * len(x) / count
        return totals

    def _of_rows(self, rows: list[int]) -> dict[str, list[float]]:
        arena, layout = self._task.arena, self._task.layout
        values_GW, integers_GI = arena.values[rows], arena.integers[rows]
        x, y = self._part
        if not self.stacks:
            layout.load(self._model, values_GW[0], integers_GI[0])
            return {name: [float(number)] for name, number in self._measures(self._model(x), y).items()}
        leaves = layout.leaves(values_GW)
        if self._kernel is not None:
            output = self._kernel(leaves, x.expand(len(rows), *x.shape))
            measured = vmap(self._measures, in_dims=(0, None))(output, y)
        else:
            of_one = vmap(self._forward, in_dims=(0, 0, None, None), randomness="same")
            measured = of_one(leaves, layout.buffers(values_GW, integers_GI), x, y)
        return {name: numbers.tolist() for name, numbers in measured.items()}

    def _forward(
        self, leaves: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor
    ) -> dict[str, Tensor]:
        return self._measures(functional_call(self._model, {**leaves, **buffers}, (x,)), y)

    def _measures(self, output: Any, y: Tensor) -> dict[str, Tensor]:
        found = {"loss": self._task.loss_fn(output, y)}
        return found | {"accuracy": correct_share(output, y)} if classes_of(output, y) is not None else found


def _pieces(samples: Samples, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(samples.x.split(size), samples.y.split(size))


def mean_and_distances(values_GW: Tensor, layout: StateLayout) -> tuple[Tensor, list[float]]:
    """Returns the average of what is published as a row [W] (the rest is the first peer's), and ||x_i - mean|| of each."""
    row_W = values_GW[0].clone()
    row_W[: layout.published] = values_GW[:, : layout.published].mean(dim=0)
    apart_GP = values_GW[:, : layout.size] - row_W[: layout.size]
    return row_W, torch.linalg.vector_norm(apart_GP, dim=1).tolist()
