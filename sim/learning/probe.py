"""One training step of the user's model, looked at closely before anything is simulated."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gossiptrain.errors import ConfigurationError
from sim.learning.dropout import FEATURES
from sim.learning.samples import Samples, check_labels, classes_of


@dataclass(frozen=True)
class Probe:
    """What one step told.

    Attributes:
        changing: names of buffers that it changed.
        drops: it called dropout. draws: the first function that drew other random numbers; "" for none.
        flops: floating-point operations of forward and backward pass.
        activations: numbers that the forward pass keeps for the backward pass.
        classes: that the model scores; None where it does something else.
    """

    changing: tuple[str, ...]
    drops: bool
    draws: str
    flops: int
    activations: int
    classes: int | None


def probe(model: nn.Module, loss_fn: Any, train: Samples, evaluation: Samples | None, batch_size: int) -> Probe:
    """Takes one step on a copy of the model; torch's random generators are left as they were.

    Raises:
        ConfigurationError: model or loss cannot be used with these samples, or labels have no output.
    """
    trial = copy.deepcopy(model)
    x, y = train.x[:batch_size], train.y[:batch_size]
    before = {name: buffer.clone() for name, buffer in trial.named_buffers()}
    devices = [x.device] if x.device.type == "cuda" else []
    watch, kept, counter = _Watch(), _Kept(trial), _Flops()
    with torch.random.fork_rng(devices), torch.enable_grad(), counter:
        with watch, torch.autograd.graph.saved_tensors_hooks(kept.note, lambda tensor: tensor):
            output = _output(trial, x)
            classes = classes_of(output, y)
            for samples, name in ((train, "data"), (evaluation, "evaluate")):
                if classes is not None and samples is not None:
                    check_labels(samples, classes, name)
            loss = _loss(loss_fn, output, y)
        loss.backward()
    changing = tuple(name for name, buffer in trial.named_buffers() if not _equal(buffer, before.get(name)))
    return Probe(changing, watch.drops, watch.draws, counter.flops, kept.numbers, classes)


def _output(model: nn.Module, x: Tensor) -> Any:
    try:
        return model(x)
    except Exception as error:
        raise ConfigurationError(
            f"model: fails on a batch {list(x.shape)} of {x.dtype} from the training data: {error}"
        ) from error


def _loss(loss_fn: Any, output: Any, y: Tensor) -> Tensor:
    try:
        loss = loss_fn(output, y)
    except Exception as error:
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigurationError(
            f"loss_fn: fails on the model's output {shape} and targets {list(y.shape)} of {y.dtype}: {error}"
        ) from error
    if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
        found = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigurationError(f"loss_fn: returned {found}; must be a scalar tensor, such as the mean over the batch")
    if not loss.requires_grad:
        raise ConfigurationError("loss_fn: its result does not depend on a trainable parameter of the model")
    return loss


def _equal(buffer: Tensor, before: Tensor | None) -> bool:
    return (
        before is not None
        and buffer.shape == before.shape
        and bool(torch.isclose(buffer, before, rtol=0, atol=0, equal_nan=True).all())
    )


class _Kept:
    """Counts what autograd saves, parameters excepted, each tensor once."""

    def __init__(self, model: nn.Module) -> None:
        self.numbers = 0
        self._seen = {parameter.data_ptr() for parameter in model.parameters()}

    def note(self, tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in self._seen:
            self._seen.add(tensor.data_ptr())
            self.numbers += tensor.numel()
        return tensor


class _Flops(TorchDispatchMode):
    """Counts floating-point operations of matrix products and convolutions.

    `torch.utils.flop_counter.FlopCounterMode` does the same by module, but imports the compiler, which takes seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch imports its compiler for this

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


class _Watch(TorchFunctionMode):
    """Notes which functions draw random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.drops, self.draws = False, ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = _random_state(args)
        result = func(*args, **(kwargs or {}))
        if any(not torch.equal(old, new) for old, new in zip(before, _random_state(args))):
            is_ours = func is torch.nn.functional.dropout or (func in FEATURES and args[0].dim() == FEATURES[func])
            self.drops = self.drops or is_ours
            if not is_ours and not self.draws:
                self.draws = getattr(func, "__name__", str(func))
        return result


def _random_state(args: Any) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return states
