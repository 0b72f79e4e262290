"""`Environment`: what a cluster is like - how fast its devices are, what lies between them, who comes and goes.

environment = sim.Environment(
    compute=sim.SlowPhases(sim.LogNormalSteps(0.05)),
    network=sim.NetworkOptions(regions=("virginia", "ireland")),
    churn=sim.presets.spot_instances(faster=20),
)
report = sim.Simulation(16, environment=environment, until_s=600, seed=7).run(600)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gossiptrain.errors import ConfigurationError
from sim import presets, tables
from sim.changing_speed import ChangingSteps, SlowPhases
from sim.churn import Churn, RateChurn, TraceChurn, WeibullChurn
from sim.faults import FaultSchedule
from sim.measured_steps import MeasuredSteps
from sim.network_options import NetworkOptions
from sim.step_times import BimodalSteps, ConstantSteps, LogNormalSteps, StepTimes, TraceSteps

STEPS: dict[str, type[StepTimes]] = {
    "constant": ConstantSteps,
    "lognormal": LogNormalSteps,
    "bimodal": BimodalSteps,
    "trace": TraceSteps,
    "changing": ChangingSteps,
    "slow_phases": SlowPhases,
    "measured": MeasuredSteps,
}
CHURNS: dict[str, type[Churn]] = {"rates": RateChurn, "weibull": WeibullChurn, "trace": TraceChurn}


@dataclass(frozen=True, slots=True)
class Environment:
    """A cluster without what is trained on it.

    Attributes:
        compute: how long local steps last; None leaves it to the workload.
        network: delays, bandwidths, loss.
        churn: who comes and goes; None: nobody.
        name: where it comes from, in words, for reports.
    """

    compute: StepTimes | None = None
    network: NetworkOptions = field(default_factory=NetworkOptions)
    churn: Churn | None = None
    name: str = ""

    def __post_init__(self) -> None:
        accepted = {"compute": (StepTimes, type(None)), "network": NetworkOptions, "churn": (Churn, type(None))}
        for name, kinds in accepted.items():
            if not isinstance(getattr(self, name), kinds):
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: is of the wrong type")

    def faults(
        self, peers: int, seed: int, until_s: float | None, begin_s: float = 1.0, besides: FaultSchedule | None = None
    ) -> FaultSchedule:
        """Draws who comes and goes in a run, and puts it beside faults that are written.

        Args:
            peers: how many start. seed: fixes everything. until_s: length of the run; needed where there is churn.
            begin_s: nobody comes or goes before.
            besides: written faults; the peers that these name are spared by the churn.

        Raises:
            ConfigurationError: the length is missing, or both bring new peers, whose numbers would then be unclear.
        """
        written = besides or FaultSchedule()
        if self.churn is None:
            return written
        if until_s is None:
            raise ConfigurationError("until_s: the environment has churn; tell until when it acts, such as until_s=600")
        named = {peer for fault in written.faults for peer in fault.peers}
        drawn = self.churn.schedule(peers, seed, until_s, begin_s, spared=named)
        if written.joiners() and drawn.joiners():
            raise ConfigurationError("churn: joins peers, and so do the faults; let only one of the two do it")
        return FaultSchedule((*written.faults, *drawn.faults))

    # Reading and writing

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` reads: only what differs from the defaults, as tables of numbers, texts and lists."""
        values: dict[str, Any] = {"name": self.name} if self.name else {}
        if self.compute is not None:
            values["compute"] = steps_to_dict(self.compute)
        if network := tables.differing(self.network):
            values["network"] = network
        if self.churn is not None:
            values["churn"] = _to_dict(self.churn, CHURNS, "churn")
        return values

    def summary(self) -> dict[str, Any]:
        """Returns `to_dict()`, and in place of a part of a class that no file knows how it calls itself, for reports."""
        try:
            return self.to_dict()
        except ConfigurationError:
            return {"name": self.name, "compute": repr(self.compute), "network": repr(self.network)}

    @staticmethod
    def from_dict(values: Mapping[str, Any], folder: Path | None = None) -> Environment:
        """Reads an environment from what stands under [environment] in a scenario.

        Args:
            folder: what the paths of traces are relative to; default the working directory.

        Raises:
            ConfigurationError: a key or value is not accepted; the message names it, and the nearest known key.
        """
        tables.check_known(values, ("name", "compute", "network", "churn"), "environment")
        where = "environment."
        made: dict[str, Any] = {"name": str(values.get("name", ""))}
        if "compute" in values:
            made["compute"] = steps_from_dict(values["compute"], where + "compute")
        if "network" in values:
            made["network"] = network_from_dict(values["network"], where + "network")
        if "churn" in values:
            made["churn"] = _churn(values["churn"], where + "churn", folder or Path())
        return Environment(**made)

    def to_toml(self) -> str:
        """Returns the [environment] of a scenario file."""
        return "\n".join(tables.lines(self.to_dict(), "environment")).lstrip("\n") + "\n"


