"""Small data sets for examples, tests and benchmarks, found without any download.

`load(name)` looks among the files that come with this library, then among installed packages; where neither
has the set, the error says which command installs it.
"""

from __future__ import annotations

import gzip
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gossiptrain.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

FASHION_CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
TEXT_CHARACTERS_MAX = 4_000_000
ALPHABET = "\n" + "".join(chr(code) for code in range(32, 127))  # tabs are written as four blanks
_IDX_DIMENSIONS_MAX = 4


@dataclass(frozen=True)
class LabelledData:
    """A classification set, already split.

    Attributes:
        train_x, test_x: float32 in [0, 1]; images [N, 1, H, W], tables [N, features].
        train_y, test_y: int64 [N], in [0, len(classes)).
        classes: the labels' names.
        origin: which samples these are, for captions.
    """

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    classes: tuple[str, ...]
    origin: str


@dataclass(frozen=True)
class TextData:
    """A text as character numbers, already split.

    Attributes:
        train, test: uint8 [characters], positions in `alphabet`.
        alphabet: every character that occurs, in order.
        origin: which text this is, for captions.
    """

    train: torch.Tensor
    test: torch.Tensor
    alphabet: str
    origin: str

    def decode(self, tokens: torch.Tensor) -> str:
        """Returns the text of token numbers [length]."""
        return "".join(self.alphabet[token] for token in tokens.tolist())


def load(name: str) -> Any:
    """Loads a data set by name.

    Args:
        name: "fashion-mnist" (10,000 images: 8,000 to train, 2,000 to test), "fashion-mnist-full" (60,000 and
            10,000), "digits" (1,797 images of 8 x 8 pixels: 1,437 and 360), or "stdlib-text" (up to 4,000,000
            characters of this interpreter's own standard library in Python: 90 % and 10 %).

    Returns:
        `LabelledData`, or `TextData` for "stdlib-text". The same name gives the same tensors on every peer that
        runs the same Python.

    Raises:
        ConfigurationError: Unknown name (the known are listed), or a set whose package is not
            installed (the command that installs it is given).
    """
    if name not in _LOADERS:
        raise ConfigurationError(f"name={name!r}: unknown data set; known: {', '.join(names())}")
    return _LOADERS[name]()


def names() -> tuple[str, ...]:
    """Returns the names that `load` knows, sorted."""
    return tuple(sorted(_LOADERS))


def is_text(name: str) -> bool:
    """Says whether a set of this name is `TextData`, without loading it."""
    return name == "stdlib-text"


def _fashion_mnist() -> LabelledData:
    """The 10,000 images of Fashion-MNIST's test files, split 8,000 / 2,000 in their stored (random) order."""
    folder = resources.files("gossiptrain.datasets") / "fashion_mnist"
    images = read_idx(gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes()))
    labels = read_idx(gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes()))
    return _images(images[:8000], labels[:8000], images[8000:], labels[8000:], "Fashion-MNIST t10k, 8,000 + 2,000")


def _fashion_mnist_full() -> LabelledData:
    if not DEBIAN_FASHION_MNIST.is_dir():
        raise ConfigurationError(
            f"name='fashion-mnist-full': {DEBIAN_FASHION_MNIST} is missing; on Debian and Ubuntu "
            "`apt-get install dataset-fashion-mnist` brings it; 'fashion-mnist' (10,000 images) needs nothing"
        )
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    arrays = [read_idx(gzip.decompress((DEBIAN_FASHION_MNIST / f"{part}-ubyte.gz").read_bytes())) for part in parts]
    return _images(arrays[0], arrays[1], arrays[2], arrays[3], "Fashion-MNIST, 60,000 + 10,000")


def _images(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, origin: str
) -> LabelledData:
    import torch

    def pixels(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.float32) / 255.0).unsqueeze(1)

    def numbers(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int64))

    return LabelledData(
        pixels(train), numbers(train_labels), pixels(test), numbers(test_labels), FASHION_CLASSES, origin
    )


def _digits() -> LabelledData:
    if find_spec("sklearn") is None:
        raise ConfigurationError("name='digits': comes with scikit-learn; `pip install scikit-learn` brings it")
    import torch
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]

    data: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))  # stored by writer; a split needs all writers
    x = torch.from_numpy(data.images[order].astype(np.float32) / 16.0).unsqueeze(1)
    y = torch.from_numpy(data.target[order].astype(np.int64))
    return LabelledData(x[:1437], y[:1437], x[1437:], y[1437:], tuple("0123456789"), "scikit-learn digits, 1,437 + 360")


def _stdlib_text() -> TextData:
    import torch

    text = "".join(_stdlib_sources())[:TEXT_CHARACTERS_MAX]
    codes = np.full(256, ALPHABET.index("?"), dtype=np.uint8)
    for position, character in enumerate(ALPHABET):
        codes[ord(character)] = position
    tokens = torch.from_numpy(codes[np.frombuffer(text.encode("latin-1", "replace"), dtype=np.uint8)])
    cut = len(tokens) * 9 // 10
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    origin = f"Python {version}'s standard library, {cut:,} + {len(tokens) - cut:,} characters"
    return TextData(tokens[:cut], tokens[cut:], ALPHABET, origin)


def _stdlib_sources() -> Iterator[str]:
    """Yields the library's source files in the order of their names until the cap is reached.

    Left out: tests, and folders that hold tables more than code.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "encodings",
        "pydoc_data",
        "site-packages",
        "dist-packages",
    }
    total = 0
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        if total >= TEXT_CHARACTERS_MAX:
            return
        if skipped.isdisjoint(path.relative_to(root).parts):
            text = path.read_text(encoding="utf-8", errors="replace").replace("\t", "    ")
            total += len(text)
            yield text


def read_idx(data: bytes) -> np.ndarray:
    """Parses the IDX format of the MNIST family: magic (0, 0, type, dimensions), big-endian sizes, values.

    Args:
        data: An uncompressed file of unsigned bytes (type 8).

    Returns:
        uint8 array of the sizes that the header states.

    Raises:
        ValueError: Not such a file, or one whose length is not what its header says.
    """
    if len(data) < 4 or data[:3] != b"\0\0\x08" or not 1 <= data[3] <= _IDX_DIMENSIONS_MAX:
        raise ValueError(f"data begins with {data[:4]!r}: not an IDX file of unsigned bytes")
    dimensions = data[3]
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise ValueError(f"data has {len(data)} bytes: the header of {dimensions} dimensions alone has {start}")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if len(data) - start != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"data has {len(data) - start} values, but its header says {shape}")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


_LOADERS: dict[str, Callable[[], LabelledData | TextData]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "fashion-mnist-full": _fashion_mnist_full,
    "stdlib-text": _stdlib_text,
}
