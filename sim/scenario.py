"""Scenarios as TOML: a failure rehearsal in a file, read into a `Simulation` and written back from its options.

peers = 8
seed = 3
until_s = 120.0
topology = "overlay"

[workload]
snapshot_bytes = 4_000_000
[workload.steps]
kind = "lognormal"
median_s = 0.05

[[faults]]
kind = "crash"
peer = 3
at_s = 20.0
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.config import ExchangeConfig, MembershipConfig
from sim.checkers import Limits
from sim.faults import FaultSchedule, nearest
from sim.network_options import NetworkOptions
from sim.quadratic import QuadraticWorkload
from sim.simulation import Options, Simulation
from sim.step_times import BimodalSteps, ConstantSteps, LogNormalSteps, StepTimes, TraceSteps
from sim.workload import TimedWorkload, Workload

if TYPE_CHECKING:
    from sim.report import Report

PLAIN = (
    "peers",
    "topology",
    "seed",
    "mixer",
    "sync_every",
    "founders",
    "formed",
    "seeds",
    "start_within_s",
    "checks_wire",
    "observe_every_s",
)
SECTIONS: dict[str, type] = {
    "network": NetworkOptions,
    "membership": MembershipConfig,
    "exchange": ExchangeConfig,
    "limits": Limits,
}
STEPS: dict[str, type[StepTimes]] = {
    "constant": ConstantSteps,
    "lognormal": LogNormalSteps,
    "bimodal": BimodalSteps,
    "trace": TraceSteps,
}
RANDOM = ("seed", "per_minute", "outage_s_max", "stall_s_max", "calm_s", "shares")
UNTIL_S = 60.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A simulation's arguments, and how long it is to run."""

    arguments: Mapping[str, Any]
    until_s: float

    def simulation(self, seed: int | None = None, replay: str = "") -> Simulation:
        """Makes the simulation, with another seed if one is given."""
        arguments = dict(self.arguments)
        workload = arguments.pop("workload", None)
        if seed is not None:
            arguments["seed"] = seed
        size = arguments.get("peers", 32)
        made = _workload(workload, size, arguments.get("seed", 0)) if workload is not None else None
        return Simulation(**arguments, workload=made, replay=replay)

    def run(self, seed: int | None = None) -> Report:
        """Makes the simulation and runs it to its end."""
        return self.simulation(seed).run(self.until_s)


def load(path: str | Path) -> Scenario:
    """Reads a scenario file.

    Raises:
        ConfigurationError: the file cannot be read, or a key or value in it is not accepted; the message names it, and the
            nearest known key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"scenario {str(path)!r} cannot be read: {error.strerror or error}") from error
    return loads(text)


def loads(text: str) -> Scenario:
    """Reads a scenario from TOML; see `load`."""
    return from_dict(_parse(text))


def from_dict(values: Mapping[str, Any]) -> Scenario:
    """Reads a scenario from what a TOML file holds; see `load`."""
    known = (*PLAIN, *SECTIONS, "workload", "faults", "random_faults", "until_s")
    _known(values, known, "the scenario")
    arguments: dict[str, Any] = {key: values[key] for key in PLAIN if key in values}
    for name, section in SECTIONS.items():
        if name in values:
            arguments[name] = _build(section, values[name], name)
    if "workload" in values:
        arguments["workload"] = dict(values["workload"])
    until_s = float(values.get("until_s", UNTIL_S))
    if not 0 < until_s < float("inf"):
        raise ConfigurationError(f"until_s={until_s!r}: must be a positive number of seconds")
    schedule = FaultSchedule.from_rows(values.get("faults", ()))
    if "random_faults" in values:
        options = dict(values["random_faults"])
        _known(options, RANDOM, "random_faults")
        seed = options.pop("seed", values.get("seed", 0))
        drawn = FaultSchedule.random(seed, values.get("peers", 32), until_s, **options)
        schedule = FaultSchedule((*schedule.faults, *drawn.faults))
    arguments["faults"] = schedule
    return Scenario(arguments, until_s)


def _parse(text: str) -> dict[str, Any]:
    try:
        import tomllib  # type: ignore[import-not-found]
    except ImportError:  # Python 3.10
        try:
            import tomli as tomllib  # type: ignore[import-not-found,no-redef]
        except ImportError as error:
            raise ConfigurationError("reading TOML needs Python 3.11, or `pip install tomli`") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"the scenario is not TOML: {error}") from error


def _known(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise ConfigurationError(f"{where}: {key!r} is not known{nearest(key, known)}")


def _build(made: type, values: Mapping[str, Any], where: str) -> Any:
    _known(values, [item.name for item in fields(made)], where)
    return made(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _workload(values: Mapping[str, Any], peers: int, seed: int) -> Workload:
    rest = dict(values)
    kind = rest.pop("kind", "timed")
    steps = rest.pop("steps", None)
    step_times = _steps(steps) if steps is not None else None
    if kind == "timed":
        _known(rest, ("snapshot_bytes",), "workload")
        return TimedWorkload(**rest, step_times=step_times)
    if kind == "quadratic":
        known = ("size", "seed", "spread", "learning_rate", "noise", "start", "snapshot_bytes")
        _known(rest, known, "workload")
        return QuadraticWorkload.random(peers, **{"seed": seed, **rest}, step_times=step_times)
    raise ConfigurationError(f'workload: kind={kind!r}: must be "timed" or "quadratic"')


def _steps(values: Mapping[str, Any]) -> StepTimes:
    rest = dict(values)
    kind = rest.pop("kind", "constant")
    if kind not in STEPS:
        raise ConfigurationError(f"workload.steps: kind={kind!r} is not known{nearest(str(kind), STEPS)}")
    return _build(STEPS[kind], rest, "workload.steps")


# Writing


def dumps(options: Options, until_s: float) -> str | None:
    """Writes a scenario that repeats a run; None where a file cannot hold it (a graph, a function, another workload)."""
    steps = next((kind for kind, made in STEPS.items() if type(options.workload.step_times) is made), None)
    if not isinstance(options.topology, str) or type(options.workload) is not TimedWorkload or steps is None:
        return None
    lines = [f"until_s = {_value(float(until_s))}"]
    lines += [f"{key} = {_value(getattr(options, key))}" for key in PLAIN]
    for name in SECTIONS:
        changed = _differing(getattr(options, name))
        lines += ["", f"[{name}]", *changed] if changed else []
    lines += ["", "[workload]", f"snapshot_bytes = {options.workload.snapshot_bytes}"]
    lines += ["", "[workload.steps]", f"kind = {_value(steps)}", *_differing(options.workload.step_times)]
    for row in options.faults.to_rows():
        lines += ["", "[[faults]]", *(f"{key} = {_value(value)}" for key, value in row.items())]
    return "\n".join(lines) + "\n"


def _differing(values: Any) -> list[str]:
    """Lines of what differs from the defaults."""
    changed = [item for item in fields(values) if getattr(values, item.name) != item.default]
    return [f"{item.name} = {_value(getattr(values, item.name))}" for item in changed]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if value != float("inf") else "inf"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def replay_text(options: Options, command: str, now: float) -> str:
    """Tells how to run a simulation again: by the command that made it, or by a file."""
    if command:
        return f"seed {options.seed}; replay: {command}"
    text = dumps(options, now + 1.0)
    if text is None:
        return f"seed {options.seed}; replay: run the same program again. Its options: {options}"
    return (
        f"seed {options.seed}; replay: save what follows as failing.toml and run `python -m sim failing.toml`\n{text}"
    )
