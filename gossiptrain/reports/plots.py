"""Figures of a run with matplotlib: curves with the band over the peers, the graph's spectral gap, who did what when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

import topologies
from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.notices import Exchanged
from gossiptrain.reports.payload import is_logarithmic
from gossiptrain.reports.record import Array, RunRecord
from gossiptrain.reports.timeline import graph_at, rewirings, spectral_gaps, standing, suspected, suspicions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito 2008, "Color universal design": told apart with every common kind of colour blindness.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
GREY = "#93A0AC"
AXES = ("time", "step", "bytes")
UNITS = {"steps_per_s": "steps per second", "bytes_sent": "bytes sent by all peers"}
NAMED_PEERS_MAX = 40
BEGINS_BELOW = 0.05


def plot(record: RunRecord, what: Sequence[str] = (), x: str = "time") -> Figure:
    """See `Reporting.plot`."""
    names = list(what) or default_panels(record)
    panels = [_panel(record, name, x) for name in names]
    if x not in AXES:
        raise ConfigurationError(f"x={x!r}: must be one of {', '.join(AXES)}")
    figure, axes = new_figure([_height(record, name) for name in names])
    for ax, draw in zip(axes, panels):
        draw(ax)
    figure.suptitle(f"{record.title}  ({record.origin})", fontsize=11, x=0.01, ha="left")
    return figure


def default_panels(record: RunRecord) -> list[str]:
    """What is drawn when nothing is asked for: the first measures and the spectral gap."""
    return [*measures_of(record)[:3], "spectral_gap"]


def measures_of(record: RunRecord) -> list[str]:
    """Names of the measures that have a value at some time."""
    return [name for name in record.samples.measures() if np.isfinite(record.samples.mean(name)).any()]


def new_figure(heights_inch: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """A figure with one panel above the other.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plots need matplotlib: pip install gossiptrain[viz]") from error
    figure, axes = pyplot.subplots(
        len(heights_inch),
        1,
        figsize=(8.0, 0.5 + sum(heights_inch)),
        height_ratios=list(heights_inch),
        squeeze=False,
        layout="constrained",
    )
    return figure, list(axes[:, 0])


def _height(record: RunRecord, name: str) -> float:
    if name == "gantt":
        return float(np.clip(0.8 + 0.22 * len(record.names()), 1.6, 9.0))
    return 5.0 if name == "graph" else 2.5


def _panel(record: RunRecord, name: str, x: str) -> Callable[[Axes], None]:
    own: dict[str, Callable[[Axes], None]] = {
        "spectral_gap": lambda ax: spectral_gap(record, ax),
        "living": lambda ax: living(record, ax),
        "graph": lambda ax: graph(record, ax),
        "gantt": lambda ax: gantt(record, ax),
        "staleness": lambda ax: staleness(record, ax),
    }
    if name in own:
        return own[name]
    known = measures_of(record)
    if name not in known:
        has = ", ".join([*known, *own])
        raise ConfigurationError(f"plot: this run has nothing of the name {name!r}; it has {has}")
    return lambda ax: measure(record, name, ax, x)


def measure(record: RunRecord, name: str, ax: Axes, x: str = "time", *, label: str = "", colour: str = BLUE) -> None:
    """A measure with its band over the peers, against time, steps or bytes; `label` names the run among others."""
    samples = record.samples
    along, unit = horizontal(record, x)
    band = samples.band(name)
    has_band = band is not None and len(samples.peers) > 1
    ax.plot(along, samples.mean(name), color=colour, linewidth=1.8, label=label or ("mean" if has_band else None))
    if band is not None and has_band:
        shade_label = None if label else "10-90 % of the peers"
        ax.fill_between(along, *band, color=colour, alpha=0.18, linewidth=0, label=shade_label)
    ax.set(xlabel=unit, ylabel=UNITS.get(name, name.replace("_", " ")))
    _tidy(ax)
    _legend(ax)
    if not label:
        scale(ax, name, [samples.mean(name)])
    if x == "time" and not label:
        ax.set_xlim(0, record.until_s)
        _marks(record, ax)


def scale(ax: Axes, name: str, curves: Sequence[Array]) -> None:
    """A logarithmic axis for distances and errors that span some range; a first value of next to nothing is cut off."""
    values = np.concatenate([np.empty(0), *(_risen(curve[curve > 0]) for curve in curves)])
    if not is_logarithmic(name) or not len(values):
        return
    low, high = float(values.min()), float(values.max())
    if high > 3 * low:
        ax.set_yscale("log")
        ax.set_ylim(low / 1.15, high * 1.3)


