"""Between the network's memory and the model's device.

On a CPU they are the same memory and nothing is copied. On CUDA the driver thread works on a side stream of its own and
stages through pinned host memory; it waits for its stream (the network thread may), while the training thread only makes
its stream wait for events (no host ever waits for the network).

With a codec the network's memory holds packed snapshots, the device's whole ones; packing is the device's work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from gossiptrain.runtime.packing import Packing
from gossiptrain.runtime.pool import BufferPool
from gossiptrain.runtime.snapshots import Snapshot


def host_bytes(nbytes: int, pinned: bool = False) -> Tensor:
    """Return host memory, [nbytes] uint8, whose pages are resident already."""
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=pinned).fill_(0)


def as_memoryview(host: Tensor) -> memoryview:
    """Return the bytes of a contiguous uint8 tensor on the host; no copy."""
    return host.numpy().data


class DeviceBytes:
    """A snapshot's worth of device memory, [nbytes] uint8, that two streams take turns with.

    Attributes:
        data: the bytes.
        reusable: CUDA event of the last reader on the training stream; None if there was none, and on a CPU.
    """

    def __init__(self, data: Tensor) -> None:
        self.data = data
        self.reusable: Any = None


class Staging(Protocol):
    """What the parameter vector needs of a device."""

    def new_snapshot(self) -> Tensor:
        """Return device memory for a snapshot, [nbytes] uint8. Training thread."""
        ...

    def written(self) -> Any:
        """Mark that the training stream has written a snapshot; the mark goes into `Snapshot.ready`."""
        ...

    def download(self, snapshot: Snapshot) -> Tensor:
        """Return a snapshot's bytes on the host; undone by `discard_download`. Driver thread."""
        ...

    def discard_download(self, host: Tensor) -> None:
        """Take a downloaded copy back."""
        ...

    def new_receive(self) -> Tensor:
        """Return host memory that the network may write to, [nbytes] uint8."""
        ...

    def upload(self, host: Tensor) -> DeviceBytes:
        """Return the received bytes on the device, as `work` sees them; undone by `discard_upload`."""
        ...

    def discard_upload(self, uploaded: DeviceBytes) -> None:
        """Take device memory back that `upload` gave."""
        ...

    def rounded(self, snapshot: Snapshot) -> DeviceBytes:
        """Return a snapshot's parameters as others read them, in the context of `work`; undone by `discard_upload`.

        Only with a codec: without one they are the snapshot's own bytes.
        """
        ...

    def work(self, on: Snapshot | None = None) -> AbstractContextManager[Any]:
        """Return the context of the driver's work, which may read `on`; it is finished when the context is left."""
        ...

    def lend(self, uploaded: DeviceBytes) -> None:
        """Let the training stream read what the driver computed. Training thread, never waits."""
        ...

    def done(self, uploaded: DeviceBytes) -> None:
        """Mark that the training stream has read it. Training thread, never waits."""
        ...

    def report(self) -> dict[str, int]:
        """Return bytes held for staging: host and device."""
        ...


class HostStaging:
    """CPU: device memory is host memory, and what one thread wrote the other sees."""

    def __init__(self, nbytes: int, packing: Packing | None = None) -> None:
        self._nbytes, self._packing = nbytes, packing
        self._wire_bytes = packing.nbytes if packing else nbytes
        self._packed = BufferPool(self.new_receive)
        self._whole = BufferPool(self.new_snapshot)

    def new_snapshot(self) -> Tensor:
        return host_bytes(self._nbytes)

    def written(self) -> None:
        return None

    def download(self, snapshot: Snapshot) -> Tensor:
        if self._packing is None:
            return snapshot.data
        host = self._packed.acquire()
        self._packing.pack(snapshot.data, host)
        return host

    def discard_download(self, host: Tensor) -> None:
        if self._packing is not None:
            self._packed.release(host)

    def new_receive(self) -> Tensor:
        return host_bytes(self._wire_bytes)

    def upload(self, host: Tensor) -> DeviceBytes:
        if self._packing is None:
            return DeviceBytes(host)
        data = self._whole.acquire()
        self._packing.unpack(host, data)
        return DeviceBytes(data)

    def discard_upload(self, uploaded: DeviceBytes) -> None:
        if self._packing is not None:
            self._whole.release(uploaded.data)

    def rounded(self, snapshot: Snapshot) -> DeviceBytes:
        assert self._packing is not None, "only with a codec"
        data = self._whole.acquire()
        self._packing.round(snapshot.data, data)
        return DeviceBytes(data)

    def work(self, on: Snapshot | None = None) -> AbstractContextManager[Any]:
        del on
        return nullcontext()

    def lend(self, uploaded: DeviceBytes) -> None:
        del uploaded

    def done(self, uploaded: DeviceBytes) -> None:
        del uploaded

    def report(self) -> dict[str, int]:
        held = self._packed.allocated * self._wire_bytes + self._whole.allocated * self._nbytes
        return {"staging_host": held, "staging_device": 0}


