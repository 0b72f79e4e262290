"""`[workload] kind = "torch"` of a scenario file: model, data, loss, optimizer and schedule by name.

A name with a colon, "module:function", is a function of the user's: its module is looked for beside the scenario file too.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from gossiptrain import data as sets
from gossiptrain.errors import ConfigurationError
from sim.learning import samples as reading
from sim.learning.schedules import SCHEDULES
from sim.learning.torch_workload import TorchWorkload
from sim.step_times import StepTimes
from sim.tables import call, check_known, frozen, nearest

NAMED = ("model", "data", "evaluate", "loss", "optimizer", "schedule")
PLAIN = ("batch_size", "partition", "evaluation_samples", "mode", "device", "threads", "codec", "snapshot_bytes")
LOSSES: dict[str, Callable[..., Any]] = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def logistic(features: int, classes: int) -> nn.Module:
    """Logistic regression over all of a sample's numbers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


def mlp(features: int, classes: int, hidden: Sequence[int] = (128,)) -> nn.Module:
    """Fully connected layers of these widths, with rectifiers between them."""
    widths = [features, *hidden]
    body = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *body, nn.Linear(widths[-1], classes))


MODELS: dict[str, Callable[..., nn.Module]] = {"logistic": logistic, "mlp": mlp}
GIVEN = {"features", "classes", "params"}


def workload_from(values: Mapping[str, Any], step_times: StepTimes | None, folder: Path | None) -> TorchWorkload:
    """Makes the workload of a table; see docs/simulator.md for what it may hold.

    Raises:
        ConfigurationError: a key, a name or a value is not accepted; the message names it, and the nearest known one.
    """
    check_known(values, (*NAMED, *PLAIN), "workload")
    for name in ("model", "data"):
        if name not in values:
            raise ConfigurationError(f"workload: {name!r} is missing")
    with _beside(folder):
        data = _data(values["data"], "workload.data")
        options = {key: frozen(values[key]) for key in PLAIN if key in values}
        if "evaluate" in values:
            options["evaluate"] = _data(values["evaluate"], "workload.evaluate")
        if "optimizer" in values:
            options["optimizer"] = _optimizer(values["optimizer"])
        if "schedule" in values:
            options["schedule"] = _made(values["schedule"], SCHEDULES, "workload.schedule")
        model = _model(values["model"], data)
        loss = _named(values.get("loss", "cross_entropy"), LOSSES, "workload.loss")
        given = {"model": model, "loss_fn": loss, "data": data, "step_times": step_times, **options}
        return call(TorchWorkload, given, "workload")


def _model(value: Any, data: Any) -> Callable[[], nn.Module]:
    name, options = _parts(value, "workload.model")
    make = _named(name, MODELS, "workload.model")
    check_known(options, _parameters(make), "workload.model")
    if name not in MODELS:
        return partial(make, **options)
    train = reading.read(data, "workload.data")
    if train.y.is_floating_point():
        raise ConfigurationError(f"workload.model: {name!r} is for classes; the data's targets are {train.y.dtype}")
    return partial(make, train.x[0].numel(), int(train.y.max()) + 1, **options)


def _optimizer(value: Any) -> Callable[[Any], torch.optim.Optimizer]:
    name, options = _parts(value, "workload.optimizer")
    make = _named(name, OPTIMIZERS, "workload.optimizer")
    check_known(options, _parameters(make), "workload.optimizer")
    return lambda parameters: make(parameters, **{key: frozen(option) for key, option in options.items()})


def _made(value: Any, known: Mapping[str, Callable[..., Any]], where: str) -> Any:
    """Returns what a known function makes of its options, or a user's function as it is."""
    name, options = _parts(value, where)
    make = _named(name, known, where)
    if name not in known:
        if options:
            raise ConfigurationError(f"{where}: {name!r} takes no options from a file")
        return make
    check_known(options, _parameters(make), where)
    return call(make, options, where)


def _data(value: Any, where: str) -> Any:
    if isinstance(value, str) and ":" in value:
        return _imported(value, where)()
    if not isinstance(value, str) or value not in sets.names():
        raise ConfigurationError(f"{where}={value!r} is not known{nearest(str(value), sets.names())}")
    if sets.is_text(value):
        raise ConfigurationError(f"{where}={value!r}: is text without labels; give a function as 'module:function'")
    return sets.load(value)


def _named(name: Any, known: Mapping[str, Any], where: str) -> Any:
    if isinstance(name, str) and ":" in name:
        return _imported(name, where)
    if not isinstance(name, str) or name not in known:
        raise ConfigurationError(f"{where}={name!r} is not known{nearest(str(name), known)}, or 'module:function'")
    return known[name]


def _parts(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Returns the name and options of "name" or {kind = "name", ...}."""
    if not isinstance(value, Mapping):
        return value, {}
    rest = dict(value)
    if "kind" not in rest:
        raise ConfigurationError(f"{where}: 'kind' is missing")
    return rest.pop("kind"), rest


def _parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in GIVEN]


def _imported(name: str, where: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigurationError(f"{where}={name!r}: {module_name!r} cannot be imported: {error}") from error
    found = getattr(module, function_name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigurationError(
            f"{where}={name!r}: no such function in {module_name}{nearest(function_name, functions)}"
        )
    return found


@contextmanager
def _beside(folder: Path | None) -> Iterator[None]:
    """Modules beside the scenario file can be imported meanwhile."""
    place = str((folder or Path()).resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)
