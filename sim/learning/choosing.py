"""Batched or loop: what a model can take, found by trying, and what is better for it, by a rule that reads no clock.

The rule must not depend on a measurement: two runs of one program would else differ in their last bits.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from sim.learning.batched import BatchedTrainer
from sim.learning.evaluation import Evaluation
from sim.learning.loop import LoopTrainer
from sim.learning.probe import Probe
from sim.learning.task import Task
from sim.learning.update_rules import Rule
from sim.learning.versions import Correction, Version

# Beyond so many floating-point operations a step, one peer's step fills a core and batches only lose its caches.
FLOPS_MAX_CPU = 30_000_000
FLOPS_MAX_CUDA = 30_000_000_000
PEERS_TRIED, STEPS_TRIED = 3, 2
DIFFERENCE_MAX = {torch.float32: 1e-4, torch.float64: 1e-9}


@dataclass(frozen=True)
class Choice:
    """How steps are computed.

    Attributes:
        mode: "batched" or "loop".
        reason: why the loop was chosen; "" for batched.
        is_forced: the model cannot be batched, as opposed to would not gain by it.
    """

    mode: str
    reason: str = ""
    is_forced: bool = False


def choose(mode: str, task: Task, rule: Rule | str, found: Probe, evaluation: Evaluation | None) -> Choice:
    """Chooses for a model; `mode` is what the user asked for."""
    if mode == "loop":
        return Choice("loop", "asked for")
    limit = FLOPS_MAX_CUDA if task.layout.device.type == "cuda" else FLOPS_MAX_CPU
    if mode == "auto" and found.flops > limit:
        return Choice("loop", f"a step takes {found.flops:.2g} floating-point operations: batches do not pay off")
    reason = rule if isinstance(rule, str) else _obstacle(task, rule, found, evaluation)
    return Choice("loop", reason, is_forced=True) if reason else Choice("batched")


def _obstacle(task: Task, rule: Rule, found: Probe, evaluation: Evaluation | None) -> str:
    """Returns why the model cannot be batched; "" if it can."""
    if found.draws:
        return f"{found.draws}() draws random numbers whose values would depend on a peer's place in a batch"
    unequal = tuple(range(STEPS_TRIED, STEPS_TRIED + PEERS_TRIED))
    last = _LastCall()
    try:
        with last:
            batched = _run(task, BatchedTrainer(task, rule, 1, found.activations), unequal)
            if evaluation is not None:
                evaluation.each(batched)
    except Exception as error:  # whatever a model may raise under vmap is a reason not to use it
        return f"{last.name}() cannot be batched{_place(error)}: {_first_line(error)}"
    difference = _difference(task, batched, _run(task, LoopTrainer(task), unequal))
    if not difference <= DIFFERENCE_MAX[task.layout.dtype]:
        return f"batched and single steps differ by {difference:.2g} of the largest parameter"
    return ""


def _run(task: Task, trainer: BatchedTrainer | LoopTrainer, counts: tuple[int, ...]) -> list[Version]:
    """Trains some peers that begin from the model's own values, and averages the first two."""
    arena = task.arena
    (row,) = arena.take(1)
    arena.values[row], arena.integers[row] = 0, 0
    task.layout.store(task.model, arena.values[row], arena.integers[row])
    begin = Version("begin", arena)
    begin.computed(row)
    versions = [Version(f"trial {peer}", arena, begin, peer=peer, count=count) for peer, count in enumerate(counts)]
    trainer.train(versions)
    mixed = versions[0] + Correction(versions[0], [(versions[1], 0.5)])
    trainer.mix([mixed])
    return [*versions, mixed]


def _difference(task: Task, batched: list[Version], single: list[Version]) -> float:
    values, end = task.arena.values, task.layout.published
    one = values[[version.row for version in batched], :end]
    other = values[[version.row for version in single], :end]
    if not (one.isfinite().all() and other.isfinite().all()):
        return 0.0 if torch.equal(one.isfinite(), other.isfinite()) else float("inf")
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-12))


class _LastCall(TorchFunctionMode):
    """Remembers which function of torch was called last."""

    name = "?"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if name != "__get__":
            self.name = name
        return func(*args, **(kwargs or {}))


def _place(error: Exception) -> str:
    """Says where in the user's own code it happened."""
    ours = str(Path(__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [
        f for f in frames if not f.filename.startswith(ours) and f"{Path('site-packages/torch')}" not in f.filename
    ]
    return f" ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else ""


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
