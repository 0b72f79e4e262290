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

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.config import ExchangeConfig, MembershipConfig
from sim.checkers import Limits
from sim.environment import Environment, network_from_dict, steps_from_dict, steps_to_dict
from sim.faults import FaultSchedule
from sim.options import Options
from sim.quadratic import QuadraticWorkload
from sim.sampling import SharedData
from sim.simulation import Simulation
from sim.tables import build, call, check_known, differing, lines, nearest
from sim.workload import TimedWorkload, Workload

if TYPE_CHECKING:
    from sim.report import Report

PLAIN = (
    "peers",
    "topology",
    "seed",
    "mixer",
    "sync_every",
    "normalise",
    "founders",
    "formed",
    "seeds",
    "start_within_s",
    "checks_wire",
    "observe_every_s",
    "max_mbps",
)
SECTIONS: dict[str, type] = {
    "membership": MembershipConfig,
    "exchange": ExchangeConfig,
    "limits": Limits,
}
RANDOM = ("seed", "per_minute", "outage_s_max", "stall_s_max", "calm_s", "shares")
WORKLOADS = ("timed", "quadratic", "torch")
DATA = ("samples", "batch", "chunk_samples", "ahead")
UNTIL_S = 60.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A simulation's arguments, how long it is to run, and the folder that names in it are relative to."""

    arguments: Mapping[str, Any]
    until_s: float
    folder: Path | None = None

    def simulation(self, seed: int | None = None, replay: str = "") -> Simulation:
        """Makes the simulation, with another seed if one is given."""
        arguments = dict(self.arguments)
        workload = arguments.pop("workload", None)
        if seed is not None:
            arguments["seed"] = seed
        size = arguments.get("peers", 32)
        drawn_from = arguments.get("seed", 0)
        made = _workload(workload, size, drawn_from, self.folder) if workload is not None else None
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
    return loads(text, Path(path).parent)


def loads(text: str, folder: Path | None = None) -> Scenario:
    """Reads a scenario from TOML; see `load`. `folder` is what the paths of traces in it are relative to."""
    return from_dict(_parse(text), folder)


def from_dict(values: Mapping[str, Any], folder: Path | None = None) -> Scenario:
    """Reads a scenario from what a TOML file holds; see `load`."""
    known = (*PLAIN, *SECTIONS, "network", "environment", "workload", "faults", "random_faults", "data", "until_s")
    check_known(values, known, "the scenario")
    arguments: dict[str, Any] = {key: values[key] for key in PLAIN if key in values}
    for name, section in SECTIONS.items():
        if name in values:
            arguments[name] = build(section, values[name], name)
    if "network" in values:
        arguments["network"] = network_from_dict(values["network"], "network")
    if "data" in values:
        check_known(values["data"], DATA, "data")
        arguments["data"] = call(SharedData, values["data"], "data")
    if "workload" in values:
        arguments["workload"] = dict(values["workload"])
    until_s = _seconds(values)
    if "environment" in values:
        arguments["environment"] = Environment.from_dict(values["environment"], folder)
        arguments["until_s"] = until_s
        _say_once(values)
    schedule = FaultSchedule.from_rows(values.get("faults", ()))
    if "random_faults" in values:
        options = dict(values["random_faults"])
        check_known(options, RANDOM, "random_faults")
        seed = options.pop("seed", values.get("seed", 0))
        whole = {"seed": seed, "peers": values.get("peers", 32), "until_s": until_s, **options}
        drawn = call(FaultSchedule.random, whole, "random_faults")
        schedule = FaultSchedule((*schedule.faults, *drawn.faults))
    arguments["faults"] = schedule
    return Scenario(arguments, until_s, folder)


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


def _seconds(values: Mapping[str, Any]) -> float:
    until_s = values.get("until_s", UNTIL_S)
    if isinstance(until_s, bool) or not isinstance(until_s, (int, float)) or not 0 < until_s < float("inf"):
        raise ConfigurationError(f"until_s={until_s!r}: must be a positive number of seconds")
    return float(until_s)


