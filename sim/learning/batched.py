"""Batched mode: many peers' steps at once, with `torch.func.vmap` over the model and one backward pass for all.

Three kernels, the first that a model is simple enough for: steps written by hand (`by_hand`), layers stacked by hand with
autograd's backward pass (`stacked`), or `vmap`.

Legend: G peers in a group, W width of a row, P parameters, B samples of a batch.

A group is computed in chunks of a fixed size, by threads that share nothing. What a chunk holds and in which order depends
on the run alone, never on the number of threads. Torch's own threads only get in the way of work this small: they are off
meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from sim.learning.by_hand import HandWritten
from sim.learning.dropout import KeyedDropout
from sim.learning.stacked import StackedForward, stacked_loss
from sim.learning.task import Task
from sim.learning.threads import one_intra_op_thread
from sim.learning.update_rules import Rule
from sim.learning.versions import Version
from sim.learning.workspace import Workspace

# What a chunk's parameters, gradients and activations may take, so that they stay in a core's second-level cache.
CHUNK_BYTES = 4 << 20
CHUNK_PEERS = (8, 256)
CHUNK_PEERS_CUDA = 512
MIX_BYTES = 1 << 20
# Kernels of convolutions and of batch normalization go over all peers of a group in one row: bits depend on its size.
PAD = 8
PADDED = (_ConvNd, _NormBase)


class _Tools(NamedTuple):
    """What a thread needs for itself."""

    model: nn.Module
    space: Workspace


class BatchedTrainer:
    """Computes versions together.

    Attributes:
        chunk: at most so many peers are computed in one go.
        kernel: "hand-written" for dense layers with plain SGD, "stacked" for other plain sequences of layers, else "vmap".
    """

    def __init__(self, task: Task, rule: Rule, threads: int, activations: int) -> None:
        """
        Args:
            task: what is trained. rule: the optimizer's.
            threads: Python threads, at least 1.
            activations: numbers that one peer's forward pass keeps.
        """
        self._task, self._rule = task, rule
        self._tools = [_Tools(task.copy_of_model(), Workspace()) for _ in range(threads)]
        self._space = Workspace()
        self._stacked = StackedForward.of(task.model) if not task.drops else None
        is_plain = self._stacked is not None and rule.plain_lr is not None
        self._by_hand = HandWritten.of(task.model, task.loss_fn, task.y) if is_plain else None
        self.kernel = "hand-written" if self._by_hand else "stacked" if self._stacked else "vmap"
        self._forward = vmap(self._loss_of_one, in_dims=(None, 0, 0, 0, 0))
        self._losses = stacked_loss(task.loss_fn, task.y)
        self._pool = (
            ThreadPoolExecutor(threads, "simulated steps", torch.set_num_threads, (1,)) if threads > 1 else None
        )
        self._pad = PAD if any(isinstance(m, PADDED) for m in task.model.modules()) else 1
        # By hand there are no gradients, but the derivatives by the activations.
        each = task.layout.width + (
            2 * activations if self._by_hand else task.layout.width + task.layout.size + activations
        )
        self.chunk = chunk_size(task, each)

    def train(self, versions: list[Version]) -> None:
        """See `Trainer`."""
        # Longest first, so that those still at work are always the first rows; sorting is stable.
        ordered = sorted(versions, key=lambda version: -version.count)
        # As many chunks as it takes, of even sizes: a small one costs nearly as much as a full one.
        even = -(-len(ordered) // -(-len(ordered) // self.chunk))
        chunks = [ordered[start : start + even] for start in range(0, len(ordered), even)]
        works = [_Chunk(self._task, chunk, self._pad) for chunk in chunks]
        with one_intra_op_thread():
            if self._pool is None or len(works) == 1:
                results = [self._run(work) for work in works]
            else:
                results = list(self._pool.map(self._run, works))
        for work, (losses, reaches) in zip(works, results):
            work.finish(losses, reaches)

    @torch.no_grad()
    def mix(self, versions: list[Version]) -> None:
        """See `Trainer`."""
        by_kind: dict[tuple[int, bool], list[Version]] = {}
        for version in versions:
            assert version.correction is not None
            kind = (len(version.correction.inbox), version.correction.is_read)
            by_kind.setdefault(kind, []).append(version)
        width = self._task.layout.width * self._task.layout.dtype.itemsize
        most = max(1, MIX_BYTES // width)
        with one_intra_op_thread():
            for members in by_kind.values():
                for start in range(0, len(members), most):
                    self._mix(members[start : start + most])

    def _run(self, work: _Chunk) -> tuple[list[float], list[float]]:
        tools = self._tools.pop()
        try:
            return self._train_chunk(tools, work)
        finally:
            self._tools.append(tools)

    def _train_chunk(self, tools: _Tools, work: _Chunk) -> tuple[list[float], list[float]]:
        arena, layout = self._task.arena, self._task.layout
        values_GW = tools.space.gather("rows", arena.values, work.from_rows)
        integers_GI = arena.integers[work.from_rows]
        losses_G = torch.zeros(len(values_GW), dtype=layout.dtype, device=values_GW.device)
        reaches_G = torch.empty(len(work.to_rows), dtype=layout.dtype, device=values_GW.device)
        for step, (active, still) in enumerate(zip(work.active, (*work.active[1:], 0))):
            size = work.padded(active)
            losses_G[:active] += self._step(tools, values_GW[:size], integers_GI[:size], work, step)[:active]
            if still < active:
                over_GW, rows = values_GW[still:active], work.to_rows[still:active]
                arena.values[rows], arena.integers[rows] = over_GW, integers_GI[still:active]
                size_GM = tools.space.take("sizes", over_GW, active - still, layout.published)
                reaches_G[still:active] = torch.abs(over_GW[:, : layout.published], out=size_GM).amax(dim=1)
        return losses_G.tolist(), reaches_G.tolist()

    def _step(self, tools: _Tools, block_GW: Tensor, integers_GI: Tensor, work: _Chunk, step: int) -> Tensor:
        """One step of each peer, in place; returns their losses, [G]."""
        layout, task, active = self._task.layout, self._task, len(block_GW)
        samples_GB, lrs = work.samples(step, active), work.rates(step, active)
        x, y = task.x[samples_GB], task.y[samples_GB]
        if self._by_hand is not None and self._rule.plain_lr is not None:
            return self._by_hand.step(layout.leaves(block_GW), x, y, lrs or self._rule.plain_lr, tools.space)
        leaves = {name: view.requires_grad_() for name, view in layout.leaves(block_GW).items()}
        if self._stacked is not None:
            losses_G = self._losses(self._stacked(leaves, x), y)
        else:
            # Copies: into strided views, as these are, vmap's batch_norm writes nothing back.
            views = layout.buffers(block_GW, integers_GI)
            buffers = {name: view.clone() for name, view in views.items()}
            losses_G = self._forward(tools.model, leaves | buffers, x, y, work.keys(step, active))
            for name, view in views.items():
                view.copy_(buffers[name])
        grads = torch.autograd.grad(losses_G.sum(), list(leaves.values()))
        with torch.no_grad():
            if self._rule.plain_lr is not None and lrs is None:
                for leaf, grad in zip(leaves.values(), grads):
                    leaf.data.sub_(grad, alpha=self._rule.plain_lr)
                return losses_G.detach()
            grad_GP = block_GW.new_empty(active, layout.size)
            for entry, grad in zip(layout.parameters, grads):
                entry.of(grad_GP).copy_(grad)
            slots = [layout.slot(block_GW, index) for index in range(layout.slots)]
            self._rule.step(block_GW[:, : layout.size], grad_GP, slots, work.steps(step, active), lrs)
        return losses_G.detach()

    def _loss_of_one(self, model: nn.Module, state: dict[str, Tensor], x: Tensor, y: Tensor, key: Tensor) -> Tensor:
        with KeyedDropout(key) if self._task.drops else contextlib.nullcontext():
            output: Any = functional_call(model, state, (x,))
        return self._task.loss_fn(output, y)

    def _mix(self, versions: list[Version]) -> None:
        """Adds corrections of one kind, with inboxes of one length, each inbox in its order."""
        layout, arena, space, task = self._task.layout, self._task.arena, self._space, self._task
        parents, corrections = [v.parent for v in versions], [v.correction for v in versions]
        rows = arena.take(len(versions))
        published_NM, P = arena.values[:, : layout.published], layout.size
        own_GM = space.gather("own", published_NM, [c.own.row for c in corrections if c])
        change_GP = total_G1 = mean_GM = None
        one = corrections[0]
        assert one is not None
        own_GP = task.read(own_GM[:, :P], one)
        for place in range(len(one.inbox)):
            entries = [c.inbox[place] for c in corrections if c]
            other_GM = space.gather("other" if place else "first", published_NM, [other.row for other, _ in entries])
            weight_G1 = own_GM.new_tensor([[weight] for _, weight in entries])
            part_GP = task.read(other_GM[:, :P], one).sub_(own_GP).mul_(weight_G1)
            change_GP = part_GP if change_GP is None else change_GP.add_(part_GP)
            if layout.mixed:
                total_G1 = weight_G1 if total_G1 is None else total_G1 + weight_G1
                mean_GM = other_GM[:, P:] if mean_GM is None else mean_GM.lerp(other_GM[:, P:], weight_G1 / total_G1)
        parent_rows = torch.tensor([parent.row for parent in parents if parent], device=own_GM.device)
        block_GW = space.gather("block", arena.values, parent_rows)
        if change_GP is not None:
            block_GW[:, :P] += change_GP
        if mean_GM is not None and total_G1 is not None:
            buffers_GM = block_GW[:, P : layout.published]
            buffers_GM.copy_(buffers_GM.lerp(mean_GM, total_G1.clamp(max=1.0)))
        to_rows = torch.tensor(rows, device=own_GM.device)
        arena.values.index_copy_(0, to_rows, block_GW)
        arena.integers[to_rows] = arena.integers[parent_rows]
        for version, row, parent in zip(versions, rows, parents):
            assert parent is not None
            version.loss = parent.loss
            version.computed(row)


class _Chunk:
    """Peers whose blocks are computed in one go, longest block first.

    Where bits depend on the size of a group, as grouped convolutions' do, it is filled up to a multiple of `pad`: with
    peers that have finished, or the first one again; what comes out for those is thrown away.

    Attributes:
        from_rows, to_rows: rows of the arena; those to fill up have no row to go to. active: how many take each step.

    Legend: S steps, G peers, B samples of a batch.
    """

    def __init__(self, task: Task, versions: Sequence[Version], pad: int) -> None:
        self._task, self._versions, self._pad = task, versions, pad
        self.to_rows = task.arena.take(len(versions))
        counts = [version.count for version in versions]
        self.active = [sum(count > step for count in counts) for step in range(counts[0])]
        self._rows = [*versions, *[versions[0]] * (self.padded(len(versions)) - len(versions))]
        parents = [version.parent for version in self._rows]
        self.from_rows = torch.tensor([p.row for p in parents if p is not None], device=task.x.device)
        self._first = [parent.steps for parent in parents if parent is not None]
        # Here and not in `rates`: a schedule is asked by one thread only.
        rates, starts = task.rates, zip(self._rows, self._first)
        self._rates = [[rates.at(first + step)[0] for step in range(v.count)] for v, first in starts] if rates else []
        samples_SGB = np.empty((counts[0], len(self._rows), task.batches.batch_size), dtype=np.int64)
        for place, (version, first) in enumerate(zip(self._rows, self._first)):
            taken = task.batches.take(version.peer, first, version.count)
            samples_SGB[: version.count, place], samples_SGB[version.count :, place] = taken, taken[-1]
        self._samples_SGB = torch.from_numpy(samples_SGB).to(task.x.device)

    def padded(self, size: int) -> int:
        """The size that a group of so many is filled up to."""
        return -(-size // self._pad) * self._pad

    def samples(self, step: int, active: int) -> Tensor:
        """Sample numbers of one step, [active, B]."""
        return self._samples_SGB[step, :active]

    def steps(self, step: int, active: int) -> list[int]:
        """Steps that each peer has taken before this one."""
        return [first + step for first in self._first[:active]]

    def rates(self, step: int, active: int) -> list[float] | None:
        """Each peer's learning rate; None where no schedule tells it."""
        return [lrs[min(step, len(lrs) - 1)] for lrs in self._rates[:active]] if self._rates else None

    def keys(self, step: int, active: int) -> Tensor:
        """The keys of each peer's random choices, int64 [active]; zeros where there are none."""
        task = self._task
        if not task.drops:
            return torch.zeros(active, dtype=torch.int64, device=task.x.device)
        keys = [task.key(v.peer, first + step) for v, first in zip(self._rows[:active], self._first)]
        return torch.tensor(keys, device=task.x.device)

    def finish(self, losses: Sequence[float], reaches: Sequence[float]) -> None:
        """The numbers are in the arena."""
        for version, row, loss, reach in zip(self._versions, self.to_rows, losses, reaches):
            version.loss, version.reach = loss / version.count, reach
            version.computed(row)


def chunk_size(task: Task, each: int) -> int:
    """Returns how many peers, of so many numbers each, are computed in one go: a power of two."""
    low, high = CHUNK_PEERS
    if task.layout.device.type == "cuda":
        return CHUNK_PEERS_CUDA
    size = low
    while size < high and 2 * size * each * task.layout.dtype.itemsize <= CHUNK_BYTES:
        size *= 2
    return size
