"""Everything a peer can be told, checked before anything is started."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

from gossiptrain.compression.base import Codec
from gossiptrain.compression.registry import codec_of
from gossiptrain.errors import ConfigurationError
from gossiptrain.launchers import env
from gossiptrain.mixing.base import Mixer
from gossiptrain.mixing.registry import by_name, known_mixers
from gossiptrain.protocol.config import ExchangeConfig, MembershipConfig, ProtocolConfig, TopologySpec
from gossiptrain.protocol.pacing import PacingConfig
from gossiptrain.protocol.rewiring import check_topology
from gossiptrain.transport import TransportConfig


@dataclass(frozen=True)
class PeerConfig:
    """Everything a peer can be told; `attach` fills it from the launcher's environment and its own arguments.

    Attributes:
        settings: name, run, addresses and seeds, as a launcher gives them.
        topology: a family or schedule of `topologies` by name, any connected networkx graph, or a function from the
            sorted names of the living members to a graph on them.
        mixer: how received parameters are mixed.
        codec: how parameters are written on the wire; None writes them as they are.
        seed: fixes the graph; equal on all peers.
        normalise: whether the change that each block makes is multiplied so that peers count alike, however many steps they
            take; for peers that hold different data.
        mix_buffers: whether floating-point buffers (BatchNorm statistics) are averaged too; integer ones stay local.
        wait_for_peers: `with peer:` waits for this many peers (itself included) before the first step, at most
            `wait_timeout_s`; 1 never waits for others.
        wait_timeout_s: seconds; see `wait_for_peers`.
        compile_busy_s: how long the first step of a compiled model may take before others suspect this peer, in seconds.
        membership, exchange: time-outs and limits.
        transport: limits; where to listen stands in the settings.
    """

    settings: env.PeerSettings
    topology: TopologySpec
    mixer: Mixer
    codec: Codec | None = None
    seed: int = 0
    normalise: bool = False
    mix_buffers: bool = True
    wait_for_peers: int = 1
    wait_timeout_s: float = 20.0
    compile_busy_s: float = 300.0
    membership: MembershipConfig = field(default_factory=MembershipConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    transport: TransportConfig = field(default_factory=TransportConfig)

    def __post_init__(self) -> None:
        check_topology(self.topology)
        if not self.compile_busy_s > 0:
            raise ConfigurationError(f"compile_busy_s={self.compile_busy_s!r}: must be a positive number of seconds")
        if self.wait_for_peers < 1:
            raise ConfigurationError(f"wait_for_peers={self.wait_for_peers}: must be at least 1, the peer itself")
        if getattr(self.mixer, "kind", None) not in ("pair", "round"):
            raise ConfigurationError(f"mixer={self.mixer!r}: must be a mixer or one of {', '.join(known_mixers())}")
        if not self.settings.founder and not self.settings.seeds:
            raise ConfigurationError(
                "founder=False: this peer would begin from another's parameters, but seeds is empty; give the address of "
                "a running peer (tcp://host:port) or a folder of addresses (@folder), or founder=True"
            )
        _ = self.listening

    @property
    def pacing(self) -> PacingConfig:
        """How many local steps there are in a block."""
        return PacingConfig.of(self.settings.sync_every, self.normalise)

    def protocol(self, **found: Any) -> ProtocolConfig:
        """What the protocol is told: all this, and what is found at the start (`found`: the other fields of it)."""
        settings = self.settings
        return ProtocolConfig(
            name=settings.name,
            run_id=settings.run_id,
            expects_seeds=bool(settings.seeds),
            topology=self.topology,
            kind=self.mixer.kind,
            mixer=repr(self.mixer) if self.codec is None else f"{self.mixer!r} through {self.codec!r}",
            pair_weight=getattr(self.mixer, "weight", 0.5),
            pacing=self.pacing,
            seed=self.seed,
            membership=self.membership,
            exchange=self.exchange,
            **found,
        )

    def described(self) -> dict[str, str | int]:
        """Returns what fixes the run, as the event log has it."""
        return {
            "pace": self.mixer.kind,
            "topology": self.topology if isinstance(self.topology, str) else "",
            "codec": "none" if self.codec is None else repr(self.codec),
            "sync_every": self.settings.sync_every,
        }

    @property
    def listening(self) -> TransportConfig:
        """The transport's configuration, with the settings' address.

        Raises:
            ConfigurationError: other machines could reach the address, and that was not agreed to.
        """
        settings = self.settings
        max_mbps = settings.max_mbps or self.transport.max_mbps
        return replace(self.transport, listen=settings.listen, insecure=settings.insecure, max_mbps=max_mbps)


def configure(
    topology: TopologySpec | None,
    mixer: Mixer | str | None,
    wait_for_peers: int | None,
    transport: TransportConfig | None,
    given: dict[str, object],
    **limits: object,
) -> PeerConfig:
    """Fills in what was not given (None): from the launcher's environment, else with defaults.

    Args:
        given: fields of `PeerSettings`.
        limits: further fields of `PeerConfig`, `codec` by name or not; None leaves a default.

    Raises:
        ConfigurationError: a value cannot work; the message names it, and what is accepted.
    """
    if transport is not None and given.get("listen") is None and transport.listen != env.LOOPBACK_ANY_PORT:
        given = {**given, "listen": transport.listen}
    if transport is not None and given.get("insecure") is None and transport.insecure:
        given = {**given, "insecure": True}
    settings = replace(env.from_environment(), **_without_none(given))  # type: ignore[arg-type]
    return PeerConfig(
        settings=settings,
        topology=settings.topology if topology is None else topology,
        mixer=_mixer(settings.mixer if mixer is None else mixer),
        codec=codec_of(limits.pop("codec", None) or settings.codec),
        wait_for_peers=_launched_together() if wait_for_peers is None else wait_for_peers,
        transport=transport or TransportConfig(),
        **_without_none(limits),  # type: ignore[arg-type]
    )


def _mixer(mixer: Mixer | str) -> Mixer:
    if not isinstance(mixer, str):
        return mixer
    try:
        return by_name(mixer)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _launched_together() -> int:
    variable = env.PREFIX + "PEERS"
    text = os.environ.get(variable) or "1"
    if not text.isdecimal():
        raise ConfigurationError(f"{variable}={text!r}: must be a whole number of peers")
    return int(text)


def _without_none(values: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}
