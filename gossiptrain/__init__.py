"""Decentralized training of PyTorch models: peers gossip parameters over ZeroMQ, with no server.

    import gossiptrain as gt
    peer = gt.attach(model, optimizer)
    with peer:
        for batch in loader: ...  # the loop as it was

Names are loaded when first used, so that `import gossiptrain` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gossiptrain.attaching import attach
    from gossiptrain.errors import (
        AddressInUseError,
        ConfigurationError,
        GossipTrainError,
        MixerMismatchError,
        ModelMismatchError,
        NameTakenError,
        PeerStoppedError,
        RunMismatchError,
        SeedUnreachableError,
        VersionMismatchError,
    )
    from gossiptrain.mixing import ad_psgd, d_psgd
    from gossiptrain.peer import Peer
    from gossiptrain.peer_config import PeerConfig
    from gossiptrain.protocol.config import ExchangeConfig, MembershipConfig
    from gossiptrain.reports import compare, open_run
    from gossiptrain.runtime.micro_batches import MicroBatches
    from gossiptrain.runtime.resources import Resources, device, resources
    from gossiptrain.sampler import PeerSampler
    from gossiptrain.streams import ShardedStream, StreamLoader
    from gossiptrain.transport import TransportConfig

_HOMES = {
    "attach": "attaching",
    "Peer": "peer",
    "PeerConfig": "peer_config",
    "PeerSampler": "sampler",
    "ShardedStream": "streams",
    "StreamLoader": "streams",
    "ad_psgd": "mixing",
    "d_psgd": "mixing",
    "ExchangeConfig": "protocol.config",
    "MembershipConfig": "protocol.config",
    "TransportConfig": "transport",
    "compare": "reports",
    "device": "runtime.resources",
    "MicroBatches": "runtime.micro_batches",
    "Resources": "runtime.resources",
    "resources": "runtime.resources",
    "open_run": "reports",
    "AddressInUseError": "errors",
    "ConfigurationError": "errors",
    "GossipTrainError": "errors",
    "MixerMismatchError": "errors",
    "ModelMismatchError": "errors",
    "NameTakenError": "errors",
    "PeerStoppedError": "errors",
    "RunMismatchError": "errors",
    "SeedUnreachableError": "errors",
    "VersionMismatchError": "errors",
}

__all__ = [
    "AddressInUseError",
    "ConfigurationError",
    "ExchangeConfig",
    "GossipTrainError",
    "MembershipConfig",
    "MicroBatches",
    "MixerMismatchError",
    "ModelMismatchError",
    "NameTakenError",
    "Peer",
    "PeerConfig",
    "PeerSampler",
    "PeerStoppedError",
    "Resources",
    "RunMismatchError",
    "SeedUnreachableError",
    "ShardedStream",
    "StreamLoader",
    "TransportConfig",
    "VersionMismatchError",
    "ad_psgd",
    "attach",
    "compare",
    "d_psgd",
    "device",
    "open_run",
    "resources",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("gossiptrain")
        except PackageNotFoundError:
            return "0+unknown"
    if name in _HOMES:
        value = getattr(import_module(f"gossiptrain.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'gossiptrain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
