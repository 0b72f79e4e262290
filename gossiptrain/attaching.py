"""`attach`: decentralized training in an ordinary PyTorch script.

import gossiptrain as gt
peer = gt.attach(model, optimizer)
with peer:
    ...  # the training loop as it was
"""

from __future__ import annotations

from pathlib import Path

import torch

from gossiptrain.compression.base import Codec
from gossiptrain.mixing.base import Mixer
from gossiptrain.peer import Peer
from gossiptrain.peer_config import configure
from gossiptrain.protocol.config import ExchangeConfig, MembershipConfig, TopologySpec
from gossiptrain.transport import TransportConfig


def attach(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    topology: TopologySpec | None = None,
    mixer: Mixer | str | None = None,
    codec: Codec | str | None = None,
    name: str | None = None,
    run_id: str | None = None,
    run_dir: str | Path | None = None,
    listen: str | None = None,
    seeds: tuple[str, ...] | list[str] | None = None,
    founder: bool | None = None,
    sync_every: int | str | None = None,
    normalise: bool | None = None,
    insecure: bool | None = None,
    seed: int = 0,
    mix_buffers: bool = True,
    wait_for_peers: int | None = None,
    wait_timeout_s: float | None = None,
    membership: MembershipConfig | None = None,
    exchange: ExchangeConfig | None = None,
    transport: TransportConfig | None = None,
    checkpoint_every: int | str | None = None,
    keep_checkpoints: int | None = None,
    resume: bool | str | Path | None = None,
    compile_busy_s: float | None = None,
    max_mbps: float | None = None,
    max_buffer_mb: float | None = None,
) -> Peer:
    """Makes this process a peer that trains `model` together with others.

    What is not given here comes from the launcher's environment, else from defaults: without either, the peer is alone
    until somebody joins it. Call it after the model is on its device and before the first step. The trainable
    parameters become views of one flat vector; optimizers, schedulers and `state_dict` work as before.

    Args:
        model: on one device; at least one parameter requires grad. Every peer builds the same model.
        optimizer: its step hook drives the peer. Without one, call `peer.step()` after each step.
        topology: "overlay" (default), any family or schedule of `topologies`, a connected networkx graph, or a function
            from the sorted living names to a graph on them.
        mixer: "ad_psgd" (default; pairwise, nobody waits), "d_psgd" (synchronous rounds), or a mixer.
        codec: how parameters are written on the wire: "none" (default), "bfloat16" or "float16" (half the bytes),
            "int8" (a quarter), or a codec; equal on all peers. The mean of all peers does not feel the rounding.
        name: unique among the living peers.
        run_id: peers of other runs are refused.
        run_dir: folder for events and the final model.
        listen: "tcp://host:port"; port 0 takes a free one.
        seeds: addresses of peers already running ("tcp://host:port"), or "@folder" of address files.
        founder: whether the run begins from this peer's parameters; others take theirs from a peer in the run, and so
            does a founder whose seeds have stepped already.
        sync_every: local steps between two exchanges, at least 1 (default 4); a time ("2s"), which every peer fills with as
            many steps as it can; or "auto", which also works out that time from how fast peers drift apart and how long
            exchanges take.
        normalise: multiply the change that each block of local steps makes so that slow and fast peers count alike; where
            peers hold different data, and do not share it by their speed. Default False.
        insecure: allow an address that other machines can reach, without keys.
        seed: fixes the graph; equal on all peers.
        mix_buffers: average floating-point buffers too (each moves towards the other's by the mixing weight).
        wait_for_peers: peers to wait for before the first step (default: as many as were launched together).
        wait_timeout_s: how long, in seconds (default 20); then training begins with those that are there.
        membership, exchange, transport: time-outs and limits.
        checkpoint_every: steps (500) or time ("10min") between two checkpoints in run_dir; by default none are written.
        keep_checkpoints: so many of the newest are kept (default 3).
        resume: begin from the newest checkpoint in run_dir (True), or in the folder of another run.
        compile_busy_s: how long the first step of a compiled model may take before others suspect this peer, in seconds
            (default 300).
        max_mbps: what snapshots and states may take of the network, sent by this peer, in megabit a second; at least 0.2,
            and enough for exchanges to end before their time-outs. Default: no limit. Peers of one host do not count.
        max_buffer_mb: what snapshots, received ones, their staging and states for newcomers may take of memory, in
            megabytes; at least one exchange's worth. Default: no limit.

    Returns:
        The peer; nothing is sent before `with peer:`.

    Raises:
        ConfigurationError: an argument cannot work; the message says which, and what is accepted.
    """
    config = configure(
        topology,
        mixer,
        wait_for_peers,
        transport,
        given={
            "name": name,
            "run_id": run_id,
            "run_dir": Path(run_dir).absolute() if run_dir is not None else None,
            "listen": listen,
            "seeds": tuple(seeds) if seeds is not None else None,
            "founder": founder if founder is not None or seeds is None else not seeds,
            "sync_every": sync_every,
            "insecure": insecure,
            "checkpoint_every": str(checkpoint_every) if checkpoint_every is not None else None,
            "keep_checkpoints": keep_checkpoints,
            "resume": _resume(resume),
            "max_mbps": max_mbps,
            "max_buffer_mb": max_buffer_mb,
        },
        codec=codec,
        seed=seed,
        normalise=normalise,
        mix_buffers=mix_buffers,
        wait_timeout_s=wait_timeout_s,
        membership=membership,
        exchange=exchange,
        compile_busy_s=compile_busy_s,
    )
    return Peer(model, optimizer, config)


def _resume(resume: bool | str | Path | None) -> str | None:
    """Returns what the settings hold for it: a folder, "1" for the run's own, "" for none; None leaves it to them."""
    if resume is None or isinstance(resume, bool):
        return None if resume is None else "1" if resume else ""
    return str(Path(resume).absolute())