class CudaStaging:
    """CUDA: pinned host memory, one side stream for the driver thread, events between the streams.

    The received bytes are copied to the device once and checked and mixed there: the copy is needed for mixing anyway,
    and the device reads them fifty times faster than a host core would.
    """

    def __init__(self, device: torch.device, nbytes: int, packing: Packing | None = None) -> None:
        self._device = device
        self._nbytes, self._packing = nbytes, packing
        self._wire_bytes = packing.nbytes if packing else nbytes
        # High priority, so that the driver's short kernels do not queue behind the training's long ones.
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._downloads = BufferPool(self.new_receive)
        self._uploads = BufferPool(self._new_upload)

    def new_snapshot(self) -> Tensor:
        return torch.zeros(self._nbytes, dtype=torch.uint8, device=self._device)

    def written(self) -> torch.cuda.Event:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def download(self, snapshot: Snapshot) -> Tensor:
        host = self._downloads.acquire()
        with self.work(on=snapshot):
            host.copy_(self._packed(snapshot.data), non_blocking=True)
        return host

    def discard_download(self, host: Tensor) -> None:
        self._downloads.release(host)

    def new_receive(self) -> Tensor:
        return host_bytes(self._wire_bytes, pinned=True)

    def upload(self, host: Tensor) -> DeviceBytes:
        uploaded = self._upload()
        with torch.cuda.stream(self._stream):
            if self._packing is None:
                uploaded.data.copy_(host, non_blocking=True)
            else:
                self._packing.unpack(host.to(self._device, non_blocking=True), uploaded.data)
        return uploaded

    def rounded(self, snapshot: Snapshot) -> DeviceBytes:
        assert self._packing is not None, "only with a codec"
        uploaded = self._upload()
        self._packing.round(snapshot.data, uploaded.data)
        return uploaded

    def discard_upload(self, uploaded: DeviceBytes) -> None:
        self._uploads.release(uploaded)

    def _upload(self) -> DeviceBytes:
        """Take device memory that the side stream may write once the training stream has read it."""
        uploaded = self._uploads.acquire()
        if uploaded.reusable is not None:
            self._stream.wait_event(uploaded.reusable)
        return uploaded

    def _packed(self, data: Tensor) -> Tensor:
        if self._packing is None:
            return data
        packed = torch.zeros(self._wire_bytes, dtype=torch.uint8, device=self._device)
        self._packing.pack(data, packed)
        return packed

    @contextmanager
    def work(self, on: Snapshot | None = None) -> Iterator[None]:
        with torch.cuda.stream(self._stream):
            if on is not None:
                self._stream.wait_event(on.ready)
                on.data.record_stream(self._stream)
            yield
            finished = torch.cuda.Event(blocking=True)  # sleeps instead of spinning on a core that training could use
            finished.record(self._stream)
        finished.synchronize()

    def lend(self, uploaded: DeviceBytes) -> None:
        # `work` has waited for the side stream, so the bytes are there; the allocator has to know of the second stream.
        uploaded.data.record_stream(torch.cuda.current_stream(self._device))

    def done(self, uploaded: DeviceBytes) -> None:
        uploaded.reusable = self.written()

    def report(self) -> dict[str, int]:
        return {
            "staging_host": self._downloads.allocated * self._wire_bytes,
            "staging_device": self._uploads.allocated * self._nbytes,
        }

    def _new_upload(self) -> DeviceBytes:
        with torch.cuda.stream(self._stream):  # the side stream owns it: the allocator reuses it in that order
            return DeviceBytes(torch.empty(self._nbytes, dtype=torch.uint8, device=self._device))


def staging_for(device: torch.device, nbytes: int, packing: Packing | None = None) -> Staging:
    """Return the staging of a CPU or CUDA device for snapshots of this many bytes, packed on the wire or not."""
    return CudaStaging(device, nbytes, packing) if device.type == "cuda" else HostStaging(nbytes, packing)
