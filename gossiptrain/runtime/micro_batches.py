"""The gradient of a batch that may not fit into the device's memory: in parts, as large as fit, found by trying.

Theory of operation. A batch of N samples is cut into parts of at most `size`, as even as can be, and the mean loss of a
part of n samples counts n / N: so the sum of the parts' gradients is the gradient of the mean loss over all N, whatever the
size. A part that finds no memory halves the size; then the gradients are cleared, caches are given back, and the batch is
begun anew. Between the largest size that fitted and the smallest that did not, larger sizes are tried now and then, with
pauses that double: a try that fails costs one repeated batch.

The size is kept in a file, if there is one: a restarted process begins with it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gossiptrain.errors import ConfigurationError

if TYPE_CHECKING:
    from gossiptrain.peer import Peer

log = logging.getLogger("gossiptrain")

FOLDER = "micro_batches"
TRY_AFTER = 200  # batches without a failure, before a larger size is tried; doubles with each try that fails
TRY_AFTER_MAX = 1 << 16
_OUT_OF_MEMORY = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
)


class SizeSearch:
    """Which size of a part to use; knows nothing of tensors.

    Attributes:
        size: the largest part, in samples; None while every batch has fitted whole.
        failed: the smallest part that found no memory lately; None where none did.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size
        self.failed: int | None = None
        self._fitted = 0
        self._pause = self._left = TRY_AFTER
        self._before_try: int | None = None

    def parts(self, samples: int) -> int:
        """Returns into how many parts a batch is cut."""
        return 1 if self.size is None else -(-samples // self.size)

    def is_proven(self, samples: int) -> bool:
        """Says whether parts as large as this batch's have fitted before."""
        return self._part(samples) <= self._fitted

    def fitted(self, samples: int) -> None:
        """A whole batch of so many samples went through."""
        self._fitted = max(self._fitted, self._part(samples))
        if self.size is None:
            return
        if self._before_try is not None and self._part(samples) > self._before_try:
            self._before_try = None
        if self.parts(samples) == 1:
            return  # nothing is gained by a larger size
        self._left -= 1
        if self._left <= 0:
            self._try_larger(samples)

    def out_of_memory(self, samples: int) -> bool:
        """A part of a batch of so many samples found no memory; returns whether there is a smaller size."""
        part = self._part(samples)
        self.failed = part if self.failed is None else min(self.failed, part)
        if self._before_try is not None and self._before_try < part:
            self.size = self._before_try
            self._pause = min(2 * self._pause, TRY_AFTER_MAX)
        elif part > 1:
            self.size = part // 2
        else:
            return False
        self._before_try = None
        self._fitted = min(self._fitted, self.size)
        self._left = self._pause
        return True

    def _part(self, samples: int) -> int:
        return -(-samples // self.parts(samples))

    def _try_larger(self, samples: int) -> None:
        """Goes halfway to what failed, in fewer parts: sizes in between that give as many parts gain nothing."""
        assert self.size is not None
        self._left = self._pause
        fewer = self.parts(samples) - 1
        middle = 2 * self.size if self.failed is None else (self.size + self.failed) // 2
        larger = -(-samples // min(fewer, -(-samples // middle)))
        if self.failed is not None and larger >= self.failed:
            larger = -(-samples // fewer)
        if self.failed is not None and larger >= self.failed:
            # No better size is left. What took the memory may go one day: after a long pause, begin anew above.
            self.failed = None
            self._left = self._pause = min(4 * self._pause, TRY_AFTER_MAX)
            return
        self._before_try, self.size = self.size, larger


class MicroBatches:
    """Computes gradients of batches of any size, in parts that fit the device's memory.

        micro = gt.MicroBatches(model, peer=peer)
        for x, y in loader:
            loss = micro.backward(lambda x, y: cross_entropy(model(x), y), x, y)
            optimizer.step()

    The loader's batch is the common batch: the optimizer sees its gradient, whatever the device could hold at once. Layers
    that look across samples (BatchNorm in training) see parts instead of the batch.

    Args:
        model: whose gradients are computed.
        size: the largest part to begin with; None begins with the whole batch.
        peer: keeps the size in its run folder, for a restart, and shows it as `micro_batch`.
        remember: a file to keep it in instead; None keeps it only as long as the process lives.
        backward: what is done with a part's weighted loss; `lambda loss: scaler.scale(loss).backward()` for a gradient
            scaler.

    Raises:
        ConfigurationError: the size is no positive number, or both `peer` and `remember` are given.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        size: int | None = None,
        peer: Peer | None = None,
        remember: str | Path | None = None,
        backward: Callable[[Tensor], Any] = Tensor.backward,
    ) -> None:
        if size is not None and size < 1:
            raise ConfigurationError(f"size={size!r}: must be at least 1 sample, or None for the whole batch")
        if peer is not None and remember is not None:
            raise ConfigurationError(f"remember={str(remember)!r}: the peer has a place for it; give one of them")
        self._model, self._peer, self._backward = model, peer, backward
        self._file = Path(remember) if remember is not None else _file_of(peer)
        self._search = SizeSearch(size if size is not None else self._remembered())
        self._told = self._search.size

    @property
    def size(self) -> int | None:
        """The largest part at present, in samples; None while whole batches fit."""
        return self._search.size

    def backward(self, loss_fn: Callable[..., Tensor], *batch: Any) -> Tensor:
        """Leaves the gradient of the mean loss over the whole batch in the parameters' `grad`, and returns that loss.

        Gradients that were there before are cleared.

        Args:
            loss_fn: given a part of each argument, returns the mean loss over its samples, a scalar.
            batch: tensors whose first dimension are the samples, [N, ...]; also in tuples, lists and dicts. Anything else
                is handed on as it is.

        Returns:
            The mean loss over the N samples, a scalar without a graph.

        Raises:
            ConfigurationError: there is no tensor among them, or their first dimensions differ.
            torch.cuda.OutOfMemoryError: not even one sample fits. Other errors of `loss_fn` are passed on as they are.
        """
        samples = _samples(batch)
        search = self._search
        while True:
            buffers = [] if search.is_proven(samples) else self._kept_buffers()
            result = self._attempt(loss_fn, batch, samples, search.parts(samples))
            if isinstance(result, Tensor):
                break
            self._model.zero_grad(set_to_none=True)
            _restore(buffers)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if not search.out_of_memory(samples):
                raise result
            log.info("parts of %s samples found no memory; going on with %s", search.failed, search.size)
        search.fitted(samples)
        self._tell()
        return result

    def _attempt(self, loss_fn: Callable[..., Tensor], batch: Any, samples: int, parts: int) -> Tensor | RuntimeError:
        """Returns the loss, or the error; the error's frames, which hold the memory, are let go here."""
        self._model.zero_grad(set_to_none=True)
        total: Tensor | None = None
        try:
            for begin, end in _cuts(samples, parts):
                loss = loss_fn(*(_cut(value, begin, end) for value in batch)) * ((end - begin) / samples)
                self._backward(loss)
                total = loss.detach() if total is None else total + loss.detach()
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            return error.with_traceback(None)
        assert total is not None
        return total

    def _kept_buffers(self) -> list[tuple[Tensor, Tensor]]:
        """Returns what a failed attempt may have moved (running statistics), with its values."""
        if not self._model.training:
            return []
        return [
            (buffer, buffer.clone())
            for module in self._model.modules()
            if getattr(module, "track_running_stats", False)
            for buffer in module.buffers(recurse=False)
        ]

    def _tell(self) -> None:
        size = self._search.size
        if size == self._told or size is None:
            return
        self._told = size
        if self._peer is not None:
            self._peer.record(micro_batch=size)
        if self._file is not None:
            self._write(self._file, size)

    def _write(self, file: Path, size: int) -> None:
        """Keeps the size; what cannot be written is no reason to stop training."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_name(f"{file.name}.{os.getpid()}.new")
            new.write_text(json.dumps({"size": size, "device": _device_of(self._model)}) + "\n")
            new.replace(file)
        except OSError as error:
            log.warning("the size of parts that fit could not be kept in %s: %s", file, error)

    def _remembered(self) -> int | None:
        """Reads what another process found on such a device; what cannot be read counts for nothing."""
        if self._file is None:
            return None
        try:
            kept = json.loads(self._file.read_text())
            size, device = kept["size"], kept["device"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        fits = isinstance(size, int) and not isinstance(size, bool) and size >= 1
        return size if fits and device == _device_of(self._model) else None


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Libraries beside torch's own allocator, and the CPU's, report it in words only."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def _restore(buffers: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, value in buffers:
        buffer.copy_(value)


def _file_of(peer: Peer | None) -> Path | None:
    run_dir = peer.config.settings.run_dir if peer is not None else None
    return run_dir / FOLDER / f"{peer.name}.json" if peer is not None and run_dir is not None else None


def _device_of(model: nn.Module) -> str:
    """Names the device by kind and memory: another one has room for other sizes."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory} bytes"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _samples(batch: tuple[Any, ...]) -> int:
    """Returns the common first dimension of all tensors."""
    shapes = [tuple(tensor.shape) for tensor in _tensors(batch)]
    if not shapes or any(not shape or shape[0] != shapes[0][0] for shape in shapes) or not shapes[0][0]:
        raise ConfigurationError(
            f"batch of shapes {shapes}: must hold tensors whose first dimension is the same number of samples, at least 1"
        )
    return shapes[0][0]


def _cuts(samples: int, parts: int) -> Iterator[tuple[int, int]]:
    """Cuts range(samples) into parts whose sizes differ by at most one, the larger ones first."""
    begin = 0
    for index in range(parts):
        end = begin + samples // parts + (index < samples % parts)
        yield begin, end
        begin = end


def _cut(value: Any, begin: int, end: int) -> Any:
    if isinstance(value, Tensor):
        return value[begin:end]
    if isinstance(value, dict):
        return {key: _cut(item, begin, end) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        cut = [_cut(item, begin, end) for item in value]
        return type(value)(*cut) if hasattr(value, "_fields") else type(value)(cut)
    return value
