"""Which links to neighbours are open: those of the graph, of open exchanges, and for a moment those of the former graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gossiptrain.protocol import notices
from gossiptrain.protocol.control_links import ControlLinks
from gossiptrain.protocol.effects import Connect, Disconnect, Effect, Notify
from gossiptrain.protocol.member_table import Member
from gossiptrain.protocol.rewiring import Topology

TIDIES_EVERY_S = 1.0


class DataLinks:
    """Opens links when the graph is laid anew and closes, once a second, those that nobody needs any more.

    Attributes:
        around: names of all neighbours in any round of the graph.
    """

    def __init__(self, member: Callable[[str], Member | None], control: ControlLinks) -> None:
        self._member, self._control = member, control
        self._open: set[str] = set()
        self._tidy_at_s = 0.0
        self.around: tuple[str, ...] = ()

    def rewired(self, topology: Topology, round_number: int) -> list[Effect]:
        """Opens the links of a new graph, and tells of it."""
        self.around = topology.all_neighbours()
        effects: list[Effect] = []
        if topology.fallback_reason:
            effects.append(Notify(notices.TopologyFailed(topology.fallback_reason)))
        for name in self.around:
            if member := self._member(name):
                effects.append(Connect(member.control_address, "control"))
                effects.append(Connect(member.data_address, "data"))
        neighbours = topology.neighbours(round_number)
        effects.append(Notify(notices.Rewired(topology.epoch, len(topology.members), neighbours)))
        return effects

    def is_time_to_tidy(self, now: float) -> bool:
        """Says whether `tidy` would look."""
        return now >= self._tidy_at_s

    def tidy(self, needed: Iterable[str], now: float) -> list[Effect]:
        """Closes the links to all but the neighbours and those needed besides."""
        self._tidy_at_s = now + TIDIES_EVERY_S
        members = [member for name in {*needed, *self.around} if (member := self._member(name))]
        loose = self._open - {member.data_address for member in members}
        effects: list[Effect] = [Disconnect(address, "data") for address in sorted(loose)]
        return effects + self._control.close_idle({member.control_address for member in members}, now)

    def note(self, effect: Connect | Disconnect) -> None:
        """Sees what is opened and closed."""
        if effect.lane == "data" and isinstance(effect, Connect):
            self._open.add(effect.address)
        elif effect.lane == "data":
            self._open.discard(effect.address)
