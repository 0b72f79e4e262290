"""A model's parameters as one flat vector per dtype, shared by the training thread and the network's driver thread.

Theory of operation. Each parameter becomes a view of a flat tensor, so that publishing is one copy and applying a
correction one addition, both by the training thread at a step boundary. The driver thread never touches live
parameters: it reads published snapshots, which do not change, and writes into receive buffers, where it also leaves the
correction. No lock is held while a model's worth of bytes is copied or computed with, so neither thread waits for the
other.

    training thread                              driver thread
    publish: live -> snapshot, version v  ---->  latest, pin: bytes of v for the network
                                                 receive_buffer: filled by the network, is_finite
    apply: live += correction             <----  mix: received - v, weighted, into the receive buffer

Buffers such as BatchNorm's statistics travel behind the parameters. They are not added to but moved towards the received
ones (b <- b + w (b' - b)), so that a variance stays positive.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gossiptrain.compression.base import Codec
from gossiptrain.errors import ConfigurationError
from gossiptrain.mixing.base import Mixer
from gossiptrain.runtime.corrections import Correction, CorrectionQueue, ReceiveBuffer
from gossiptrain.runtime.in_place import check_places, current_buffer, flatten, move_buffers
from gossiptrain.runtime.layout import Group, Layout, ParameterSpec, slots_of
from gossiptrain.runtime.packing import Packing
from gossiptrain.runtime.pool import BufferPool
from gossiptrain.runtime.snapshots import Snapshot, SnapshotTable
from gossiptrain.runtime.staging import as_memoryview, staging_for
from gossiptrain.tug import stride

NORM_CHUNK = 1 << 20  # values; bounds the memory for a difference
SNAPSHOTS_RESERVED = 2  # one that the driver may be sending, one that training writes


class ParameterVector:
    """A model's trainable parameters and floating-point buffers, published, mixed and corrected.

    Creating one re-points every trainable parameter's memory: `optimizer.step()`, `state_dict`, autograd and in-place
    changes go on as before; `model.to(...)`, or assigning `parameter.data`, must come before. Attach before capturing
    CUDA graphs. Recurrent layers on CUDA lose cuDNN's own flat layout and may warn.

    Args:
        model: on a CPU or one CUDA device, with at least one trainable parameter.
        mix_buffers: let persistent floating-point buffers take part; integer buffers always stay local.
        codec: how parameters are written on the wire; None writes them as they are.

    Raises:
        ConfigurationError: a parameter cannot take part; the message names it and the mend.

    Attributes:
        device: where all parameters are.
        nbytes: bytes of one snapshot on the wire. full_bytes: of one in memory.
        schema: the entries of a snapshot in the model's order; peers' must be equal.
        schema_hash: 32 bytes over all of it.
        parameter_hashes: 4 bytes an entry, to find the first difference.
    """

    def __init__(self, model: nn.Module, mix_buffers: bool = True, codec: Codec | None = None) -> None:
        self._layout = Layout.of(model, mix_buffers)
        self._packing = Packing(self._layout, codec) if codec is not None else None
        self.device: torch.device = self._layout.device
        self.full_bytes: int = self._layout.nbytes
        self.nbytes: int = self._packing.nbytes if self._packing else self.full_bytes
        self.schema: tuple[ParameterSpec, ...] = self._layout.schema
        self.schema_hash: bytes = self._layout.schema_hash
        self.parameter_hashes: bytes = self._layout.parameter_hashes
        self._live = tuple(flatten(group, self._layout.device) for group in self._layout.parameters)
        self._staging = staging_for(self._layout.device, self.full_bytes, self._packing)
        self._snapshot_pool = BufferPool(self._staging.new_snapshot)
        self._snapshot_pool.reserve(SNAPSHOTS_RESERVED)
        self._snapshots = SnapshotTable(self._snapshot_pool)
        self._receive_pool = BufferPool(self._staging.new_receive)
        self._downloads: dict[int, Tensor] = {}
        self._corrections = CorrectionQueue()
        self._applied = 0
        self._published: Snapshot | None = None
        self._base: list[Tensor] = []  # what the change is counted from, one for each dtype
        self._copies: list[Tensor] = []
        self._mixer: Mixer | None = None
        self._mixer_states: list = []
        places = list(check_places(self._layout.parameters, self._live))
        self._check_always = (places[0], places[-1])
        self._check_in_turn = itertools.cycle(places)

    # The training thread's part: nothing here waits for the network.

    @torch.no_grad()
    def publish(self) -> Snapshot:
        """Copy parameters and buffers to a snapshot for the others and return it.

        On CUDA the copy is queued on the current stream and the host does not wait.
        """
        self.check_in_place()
        data = self._snapshots.begin()
        for group, live in zip(self._layout.parameters, self._live):
            group.view(data).copy_(live)
        for group in self._layout.buffers:
            torch.cat([current_buffer(slot).reshape(-1) for slot in group.slots], out=group.view(data))
        self._published = self._snapshots.commit(data, self._staging.written())
        return self._published

    @torch.no_grad()
    def apply(self) -> int:
        """Apply what the driver has queued, in order; return how many mixes and adoptions so far, in all."""
        self.check_in_place()
        for correction in self._corrections.take():
            if correction.buffer is not None:
                self._apply_one(correction, correction.buffer)
            self._applied += correction.count
        return self._applied

    @torch.no_grad()
    def mark(self, copy: bool) -> None:
        """Count the change of the parameters from here.

        Args:
            copy: keep a copy of them; else the snapshot published last stands for them, until the next `publish`.
        """
        groups = self._layout.parameters
        if not copy:
            assert self._published is not None, "published before"
            self._base = [group.view(self._published.data) for group in groups]
            return
        if not self._copies:
            self._copies = [torch.empty_like(live) for live in self._live]
        for held, live in zip(self._copies, self._live):
            held.copy_(live)
        self._base = self._copies

    def unmark(self) -> None:
        """Count no change any more."""
        self._base = []

    @torch.no_grad()
    def movement(self) -> Tensor | None:
        """Return the norm of the change since `mark`, a scalar on the device, of which the host does not wait; None
        without a mark. Reads both once."""
        pieces = [
            torch.linalg.vector_norm(now - before, dtype=torch.float64 if now.device.type == "cpu" else None)
            for live, base in zip(self._live, self._base)
            for now, before in zip(live.split(NORM_CHUNK), base.split(NORM_CHUNK))
        ]
        return torch.linalg.vector_norm(torch.stack([piece.float() for piece in pieces])) if pieces else None

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Return some of the parameters, always the same ones, [S] float32, on the device."""
        return torch.cat([live[:: stride(len(live))].float() for live in self._live])

    @torch.no_grad()
    def scale_change(self, factor: float) -> None:
        """Multiply the change since `mark` by a factor: x <- b + factor (x - b). Buffers stay as they are."""
        for live, base in zip(self._live, self._base):
            live.lerp_(base, 1 - factor)

    def note_adoption(self) -> int:
        """Note that parameters and buffers were replaced by another's: what waited is superseded.

        Snapshots published before are of the old parameters and must not be mixed any more.

        Returns:
            How many mixes and adoptions so far, in all.
        """
        for correction in self._corrections.take():
            self._applied += correction.count
            if correction.buffer is not None:
                self._recycle(correction.buffer)
        self._applied += 1
        return self._applied

    def views(self, data: Tensor) -> dict[str, Tensor]:
        """Return the parameters and buffers in a snapshot's bytes, [full_bytes] uint8, by name; no copy."""
        found = {}
        for group, slot in slots_of(self._groups()):
            part, spec = group.view(data), slot.spec
            found[spec.name] = part.as_strided(spec.shape, spec.strides, part.storage_offset() + slot.offset)
        return found

    def check_in_place(self) -> None:
        """Check cheaply that the model still uses this memory: first, last and one more parameter, in turn.

        Raises:
            ConfigurationError: a parameter was moved or replaced; the message names it and the mend.
        """
        for slot, address in (*self._check_always, next(self._check_in_turn)):
            parameter = slot.parameter()
            if parameter is None or parameter.data_ptr() != address:
                raise ConfigurationError(
                    f"parameter {slot.spec.name!r} was moved or replaced after attaching, so that mixing no longer "
                    "reaches it: call model.to(...), cast, share or replace parameters before attaching"
                )

    def _apply_one(self, correction: Correction, buffer: ReceiveBuffer) -> None:
        uploaded = buffer.uploaded
        assert uploaded is not None
        self._staging.lend(uploaded)
        for group, live in zip(self._layout.parameters, self._live):
            change = group.view(uploaded.data)
            live.add_(change)
        for group in self._layout.buffers:
            move_buffers(group, group.view(uploaded.data), correction.weight)
        self._staging.done(uploaded)
        self._recycle(buffer)

    # The driver thread's part.

    def latest(self) -> Snapshot | None:
        """Return the newest snapshot, None before the first; it stays available until the next call of this."""
        return self._snapshots.latest()

    def get(self, version: int) -> Snapshot:
        """Return a snapshot by its version; raises LookupError if it is gone."""
        return self._snapshots.get(version)

    def copy_of(self, version: int) -> Tensor:
        """Return a copy of a snapshot's bytes on the host, [full_bytes] uint8; raises LookupError if it is gone."""
        snapshot = self._snapshots.get(version)
        with self._staging.work(on=snapshot):
            return snapshot.data.to("cpu", copy=True)

    def pin(self, version: int) -> memoryview:
        """Keep a snapshot until as many `release` calls and return its bytes on the wire, [nbytes], read-only.

        The first pin of a version packs it, where there is a codec. On CUDA it also copies it to pinned host memory and
        waits for that: for the device to reach the end of the published step, at most as far as training runs ahead.

        Raises:
            LookupError: the version is gone.
        """
        snapshot = self._snapshots.pin(version)
        if version not in self._downloads:
            self._downloads[version] = self._staging.download(snapshot)
        return as_memoryview(self._downloads[version]).toreadonly()

    def release(self, version: int) -> None:
        """Take back one pin; after the last, the bytes from `pin` must not be read any more."""
        if self._snapshots.release(version):
            self._staging.discard_download(self._downloads.pop(version))

    def receive_buffer(self) -> ReceiveBuffer:
        """Return a buffer of exactly `nbytes` bytes for a snapshot from the network; contents arbitrary."""
        return ReceiveBuffer(self._receive_pool.acquire(), self._recycle)

    def is_finite(self, buffer: ReceiveBuffer) -> bool:
        """Tell whether every value in a filled buffer is finite. Reads it once; only a suspicion costs a second pass."""
        with self._staging.work():
            data = self._uploaded(buffer)
            return all(_all_finite(group.view(data)) for group in self._groups())

    def mix(self, version: int, inbox: Sequence[tuple[ReceiveBuffer, float]], mixer: Mixer) -> float:
        """Compute the mixer's correction of a pinned snapshot and queue it; the buffers are freed once applied.

        A correction that training has not taken yet is summed with the new one, so that at most one waits.

        Args:
            version: the snapshot that the partners hold as well.
            inbox: received snapshots with the weight given to each, in (0, 1], of sum at most 1.
            mixer: the algorithm; a change of mixer starts its state anew.

        Returns:
            The distance ||x_j - x_i||_2 of the parameters, averaged over the inbox by weight; 0.0 without any.

        Raises:
            LookupError: the snapshot is gone.
            ValueError: a weight is out of range, or a buffer was given away before.
        """
        snapshot = self._snapshots.get(version)
        for buffer, _ in inbox:
            buffer.hand_over()
        if not inbox:
            self._corrections.put(Correction(None, 0.0, count=1))
            return 0.0
        with self._staging.work(on=snapshot):
            received = [(self._uploaded(buffer), weight) for buffer, weight in inbox]
            distance = self._mix_with(snapshot, received, mixer)
            for group in self._layout.buffers:
                _average_in_first([(group.view(data), weight) for data, weight in received])
            total = math.fsum(weight for _, weight in inbox)
            summed = self._sum_with_waiting(Correction(inbox[0][0], min(1.0, total), count=1))
        self._corrections.put(summed)
        for buffer, _ in inbox[1:]:
            self._recycle(buffer)
        return distance

    def memory_report(self) -> dict[str, int]:
        """Return bytes held by purpose; "parameters" replaces the model's own memory, the rest is on top of it."""
        return {
            "parameters": sum(live.nbytes for live in self._live),
            "snapshots": self._snapshot_pool.allocated * self.full_bytes,
            "receive": self._receive_pool.allocated * self.nbytes,
            "block_begins": sum(copy.nbytes for copy in self._copies),
            **self._staging.report(),
        }

    def _groups(self) -> tuple[Group, ...]:
        return self._layout.parameters + self._layout.buffers

    def _uploaded(self, buffer: ReceiveBuffer) -> Tensor:
        if buffer.uploaded is None:
            buffer.uploaded = self._staging.upload(buffer.host)
        return buffer.uploaded.data

    def _recycle(self, buffer: ReceiveBuffer) -> None:
        """Give the memory back to the pools. Either thread."""
        if buffer.uploaded is not None:
            self._staging.discard_upload(buffer.uploaded)
        self._receive_pool.release(buffer.host)

    def _mix_with(self, snapshot: Snapshot, received: list[tuple[Tensor, float]], mixer: Mixer) -> float:
        """Mix with what the others have read of this snapshot: so both ends of a pair add negatives of each other."""
        if self._packing is None:
            return self._mix_parameters(snapshot.data, received, mixer)
        own = self._staging.rounded(snapshot)
        try:
            return self._mix_parameters(own.data, received, mixer)
        finally:
            self._staging.discard_upload(own)

    def _mix_parameters(self, x: Tensor, received: list[tuple[Tensor, float]], mixer: Mixer) -> float:
        """Leave the correction in the first received vector; return the distance."""
        groups = self._layout.parameters
        if mixer is not self._mixer:
            self._mixer, self._mixer_states = mixer, [mixer.init(group.view(x)) for group in groups]
        squares = torch.zeros(len(received), dtype=torch.float64)
        for index, group in enumerate(groups):
            inbox = [(group.view(data), weight) for data, weight in received]
            _, state = mixer.mix(self._mixer_states[index], group.view(x), inbox, out=inbox[0][0])
            self._mixer_states[index] = state
            squares += state.distances.double().cpu() ** 2
        weights = torch.tensor([weight for _, weight in received], dtype=torch.float64)
        return float((weights * squares.sqrt()).sum() / weights.sum())

    def _sum_with_waiting(self, new: Correction) -> Correction:
        waiting = self._corrections.take_back_sum()
        if waiting is None:
            return new
        new.count += waiting.count
        if waiting.buffer is not None and new.buffer is not None:
            self._add_to(new, waiting)
            self._recycle(waiting.buffer)
        return new

    def _add_to(self, new: Correction, waiting: Correction) -> None:
        """Make `new` stand for both: parameters add up; two moves towards averages are one move to a further average."""
        assert new.buffer is not None
        assert waiting.buffer is not None
        data, earlier = self._uploaded(new.buffer), self._uploaded(waiting.buffer)
        for group in self._layout.parameters:
            group.view(data).add_(group.view(earlier))
        total = 1 - (1 - waiting.weight) * (1 - new.weight)
        for group in self._layout.buffers:
            group.view(data).lerp_(group.view(earlier), 1 - new.weight / total)
        new.weight = total


def _average_in_first(inbox: list[tuple[Tensor, float]]) -> None:
    """Leave the weighted mean in the first vector, by steps that keep equal values exactly equal."""
    mean, total = inbox[0]
    for other, weight in inbox[1:]:
        total += weight
        mean.lerp_(other, weight / total)


def _all_finite(values: Tensor) -> bool:
    """Sum first, which any NaN or infinity shows in; large finite values may overflow it, then the extremes tell."""
    if not values.numel() or math.isfinite(float(values.sum())):
        return True
    lowest, highest = torch.aminmax(values)
    return math.isfinite(float(lowest)) and math.isfinite(float(highest))
