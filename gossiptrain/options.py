"""Reads a command line whose tail belongs to another program, and explains itself in a terminal.

`gossiptrain launch --peers 4 train.py --peers 9`: the first --peers is the launcher's, the second the script's. So
options are read only up to the first positional argument, and what follows is handed on untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gossiptrain.errors import ConfigurationError
from gossiptrain.intervals import parse, parse_sync_every

HELP_COLUMNS_MAX = 100
HEADING, FLAG = "bold", "#7aa2f7"


class UsageError(ConfigurationError):
    """The command line cannot be read; the message says which word and what is accepted."""


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        flag: As typed, "--sync-every"; the value becomes the attribute `sync_every`.
        help: What it means; the default is said there where it is not shown by itself.
        default: The value where the option is absent. A default of False makes it an option without a value.
        metavar: What stands for the value in the help.
        convert: From text; ValueError for what it does not accept.
        accepts: What `convert` accepts, in words, for the message.
        group: The heading in the help.
    """

    flag: str
    help: str
    default: Any = None
    metavar: str = ""
    convert: Callable[[str], Any] = str
    accepts: str = "text"
    group: str = "Options"

    @property
    def name(self) -> str:
        return self.flag.lstrip("-").replace("-", "_")

    @property
    def takes_value(self) -> bool:
        return self.default is not False


@dataclass(frozen=True)
class Command:
    """A command: what it is for, its one positional argument and its options.

    Attributes:
        name: As typed, with the program's.
        positional: What stands for the positional argument; the value becomes its lower-case attribute.
        tail: What stands for the words after it; "" accepts none.
        about: Paragraphs.
        examples: Lines to type.
        options: In the order of the help; those of one group follow each other.
    """

    name: str
    positional: str
    tail: str
    about: Sequence[str]
    examples: Sequence[str]
    options: Sequence[Option]

    def parse(self, arguments: Sequence[str]) -> SimpleNamespace | None:
        """Reads a command line.

        Args:
            arguments: What follows the command.

        Returns:
            The options' values by name, `positional`, and `tail`: the words after it. None where help was asked for.

        Raises:
            UsageError: A word that cannot be read; close matches of an unknown option are named.
        """
        values: dict[str, Any] = {option.name: option.default for option in self.options}
        words = list(arguments)
        if not self._take_all(words, values):
            return None
        if words and words[0] == "--":
            words.pop(0)
        if not words:
            raise UsageError(f"{self.positional} is missing; `{self.name} --help` shows how to use it")
        positional = words.pop(0)
        if not self.tail:  # nobody else's words follow, so options may
            if not self._take_all(words, values):
                return None
            if words:
                raise UsageError(f"{words[0]!r}: {self.name} takes one {self.positional}")
        return SimpleNamespace(**values, positional=positional, tail=tuple(words))

    def show_help(self, console: Console) -> None:
        """Prints what the command does and accepts."""
        width = min(console.width, HELP_COLUMNS_MAX)
        usage = Text("usage: ", style=HEADING)
        usage.append(f"{self.name} [OPTIONS] {self.positional} {self.tail}".rstrip(), style="")
        console.print(usage, width=width, highlight=False)
        for paragraph in self.about:
            console.print(Text("\n" + paragraph), width=width, highlight=False)
        console.print(Text("\nExamples", style=HEADING))
        for example in self.examples:
            console.print(Text("  " + example), highlight=False, soft_wrap=True)
        column = max(len(f"{option.flag} {option.metavar}") for option in self.options)
        for group, options in groupby(self.options, key=lambda option: option.group):
            console.print(Text(f"\n{group}", style=HEADING))
            table = _option_table(list(options), column)
            console.print(Padding(table, (0, 0, 0, 2)), width=width, highlight=False)

    def _take_all(self, words: list[str], values: dict[str, Any]) -> bool:
        """Takes the options off the front of `words` into `values`; False where help is among them."""
        while words and words[0].startswith("-") and words[0] not in ("-", "--"):
            if words[0] in ("-h", "--help"):
                return False
            option, value = self._take(words)
            values[option.name] = value
        return True

    def _take(self, words: list[str]) -> tuple[Option, Any]:
        """Takes one option, and its value where it has one, off the front of `words`."""
        flag, has_value, text = words.pop(0).partition("=")
        option = self._find(flag)
        if not option.takes_value:
            if has_value:
                raise UsageError(f"{flag}={text}: takes no value")
            return option, True
        if not has_value:
            if not words:
                raise UsageError(f"{flag}: its value {option.metavar} is missing")
            text = words.pop(0)
        try:
            return option, option.convert(text)
        except ValueError:
            raise UsageError(f"{flag}={text}: must be {option.accepts}") from None

    def _find(self, flag: str) -> Option:
        known = {option.flag: option for option in self.options}
        if flag in known:
            return known[flag]
        close = get_close_matches(flag, [*known, "--help"], n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(close)}?" if close else f"`{self.name} --help` lists the options"
        raise UsageError(f"{flag}: unknown option; {hint}")


def whole(text: str) -> int:
    """Converts a whole number."""
    return int(text)


def addresses(text: str) -> tuple[str, ...]:
    """Converts one or more addresses with commas between them."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise ValueError(text)
    return found


def every(text: str) -> str:
    """Accepts a number of steps or a time."""
    try:
        parse("every", text)
    except ConfigurationError as error:
        raise ValueError(text) from error
    return text


def steps_or_time(text: str) -> int | str:
    """Accepts how long a block of local steps is: so many, a time, or "auto"."""
    try:
        parse_sync_every(text)
    except ConfigurationError as error:
        raise ValueError(text) from error
    return int(text) if text.isdecimal() else text


def one_of(*choices: str) -> Callable[[str], str]:
    """Makes a converter that accepts these words only."""

    def convert(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return convert


def folder(text: str) -> Path:
    """Converts a path that is not empty, which would mean the current directory."""
    if not text:
        raise ValueError(text)
    return Path(text)


def _option_table(options: list[Option], column: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=column)
    table.add_column()
    for option in options:
        flag = Text(option.flag, style=FLAG)
        flag.append(f" {option.metavar}".rstrip(), style="dim")
        explained = Text(option.help)
        if option.default not in (None, False, "", ()):
            explained.append(f" [{option.default}]", style="dim")
        table.add_row(flag, explained)
    return table
