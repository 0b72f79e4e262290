"""What a report offers, be it a simulation's or a real run's: data frames, plots, a page, a trace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossiptrain.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gossiptrain.reports.frames import Frames
    from gossiptrain.reports.record import RunRecord


class Reporting(ABC):
    """Everything that can be asked of a run once it has a `RunRecord`."""

    __slots__ = ()

    @abstractmethod
    def record(self) -> RunRecord:
        """The run in the form that simulated and real runs share."""

    def to_pandas(self) -> Frames:
        """Returns tidy data frames: `.peers`, `.samples`, `.notices`, `.blocks` and `.edges`; see `Frames`.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        from gossiptrain.reports.frames import frames

        return frames(self.record())

    def plot(self, *what: str, x: str = "time") -> Figure:
        """Draws one panel for each name and returns the figure.

        Args:
            what: measures by name ("loss", "consensus_distance", ...), "spectral_gap", "living", "graph", "gantt" or
                "staleness". Without any: the measures, and the spectral gap.
            x: what measures are drawn against: "time", "step" (mean over the living peers) or "bytes" (sent by all).

        Raises:
            ConfigurationError: the run has nothing of such a name; what it has is listed.
            ModuleNotFoundError: matplotlib is not installed.
        """
        from gossiptrain.reports.plots import plot

        return plot(self.record(), what, x)

    def to_chrome_trace(self) -> dict[str, Any]:
        """Returns the run in Chrome's trace format, for Perfetto (ui.perfetto.dev) and chrome://tracing."""
        from gossiptrain.reports.chrome_trace import chrome_trace

        return chrome_trace(self.record())

    def save(self, path: Path | str) -> Path:
        """Writes the run to a file, by its ending.

        Args:
            path: "run.html" for one page with an animated replay, which needs no network; "trace.json" for Chrome's
                trace format; "picture.png", ".svg" or ".pdf" for `plot()`.

        Returns:
            The path.

        Raises:
            ConfigurationError: another ending.
        """
        path = Path(path)
        if path.suffix == ".html":
            from gossiptrain.reports.page import page

            path.write_text(page(self.record()), encoding="utf-8")
        elif path.suffix == ".json":
            from gossiptrain.reports.chrome_trace import write

            write(self.record(), path)
        elif path.suffix in (".png", ".svg", ".pdf"):
            self.plot().savefig(path)
        else:
            raise ConfigurationError(f"path={str(path)!r}: must end in .html, .json, .png, .svg or .pdf")
        return path
