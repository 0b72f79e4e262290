"""Codecs: how snapshots are written so that they take fewer bytes on the wire."""

from gossiptrain.compression.base import Codec, rounded
from gossiptrain.compression.cast import Cast, bfloat16, float16
from gossiptrain.compression.quantize import Int8, int8
from gossiptrain.compression.registry import by_name, known_codecs

__all__ = ["Cast", "Codec", "Int8", "bfloat16", "by_name", "float16", "int8", "known_codecs", "rounded"]
