"""Codecs by name, for the command line and for environment variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from gossiptrain.compression.base import Codec
from gossiptrain.compression.cast import bfloat16, float16
from gossiptrain.compression.quantize import int8
from gossiptrain.errors import ConfigurationError

NONE = "none"
_FACTORIES: dict[str, Callable[[], Codec]] = {"bfloat16": bfloat16, "float16": float16, "int8": int8}


def known_codecs() -> tuple[str, ...]:
    """Return the names that `by_name` accepts.

    >>> known_codecs()
    ('none', 'bfloat16', 'float16', 'int8')
    """
    return (NONE, *_FACTORIES)


def by_name(name: str) -> Codec | None:
    """Return the codec of this name with its default settings; None for "none": values are written as they are.

    Raises:
        ConfigurationError: the name is unknown; the message lists the known ones.
    """
    if name == NONE:
        return None
    if name not in _FACTORIES:
        raise ConfigurationError(f"codec={name!r} is unknown; known are {', '.join(known_codecs())}")
    return _FACTORIES[name]()


def codec_of(codec: object) -> Codec | None:
    """Return the codec that a name means, or the given one if it can do what `Codec` says.

    Raises:
        ConfigurationError: it is neither a known name nor a codec.
    """
    if isinstance(codec, str):
        return by_name(codec)
    if not all(callable(getattr(codec, method, None)) for method in ("encoded_bytes", "encode", "decode")):
        raise ConfigurationError(f"codec={codec!r}: must be a codec or one of {', '.join(known_codecs())}")
    return cast("Codec", codec)