def _say_once(values: Mapping[str, Any]) -> None:
    """What an environment tells must not be told a second time elsewhere."""
    if "network" in values:
        raise ConfigurationError("network: stands beside [environment]; write it as [environment.network]")
    if "compute" in values["environment"] and "steps" in values.get("workload", {}):
        raise ConfigurationError("workload.steps: stands beside [environment.compute]; leave one of the two out")


def _workload(values: Mapping[str, Any], peers: int, seed: int, folder: Path | None) -> Workload:
    rest = dict(values)
    kind = rest.pop("kind", "timed")
    steps = rest.pop("steps", None)
    step_times = steps_from_dict(steps, "workload.steps") if steps is not None else None
    if kind == "timed":
        check_known(rest, ("snapshot_bytes",), "workload")
        return call(TimedWorkload, {**rest, "step_times": step_times}, "workload")
    if kind not in WORKLOADS:
        raise ConfigurationError(f"workload: kind={kind!r} is not known{nearest(str(kind), WORKLOADS)}")
    made: Workload
    if kind == "quadratic":
        known = ("size", "seed", "spread", "learning_rate", "noise", "start", "snapshot_bytes")
        check_known(rest, known, "workload")
        whole = {"peers": peers, "seed": seed, **rest, "step_times": step_times}
        made = call(QuadraticWorkload.random, whole, "workload")
    else:
        from sim.learning.from_table import workload_from  # torch is needed here only

        made = workload_from(rest, step_times, folder)
    made.table = dict(values)
    return made


# Writing


def dumps(options: Options, until_s: float) -> str:
    """Writes a scenario that repeats a run.

    Who comes and goes by the environment's churn is written as faults where the file's run is of another length. Functions
    of one's own, "module:function", are written by name: their modules belong beside the file.

    Raises:
        ConfigurationError: no file can hold it: the topology is a graph or a function, or the workload, the step times or
            the churn were made by a program in a way that no table names; the message says what to do.
    """
    if not isinstance(options.topology, str):
        raise ConfigurationError(
            f"topology={type(options.topology).__name__}: a file holds the name of a family or schedule only; choose one "
            "by its name, or keep the program that made this one"
        )
    environment, faults = options.environment, options.faults
    values: dict[str, Any] = {"until_s": float(until_s), **{key: getattr(options, key) for key in PLAIN}}
    if environment is not None:
        draws_again = until_s == options.until_s
        values["environment"] = (environment if draws_again else replace(environment, churn=None)).to_dict()
        faults = options.written_faults if draws_again else faults
    elif network := differing(options.network):
        values["network"] = network
    for name in SECTIONS:
        if changed := differing(getattr(options, name)):
            values[name] = changed
    if options.data is not None:
        values["data"] = options.data.to_dict()
    values["workload"] = _table_of(options.workload)
    if environment is None or environment.compute is None:
        values["workload"]["steps"] = steps_to_dict(options.workload.step_times)
    written = lines(values)
    for row in faults.to_rows():
        written += ["", "[[faults]]", *lines(row)]
    return "\n".join(written) + "\n"


def _table_of(workload: Workload) -> dict[str, Any]:
    """What stands under [workload], without its step times."""
    if workload.table is not None:
        return {key: value for key, value in workload.table.items() if key != "steps"}
    if type(workload) is TimedWorkload:
        return {"snapshot_bytes": workload.snapshot_bytes}
    raise ConfigurationError(
        f"workload={type(workload).__name__}: a file cannot hold what a program made; write its parts under [workload] by "
        'name (kind = "torch", model = "my_models:make", data = ...) and read that with `sim.load`, or keep the program'
    )


def replay_text(options: Options, command: str, now: float) -> str:
    """Tells how to run a simulation again: by the command that made it, or by a file."""
    if command:
        return f"seed {options.seed}; replay: {command}"
    try:
        text = dumps(options, now + 1.0)
    except ConfigurationError as error:
        return f"seed {options.seed}; replay: run the same program again ({error}). Its options: {options}"
    return (
        f"seed {options.seed}; replay: save what follows as failing.toml and run `python -m sim failing.toml`\n{text}"
    )
