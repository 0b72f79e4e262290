"""What budgets may be asked for; a leaf that imports nothing heavy, since launchers check them, too."""

from __future__ import annotations

from gossiptrain.errors import ConfigurationError

MBPS_MIN = 0.2


def check_mbps(name: str, mbps: float) -> None:
    """Refuses a bandwidth budget that cannot be kept; 0 stands for none.

    Raises:
        ConfigurationError: names the parameter, its value and what is accepted.
    """
    if mbps != 0 and not MBPS_MIN <= mbps < float("inf"):
        raise ConfigurationError(
            f"{name}={mbps!r}: must be at least {MBPS_MIN} megabit a second; leave it out for no limit"
        )


def check_megabytes(name: str, megabytes: float) -> None:
    """Refuses a memory budget that is no amount of memory; 0 stands for none.

    Raises:
        ConfigurationError: names the parameter, its value and what is accepted.
    """
    if not 0 <= megabytes < float("inf"):
        raise ConfigurationError(
            f"{name}={megabytes!r}: must be a positive number of megabytes; leave it out for no limit"
        )