def _risen(values_T: Array) -> Array:
    """Without the first values, while each is a small part of the next: peers begin alike but for rounding."""
    leaps = np.flatnonzero(values_T[:-1] < BEGINS_BELOW * values_T[1:])
    first = 0
    while first in leaps:
        first += 1
    return values_T[first:]


def horizontal(record: RunRecord, x: str) -> tuple[Array, str]:
    """What samples are drawn against, [T], and its name with the unit."""
    times_s = record.samples.time_s
    if x == "step":
        return record.steps_at(times_s), "local steps (mean over the living peers)"
    if x == "bytes":
        sent = record.samples.bytes_sent
        return (sent if len(sent) else np.full(len(times_s), np.nan)) / 1e6, "MB sent by all peers"
    return times_s, time_label(record)


def time_label(record: RunRecord) -> str:
    """The name of the time axis."""
    return "virtual seconds" if record.origin == "simulated" else "seconds"


def spectral_gap(record: RunRecord, ax: Axes) -> None:
    """The spectral gap of the graph over time, with a mark wherever it was laid anew."""
    times_s, gaps = spectral_gaps(record)
    ax.step(
        [*times_s, record.until_s], [*gaps, gaps[-1] if len(gaps) else np.nan], where="post", color=BLUE, linewidth=1.6
    )
    ax.set(xlabel=time_label(record), ylabel="spectral gap", ylim=(-0.02, 1.04), xlim=(0, record.until_s))
    _tidy(ax)
    _marks(record, ax)
    _legend(ax)


def living(record: RunRecord, ax: Axes) -> None:
    """How many peers lived, and how many of them were suspected by somebody."""
    bounds = [(p.began_s, 1) for p in record.processes] + [(p.ended_s, -1) for p in record.processes]
    changes = sorted((time_s, change) for time_s, change in bounds if time_s <= record.until_s)
    times_s = [time_s for time_s, _ in changes] + [record.until_s]
    count = np.cumsum([change for _, change in changes]).tolist()
    ax.step(times_s, [*count, count[-1]], where="post", color=BLUE, linewidth=1.8, label="living")
    doubts = suspected(record)
    moments = np.linspace(0, record.until_s, 600)
    total = np.zeros(len(moments))
    for changes_of in doubts.values():
        at_s, so_many = np.array(changes_of, dtype=np.float64).T
        total += np.concatenate([[0], so_many > 0])[np.searchsorted(at_s, moments, side="right")]
    ax.plot(moments, total, color=ORANGE, linewidth=1.4, label="suspected by somebody")
    ax.set(xlabel=time_label(record), ylabel="peers", xlim=(0, record.until_s), ylim=(0, None))
    _tidy(ax)
    _legend(ax)


def graph(record: RunRecord, ax: Axes, time_s: float | None = None) -> None:
    """The graph at a time; default the last moment at which anybody mixed."""
    ends = [min(process.ended_s, record.until_s) for process in record.processes]
    time_s = max(ends, default=0.0) * (1 - 1e-9) if time_s is None else time_s
    found = graph_at(record, time_s)
    doubted = suspected(record)
    states = {name: "suspect" for name in found if _last(doubted.get(name, ()), time_s)}
    topologies.draw(found, ax=ax, states=states, labels=len(found) <= NAMED_PEERS_MAX)
    ax.set_title(f"the graph of {len(found)} peers at {time_s:.1f} s", fontsize=10)


def _last(changes: Iterable[tuple[float, int]], time_s: float) -> int:
    return next((count for at_s, count in reversed(list(changes)) if at_s <= time_s), 0)


def gantt(record: RunRecord, ax: Axes) -> None:
    """A bar for every peer: computing, waiting, mixing (an exchange open), suspected, down."""
    names = record.names()
    rows = {name: len(names) - 1 - place for place, name in enumerate(names)}
    stood = standing(record)
    for process in record.processes:
        y, end_s = rows[process.name], min(process.ended_s, record.until_s)
        ax.broken_barh([(process.began_s, end_s - process.began_s)], (y - 0.4, 0.8), color="#D5DCE3", linewidth=0)
        blocks = process.blocks
        spans = _joined(blocks.began_s, blocks.ended_s, record.until_s / 4000)
        ax.broken_barh(spans, (y - 0.4, 0.8), color=BLUE, linewidth=0)
        mixes = [(time_s - notice.seconds, time_s) for time_s, notice in process.told(Exchanged)]
        if mixes:
            begins_s, ends_s = np.array(sorted(mixes)).T
            ax.broken_barh(_joined(begins_s, ends_s, record.until_s / 4000), (y + 0.12, 0.28), color=SKY, linewidth=0)
        if process.end in ("crashed", "failed"):
            ax.plot([process.ended_s], [y], marker="x", color=VERMILION, markersize=6, markeredgewidth=2)
    for name, spans in stood.items():
        ax.broken_barh([(a, b - a) for a, b in spans], (rows[name] - 0.4, 0.8), color="#D5DCE3", linewidth=0)
    for doubt in suspicions(record):
        if doubt.of in rows:
            ax.broken_barh(
                [(doubt.began_s, doubt.ended_s - doubt.began_s)], (rows[doubt.of] - 0.4, 0.2), color=ORANGE, lw=0
            )
    _gantt_frame(record, ax, names)


