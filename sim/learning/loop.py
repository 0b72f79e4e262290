"""Loop mode: one peer after the other, with the user's module and a real `torch.optim`. The reference, for any model."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gossiptrain.errors import ConfigurationError
from gossiptrain.mixing.base import weighted_difference
from sim.learning.dropout import KeyedDropout
from sim.learning.task import Task
from sim.learning.threads import one_intra_op_thread
from sim.learning.versions import Version

# Steps of fewer floating-point operations do not gain by torch's own threads.
FLOPS_THREADS = 300_000_000


class LoopTrainer:
    """Computes versions one by one."""

    def __init__(self, task: Task, flops: int = 0) -> None:
        """
        Args:
            task: what is trained.
            flops: floating-point operations of a step; small steps are slower with torch's own threads than without.
        """
        self._threads = one_intra_op_thread if flops < FLOPS_THREADS else contextlib.nullcontext
        self._task = task
        self._model = task.copy_of_model()
        parameters = dict(self._model.named_parameters())
        self._parameters = [parameters[entry.name] for entry in task.layout.parameters]
        self._optimizer = task.make_optimizer(self._parameters)
        buffers = dict(self._model.named_buffers())
        self._constants = {name: (buffers[name], buffers[name]._version) for name in task.layout.constants}

    def train(self, versions: list[Version]) -> None:
        """See `Trainer`."""
        with own_chance(self._task), self._threads():
            for version in versions:
                self._train_one(version)
        self._check_constants()

    def mix(self, versions: list[Version]) -> None:
        """See `Trainer`; with `gossiptrain.mixing`, as real peers do."""
        with self._threads():
            for version in versions:
                mix_one(self._task, version)

    def _train_one(self, version: Version) -> None:
        task, parent = self._task, version.parent
        assert parent is not None
        arena = task.arena
        task.layout.load(self._model, arena.values[parent.row], arena.integers[parent.row])
        self._optimizer.state.clear()
        for parameter, kept in zip(self._parameters, parent.kept or ()):
            self._optimizer.state[parameter] = _copied(kept)
        losses = self._steps(version, parent.steps)
        (row,) = arena.take(1)
        task.layout.store(self._model, arena.values[row], arena.integers[row])
        version.kept = [_copied(self._optimizer.state.get(parameter, {})) for parameter in self._parameters]
        version.computed(row)
        version.loss = float(torch.stack(losses).mean())
        version.reach = float(arena.values[row, : task.layout.published].abs().amax())

    def _steps(self, version: Version, first: int) -> list[Tensor]:
        task, peer = self._task, version.peer
        losses = []
        for index, samples in enumerate(task.batches.take(peer, first, version.count)):
            numbers = torch.from_numpy(samples).to(task.x.device)
            x, y = task.x[numbers], task.y[numbers]
            if task.rates is not None:
                for group, rate in zip(self._optimizer.param_groups, task.rates.at(first + index)):
                    group["lr"] = rate
            losses.append(self._step(x, y, task.key(peer, first + index) if task.drops or task.draws else 0))
        return losses

    def _step(self, x: Tensor, y: Tensor, key: int) -> Tensor:
        """One optimizer step through a closure, which those that need one (LBFGS) call as often as they like."""
        task = self._task

        def closure() -> Tensor:
            self._optimizer.zero_grad()
            if task.draws:
                torch.manual_seed(key)
            with KeyedDropout(torch.tensor(key, device=x.device)) if task.drops else contextlib.nullcontext():
                output = self._model(x)
            loss = task.loss_fn(output, y)
            loss.backward()
            return loss.detach()

        with torch.enable_grad():
            return self._optimizer.step(closure)  # type: ignore[arg-type,return-value]

    def _check_constants(self) -> None:
        for name, (buffer, version) in self._constants.items():
            if buffer._version != version:
                raise ConfigurationError(
                    f"model: buffer {name!r} was changed by a step, but not by the first one, so that it was taken for "
                    "equal on all peers; change it in every step, or keep it in a parameter with requires_grad=False"
                )


@torch.no_grad()
def mix_one(task: Task, version: Version) -> None:
    """Adds a correction to a version's parent: parameters by addition, buffers by a move towards the others' average."""
    parent, correction, layout, arena = version.parent, version.correction, task.layout, task.arena
    assert parent is not None
    assert correction is not None
    (row,) = arena.take(1)
    values = arena.values
    values[row], arena.integers[row] = values[parent.row], arena.integers[parent.row]
    if correction.inbox:
        received = [(values[other.row], weight) for other, weight in correction.inbox]
        own_P = task.read(values[correction.own.row, : layout.size], correction)
        inbox = [(task.read(other[: layout.size], correction), weight) for other, weight in received]
        change_P, _ = weighted_difference(own_P, inbox)
        values[row, : layout.size] += change_P
        if layout.mixed:
            _move_buffers(values[row, layout.size : layout.published], received, layout.size, layout.published)
    version.loss, version.kept = parent.loss, parent.kept
    version.computed(row)


def _move_buffers(buffers: Tensor, received: list[tuple[Tensor, float]], start: int, end: int) -> None:
    first, total = received[0]
    mean = first[start:end].clone()
    for other, weight in received[1:]:
        total += weight
        mean.lerp_(other[start:end], weight / total)
    buffers.lerp_(mean, min(1.0, total))


@contextlib.contextmanager
def own_chance(task: Task) -> Iterator[None]:
    """What draws from torch's generator is seeded anew for each step; the program's own state of it comes back after."""
    if not task.draws:
        yield
        return
    devices = [task.layout.device] if task.layout.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        yield


def _copied(kept: Any) -> Any:
    """Copies what an optimizer keeps, so that no later step reaches it."""
    if isinstance(kept, Tensor):
        return kept.clone()
    if isinstance(kept, dict):
        return {name: _copied(value) for name, value in kept.items()}
    if isinstance(kept, (list, tuple)):
        return type(kept)(_copied(value) for value in kept)
    return kept if isinstance(kept, nn.Module) else copy.deepcopy(kept)
