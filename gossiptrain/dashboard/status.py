"""Prints one peer's view of its run, for `gossiptrain status`."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gossiptrain.dashboard.table import speaks_unicode
from gossiptrain.protocol.notices import MemberStatus, Status

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
