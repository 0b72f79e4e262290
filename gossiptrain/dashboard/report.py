"""Reports on a run in a terminal, and writes its page and its trace, for `gossiptrain report`."""

from __future__ import annotations

import webbrowser
from math import isfinite
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gossiptrain.dashboard.table import speaks_unicode
from gossiptrain.dashboard.watch import relative
from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.notices import Exchanged
from gossiptrain.reports import ProcessRecord, RunRecord, open_run
from gossiptrain.reports.pace import data_shares, pace_of

ROWS_MAX = 40
_STYLES = {"": "green", "finished": "green", "left": "dim", "stopped": "yellow", "failed": "red", "crashed": "red"}


def report(
    folder: Path, console: Console, page: Path | None = None, trace: Path | None = None, opens: bool = False
) -> None:
    """Prints a run's peers, and writes its page (default in its folder) and, if a path is given, its trace.

    Raises:
        ConfigurationError: it is no run, nothing was recorded in it, or a file cannot be written.
    """
    record = open_run(folder)
    console.print(_heading(record), soft_wrap=True, highlight=False)
    for remark in record.remarks:
        console.print(Text(remark, style="yellow"), soft_wrap=True, highlight=False)
    console.print(_table(record, console))
    console.print(_paces(record))
    wanted = [("Page ", page or folder / "report.html", ".html"), ("Trace", trace, ".json")]
    for word, path, ending in wanted:
        if path is None:
            continue
        if path.suffix != ending:
            raise ConfigurationError(f"{word.strip().lower()}={str(path)!r}: must end in {ending}")
        try:
            record.save(path)
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from error
        console.print(f"{word}  {relative(path.absolute())}", soft_wrap=True, highlight=False, markup=False)
    if opens and not webbrowser.open((page or folder / "report.html").absolute().as_uri()):
        console.print(Text("No browser was found; open the page by hand.", style="yellow"))


def _heading(record: RunRecord) -> Text:
    heading = Text(record.title, style="bold")
    facts = [f"{len(record.names())} peers", f"{record.until_s:.1f} s"]
    facts += [record.settings[name] for name in ("topology", "mixer") if name in record.settings]
    return heading.append("  " + "  ".join(facts), style="dim")


def _table(record: RunRecord, console: Console) -> Table:
    """One row a process; of many the first, since a terminal ends and the page has all."""
    unicode = speaks_unicode(console)
    table = Table(box=box.SIMPLE_HEAD if unicode else None, pad_edge=False, header_style="dim", border_style="dim")
    measure = next((name for name in record.samples.measures() if name in record.samples.by_peer), None)
    headings = ("peer", "state", "steps", measure or "", "mixes", "sent", "longest gap")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < 2 else "right", no_wrap=True)
    for process in record.processes[:ROWS_MAX]:
        table.add_row(*_row(record, process, measure))
    if len(record.processes) > ROWS_MAX:
        table.add_row(Text(f"and {len(record.processes) - ROWS_MAX} more", style="dim"))
    return table


def _paces(record: RunRecord) -> Table:
    """How fast each trained, its part of the data (of all steps where none are shared), and where its time went."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("pace", no_wrap=True)
    shares_data = any(process.samples is not None for process in record.processes)
    of_what = "of all data" if shares_data else "of all steps"
    for heading in ("steps/s", "steps a block", of_what, "compute", "mix", "wait"):
        table.add_column(heading, justify="right", no_wrap=True)
    total = sum(process.steps for process in record.processes)
    parts = data_shares(record) if shares_data else [process.steps / max(1, total) for process in record.processes]
    for process, part in list(zip(record.processes, parts, strict=True))[:ROWS_MAX]:
        pace = pace_of(process)
        shares = (part, *(pace[f"{name}_share"] for name in ("compute", "mix", "wait")))
        cells = [f"{share:.0%}" if isfinite(share) else "" for share in shares]
        speed = f"{pace['steps_per_s']:.1f}" if isfinite(pace["steps_per_s"]) else ""
        table.add_row(process.name, speed, f"{pace['block_steps']:.0f}", *cells)
    return table


def _row(record: RunRecord, process: ProcessRecord, measure: str | None) -> list[Text]:
    state = Text(process.end or "training", style=_STYLES[process.end])
    if process.end == "crashed":
        state.append(f" after {process.ended_s - process.began_s:.1f} s", style="dim")
    gap_s = max(process.blocks.gap_s, default=None)
    texts = [
        f"{process.first_step + process.steps:,}",
        _last(record, process, measure),
        f"{sum(1 for _ in process.told(Exchanged)):,}",
        f"{process.bytes_sent() / 1e6:,.1f} MB",
        "" if gap_s is None else f"{1000 * gap_s:.0f} ms",
    ]
    again = f" ({process.number + 1})" if process.number else ""
    return [Text(process.name + again), state, *(Text(text) for text in texts)]


def _last(record: RunRecord, process: ProcessRecord, measure: str | None) -> str:
    """The last value of a measure while the process lived."""
    if measure is None:
        return ""
    samples = record.samples
    values_T = samples.by_peer[measure][:, samples.peers.index(process.name)]
    lived = (samples.time_s >= process.began_s) & (samples.time_s <= process.ended_s)
    told = [value for value in values_T[lived] if value == value]  # noqa: PLR0124  NaN is where nothing was told
    return f"{told[-1]:.4g}" if told else ""
