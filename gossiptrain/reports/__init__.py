"""One report for simulated and real runs: data frames, plots, a page with an animated replay, a trace, comparisons.

Needs neither torch nor zmq; `to_pandas` needs pandas and `plot` matplotlib (`pip install gossiptrain[viz]`).
"""

from __future__ import annotations

from gossiptrain.reports.comparison import Comparison, compare, plot_steps_to_target
from gossiptrain.reports.folder import open_run
from gossiptrain.reports.record import Blocks, FaultRecord, ProcessRecord, RunRecord, Samples
from gossiptrain.reports.reporting import Reporting

__all__ = [
    "Blocks",
    "Comparison",
    "FaultRecord",
    "ProcessRecord",
    "Reporting",
    "RunRecord",
    "Samples",
    "compare",
    "open_run",
    "plot_steps_to_target",
]
