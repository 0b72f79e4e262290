"""A peer's whole state: parameters, buffers, what the optimizer keeps, the step count; copied out and put back.

`Model` knows where everything is; `Parts` is a list of it at one moment, still in the model's own memory; `pack` copies
the parts to one run of bytes; `Model.adopt` is the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.fetching import CHUNK_BYTES
from gossiptrain.runtime import manifest as m
from gossiptrain.runtime import optimizer_state
from gossiptrain.runtime.manifest import DTYPES, NAMES, Entry, Manifest
from gossiptrain.runtime.optimizer_state import Scalar

_PREFIX = "model/"


class Identity(NamedTuple):
    """Whose states these are; see `Manifest`."""

    peer: str
    run_id: str
    seed: int
    schema: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Parts:
    """All tensors of a state, by name, where they are now; and what describes them."""

    tensors: Mapping[str, Tensor]
    scalars: Mapping[str, Scalar]
    optimizer: str
    lacks_optimizer: str
    entries: tuple[Entry, ...]
    ledger: str = ""

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, Tensor],
        scalars: Mapping[str, Scalar] | None = None,
        optimizer: str = "",
        lacks_optimizer: str = "",
    ) -> Parts:
        """Gives each tensor its place."""
        entries = m.place((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items())
        return cls(tensors, scalars or {}, optimizer, lacks_optimizer, entries)

    @property
    def nbytes(self) -> int:
        return self.entries[-1].end if self.entries else 0

    def manifest(self, identity: Identity, step: int, data: memoryview) -> Manifest:
        """Describes the packed bytes; reads all of them."""
        return Manifest(
            peer=identity.peer,
            run_id=identity.run_id,
            seed=identity.seed,
            schema=identity.schema,
            step=step,
            optimizer=self.optimizer,
            lacks_optimizer=self.lacks_optimizer,
            scalars=dict(self.scalars),
            entries=self.entries,
            nbytes=self.nbytes,
            chunk_bytes=CHUNK_BYTES,
            digests=m.digests_of(data),
            versions=identity.versions,
            ledger=self.ledger,
        )


@torch.no_grad()
def pack(parts: Parts, out: Tensor) -> None:
    """Copies the parts to host memory, [at least nbytes] uint8; from a device without waiting if it is pinned."""
    for entry in parts.entries:
        if entry.end > entry.begin:
            view_of(entry, out).copy_(parts.tensors[entry.name], non_blocking=True)


def view_of(entry: Entry, data: Tensor) -> Tensor:
    """Returns the tensor that an entry describes, as a view of the state's bytes."""
    return data[entry.begin : entry.end].view(DTYPES[entry.dtype]).view(entry.shape)


class Model:
    """A model and its optimizer, as something that has a state.

    Args:
        mixed: names of the parameters and buffers that peers average; every state has them.

    Attributes:
        ledger: tells what is trained of the shared data. ledger_found: what the last state taken over told of that.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, mixed: frozenset[str]) -> None:
        self._model = model
        self._optimizer = optimizer
        self._mixed = frozenset(_PREFIX + name for name in mixed)
        self.ledger: Callable[[], str] = str
        self.ledger_found = ""

    def parts(self, with_frozen: bool) -> Parts:
        """Lists everything as it is now.

        Args:
            with_frozen: parameters that are not trained, too. Between peers these are equal by construction.

        Raises:
            ConfigurationError: a tensor cannot be written down; it is named.
        """
        tensors = dict(self._tensors(with_frozen))
        for name, tensor in tensors.items():
            if tensor.dtype not in NAMES or tensor.layout != torch.strided or tensor.is_meta:
                raise ConfigurationError(
                    f"{name!r} is {tensor.dtype}, {tensor.layout}: cannot be part of a saved state"
                )
        kept = optimizer_state.collect(self._optimizer, self._model)
        tensors.update(kept.tensors)
        parts = Parts.of(tensors, kept.scalars, optimizer_state.describe(self._optimizer), kept.problem)
        return replace(parts, ledger=self.ledger())

    def check(self, manifest: Manifest) -> None:
        """Checks that this model can take the state.

        Raises:
            ConfigurationError: it cannot; the message names the first difference.
        """
        entries = {entry.name: entry for entry in manifest.entries}
        own = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in self._tensors(with_frozen=True)}
        of_model = {name: entry for name, entry in entries.items() if not optimizer_state.is_of_optimizer(name)}
        if difference := m.compare(of_model, own):
            raise ConfigurationError(difference)
        if missing := sorted(self._mixed - entries.keys()):
            raise ConfigurationError(f"{missing[0]!r} is missing")

    @torch.no_grad()
    def adopt(self, manifest: Manifest, data: Tensor) -> str:
        """Takes a whole state over, in place: parameters stay where they are. Training thread.

        Args:
            manifest: has passed `check`.
            data: the state's bytes, [nbytes] uint8 on the host.

        Returns:
            Why the optimizer begins with a fresh state; "" where it goes on with the other's.

        Raises:
            ValueError: a parameter, a mixed buffer or a value of the optimizer is not finite; nothing was changed.
        """
        views = {entry.name: view_of(entry, data) for entry in manifest.entries}
        for name, view in views.items():
            counts = name in self._mixed or optimizer_state.is_of_optimizer(name)
            if counts and view.is_floating_point() and not _is_finite(view):
                raise ValueError(f"{name!r} is not finite")
        own = dict(self._tensors(with_frozen=True))
        for name, view in views.items():
            if name in own:
                own[name].copy_(view)
        self.ledger_found = manifest.ledger
        return self._adopt_optimizer(manifest, views)

    def _adopt_optimizer(self, manifest: Manifest, views: Mapping[str, Tensor]) -> str:
        optimizer = self._optimizer
        if manifest.lacks_optimizer or optimizer is None:
            return manifest.lacks_optimizer
        kept = {name: view for name, view in views.items() if optimizer_state.is_of_optimizer(name)} | manifest.scalars
        reason = optimizer_state.misfit(optimizer, self._model, manifest.optimizer, kept)
        if not reason:
            optimizer_state.load(optimizer, self._model, kept)
        return reason

    def _tensors(self, with_frozen: bool) -> list[tuple[str, Tensor]]:
        model = self._model
        found = [(name, p.data) for name, p in model.named_parameters() if p.requires_grad or with_frozen]
        for prefix, module in model.named_modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in module._non_persistent_buffers_set:
                    found.append((f"{prefix}.{name}" if prefix else name, buffer))
        return [(_PREFIX + name, tensor) for name, tensor in found]


def named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a model's tensors under the names that they have in states."""
    return {_PREFIX + name: tensor for name, tensor in tensors.items()}


def _is_finite(view: Tensor) -> bool:
    if view.dtype.itemsize == 1:
        view = view.float()
    return bool(torch.isfinite(view).all())
