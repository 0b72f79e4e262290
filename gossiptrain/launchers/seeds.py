"""Finds running peers for a launcher: by address, or through a run's folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gossiptrain.errors import ConfigurationError, GossipTrainError, SeedUnreachableError
from gossiptrain.launchers.env import check_address, seed_addresses

if TYPE_CHECKING:
    from gossiptrain.launchers.run_folder import RunFolder
    from gossiptrain.protocol.notices import Status

JOIN_TIMEOUT_S = 10.0


def find_run(seeds: Sequence[str], timeout_s: float = JOIN_TIMEOUT_S) -> str:
    """Returns the id of the run that a seed belongs to.

    Raises:
        SeedUnreachableError: No seed answered; the message names each and how long it was tried.
    """
    return ask_any(seeds, timeout_s).run_id


def ask_any(addresses: Sequence[str], timeout_s: float) -> Status:
    """Asks peers in turn, a moment each, until one answers or `timeout_s` has passed.

    Raises:
        SeedUnreachableError: None answered in time.
    """
    from gossiptrain.runtime.status import ask

    began = time.monotonic()
    patience_s = min(1.0, timeout_s / len(addresses))
    while True:
        for address in addresses:
            try:
                return ask(address, patience_s)
            except ConfigurationError:
                raise
            except GossipTrainError:
                continue  # silent so far: perhaps it is still starting
        if time.monotonic() - began >= timeout_s:
            break
    waited_s = time.monotonic() - began
    raise SeedUnreachableError(
        f"no peer answered within {waited_s:.0f} s at {', '.join(addresses)}; is a run going on there?"
    )


def clear_the_way(folder: RunFolder, timeout_s: float = 1.0) -> None:
    """Removes the addresses that the killed peers of a run have left, so that nobody waits for them.

    Args:
        folder: Of a run that is to go on from its checkpoints.
        timeout_s: How long a peer that does run may take to answer.

    Raises:
        ConfigurationError: A peer of the run answers; the message says how to add peers to it.
    """
    files = sorted(folder.peers.glob("*.address"))
    addresses = seed_addresses([f"@{folder.peers}"])
    if addresses:
        from gossiptrain.runtime.status import ask_all

        if found := ask_all(addresses, timeout_s):
            member = found[0]
            raise ConfigurationError(
                f"resume={str(folder.path)!r}: this run is going on ({member.name} is at step {member.step}); stop it "
                "first, or add peers with --join"
            )
    for path in files:
        path.unlink(missing_ok=True)


def known_addresses(where: str) -> list[str]:
    """Returns the addresses meant by "tcp://host:port" or by a run's folder.

    Raises:
        ConfigurationError: Neither, or the folder of a run of which no peer runs.
    """
    if "://" in where:
        check_address("where", where)
        return [where]
    folder = Path(where)
    if not folder.is_dir():
        raise ConfigurationError(f"where={where!r}: must be a peer's address (tcp://host:port) or a run's folder")
    addresses = seed_addresses([f"@{folder / 'peers'}"])
    if not addresses:
        raise ConfigurationError(
            f"where={where!r}: no peer of this run is running; its models are in {folder / 'models'}"
        )
    return addresses
