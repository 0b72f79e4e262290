"""Simulates many peers in one process under virtual time, with the protocol code that runs on the sockets.

One seed gives one trace, on every machine. Imports neither torch nor zmq, and reads no clock.
"""

from __future__ import annotations

from gossiptrain.reports.comparison import compare, plot_steps_to_target
from sim.checkers import InvariantBroken, Limits
from sim.faults import Fault, FaultSchedule
from sim.network_options import NetworkOptions
from sim.quadratic import QuadraticWorkload
from sim.report import PeerReport, Report, Sample
from sim.scenario import Scenario, load, loads
from sim.simulation import Simulation
from sim.step_times import BimodalSteps, ConstantSteps, LogNormalSteps, TraceSteps
from sim.workload import TimedWorkload, Workload

__all__ = [
    "BimodalSteps",
    "ConstantSteps",
    "Fault",
    "FaultSchedule",
    "InvariantBroken",
    "Limits",
    "LogNormalSteps",
    "NetworkOptions",
    "PeerReport",
    "QuadraticWorkload",
    "Report",
    "Sample",
    "Scenario",
    "Simulation",
    "TimedWorkload",
    "TraceSteps",
    "Workload",
    "compare",
    "load",
    "loads",
    "plot_steps_to_target",
]
