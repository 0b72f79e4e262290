"""Time-outs of the chaos tests, in one place: the tests say what they need, not how it is called."""

from __future__ import annotations

import gossiptrain as gt


def quick(silence_s: float = 30.0, join_timeout_s: float = 20.0) -> gt.MembershipConfig:
    """Notices in a second what the defaults notice in three.

    Args:
        silence_s: how long a peer may be silent before it is taken for dead.
        join_timeout_s: how long a peer with seeds looks for anybody.
    """
    return gt.MembershipConfig(
        probe_period_s=0.25,
        probe_timeout_s=0.2,
        stall_tolerance_s=silence_s,
        suspicion_max_factor=1.0,
        refused_after_s=0.5,
        join_timeout_s=join_timeout_s,
    )


def patient() -> gt.MembershipConfig:
    """Learns next to nothing from silence, so that what is noticed soon was noticed by other evidence."""
    return gt.MembershipConfig(probe_period_s=5.0, probe_timeout_s=2.0, stall_tolerance_s=60.0, refused_after_s=0.5)
