"""Several runs side by side: one table, curves over each other, simulated against real too."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.notices import Exchanged, PeerSuspected, Rewired
from gossiptrain.reports.page import asset, embedded, fill
from gossiptrain.reports.payload import POINTS_MAX, is_logarithmic, rows_of, short
from gossiptrain.reports.record import Array, RunRecord
from gossiptrain.reports.reporting import Reporting

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

GROWS = ("accuracy",)  # measures that are better the greater they are


@dataclass(frozen=True, slots=True)
class Comparison:
    """Some runs with their names.

    Attributes:
        labels, records: one of each a run.
        measure: what "time to target" is about; "" where the runs have nothing in common.
        target: the value to be reached; NaN for none.
    """

    labels: tuple[str, ...]
    records: tuple[RunRecord, ...]
    measure: str
    target: float

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a run, in order; times in seconds of each run, NaN for what never was."""
        return [self._row(label, record) for label, record in zip(self.labels, self.records)]

    def to_pandas(self) -> pd.DataFrame:
        """The same as a data frame with the runs' names as its index.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("data frames need pandas: pip install gossiptrain[viz]") from error
        return pd.DataFrame(self.rows()).set_index("run")

    def measures(self) -> list[str]:
        """What at least two of the runs measured; of one run, all."""
        counts: dict[str, int] = {}
        for record in self.records:
            for name in record.samples.measures():
                counts[name] = counts.get(name, 0) + bool(np.isfinite(record.samples.mean(name)).any())
        return [name for name, count in counts.items() if count >= min(2, len(self.records))]

    def plot(self, *measures: str, x: str = "time") -> Figure:
        """Draws curves of all runs over each other, one panel a measure.

        Args:
            measures: default those that the runs have in common.
            x: "time", "step" or "bytes".

        Raises:
            ConfigurationError: a measure that no run has.
            ModuleNotFoundError: matplotlib is not installed.
        """
        from gossiptrain.reports import plots

        names = list(measures) or self.measures()
        for name in names:
            if not any(name in record.samples.measures() for record in self.records):
                raise ConfigurationError(
                    f"plot: no run has {name!r}; they have {', '.join(self.measures()) or 'nothing'}"
                )
        if x not in plots.AXES:
            raise ConfigurationError(f"x={x!r}: must be one of {', '.join(plots.AXES)}")
        if not names:
            raise ConfigurationError("plot: these runs measured nothing in common")
        figure, axes = plots.new_figure([2.7] * len(names))
        for name, ax in zip(names, axes):
            with_it = [pair for pair in zip(self.labels, self.records) if name in pair[1].samples.measures()]
            for number, (label, record) in enumerate(with_it):
                plots.measure(record, name, ax, x, label=label, colour=plots.COLOURS[number % len(plots.COLOURS)])
            plots.scale(ax, name, [record.samples.mean(name) for _, record in with_it])
        return figure

    def save(self, path: Path | str) -> Path:
        """Writes the table and the curves as one page that needs no network (.html), or `plot()` (.png, .svg, .pdf).

        Raises:
            ConfigurationError: another ending.
        """
        path = Path(path)
        if path.suffix == ".html":
            path.write_text(self._page(), encoding="utf-8")
        elif path.suffix in (".png", ".svg", ".pdf"):
            self.plot().savefig(path)
        else:
            raise ConfigurationError(f"path={str(path)!r}: must end in .html, .png, .svg or .pdf")
        return path

    def _row(self, label: str, record: RunRecord) -> dict[str, Any]:
        blocks = [process.blocks for process in record.processes if len(process.blocks.steps)]
        finals = {f"final {name}": last_value(record.samples.mean(name)) for name in self._finals(record)}
        target = {}
        if np.isfinite(self.target) and self.measure:
            reached_s = time_to(record, self.measure, self.target)
            target = {
                f"seconds to {self.measure} {self.target:g}": reached_s,
                f"steps to {self.measure} {self.target:g}": at_time(record, reached_s),
            }
        return {
            "run": label,
            "origin": record.origin,
            "peers": len(record.names()),
            "seconds": record.until_s,
            **finals,
            **target,
            "steps in all": sum(process.steps for process in record.processes),
            "exchanges": sum(1 for process in record.processes for _ in process.told(Exchanged)),
            "MB sent": sum(process.bytes_sent() for process in record.processes) / 1e6,
            "longest gap (s)": max((float(block.gap_s.max()) for block in blocks), default=float("nan")),
            "median gap (s)": float(np.median(np.concatenate([b.gap_s for b in blocks]))) if blocks else float("nan"),
            "crashes": sum(process.end in ("crashed", "failed") for process in record.processes),
            "suspicions": sum(1 for process in record.processes for _ in process.told(PeerSuspected)),
            "re-wirings": sum(1 for process in record.processes for _ in process.told(Rewired)),
        }

    def _finals(self, record: RunRecord) -> list[str]:
        return [name for name in self.measures() if name in record.samples.measures()]

    def _page(self) -> str:
        rows = self.rows()
        names = list(dict.fromkeys(name for row in rows for name in row if name != "run"))
        table = [[name, *(_cell(row.get(name)) for row in rows)] for name in names]
        data = {"labels": list(self.labels), "table": table, "curves": [self._curve(name) for name in self.measures()]}
        return fill(
            asset("compare.html"),
            title=html.escape(f"{' against '.join(self.labels)} · gossiptrain"),
            css=asset("page.css"),
            js="\n".join(asset(script) for script in ("replay.js", "compare.js")),
            data=embedded(data),
        )

    def _curve(self, name: str) -> dict[str, Any]:
        runs = []
        for number, record in enumerate(self.records):
            if name not in record.samples.measures():
                continue
            samples = record.samples
            rows = rows_of(len(samples.time_s), POINTS_MAX)
            sent = samples.bytes_sent[rows] / 1e6 if len(samples.bytes_sent) else np.full(len(rows), np.nan)
            band = samples.band(name)
            run = {"run": number, "time": short(samples.time_s[rows]), "bytes": short(sent)}
            run |= {"step": short(record.steps_at(samples.time_s[rows])), "mean": short(samples.mean(name)[rows])}
            if band is not None and len(samples.peers) > 1:
                run |= {"low": short(band[0][rows]), "high": short(band[1][rows])}
            runs.append(run)
        return {"name": name, "log": is_logarithmic(name), "runs": runs}


def compare(
    *reports: Reporting,
    labels: Sequence[str] | None = None,
    measure: str = "",
    target: float = float("nan"),
) -> Comparison:
    """Compares runs, simulated and real ones alike.

    Args:
        reports: one or more; a simulation's `Report`, or what `open_run` returned.
        labels: one a run; default their titles, or "run 1", "run 2" where titles are equal.
        measure: what `target` is about; default "loss" if all have it, else the first that they have in common.
        target: "seconds to" and "steps to" this value are added to the table.

    Raises:
        ConfigurationError: no reports, as many labels as are not runs, or a measure that a run does not have.
    """
    if not reports:
        raise ConfigurationError("compare: needs at least one report")
    records = tuple(report.record() for report in reports)
    if labels is not None and len(labels) != len(records):
        raise ConfigurationError(f"labels={list(labels)!r}: must be one for each of the {len(records)} reports")
    if labels is None:
        labels = [record.title for record in records]
        if len(set(labels)) < len(labels):
            labels = [f"run {number}" for number in range(1, len(records) + 1)]
    has = [set(record.samples.measures()) for record in records]
    common = [name for name in records[0].samples.measures() if all(name in names for names in has)]
    if measure and measure not in common:
        raise ConfigurationError(
            f"measure={measure!r}: not every run has it; all have {', '.join(common) or 'nothing'}"
        )
    return Comparison(tuple(labels), records, measure or (common[0] if common else ""), target)


def plot_steps_to_target(reports: Sequence[Reporting], measure: str, target: float) -> Figure:
    """Draws steps to a target against the number of peers, beside the line of a linear speed-up; one point a run.

    Args:
        reports: runs of different sizes. Those that never reached the target are left out and counted in the title.
        measure, target: such as "loss", 0.5.

    Raises:
        ConfigurationError: a run has no such measure.
        ModuleNotFoundError: matplotlib is not installed.
    """
    from gossiptrain.reports import plots

    found, missed = [], 0
    for record in (report.record() for report in reports):
        if measure not in record.samples.measures():
            known = ", ".join(record.samples.measures())
            raise ConfigurationError(f"measure={measure!r}: {record.title} has {known or 'nothing'}")
        steps = at_time(record, time_to(record, measure, target))
        missed += not np.isfinite(steps)
        if np.isfinite(steps):
            found.append((len(record.names()), steps))
    figure, (ax,) = plots.new_figure([3.6])
    found.sort()
    if found:
        n, steps = np.array(found, dtype=np.float64).T
        ax.loglog(n, steps, "o-", color=plots.BLUE, label="measured", base=2)
        ax.loglog(n, steps[0] * n[0] / n, "--", color=plots.GREY, label="linear speed-up", base=2)
        ax.set_xticks(np.unique(n), [f"{count:g}" for count in np.unique(n)])
        ax.legend(frameon=False)
    lost = f"; {missed} of {len(reports)} runs did not reach it" if missed else ""
    ax.set(xlabel="peers", ylabel=f"local steps a peer to {measure} {target:g}", title=f"steps to target{lost}")
    ax.grid(color="#E4E7EA", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def time_to(record: RunRecord, measure: str, target: float) -> float:
    """When the mean of a measure first reached a target, in seconds of the run; NaN if it never did.

    Reached is at or below it, but at or above it for what is better the greater it is (an accuracy).
    """
    values = record.samples.mean(measure) if measure in record.samples.measures() else np.empty(0)
    with np.errstate(invalid="ignore"):
        reached = values >= target if any(word in measure for word in GROWS) else values <= target
    return float(record.samples.time_s[np.argmax(reached)]) if reached.any() else float("nan")


def at_time(record: RunRecord, time_s: float) -> float:
    """Local steps of the living peers on average at a time; NaN for no time."""
    return float(record.steps_at([time_s])[0]) if np.isfinite(time_s) else float("nan")


def last_value(values_T: Array) -> float:
    """The last finite value of a curve."""
    finite = values_T[np.isfinite(values_T)]
    return float(finite[-1]) if len(finite) else float("nan")


def _cell(value: Any) -> str | float | None:
    if isinstance(value, str):
        return value
    return float(f"{value:.5g}") if value is not None and np.isfinite(value) else None
