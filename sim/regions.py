"""Published round trips and bandwidths between regions of the clouds.

Two tables, joined where a place stands in both:

- AWS: round trips (ms) and the bandwidth of one pair of instances (Gbit/s) between ten regions, all 45 pairs, as measured
  for Yuan et al., "Decentralized Training of Foundation Models in Heterogeneous Environments", NeurIPS 2022, and published
  with its code (github.com/DS3Lab/DT-FM, scheduler/generate_sim_com_matrices.py). A pair in both tables has these.
- IBM Cloud: average round trips (ms) between eleven regions, all 55 pairs, 2 to 31 August 2025, from the operator's
  monthly table (cloud.ibm.com/docs/vpc, "Network latency"; github.com/ibm-cloud-docs/vpc). The mean of the two directions
  stands here. Its Washington DC region, whose data centres are in Northern Virginia, is "virginia" here. It publishes no
  bandwidths, so that such pairs are limited by the hosts' own links only.

No figure is published for a pair of which one region is in the first table only and the other in the second only, such as
oregon and madrid: those are refused. Within a region the operator's zones are 0.6 to 2.9 ms apart (IBM's table of March
2024); 1 ms stands for it.
"""

from __future__ import annotations

from typing import NamedTuple

from gossiptrain.errors import ConfigurationError
from sim.tables import nearest

LOCAL_MS = 1.0
UNKNOWN_GBPS = float("inf")

_AWS = ("oregon", "virginia", "ohio", "tokyo", "seoul", "singapore", "sydney", "london", "frankfurt", "ireland")
# For each region (round trip ms, Gbit/s) to those after it in the list above.
_AWS_ROWS = (
    (
        (67, 0.79),
        (49, 1.10),
        (96, 0.523),
        (124, 0.46),
        (163, 0.341),
        (139, 0.36),
        (136, 0.42),
        (143, 0.404),
        (124, 0.482),
    ),
    ((11, 1.12), (143, 0.524), (172, 0.500), (230, 0.364), (197, 0.383), (76, 1.16), (90, 1.02), (67, 1.05)),
    ((130, 0.694), (159, 0.529), (197, 0.452), (185, 0.484), (86, 1.05), (99, 0.799), (77, 1.14)),
    ((34, 1.10), (73, 1.01), (100, 0.761), (210, 0.366), (223, 0.36), (199, 0.465)),
    ((74, 1.14), (148, 0.58), (238, 0.342), (235, 0.358), (228, 0.335)),
    ((92, 0.816), (169, 0.500), (155, 0.535), (179, 0.492)),
    ((262, 0.326), (265, 0.328), (254, 0.344)),
    ((14, 1.14), (12, 1.09)),
    ((24, 1.08),),
)
_IBM = (
    "dallas",
    "toronto",
    "virginia",
    "frankfurt",
    "london",
    "madrid",
    "montreal",
    "osaka",
    "sydney",
    "tokyo",
    "sao_paulo",
)
# Round trips (ms) from each region to all, in the order above.
_IBM_ROWS = (
    (0, 34, 32, 123, 112, 118, 42, 149, 184, 141, 143),
    (34, 0, 19, 92, 83, 105, 11, 166, 214, 158, 128),
    (31, 19, 0, 87, 75, 88, 16, 169, 214, 164, 117),
    (123, 92, 86, 0, 13, 29, 89, 234, 249, 228, 194),
    (113, 82, 76, 13, 0, 27, 79, 246, 260, 240, 186),
    (117, 106, 88, 29, 27, 0, 101, 261, 275, 256, 203),
    (43, 11, 16, 89, 79, 102, 0, 174, 226, 166, 124),
    (149, 163, 170, 234, 247, 261, 175, 0, 124, 9, 291),
    (185, 215, 214, 249, 260, 275, 222, 124, 0, 117, 325),
    (142, 159, 163, 232, 241, 256, 168, 9, 117, 0, 282),
    (146, 128, 117, 196, 185, 201, 126, 291, 324, 285, 0),
)


class Path(NamedTuple):
    """What lies between two regions: the round trip, and what one pair of hosts gets; infinity where none is published."""

    round_trip_ms: float
    gbps: float


def _paths() -> dict[tuple[str, str], Path]:
    """All pairs in alphabetical order of the two."""
    found: dict[tuple[str, str], Path] = {}
    for i, one in enumerate(_IBM):
        for j, other in enumerate(_IBM):
            if one < other:
                found[one, other] = Path((_IBM_ROWS[i][j] + _IBM_ROWS[j][i]) / 2, UNKNOWN_GBPS)
    for i, row in enumerate(_AWS_ROWS):
        for other, (round_trip_ms, gbps) in zip(_AWS[i + 1 :], row, strict=True):
            first, second = sorted((_AWS[i], other))
            found[first, second] = Path(float(round_trip_ms), gbps)
    return found


PATHS = _paths()
REGIONS = tuple(sorted({*_AWS, *_IBM}))


def check(region: str) -> None:
    """Lets a region pass that is known.

    Raises:
        ConfigurationError: it is not; the nearest known one is named.
    """
    if region not in REGIONS:
        raise ConfigurationError(f"regions: {region!r} is not known{nearest(str(region), REGIONS)}")


def path(one: str, other: str) -> Path:
    """Returns what lies between two regions.

    Raises:
        ConfigurationError: no figures are published for the two.
    """
    if one == other:
        return Path(LOCAL_MS, UNKNOWN_GBPS)
    first, second = sorted((one, other))
    found = PATHS.get((first, second))
    if found is None:
        raise ConfigurationError(
            f"regions: no published round trip between {one!r} and {other!r}; give latency_s as a matrix instead"
        )
    return found
