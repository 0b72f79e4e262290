"""Simulates many peers in one process under virtual time, with the protocol code that runs on the sockets.

One seed gives one trace, on every machine. Imports no zmq, torch only for `TorchWorkload`, and reads no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gossiptrain.reports.comparison import compare, plot_steps_to_target
from sim import presets, regions
from sim.calibration import calibrate
from sim.changing_speed import ChangingSteps, SlowPhases
from sim.checkers import InvariantBroken, Limits
from sim.churn import RateChurn, TraceChurn, WeibullChurn
from sim.environment import Environment
from sim.faults import Fault, FaultSchedule
from sim.measured_steps import MeasuredSteps
from sim.network_options import NetworkOptions
from sim.quadratic import QuadraticWorkload
from sim.report import PeerReport, Report, Sample
from sim.sampling import EpochTruth, SharedData
from sim.scenario import Scenario, load, loads
from sim.simulation import Simulation
from sim.step_times import BimodalSteps, ConstantSteps, LogNormalSteps, TraceSteps
from sim.workload import TimedWorkload, Workload

if TYPE_CHECKING:
    from sim.learning.torch_workload import TorchWorkload

__all__ = [
    "BimodalSteps",
    "ChangingSteps",
    "ConstantSteps",
    "Environment",
    "EpochTruth",
    "Fault",
    "FaultSchedule",
    "InvariantBroken",
    "Limits",
    "LogNormalSteps",
    "MeasuredSteps",
    "NetworkOptions",
    "PeerReport",
    "QuadraticWorkload",
    "RateChurn",
    "Report",
    "Sample",
    "Scenario",
    "SharedData",
    "Simulation",
    "SlowPhases",
    "TimedWorkload",
    "TorchWorkload",
    "TraceChurn",
    "TraceSteps",
    "WeibullChurn",
    "Workload",
    "calibrate",
    "compare",
    "load",
    "loads",
    "plot_steps_to_target",
    "presets",
    "regions",
]


def __getattr__(name: str) -> Any:
    """Brings `TorchWorkload` when it is first asked for, and torch with it."""
    if name == "TorchWorkload":
        from sim.learning.torch_workload import TorchWorkload

        return TorchWorkload
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