def network_of(environment: Environment | None, network: NetworkOptions | None) -> NetworkOptions:
    """Returns the network of a simulation, which is told at one place only.

    Raises:
        ConfigurationError: it stands beside an environment.
    """
    if environment is None:
        return network or NetworkOptions()
    if network is not None:
        raise ConfigurationError("network: stands beside an environment, which has one; give it to the environment")
    return environment.network


def steps_to_dict(steps: StepTimes) -> dict[str, Any]:
    """Returns a table with "kind" and what differs from the defaults.

    Raises:
        ConfigurationError: it is of a class that no file knows.
    """
    values = _to_dict(steps, STEPS, "compute")
    return {key: steps_to_dict(value) if isinstance(value, StepTimes) else value for key, value in values.items()}


def steps_from_dict(values: Any, where: str) -> StepTimes:
    """Reads step times from a table with "kind" (default "constant") or "preset".

    Raises:
        ConfigurationError: a key or value is not accepted.
    """
    rest = _table(values, where)
    if "preset" in rest:
        return presets.make("compute", rest, where)
    made = _kind(rest, STEPS, "constant", where)
    if isinstance(rest.get("base"), Mapping):
        rest["base"] = steps_from_dict(rest["base"], f"{where}.base")
    elif "base" in rest:
        raise ConfigurationError(f'{where}: base={rest["base"]!r}: must be a table, such as {{kind = "lognormal"}}')
    return tables.build(made, rest, where)


def network_from_dict(values: Any, where: str) -> NetworkOptions:
    """Reads network options from a table, or a preset's name and arguments; see `steps_from_dict`."""
    rest = _table(values, where)
    return presets.make("network", rest, where) if "preset" in rest else tables.build(NetworkOptions, rest, where)


def _churn(values: Any, where: str, folder: Path) -> Churn:
    rest = _table(values, where)
    if "preset" in rest:
        return presets.make("churn", rest, where)
    made = _kind(rest, CHURNS, "rates", where)
    if made is TraceChurn and "path" in rest:
        tables.check_known(rest, ("path", "silent", "keep_up", "faster"), where)
        return tables.call(lambda path, **options: TraceChurn.read(folder / path, **options), rest, where)
    return tables.build(made, rest, where)


def _table(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{where}: {values!r} is no table")
    return dict(values)


def _kind(rest: dict[str, Any], kinds: Mapping[str, type], default: str, where: str) -> type:
    kind = rest.pop("kind", default)
    if kind not in kinds:
        raise ConfigurationError(f"{where}: kind={kind!r} is not known{tables.nearest(str(kind), kinds)}")
    return kinds[kind]


def _to_dict(options: Any, kinds: Mapping[str, type], where: str) -> dict[str, Any]:
    kind = next((name for name, made in kinds.items() if type(options) is made), None)
    if kind is None:
        raise ConfigurationError(f"{where}: {type(options).__name__} cannot be written to a file")
    return {"kind": kind, **tables.differing(options)}
