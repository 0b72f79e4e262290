"""A real model, loss, data set and optimizer as a simulation's workload.

Nothing is computed when the simulation says train, mix or adopt: see `sim.learning.versions` and `sim.learning.pending`.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gossiptrain.compression import Codec, rounded
from gossiptrain.compression.registry import codec_of
from gossiptrain.errors import ConfigurationError
from gossiptrain.partitions import partition as share_out
from gossiptrain.tug import stride
from sim.learning import samples as reading
from sim.learning.arena import Arena
from sim.learning.batched import BatchedTrainer
from sim.learning.batches import Batches
from sim.learning.choosing import Choice, choose
from sim.learning.evaluation import Evaluation, mean_and_distances
from sim.learning.layout import StateLayout
from sim.learning.loop import LoopTrainer
from sim.learning.pending import Pending
from sim.learning.probe import probe
from sim.learning.rates import Rates
from sim.learning.task import Loss, MakeOptimizer, Task
from sim.learning.threads import default_threads
from sim.learning.update_rules import recognise
from sim.learning.versions import Correction, Version
from sim.step_times import ConstantSteps, StepTimes
from sim.streams import generator
from sim.workload import Workload

MODES = ("auto", "batched", "loop")
# A number below this share of the largest finite one cannot become infinite by being mixed once more.
REACH_SHARE = 1e-3


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """Returns the default optimizer, `torch.optim.SGD` with a learning rate of 0.1."""
    return torch.optim.SGD(parameters, lr=0.1)


class TorchWorkload(Workload):
    """Trains copies of a PyTorch model, one a peer, on shares of a data set.

    In batched mode many peers' steps are computed at once; in loop mode one peer's after the other, with the module and a
    real `torch.optim`. Events and times are the same in both. Parameters agree up to rounding, which training makes larger
    as it goes on: after a hundred steps and their mixings they are equal within 1e-3 of the largest one in float32, within
    1e-9 in float64, and with a codec within its steps. In either mode the same run gives the same bits again on the same
    machine.

    Attributes:
        choice: the mode that is used, and why.
        snapshot_bytes, step_times: see `Workload`.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        loss_fn: Loss,
        data: Any,
        *,
        optimizer: MakeOptimizer = sgd,
        schedule: Any = None,
        batch_size: int = 32,
        partition: Any = "iid",
        evaluate: Any = None,
        evaluation_samples: int = 256,
        mode: str = "auto",
        device: str | torch.device = "cpu",
        threads: int | None = None,
        codec: Codec | str = "none",
        step_times: StepTimes | None = None,
        snapshot_bytes: int | None = None,
    ) -> None:
        """
        Args:
            model: where founders begin; it is copied, never changed. A function that makes one is called anew for each
                simulation, with torch's generator seeded by the simulation's seed.
            loss_fn: of (output, targets), a scalar, such as `torch.nn.functional.cross_entropy`.
            data: (x, y) tensors, a data set of such pairs (read into memory once), or a set of `gossiptrain.data.load`,
                whose test part is the default of `evaluate`.
            optimizer: a function of the parameters, such as `lambda p: torch.optim.Adam(p, lr=1e-3)`; default SGD, 0.1.
            schedule: of the learning rate, by the steps that a peer's state has taken: a function of the step that returns
                a factor, such as `lambda step: 0.999**step`, or one of the optimizer that returns one of
                `torch.optim.lr_scheduler`. Who joins takes over its donor's step count.
            batch_size: samples of a step, at least 1 and at most all.
            partition: which samples each peer has: "iid", ("dirichlet", alpha), ("shards", shards of each peer),
                ("column", one value a sample), or a function of (labels, peers, generator); see `gossiptrain.partitions`.
                Peers that join later have shares of those that began.
            evaluate: a set like `data` on which peers and the average of their parameters are evaluated.
            evaluation_samples: each peer is evaluated on a fixed random part of so many; the average on all.
            mode: "auto" (batched where the model can take it and gains by it), "batched", or "loop".
            device: "cpu" or "cuda".
            threads: Python threads of batched mode on a CPU; default the cores that there are, at most 8. The numbers do
                not depend on it.
            codec: how parameters are written on the wire, by name ("bfloat16", "float16", "int8") or a codec of
                `gossiptrain.compression`; what peers mix is rounded by it, and snapshots are smaller.
            step_times: how long steps last; default `ConstantSteps()`.
            snapshot_bytes: bytes of a snapshot on the wire; default those of the parameters, as the codec writes them, and
                of the mixed buffers.

        Raises:
            ConfigurationError: an argument does not fit; the message names it. With mode="batched": the model cannot be
                batched, and which operation is the reason.
        """
        if mode not in MODES:
            raise ConfigurationError(f"mode={mode!r}: must be one of {', '.join(MODES)}")
        self._device, self._codec = _device(device), codec_of(codec)
        self._make_model = None if isinstance(model, nn.Module) else model
        self._model = _structure(model, 0).to(self._device)
        train = reading.read(data, "data")
        self._evaluation_set = reading.evaluation_of(evaluate, data, train)
        if not isinstance(batch_size, int) or not 1 <= batch_size <= len(train.x):
            raise ConfigurationError(
                f"batch_size={batch_size!r}: must be between 1 and the number of samples, {len(train.x)}"
            )
        if evaluation_samples < 1:
            raise ConfigurationError(f"evaluation_samples={evaluation_samples!r}: must be at least 1")
        if threads is not None and threads < 1:
            raise ConfigurationError(f"threads={threads!r}: must be at least 1")
        self._labels = train.y.cpu().numpy()
        self._train = reading.Samples(*(part.to(self._device) for part in train))
        if self._evaluation_set is not None:
            self._evaluation_set = reading.Samples(*(part.to(self._device) for part in self._evaluation_set))
        self._loss_fn, self._make_optimizer = loss_fn, optimizer
        self._batch_size, self._partition, self._evaluation_samples = batch_size, partition, evaluation_samples
        self._threads = threads or (1 if self._device.type == "cuda" else default_threads())
        StateLayout(self._model, (), 0)  # says at once when there is nothing to train
        self._found = probe(self._model, loss_fn, self._train, self._evaluation_set, batch_size)
        self._rule = _rule(optimizer, self._model)
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._rates = Rates(schedule, optimizer, trained) if schedule is not None else None
        slots = 0 if isinstance(self._rule, str) else self._rule.slots
        self.choice = self._choose(mode, slots)
        self._layout = StateLayout(self._model, self._found.changing, slots if self.choice.mode == "batched" else 0)
        self.snapshot_bytes = snapshot_bytes if snapshot_bytes is not None else self._layout.wire_bytes(self._codec)
        self.state_bytes = self._layout.nbytes if self._codec is not None else self.snapshot_bytes
        if self.snapshot_bytes < 1:
            raise ConfigurationError(f"snapshot_bytes={snapshot_bytes!r}: must be at least 1")
        self.step_times = step_times or ConstantSteps()
        self._limit = _limit(self._layout.dtype, self._codec)
        self._peers = 0

    def describe(self) -> str:
        name = getattr(self._model, "_get_name", lambda: type(self._model).__name__)()
        rule = self._make_optimizer([nn.Parameter(torch.zeros(1))])
        kernel = f" ({self._trainer.kernel})" if self._peers and isinstance(self._trainer, BatchedTrainer) else ""
        reason = f": {self.choice.reason}" if self.choice.reason else ""
        scheduled = " by a schedule" if self._rates is not None else ""
        packed = f", sent by {self._codec!r}" if self._codec is not None else ""
        return (
            f"TorchWorkload: {name}, {self._layout.size:,} parameters, {type(rule).__name__}{scheduled}, "
            f"batches of {self._batch_size} of {len(self._train.x):,} samples, "
            f"{self.choice.mode}{kernel} mode{reason}{packed}"
        )

    def parameters(self) -> tuple[str, ...]:
        return self._layout.describe()

    def prepare(self, peers: int, seed: int) -> None:
        if len(self._labels) < peers:
            raise ConfigurationError(f"peers={peers}: there are only {len(self._labels)} samples; each peer needs one")
        self._peers = peers
        if self._make_model is not None:
            self._model = _structure(self._make_model, seed).to(self._device)
        shares = share_out(self._partition, self._labels, peers, generator(seed, "partition"))
        task = self._task = self._make_task(self._layout, Batches(seed, shares, self._batch_size), seed)
        if self.choice.mode == "batched" and not isinstance(self._rule, str):
            self._trainer = BatchedTrainer(task, self._rule, self._threads, self._found.activations)
        else:
            self._trainer = LoopTrainer(task, self._found.flops)
        self._pending = Pending(self._trainer)
        self._evaluation = self._make_evaluation(task, generator(seed, "evaluation"))
        self._made = 0
        self._current: dict[int, Version] = {}
        self._planned: dict[int, tuple[Version, Version]] = {}
        self._first = self._first_version(task)

    def begin(self, seed: int, peer: int) -> None:
        if not self._peers:
            self.prepare(peer + 1, seed)
        self._planned.pop(peer, None)
        self._current[peer] = self._first

    def plan(self, peer: int, steps: int) -> None:
        source = self._current[peer]
        self._planned[peer] = (source, self._new(source, None, peer, steps))

    def train(self, peer: int, steps: int) -> None:
        source = self._current[peer]
        planned_from, version = self._planned.pop(peer, (None, None))
        if version is None or planned_from is not source or version.count != steps:
            version = self._new(source, None, peer, steps)
        self._current[peer] = version

    def publish(self, peer: int) -> Version:
        return self._current[peer]

    def mix(self, own: Version, inbox: Sequence[tuple[Version, float]]) -> Correction:
        return Correction(own, inbox)

    def scale(self, own: Version, base: Version, factor: float) -> Correction:
        """See `Workload`; these values are the peer's own, and no codec rounds them."""
        return Correction(own, [(base, 1 - factor)], is_read=False)

    def correct(self, peer: int, correction: Correction) -> None:
        self._current[peer] = self._new(self._current[peer], correction, peer, 0)

    def adopt(self, peer: int, value: Version) -> None:
        """Takes over the whole state: parameters, buffers, what the optimizer keeps, and its step count."""
        self._current[peer] = value

    def spoil(self, value: Version) -> Version:
        spoiled = Version(f"{value.name} spoiled", value.arena)
        spoiled.reach = math.nan
        return spoiled

    def is_finite(self, value: Version) -> bool:
        """See `Workload`; what is only mixed is not computed for it while it cannot have become infinite."""
        self._pending.compute(value.unbounded())
        reach = value.bound()
        if reach is not None and reach < self._limit:
            return True
        if not value.is_computed and value.parent is None:
            return False
        x_M = self.vector(value)
        read_P = rounded(self._codec, x_M[: self._layout.size]) if self._codec is not None else x_M
        return bool(x_M.isfinite().all()) and bool(read_P.isfinite().all())

    def distance(self, one: Version, other: Version) -> float:
        """See `Workload`; computes both."""
        self._pending.compute([one, other])
        values_N, size = self._task.arena.values, self._layout.size
        return float(torch.linalg.vector_norm(values_N[one.row, :size] - values_N[other.row, :size]))

    def sample(self, value: Version) -> Tensor:
        """See `Workload`; computes it."""
        self._pending.compute([value])
        size = self._layout.size
        return self._task.arena.values[value.row, : size : stride(size)].clone()

    def measure(self, peers: Sequence[int]) -> dict[str, float | Sequence[float]]:
        """Measures these peers; see `Workload`.

        Returns:
            "consensus_distance", sqrt(mean_i ||x_i - mean||^2) of the parameters; "train_loss" of the last blocks; with
            an evaluation set "loss" and "accuracy", means over the peers, "average_loss" and "average_accuracy", of the
            average of their parameters; and with "peer_" in front ("peer_distance", ...) one number a peer.
        """
        if not peers:
            return {}
        versions = [self._current[peer] for peer in peers]
        self._pending.compute(versions)
        rows = [version.row for version in versions]
        row_W, distances = mean_and_distances(self._task.arena.values[rows], self._layout)
        found: dict[str, float | Sequence[float]] = {
            "consensus_distance": math.hypot(*distances) / math.sqrt(len(distances)),
            "peer_distance": distances,
        }
        losses = [version.loss for version in versions]
        if any(version.steps for version in versions):
            found["train_loss"] = _mean([loss for version, loss in zip(versions, losses) if version.steps])
            found["peer_train_loss"] = losses
        if self._evaluation is not None:
            each = self._evaluation.each(versions)
            average = self._evaluation.average(row_W, self._task.arena.integers[rows[0]])
            found |= {name: _mean(numbers) for name, numbers in each.items()}
            found |= {f"peer_{name}": numbers for name, numbers in each.items()}
            found |= {f"average_{name}": number for name, number in average.items()}
        return found

    def vector(self, value: Version) -> Tensor:
        """Computes a published value and returns it: the parameters, then the mixed buffers, [M]; do not write into it."""
        self._pending.compute([value])
        return self._task.arena.values[value.row, : self._layout.published]

    def model_of(self, peer: int) -> nn.Module:
        """Returns a copy of a peer's model as it is now."""
        version = self._current[peer]
        self._pending.compute([version])
        model = copy.deepcopy(self._model)
        self._layout.load(model, self._task.arena.values[version.row], self._task.arena.integers[version.row])
        return model

    def shares(self) -> list[np.ndarray]:
        """Returns the sample numbers of each peer, for a picture of the partition."""
        return list(self._task.batches.shares)

    @property
    def batch_mean(self) -> float:
        """How many peers' blocks were computed together, on average."""
        return self._pending.blocks / max(1, self._pending.batches)

    def _new(self, parent: Version, correction: Correction | None, peer: int, count: int) -> Version:
        self._made += 1
        name = f"version {self._made} of peer {peer}"
        version = Version(name, self._task.arena, parent, correction, peer=peer, count=count)
        self._pending.add(version, len(self._current))
        return version

    def _first_version(self, task: Task) -> Version:
        (row,) = task.arena.take(1)
        task.arena.values[row], task.arena.integers[row] = 0, 0
        task.layout.store(self._model, task.arena.values[row], task.arena.integers[row])
        first = Version("version 0", task.arena)
        first.computed(row)
        first.reach = float(task.arena.values[row, : task.layout.published].abs().amax())
        return first

    def _make_task(self, layout: StateLayout, batches: Batches, seed: int) -> Task:
        arena = Arena(layout.width, layout.integer_width, layout.dtype, layout.device)
        drops, draws = self._found.drops, bool(self._found.draws)
        made, rates = self._make_optimizer, self._rates
        x, y = self._train
        return Task(
            self._model, self._loss_fn, made, x, y, layout, arena, batches, seed, drops, draws, rates, self._codec
        )

    def _make_evaluation(self, task: Task, chance: np.random.Generator) -> Evaluation | None:
        if self._evaluation_set is None:
            return None
        count = len(self._evaluation_set.x)
        part = np.sort(chance.permutation(count)[: self._evaluation_samples])
        each = max(1, 4 * self._found.activations // self._batch_size)
        evaluation = Evaluation(task, self._evaluation_set, torch.from_numpy(part).to(self._device), each)
        evaluation.stacks = not hasattr(self, "choice") or self.choice.mode == "batched"
        return evaluation

    def _choose(self, mode: str, slots: int) -> Choice:
        layout = StateLayout(self._model, self._found.changing, slots)
        share = np.arange(len(self._labels))
        task = self._make_task(layout, Batches(0, [share], self._batch_size), 0)
        task.codec = None  # where it rounds up in one mode and down in the other, both are right
        choice = choose(mode, task, self._rule, self._found, self._make_evaluation(task, generator(0, "evaluation")))
        if choice.is_forced and mode == "batched":
            raise ConfigurationError(f"mode='batched': {choice.reason}; mode='auto' takes one peer after the other")
        if choice.is_forced:
            warnings.warn(
                f"TorchWorkload computes one peer after the other: {choice.reason}", RuntimeWarning, stacklevel=4
            )
        return choice


def _structure(model: Any, seed: int) -> nn.Module:
    """Returns a copy of the model, or a new one by its function, with trainable values."""
    if isinstance(model, nn.Module):
        return copy.deepcopy(model)
    if not callable(model):
        raise ConfigurationError(f"model: is {type(model).__name__}; must be a module or a function that makes one")
    with torch.random.fork_rng([]):
        torch.manual_seed(int(generator(seed, "model").integers(1 << 62)))
        made = model()
    if not isinstance(made, nn.Module):
        raise ConfigurationError(f"model: the function returned {type(made).__name__}; must return a torch.nn.Module")
    return made


def _rule(make_optimizer: MakeOptimizer, model: nn.Module) -> Any:
    try:
        optimizer = make_optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
    except Exception as error:
        raise ConfigurationError(f"optimizer: fails on the model's parameters: {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigurationError(
            f"optimizer: returned {type(optimizer).__name__}; must be a function of the parameters that returns an "
            "optimizer, such as lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
        )
    return recognise(optimizer)


def _limit(dtype: torch.dtype, codec: Codec | None) -> float:
    """Returns a size below which a number is finite as others read it, mixed once more or not."""
    largest = torch.finfo(dtype).max
    while codec is not None and not bool(rounded(codec, torch.tensor([largest], dtype=dtype)).isfinite()):
        largest /= 2
    return REACH_SHARE * largest


def _device(device: str | torch.device) -> torch.device:
    found = torch.device(device)
    if found.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"device={str(device)!r}: must be 'cpu' or 'cuda'")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f"device={str(device)!r}: this machine has no CUDA device that torch can use")
    return found


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else math.nan
