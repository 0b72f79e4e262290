"""Prints one peer's view of its run, for `gossiptrain status`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gossiptrain.dashboard.table import speaks_unicode
from gossiptrain.protocol.notices import MemberStatus, PaceStatus, Status

_STYLES = {"alive": "green", "busy": "cyan", "suspect": "yellow", "dead": "red", "left": "dim"}
_TRAFFIC = ("bytes_sent", "bytes_received", "snapshot_bytes_sent", "snapshot_bytes_received")


def show(status: Status, console: Console) -> None:
    """Prints a peer's members, neighbours and counters."""
    heading = Text(status.name, style="bold")
    details = [f"run {status.run_id}", f"step {status.step:,}", f"epoch {status.epoch}", status.topology, status.mixer]
    if not status.caught_up:
        details.append("still joining")
    if status.local_health:
        details.append(f"doubts itself ({status.local_health})")
    heading.append("  " + "  ".join(details), style="dim")
    console.print(heading, soft_wrap=True, highlight=False)
    console.print(_members(status.members, console))
    if (paces := _paces(status)) is not None:
        console.print(paces)
    console.print(Text(_traffic(status.counters), style="dim"), highlight=False, soft_wrap=True)
    rest = ((name, value) for name, value in sorted(status.counters.items()) if name not in _TRAFFIC)
    counted = [f"{name} {value:,}" for name, value in rest if value]
    if counted:
        console.print(Text("  ".join(counted), style="dim"), highlight=False)


def _traffic(counters: dict[str, int]) -> str:
    sent, received, snapshots_sent, snapshots_received = (counters.get(name, 0) / 1e6 for name in _TRAFFIC)
    return (
        f"sent {snapshots_sent:,.1f} MB of snapshots and {sent:,.2f} MB of messages, "
        f"received {snapshots_received:,.1f} MB and {received:,.2f} MB"
    )


def _members(members: tuple[MemberStatus, ...], console: Console) -> Table:
    unicode = speaks_unicode(console)
    table = Table(box=box.SIMPLE_HEAD if unicode else None, pad_edge=False, header_style="dim", border_style="dim")
    for heading, justify in (("member", "left"), ("state", "left"), ("inc.", "right"), ("step", "right")):
        table.add_column(heading, justify=justify, no_wrap=True)  # pyright: ignore[reportArgumentType]
    table.add_column("silent s", justify="right", no_wrap=True)
    table.add_column("neighbour", no_wrap=True)
    table.add_column("address", overflow="fold")
    for member in sorted(members, key=lambda member: member.name):
        style = _STYLES.get(member.state.lower(), "")
        table.add_row(
            Text(member.name),
            Text(member.state, style=style),
            str(member.incarnation),
            f"{member.step:,}",
            f"{member.silent_s:.1f}",
            ("✓" if unicode else "yes") if member.neighbour else "",
            Text(member.address, style="dim"),
        )
    return table


def together(status: Status, others: Sequence[Status]) -> Status:
    """Puts into one peer's view what the others said of their own pace just now."""
    own = {other.name: other.pace for other in others if other.run_id == status.run_id and other.pace is not None}
    members = tuple(msgspec.structs.replace(m, pace=own.get(m.name, m.pace)) for m in status.members)
    return msgspec.structs.replace(status, members=members)


def _paces(status: Status) -> Table | None:
    """How fast each peer trains, its share of the data or of all steps, and where its time goes; None where none told."""
    told = {peer.name: (peer.pace, peer.data) for peer in (status, *status.members)}
    known = {name: both for name, both in sorted(told.items()) if both != (None, None)}
    if not known:
        return None
    epoch = next((data.epoch for _, data in known.values() if data is not None), None)
    of_what = ("of all steps",) if epoch is None else (f"of epoch {epoch}", "trained")
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("pace", no_wrap=True)
    for heading in ("steps/s", "steps a block", *of_what, "compute", "mix", "wait"):
        table.add_column(heading, justify="right", no_wrap=True)
    all_speeds = sum(1 / pace.step_s for pace, _ in known.values() if pace is not None)
    for name, (pace, data) in known.items():
        if epoch is None:
            assert pace is not None
            part = [f"{1 / pace.step_s / all_speeds:.0%}"]
        else:
            part = ["", ""] if data is None else [f"{data.share:.0%}", f"{data.trained:,}"]
        table.add_row(name, *_speed(pace), *part, *_times(pace))
    return table


def _speed(pace: PaceStatus | None) -> list[str]:
    return ["", ""] if pace is None else [f"{1 / pace.step_s:.1f}", str(pace.steps)]


def _times(pace: PaceStatus | None) -> list[str]:
    shares = () if pace is None else (pace.compute_share, pace.mix_share, pace.wait_share)
    return [f"{share:.0%}" for share in shares]
