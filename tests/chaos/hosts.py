"""One peer on each host of a network."""

from __future__ import annotations

from typing import Any

from tests.chaos.harness import Swarm
from tests.chaos.invariants import wait_until_whole
from tests.chaos.network import Network


def start_on(swarm: Swarm, network: Network, **attach: Any) -> list[str]:
    """Starts peer-0 on host 0 and so on, and waits until all step and know each other; returns their names."""
    count = len(network.hosts)
    for host in network.hosts:
        where = {"listen": network.listen(host), "insecure": True, "wait_for_peers": count, **attach}
        swarm.start(f"peer-{host}", network=network.namespace(host), attach=where)
    names = [f"peer-{host}" for host in network.hosts]
    for name in names:
        swarm.until(lambda name=name: swarm.steps(name).size, f"{name} takes a step")
    wait_until_whole(swarm, names)
    return names
