"""Published environments as functions, each with its source: `sim.presets.spot_instances(faster=20)`.

In a scenario file they are named instead of a kind: `[environment.churn]`, `preset = "spot_instances"`, `faster = 20`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from gossiptrain.errors import ConfigurationError
from sim.changing_speed import SlowPhases
from sim.churn import HOUR_S, RateChurn, WeibullChurn
from sim.network_options import NetworkOptions
from sim.step_times import ConstantSteps, LogNormalSteps, StepTimes
from sim.tables import call, check_known, nearest

DAY_H = 24.0

# Compute


def mobile_devices(batch: int = 32, within: float = 0.05) -> LogNormalSteps:
    """Unequal devices of users: 5 ms a sample times a log-normal factor of mu 1 and sigma 0.6.

    Source: FedScale (Lai et al., ICML 2022), the computation model of its device traces. Their median device thus takes
    5 e = 13.6 ms a sample. `within`, how much a device's own steps vary, is not from there.
    """
    if batch < 1:
        raise ConfigurationError(f"batch={batch!r}: must be at least 1")
    return LogNormalSteps(median_s=0.005 * math.e * batch, between=0.6, within=within)


def fail_slow_gpus(
    step_s: float = 0.5, every_h: float = 24.0, factor: float = 2.0, base: StepTimes | None = None
) -> SlowPhases:
    """GPUs that slow down for a while by heat or by other users of their host.

    Source: Greyhound (Wu et al., USENIX ATC 2025), over 10,000 GPUs: fail-slows last from under a minute to nearly ten
    hours; those of computation ten minutes on average. Here their length is log-normal of mean 600 s and sigma 1.5, so
    that 78 % last more than a minute and 97 % less than an hour, cut at ten hours. The family and sigma are chosen to
    span that range. How often they come (`every_h`, a device) and by how much a step is then longer (`factor`) are yours:
    the paper counts jobs and their delay (1.34 times on average where one was struck), not devices.
    """
    sigma = 1.5
    return SlowPhases(
        base=base or ConstantSteps(step_s),
        every_s=every_h * HOUR_S,
        for_s=600.0 / math.exp(sigma**2 / 2),
        sigma=sigma,
        for_s_max=10 * HOUR_S,
        factor=factor,
    )


# Network


def wide_area(draw_seed: int = 0, uplink_mbps: float = 100.0, downlink_mbps: float = 100.0) -> NetworkOptions:
    """Hosts all over the internet: one-way delays are log-normal, mu 4.00 and sigma 0.84 of the natural logarithm of ms.

    Their percentiles 5, 25, 50, 75 and 95 are 14, 31, 55, 96 and 217 ms by that formula; the measured ones to which it was
    fitted were 11, 34, 67, 101 and 149 ms, so that the far tail is heavier than it was measured. The bandwidths are yours.
    """
    return NetworkOptions(
        latency_lognormal=(4.00, 0.84), draw_seed=draw_seed, uplink_mbps=uplink_mbps, downlink_mbps=downlink_mbps
    )


def cloud_regions(
    regions: tuple[str, ...] = ("virginia", "oregon", "ireland", "tokyo"), uplink_mbps: float = 5000.0
) -> NetworkOptions:
    """Instances in regions of a cloud, in turn: published round trips and bandwidths of each pair; see `sim.regions`.

    An uplink of 5 Gbit/s (all that an instance may send out of its region) is common; it is not from the tables.
    """
    return NetworkOptions(regions=tuple(regions), uplink_mbps=uplink_mbps, downlink_mbps=uplink_mbps)


# Churn


def large_gpu_cluster(gpus_per_peer: int = 8, down_s: float = 600.0, faster: float = 1.0) -> RateChurn:
    """GPU crashes of a large run: 419 unexpected interruptions in 54 days on 16,384 H100s, one in 50,700 GPU-hours.

    Source: The Llama 3 Herd of Models (Meta, 2024, section 3.3.4 and table 5). How long a peer is away (`down_s`) is not
    from there. At this rate nothing fails in a short run: `faster=1000` shows a thousand hours' failures in one.
    """
    _check_count("gpus_per_peer", gpus_per_peer)
    per_gpu_hour = 419 / (54 * DAY_H * 16_384)
    return RateChurn(crashes_per_hour=per_gpu_hour * gpus_per_peer, down_s=down_s, faster=faster)


def research_cluster(
    cluster: str = "rsc-1", nodes_per_peer: int = 1, down_s: float = 600.0, faster: float = 1.0
) -> RateChurn:
    """Failures of shared research clusters: 6.50 ("rsc-1", 16,000 A100) or 2.34 ("rsc-2", 8,000) in 1,000 node-days.

    Source: Kokolis et al., "Revisiting Reliability in Large-Scale Machine Learning Research Clusters", HPCA 2025
    (arXiv 2410.21680). How long a peer is away (`down_s`) is not from there.
    """
    rates = {"rsc-1": 6.50, "rsc-2": 2.34}
    if cluster not in rates:
        raise ConfigurationError(f"cluster={cluster!r} is not known{nearest(str(cluster), rates)}")
    _check_count("nodes_per_peer", nodes_per_peer)
    per_node_hour = rates[cluster] / 1000 / DAY_H
    return RateChurn(crashes_per_hour=per_node_hour * nodes_per_peer, down_s=down_s, faster=faster)


def spot_instances(group_size: int = 4, group_share: float = 0.0, faster: float = 1.0) -> WeibullChurn:
    """Spot V100 instances: up Weibull k 0.60, lambda 1.75 h; down k 0.71, lambda 1.32 h; preempted, the host is gone.

    The parameters were fitted to preemption traces of V100 spot instances, in which instances were up 17 to 91 % of the
    time (by these parameters 61 %), and in which up to all of 4 nodes of a group were lost together. How often that is so
    is not published: `group_share` is the probability that one takes its group with it.
    """
    return WeibullChurn(
        up_shape=0.60,
        up_scale_s=1.75 * HOUR_S,
        down_shape=0.71,
        down_scale_s=1.32 * HOUR_S,
        group_size=group_size,
        group_share=group_share,
        silent=True,
        faster=faster,
    )


def volunteers(sessions: str = "debian", down_hours: float = 6.0, faster: float = 1.0) -> WeibullChurn:
    """Volunteers' machines: heavy-tailed sessions as in peer-to-peer networks, most short and some very long.

    Source: Stutzbach & Rejaie, "Understanding Churn in Peer-to-Peer Networks", IMC 2006: the session lengths of BitTorrent
    downloads are Weibull with (k, lambda in minutes) = (0.38, 42.4) for "debian", (0.34, 21.3) for "redhat" and (0.59,
    41.9) for "flatout". The time away is exponential here, of mean `down_hours`, which is not from there.
    """
    fits = {"debian": (0.38, 42.4), "redhat": (0.34, 21.3), "flatout": (0.59, 41.9)}
    if sessions not in fits:
        raise ConfigurationError(f"sessions={sessions!r} is not known{nearest(str(sessions), fits)}")
    shape, minutes = fits[sessions]
    return WeibullChurn(shape, 60 * minutes, 1.0, HOUR_S * down_hours, faster=faster)


PRESETS: dict[str, dict[str, Callable[..., Any]]] = {
    "compute": {"mobile_devices": mobile_devices, "fail_slow_gpus": fail_slow_gpus},
    "network": {"wide_area": wide_area, "cloud_regions": cloud_regions},
    "churn": {
        "large_gpu_cluster": large_gpu_cluster,
        "research_cluster": research_cluster,
        "spot_instances": spot_instances,
        "volunteers": volunteers,
    },
}


def make(part: str, values: Mapping[str, Any], where: str) -> Any:
    """Makes a preset from a table: "preset" is its name, the rest its arguments.

    Raises:
        ConfigurationError: the name or an argument is not known, or a value not accepted.
    """
    rest = dict(values)
    name, known = rest.pop("preset"), PRESETS[part]
    if name not in known:
        raise ConfigurationError(f"{where}: preset={name!r} is not known{nearest(str(name), known)}")
    accepted = [argument for argument in inspect.signature(known[name]).parameters if argument != "base"]
    check_known(rest, accepted, where)
    return call(known[name], rest, where)


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ConfigurationError(f"{name}={value!r}: must be at least 1")
