"""Options as TOML tables: read with every word checked, written as what differs from the defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any

from gossiptrain.errors import ConfigurationError


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns "; did you mean 'crash'?" or the list of what is known, for an error message."""
    known = sorted(known)
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def check_known(values: Any, known: Iterable[str], where: str) -> None:
    """Refuses what is no table, and words that are not known.

    Raises:
        ConfigurationError: the message names the place, the word, and the nearest known one.
    """
    known = tuple(known)
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{where}: {values!r} is no table; known keys are {', '.join(sorted(known))}")
    for key in values:
        if key not in known:
            raise ConfigurationError(f"{where}: {key!r} is not known{nearest(str(key), known)}")


def frozen(value: Any) -> Any:
    """Returns lists as tuples, at every depth."""
    return tuple(frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def build(made: type, values: Mapping[str, Any], where: str) -> Any:
    """Makes an options object from a table.

    Raises:
        ConfigurationError: a key is not known, one is missing, or a value is not accepted.
    """
    check_known(values, [item.name for item in fields(made) if item.init], where)
    for item in fields(made):
        is_needed = item.default is MISSING and item.default_factory is MISSING
        if is_needed and item.init and item.name not in values:
            raise ConfigurationError(f"{where}: {item.name!r} is missing")
    return call(made, {key: frozen(value) for key, value in values.items()}, where)


def call(made: Any, values: Mapping[str, Any], where: str) -> Any:
    """Calls `made(**values)`; what it refuses is told with its place, a value of a wrong type too.

    Raises:
        ConfigurationError: a value is not accepted.
    """
    try:
        return made(**values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in values.items())
        raise ConfigurationError(f"{where}: a value of {given[:200]} is of the wrong type ({error})") from error


def differing(options: Any) -> dict[str, Any]:
    """Returns the fields of an options object that differ from their defaults; a field without one always does."""
    found = {}
    for item in fields(options):
        default = item.default if item.default_factory is MISSING else item.default_factory()
        value = getattr(options, item.name)
        if item.init and (default is MISSING or value != default):
            found[item.name] = value
    return found


def lines(values: Mapping[str, Any], where: str = "") -> list[str]:
    """Writes a table as lines of TOML: first its own keys, then the tables in it under their full names.

    Args:
        where: the table's full name, such as "environment.network"; "" for the file itself.
    """
    own = [f"{key} = {text(value)}" for key, value in values.items() if not isinstance(value, Mapping)]
    written = ["", f"[{where}]", *own] if where else own
    for key, value in values.items():
        if isinstance(value, Mapping):
            written += lines(value, f"{where}.{key}" if where else key)
    return written


def text(value: Any) -> str:
    """Writes one value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if abs(value) != float("inf") else ("inf" if value > 0 else "-inf")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(text(item) for item in value) + "]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
