"""A peer's view of the run, for `gossiptrain status`."""

from __future__ import annotations

from collections.abc import Collection

from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.membership import Membership
from gossiptrain.protocol.notices import MemberStatus, Status
from gossiptrain.protocol.rewiring import Topology, describe

SHOWN_MAX = 256


def view_of(
    config: ProtocolConfig,
    membership: Membership,
    *,
    topology: Topology,
    neighbours: Collection[str],
    counters: dict[str, int],
    step: int,
    caught_up: bool,
    now: float,
) -> Status:
    """Returns what this peer knows: itself, its members (the living first, at most 256) and its counters."""
    others = sorted(membership.others(), key=lambda member: not member.is_living)
    members = tuple(
        MemberStatus(
            name=other.name,
            address=other.control_address,
            state=other.state,
            step=other.step,
            silent_s=round(max(0.0, now - other.heard_s), 3),
            neighbour=other.name in neighbours,
            incarnation=other.incarnation,
        )
        for other in others[:SHOWN_MAX]
    )
    return Status(
        name=config.name,
        run_id=config.run_id,
        step=step,
        epoch=topology.epoch,
        caught_up=caught_up,
        topology=describe(config.topology),
        mixer=config.mixer,
        members=members,
        counters=dict(sorted(counters.items())),
        incarnation=membership.incarnation(),
        local_health=membership.health(),
    )


def others_ready(membership: Membership, topology: Topology) -> int:
    """Returns how many others count in mixing and are on the graph; who has left again is not waited for either."""
    placed = set(topology.members)
    others = membership.others()
    gone = sum(other.state == "left" or (other.state == "dead" and other.caught_up) for other in others)
    return gone + sum(other.caught_up and other.name in placed for other in others if other.is_living)