def _gantt_frame(record: RunRecord, ax: Axes, names: Sequence[str]) -> None:
    every = int(np.ceil(len(names) / NAMED_PEERS_MAX))
    shown = [(len(names) - 1 - place, name) for place, name in enumerate(names) if place % every == 0]
    ax.set_yticks([y for y, _ in shown], [name for _, name in shown], fontsize=8)
    ax.set(xlabel=time_label(record), xlim=(0, record.until_s), ylim=(-0.7, len(names) - 0.3))
    for colour, label in ((BLUE, "compute"), ("#D5DCE3", "wait"), (SKY, "mix"), (ORANGE, "suspected by others")):
        ax.bar([0], [0], color=colour, label=label)
    ax.plot([], [], "x", color=VERMILION, markeredgewidth=2, label="crashed")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=5, frameon=False, fontsize=8)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _joined(begins_s: Array, ends_s: Array, apart_s: float) -> list[tuple[float, float]]:
    """(begin, length) of spans, joined where less lies between them than could be seen."""
    if not len(begins_s):
        return []
    firsts = np.flatnonzero(np.concatenate([[True], begins_s[1:] - ends_s[:-1] > apart_s]))
    lasts = np.append(firsts[1:], len(begins_s)) - 1
    return [(float(begins_s[i]), float(ends_s[j] - begins_s[i])) for i, j in zip(firsts, lasts)]


def staleness_of(record: RunRecord) -> npt.NDArray[np.int64]:
    """Local steps between the snapshot that was mixed and the boundary where the correction was applied, one entry a mix.

    A peer offers the snapshot of its last boundary; what comes of it is applied at the end of the block that is under way
    at the decision, or at once by a peer that waits.
    """
    found = [np.empty(0, dtype=np.int64)]
    for process in record.processes:
        mixes = [(time_s - notice.seconds, time_s) for time_s, notice in process.told(Exchanged)]
        blocks = process.blocks
        if not mixes or not len(blocks.steps):
            continue
        offered_s, decided_s = np.array(mixes).T
        place = np.searchsorted(blocks.ended_s, decided_s, side="left")
        is_under_way = np.append(blocks.began_s, np.inf)[place] <= decided_s
        done = np.concatenate([[0], np.cumsum(blocks.steps), [blocks.steps.sum()]])
        found.append(done[place + is_under_way] - blocks.steps_until(offered_s))
    return np.concatenate(found)


def staleness(record: RunRecord, ax: Axes) -> None:
    """How many local steps a peer took between offering a snapshot and mixing with it."""
    steps = staleness_of(record)
    if len(steps):
        most = max(1, int(np.quantile(steps, 0.995)))
        width = max(1, round(most / 40))
        ax.hist(
            np.minimum(steps, most),
            bins=np.arange(-0.5, most + width + 0.5, width).tolist(),
            color=BLUE,
            alpha=0.85,
            rwidth=0.9,
        )
        ax.axvline(float(np.median(steps)), color=VERMILION, linewidth=1.4, label=f"median {np.median(steps):.3g}")
        _legend(ax)
    ax.set(
        xlabel="staleness: local steps between a snapshot and the boundary where its mix was applied", ylabel="mixes"
    )
    _tidy(ax)


def _marks(record: RunRecord, ax: Axes) -> None:
    """Re-wirings along the bottom, and crashes."""
    laid_s = [first_s for first_s, _, _ in rewirings(record)]
    crashed_s = [process.ended_s for process in record.processes if process.end in ("crashed", "failed")]
    along = ax.get_xaxis_transform()
    ax.plot(laid_s, [0.02] * len(laid_s), "|", color=PURPLE, markersize=9, transform=along, label="graph laid anew")
    if crashed_s:
        ax.plot(crashed_s, [0.02] * len(crashed_s), "x", color=VERMILION, markersize=6, transform=along, label="crash")
    _legend(ax)


def _legend(ax: Axes) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8)


def _tidy(ax: Axes) -> None:
    ax.grid(color="#E4E7EA", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
