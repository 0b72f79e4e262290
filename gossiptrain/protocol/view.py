"""A peer's view of the run, for `gossiptrain status`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.membership import Membership
from gossiptrain.protocol.messages import Pace
from gossiptrain.protocol.notices import DataStatus, MemberStatus, PaceStatus, Status
from gossiptrain.protocol.pacer import Pacer
from gossiptrain.protocol.rewiring import Topology, describe

SHOWN_MAX = 256


def view_of(
    config: ProtocolConfig,
    membership: Membership,
    pacer: Pacer,
    *,
    speeds: Mapping[str, float],
    parts: Mapping[str, DataStatus],
    topology: Topology,
    neighbours: Collection[str],
    counters: dict[str, int],
    step: int,
    caught_up: bool,
    now: float,
) -> Status:
    """Returns what this peer knows: itself, its members (the living first, at most 256) and its counters.

    Args:
        speeds: samples a second of those who share data by the ledger. parts: the parts of the data that are theirs.
    """
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
            pace=_pace(other.pace, pacer, speeds.get(other.name, 0.0)) if other.is_living else None,
            data=parts.get(other.name),
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
        pace=_pace(pacer.pace, pacer, speeds.get(config.name, 0.0), pacer.plan.steps),
        data=parts.get(config.name),
    )


def _pace(pace: Pace | None, pacer: Pacer, samples_per_s: float, steps: int = 0) -> PaceStatus | None:
    if pace is None or not pace.step_s:
        return None
    return PaceStatus(
        step_s=round(pace.step_s, 6),
        steps=steps or pacer.steps_of(pace),
        compute_share=round(1 - pace.mix_share - pace.wait_share, 4),
        mix_share=round(pace.mix_share, 4),
        wait_share=round(pace.wait_share, 4),
        samples_per_s=round(samples_per_s, 2),
    )


def others_ready(membership: Membership, topology: Topology) -> int:
    """Returns how many others count in mixing and are on the graph; who has left again is not waited for either."""
    placed = set(topology.members)
    others = membership.others()
    gone = sum(other.state == "left" or (other.state == "dead" and other.caught_up) for other in others)
    return gone + sum(other.caught_up and other.name in placed for other in others if other.is_living)
