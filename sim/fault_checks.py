"""Can a fault schedule happen? Nobody is hurt who does not exist, is down, or is hurt in the same way already."""

from __future__ import annotations

from collections.abc import Iterable

from gossiptrain.errors import ConfigurationError
from sim.faults import KINDS, Fault
from sim.tables import nearest

# Two of one kind may not overlap on one peer; stalls, pauses and starvation count as one kind.
_EXCLUSIVE = {
    "stall": "stall",
    "pause": "stall",
    "slow_link": "slow_link",
    "flapping": "flapping",
    "hostile": "hostile",
    "starve": "stall",
    "fail_slow": "fail_slow",
    "flip_flop": "flip_flop",
    "garble": "garble",
    "replay": "replay",
    "slander": "slander",
}
_NEEDS_LIFE = (
    "crash",
    "leave",
    "crash_loop",
    "stall",
    "pause",
    "hostile",
    "starve",
    "fail_slow",
    "reset",
    "address_change",
    "impostor",
    "slander",
)


def check(faults: Iterable[Fault], peers: int, joiners: int) -> None:
    """Lets a schedule pass if it can happen to so many peers, and so many that join later.

    Raises:
        ConfigurationError: a peer does not exist, is down when it is to be hurt, or is hurt twice at once; a time is
            negative; two partitions overlap.
    """
    _Checker(peers, joiners).check(faults)


class _Checker:
    """Walks through a schedule and knows who is up."""

    def __init__(self, peers: int, joiners: int) -> None:
        self._count = peers
        self._total = peers + joiners
        self._down: dict[int, str] = {}
        self._busy: dict[tuple[str, int], Fault] = {}
        self._cuts: dict[tuple[int, ...], Fault] = {}

    def check(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            _check_times(fault)
            for peer in (*fault.peers, *(peer for group in fault.groups for peer in group)):
                if not 0 <= peer < self._count:
                    later = f"; {self._total - self._count} more join later" if self._total > self._count else ""
                    raise ConfigurationError(
                        f"{fault.kind} at {fault.at_s:g} s: peer {peer} does not exist then; "
                        f"there are 0 to {self._count - 1}{later}"
                    )
            self._count += fault.options.get("count", 0)
            self._check_life(fault)
            self._check_overlap(fault)
            self._check_cuts(fault)

    def _check_life(self, fault: Fault) -> None:
        if fault.kind == "restart" and fault.peers[0] not in self._down:
            raise ConfigurationError(
                f"restart at {fault.at_s:g} s: peer {fault.peers[0]} is running; crash it or let it leave first"
            )
        if fault.kind in _NEEDS_LIFE and fault.peers[0] in self._down:
            raise ConfigurationError(
                f"{fault.kind} at {fault.at_s:g} s: peer {fault.peers[0]} is not running since its "
                f"{self._down[fault.peers[0]]}; restart it first"
            )
        if fault.kind in ("crash", "leave"):
            self._down[fault.peers[0]] = f"{fault.kind} at {fault.at_s:g} s"
        elif fault.kind == "restart":
            del self._down[fault.peers[0]]
        elif fault.kind == "one_way" and fault.peers[0] == fault.peers[1]:
            raise ConfigurationError(f"one_way at {fault.at_s:g} s: source and target are both {fault.peers[0]}")

    def _check_overlap(self, fault: Fault) -> None:
        key = _EXCLUSIVE.get(fault.kind, "")
        for peer in fault.peers if fault.kind in (*_EXCLUSIVE, "crash", "restart", "leave", "crash_loop") else ():
            # Messages may come again whatever became of their sender.
            loop = self._busy.get(("crash_loop", peer)) if fault.kind != "replay" else None
            before = self._busy.get((key, peer), loop)
            before = loop if loop is not None and fault.at_s < loop.end_s else before
            if before is not None and fault.at_s < before.end_s:
                raise ConfigurationError(
                    f"{fault.kind} of peer {peer} at {fault.at_s:g} s overlaps its {before.kind} from {before.at_s:g} s "
                    f"to {before.end_s:g} s; begin it later or shorten the other"
                )
            self._busy[(fault.kind if fault.kind == "crash_loop" else key, peer)] = fault

    def _check_cuts(self, fault: Fault) -> None:
        """A second partition, or a second cut of one direction, says nothing clear while the first lasts."""
        if fault.kind not in ("partition", "one_way"):
            return
        before = self._cuts.get(fault.peers)
        if before is not None and fault.at_s < before.end_s:
            what = f"one_way from {fault.peers[0]} to {fault.peers[1]}" if fault.peers else "partition"
            raise ConfigurationError(
                f"{what} at {fault.at_s:g} s overlaps the {before.kind} from {before.at_s:g} s to {before.end_s:g} s; "
                "begin it later or shorten the other" + ("" if fault.peers else "; one partition may have many groups")
            )
        self._cuts[fault.peers] = fault


def _check_times(fault: Fault) -> None:
    if fault.kind not in KINDS:
        raise ConfigurationError(f"fault kind={fault.kind!r} is not known{nearest(str(fault.kind), KINDS)}")
    if not 0 <= fault.at_s < float("inf") or not 0 <= fault.for_s < float("inf"):
        raise ConfigurationError(
            f"{fault.kind}: at_s={fault.at_s!r}, for_s={fault.for_s!r}: must be seconds, not negative"
        )
