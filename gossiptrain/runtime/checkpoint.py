"""Checkpoints: RUN/checkpoints/NAME/000012-step-6000.safetensors with a manifest beside it, newest few kept.

Both files are written under another name, flushed to the disk, and renamed; the manifest last. So whatever happens, a
manifest that is there belongs to a file that is whole, and its digests say whether the disk kept it so.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.fetching import CHUNK_BYTES
from gossiptrain.runtime import manifest as m
from gossiptrain.runtime.keeper import FrozenState
from gossiptrain.runtime.manifest import Manifest
from gossiptrain.runtime.staging import as_memoryview

FOLDER = "checkpoints"
_NAME = re.compile(r"(\d{6,})-step-(\d+)\.json\Z")
_SCRATCH = re.compile(r"\..*\.tmp\Z")

log = logging.getLogger("gossiptrain")


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint on disk. number: counts a peer's checkpoints, so that the highest is the newest."""

    number: int
    step: int
    manifest_path: Path

    @property
    def data_path(self) -> Path:
        """The safetensors file."""
        return self.manifest_path.with_suffix(".safetensors")


class Checkpoints:
    """The checkpoints of one peer.

    Args:
        folder: theirs alone, RUN/checkpoints/NAME.
        keep: so many of the newest are kept, at least 1.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def write(self, state: FrozenState) -> Saved:
        """Writes a checkpoint and removes those that are too many.

        Raises:
            OSError: the disk is full, or the folder cannot be written. What was there before is untouched, and nothing
                else is left there.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._clean_up()
        number = max((saved.number for saved in saved_in(self._folder)), default=0) + 1
        step = state.manifest.step
        saved = Saved(number, step, self._folder / f"{number:06d}-step-{step}.json")
        _write_whole(saved.data_path, [m.safetensors_header(state.manifest), state.data])
        try:
            _write_whole(saved.manifest_path, [m.to_json(state.manifest)])
        except OSError:
            saved.data_path.unlink(missing_ok=True)
            raise
        self._prune()
        return saved

    def _prune(self) -> None:
        """Removes the oldest; the manifest first, so that it never stands for a file that is gone."""
        for saved in saved_in(self._folder)[self._keep :]:
            saved.manifest_path.unlink(missing_ok=True)
            saved.data_path.unlink(missing_ok=True)

    def _clean_up(self) -> None:
        """Removes what a process that was killed while it wrote has left: only one process has this folder."""
        whole = {saved.data_path.name for saved in saved_in(self._folder)}
        for path in self._folder.iterdir():
            if _SCRATCH.match(path.name) or (path.suffix == ".safetensors" and path.name not in whole):
                path.unlink(missing_ok=True)


def saved_in(folder: Path) -> list[Saved]:
    """Lists the checkpoints in a peer's folder, the newest first; none where there is no such folder."""
    if not folder.is_dir():
        return []
    names = [match for path in folder.iterdir() if (match := _NAME.match(path.name))]
    found = [Saved(int(match[1]), int(match[2]), folder / match[0]) for match in names]
    return sorted(found, key=lambda saved: saved.number, reverse=True)


def load(saved: Saved) -> tuple[Manifest, Tensor]:
    """Reads a checkpoint and checks every byte against its digests.

    Returns:
        The manifest, and the state's bytes, [nbytes] uint8.

    Raises:
        ConfigurationError: it is damaged, or cannot be read; the message says where.
    """
    try:
        manifest = m.decode(saved.manifest_path.read_bytes(), is_json=True)
        data = torch.empty(manifest.nbytes, dtype=torch.uint8)
        with saved.data_path.open("rb") as file:
            _read_state(file, manifest, data)
    except (OSError, ConfigurationError, RuntimeError) as error:
        raise ConfigurationError(f"{saved.data_path}: {error}") from error
    return manifest, data


def candidates(run_dir: Path, name: str) -> Iterator[Saved]:
    """Yields what a peer may begin again from: its own checkpoints, the newest first, then the most advanced of others.

    A peer that has none (there are more peers than before) takes another's.
    """
    folder = run_dir / FOLDER
    yield from saved_in(folder / name)
    others = [path for path in sorted(folder.glob("*")) if path.is_dir() and path.name != name]
    newest = [saved for path in others for saved in saved_in(path)]
    yield from sorted(newest, key=lambda saved: saved.step, reverse=True)


def newest_step(run_dir: Path) -> int:
    """Returns the most advanced step of all checkpoints of a run; 0 without any."""
    folders = [path for path in (run_dir / FOLDER).glob("*") if path.is_dir()]
    return max((saved.step for path in folders for saved in saved_in(path)), default=0)


def _read_state(file: BufferedReader, manifest: Manifest, data: Tensor) -> None:
    header = m.safetensors_header(manifest)
    if file.read(len(header)) != header:
        raise ConfigurationError("the header is not the one that the manifest describes")
    view = as_memoryview(data)
    for index, at in enumerate(range(0, len(view), CHUNK_BYTES)):
        chunk = view[at : at + CHUNK_BYTES]
        if file.readinto(chunk) != len(chunk) or m.digest_of(chunk) != manifest.digest(index):
            raise ConfigurationError(f"damaged within {len(chunk)} bytes from byte {len(header) + at}")
    if file.read(1):
        raise ConfigurationError("is longer than its manifest says")


def _write_whole(path: Path, parts: list[bytes | memoryview]) -> None:
    """Writes a file whole or not at all, and has the disk keep it."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[os.write(descriptor, view[: 8 << 20]) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Has the disk keep the new name, where folders can be synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems cannot; the rename itself is done
    finally:
        os.close(descriptor)
