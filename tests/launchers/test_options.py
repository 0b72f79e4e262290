"""Reading a command line whose tail belongs to the script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossiptrain.cli import LAUNCH, STATUS
from gossiptrain.options import UsageError


@given(st.lists(st.text(max_size=8)))
def test_what_follows_the_script_is_never_read(tail):
    options = LAUNCH.parse(["--peers", "4", "train.py", *tail])
    assert (options.peers, options.positional, options.tail) == (4, "train.py", tuple(tail))


@pytest.mark.parametrize(
    ("words", "peers", "insecure", "positional", "tail"),
    [
        (["train.py"], None, False, "train.py", ()),
        (["--peers=4", "--insecure", "train.py", "--peers", "9"], 4, True, "train.py", ("--peers", "9")),
        (["--", "-odd.py", "--"], None, False, "-odd.py", ("--",)),
        (["--peers", "1", "--", "train.py"], 1, False, "train.py", ()),
        (["--run-dir=a=b", "train.py"], None, False, "train.py", ()),
    ],
)
def test_options_end_at_the_first_word_that_is_none(words, peers, insecure, positional, tail):
    options = LAUNCH.parse(words)
    assert (options.peers, options.insecure) == (peers, insecure)
    assert (options.positional, options.tail) == (positional, tail)


def test_help_is_asked_for_before_the_script_only():
    assert LAUNCH.parse(["--peers", "4", "--help"]) is None
    assert LAUNCH.parse(["train.py", "--help"]).tail == ("--help",)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--peer", "4", "train.py"], "did you mean --peers"),
        (["--frobnicate", "train.py"], "`gossiptrain launch --help` lists the options"),
        (["--peers"], "its value N is missing"),
        (["--peers=", "train.py"], "--peers=: must be a whole number"),
        (["--insecure=1", "train.py"], "takes no value"),
        (["-p", "4", "train.py"], "-p: unknown option"),
        ([], "SCRIPT is missing"),
        (["--peers", "4"], "SCRIPT is missing"),
        (["--run-dir=", "train.py"], "must be a folder"),
    ],
)
def test_words_that_cannot_be_read_are_named(words, what):
    with pytest.raises(UsageError, match=what):
        LAUNCH.parse(words)


def test_a_command_without_a_tail_accepts_none():
    with pytest.raises(UsageError, match="takes one ADDRESS"):
        STATUS.parse(["tcp://a:1", "tcp://b:1"])


def test_options_of_a_command_without_a_tail_may_stand_on_both_sides():
    assert STATUS.parse(["tcp://a:1", "--timeout-s", "4"]) == STATUS.parse(["--timeout-s", "4", "tcp://a:1"])
    assert STATUS.parse(["tcp://a:1", "--help"]) is None
