"""What is shown of a run: logs read while they grow, tracebacks once, news once, tables of any width."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gossiptrain.dashboard.events import EventTail, PeerView, Storyteller, Watcher
from gossiptrain.dashboard.status import show, together
from gossiptrain.dashboard.table import Caption, chart, clock, draw, short_names
from gossiptrain.dashboard.terminal import LineDisplay, LogDisplay, TableDisplay, open_display
from gossiptrain.dashboard.tracebacks import TracebackFilter
from gossiptrain.protocol.notices import DataStatus, MemberStatus, PaceStatus, Status

TRACEBACK = [
    "Traceback (most recent call last):",
    '  File "train.py", line 3, in <module>',
    "    1 / 0",
    "ZeroDivisionError: division by zero",
]


def screen(columns: int = 80, encoding: str = "utf-8", terminal: bool = False) -> tuple[Console, io.TextIOWrapper]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(file=file, width=columns, height=30, force_terminal=terminal, color_system=None), file


def text_of(file: io.TextIOWrapper) -> str:
    file.flush()
    return file.buffer.getvalue().decode(file.encoding)  # pyright: ignore


def test_a_log_is_followed_as_it_grows_even_in_half_lines(tmp_path):
    path = tmp_path / "peer-0.jsonl"
    tail = EventTail(path)
    assert tail.new() == []
    line = json.dumps({"kind": "Progress", "step": 1}).encode()
    with path.open("wb") as file:
        file.write(line + b"\n" + line[:9])
        file.flush()
        assert len(tail.new()) == 1
        file.write(line[9:] + b"\nnot json\n[1]\n{}\n")
        file.flush()
        assert tail.new() == [{"kind": "Progress", "step": 1}]
        assert tail.new() == []


def test_a_view_follows_the_events_of_its_peer(tmp_path):
    path = tmp_path / "peer-0.jsonl"
    watcher = Watcher({"peer-0": path})
    assert watcher.views["peer-0"].state == "starting"
    progress = {"kind": "Progress", "step": 8, "loss": 0.5, "steps_per_s": 2.0, "neighbours": ["peer-1"]}
    rewired = {"kind": "Rewired", "epoch": 1, "members": 2, "neighbours": ["peer-2"]}
    finished = {"kind": "Finished", "step": 9, "bytes_sent": 7, "bytes_received": 8}
    path.write_text("\n".join(map(json.dumps, (progress, rewired, {**progress, "loss": None}, finished))) + "\n")
    watcher.look()
    view = watcher.views["peer-0"]
    assert (view.state, view.step, view.loss, list(view.losses)) == ("training", 9, 0.5, [0.5])
    assert (view.bytes_sent, view.bytes_received) == (7, 8)


def test_a_traceback_that_another_peer_has_shown_becomes_one_line():
    tracebacks = TracebackFilter()
    assert tracebacks.feed("peer-0", ["hello", *TRACEBACK]) == ["hello"]
    assert tracebacks.end("peer-0") == TRACEBACK
    assert tracebacks.feed("peer-1", [*TRACEBACK, "goes on"]) == [
        "ZeroDivisionError: division by zero  (the same traceback as peer-0's above)",
        "goes on",
    ]


def test_another_error_is_shown_in_full():
    tracebacks = TracebackFilter()
    tracebacks.feed("peer-0", TRACEBACK)
    tracebacks.end("peer-0")
    other = [*TRACEBACK[:-1], "ZeroDivisionError: another"]
    tracebacks.feed("peer-1", other)
    assert tracebacks.end("peer-1") == other


def test_chained_tracebacks_stay_together():
    chained = [*TRACEBACK, "", "During handling of the above exception, another exception occurred:", "", *TRACEBACK]
    tracebacks = TracebackFilter()
    assert tracebacks.feed("peer-0", chained) == []
    assert tracebacks.end("peer-0") == chained
    tracebacks.feed("peer-1", chained)
    assert len(tracebacks.end("peer-1")) == 1


def test_of_an_endless_recursion_the_two_ends_are_shown():
    tracebacks = TracebackFilter()
    frames = [f"  frame {i}" for i in range(2000)]
    tracebacks.feed("peer-0", [TRACEBACK[0], *frames, "RecursionError: too deep"])
    shown = tracebacks.end("peer-0")
    assert len(shown) == 81
    assert shown[0] == TRACEBACK[0]
    assert shown[40] == "  ... 1922 lines that the peer's log has ..."
    assert shown[-2:] == ["  frame 1999", "RecursionError: too deep"]


def test_a_peer_that_hangs_after_its_traceback_still_has_it_shown():
    tracebacks = TracebackFilter()
    tracebacks.feed("peer-0", TRACEBACK)
    assert tracebacks.idle() == [], "it might still grow"
    assert tracebacks.idle() == [("peer-0", TRACEBACK)]
    assert tracebacks.idle() == []


def test_a_traceback_in_the_middle_of_being_printed_is_waited_for():
    tracebacks = TracebackFilter()
    tracebacks.feed("peer-0", TRACEBACK[:2])
    assert tracebacks.idle() == tracebacks.idle() == []


def test_interrupts_of_peers_that_were_asked_to_end_are_no_news():
    interrupted = [*TRACEBACK[:-1], "KeyboardInterrupt"]
    tracebacks = TracebackFilter()
    tracebacks.feed("peer-0", interrupted)
    assert tracebacks.end("peer-0") == interrupted
    tracebacks.stopping = True
    tracebacks.feed("peer-1", interrupted)
    assert tracebacks.end("peer-1") == []


@given(st.lists(st.sampled_from([*TRACEBACK, "", "text", "  indented"]), max_size=30))
def test_no_line_of_a_single_peer_is_lost(lines):
    tracebacks = TracebackFilter()
    shown = tracebacks.feed("peer-0", lines) + tracebacks.end("peer-0")
    said = [line for line in lines if line.strip()]
    folded = sum("the same traceback" in line for line in shown)
    assert folded or [line for line in shown if line.strip()] == said


def test_a_death_that_three_peers_notice_is_told_once_and_again_after_a_return():
    story = Storyteller(["peer-0", "peer-1", "peer-2", "peer-3"])
    died = {"kind": "PeerDied", "peer": "peer-3", "reason": "refused"}
    told = [story.tell(name, died) for name in ("peer-1", "peer-0", "peer-2")]
    assert told == ["peer-1 noticed that peer-3 is dead (refused); the others go on without it", None, None]
    story.tell("peer-0", {"kind": "PeerRecovered", "peer": "peer-3"})
    assert story.tell("peer-0", died) is not None


def test_a_newcomer_that_waits_for_a_state_is_told_of_once_with_whom_it_asked():
    story = Storyteller(["peer-0"])
    waits = {"kind": "StateAwaited", "waited_s": 30.2, "answers": [["peer-0", "busy"], ["peer-1", "no answer"]]}
    assert story.tell("peer-9", waits) == (
        "peer-9 has waited 30 s for a state to begin from: peer-0 has no room for another newcomer just now, "
        "peer-1: no answer; others are asked in turn"
    )
    assert story.tell("peer-9", waits) is None
    assert "there was nobody to ask" in str(
        story.tell("peer-8", {"kind": "StateAwaited", "waited_s": 30, "answers": []})
    )


def test_peers_started_together_finding_each_other_is_no_news():
    story = Storyteller(["peer-0", "peer-1"])
    assert story.tell("peer-0", {"kind": "PeerJoined", "peer": "peer-1", "address": "x"}) is None
    assert story.tell("peer-0", {"kind": "PeerJoined", "peer": "zoe", "address": "x"}) is not None
    assert story.tell("peer-0", {"kind": "Exchanged", "partners": ["zoe"], "seconds": 1}) is None


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_table_fits_its_terminal_in_any_encoding(columns, encoding):
    console, file = screen(columns, encoding)
    everybody = tuple(f"peer-{i}" for i in range(64))
    views = [PeerView(f"peer-{i}", state="training", step=123_456, loss=0.5, neighbours=everybody) for i in range(64)]
    views[1].state, views[0].consensus_distance = "killed", 123456.789
    views[2].losses.extend([3.0, 2.0, 1.0])
    console.print(draw(Caption("train", ("64 peers", "overlay"), 61.0), views, console))
    lines = text_of(file).splitlines()
    assert max(len(line) for line in lines) <= columns
    assert len(lines) <= console.height
    assert any("and 41 more" in line for line in lines)
    assert lines[0].startswith("1:01  train")


def test_charts_of_losses_fall_from_left_to_right():
    assert chart([]) == ""
    assert chart([1.0]) == "▁"
    assert chart([8.0, float("nan"), 7, 6, 5, 4, 3, 2, 1], width=8) == "█▇▆▅▄▃▂▁"
    assert len(chart([float(i) for i in range(1000)], width=14)) == 14


def test_names_and_times_are_short():
    assert short_names(["peer-1", "zoe"]) == "1 zoe"
    assert short_names([f"peer-{i}" for i in range(9)]) == "0 1 2 3 4 5 +3"
    assert [clock(5), clock(65), clock(3700)] == ["0:05", "1:05", "1:01:40"]


def test_lines_of_peers_carry_their_names_and_markup_is_left_alone():
    console, file = screen()
    LineDisplay(console, ["peer-0", "zoe"]).peer_lines("zoe", ["[red]not markup[/red]", "x" * 200])
    assert text_of(file).splitlines() == ["zoe    | [red]not markup[/red]", "zoe    | " + "x" * 200]


def test_where_there_is_no_terminal_progress_is_a_line_per_peer_that_moved():
    console, file = screen()
    display = open_display("table", console, ["peer-0", "peer-1"], Caption("train"))
    assert isinstance(display, LogDisplay)
    views = [PeerView("peer-0", step=5, loss=0.5, neighbours=("peer-1",)), PeerView("peer-1")]
    display.refresh(views)
    display.refresh(views, last=True)
    views[0].step = 6
    display.refresh(views)
    assert text_of(file).splitlines() == ["peer-0 | step 5  loss 0.5000  neighbours 1"]
    display.refresh(views, last=True)
    assert "step 6" in text_of(file)


def test_the_display_is_the_one_asked_for():
    terminal, _ = screen(terminal=True)
    table = open_display("table", terminal, ["peer-0"], Caption("train"))
    assert isinstance(table, TableDisplay)
    table.close()
    assert type(open_display("none", terminal, ["peer-0"], Caption("train"))) is LineDisplay
    assert type(open_display("log", terminal, ["peer-0"], Caption("train"))) is LogDisplay


def test_a_peers_view_of_its_run_is_printed():
    members = (
        MemberStatus("peer-1", "tcp://127.0.0.1:2", "alive", 900, 0.5, True, incarnation=3),
        MemberStatus("peer-2", "tcp://127.0.0.1:3", "dead", 300, 31.0, False),
    )
    console, file = screen()
    counters = {"bytes_sent": 12_345, "snapshot_bytes_sent": 7_800_000, "no_link": 2}
    show(Status("peer-0", "abc", 1000, 2, True, "overlay", "ad_psgd", members, counters, 4, 2), console)
    text = text_of(file)
    assert "peer-0  run abc  step 1,000  epoch 2  overlay  ad_psgd" in text
    assert "doubts itself (2)" in text
    assert "peer-1   alive      3    900" in text
    assert "sent 7.8 MB of snapshots and 0.01 MB of messages, received 0.0 MB and 0.00 MB" in text
    assert "no_link 2" in text


def test_the_paces_of_all_who_told_them_are_shown_beside_each_other():
    def pace(step_s: float, steps: int, wait: float, samples_per_s: float = 0.0) -> PaceStatus:
        return PaceStatus(step_s, steps, 0.9 - wait, 0.1, wait, samples_per_s)

    members = (
        MemberStatus("peer-1", "tcp://127.0.0.1:2", "alive", 900, 0.5, True, pace=pace(0.2, 4, 0.0)),
        MemberStatus("peer-2", "tcp://127.0.0.1:3", "alive", 300, 0.1, False),
    )
    console, file = screen()
    view = Status("peer-0", "abc", 1000, 2, True, "overlay", "ad_psgd", members, {}, pace=pace(0.05, 16, 0.25))
    answers = [
        Status("peer-1", "abc", 901, 2, True, "overlay", "ad_psgd", (), {}, pace=pace(0.1, 8, 0.0)),
        Status("peer-2", "other run", 1, 2, True, "overlay", "ad_psgd", (), {}, pace=pace(0.1, 8, 0.0)),
    ]
    show(together(view, answers), console)
    lines = [line.split() for line in text_of(file).splitlines()]
    assert ["peer-0", "20.0", "16", "67%", "65%", "10%", "25%"] in lines
    assert ["peer-1", "10.0", "8", "33%", "90%", "10%", "0%"] in lines
    assert not any(line[:1] == ["peer-2"] and len(line) == 7 and line[2] == "8" for line in lines)
    assert "of all steps" in text_of(file)


def test_with_shared_data_each_peers_part_of_the_epoch_stands_beside_its_pace():
    def member(name: str, state: str, data: DataStatus | None) -> MemberStatus:
        return MemberStatus(name, "tcp://127.0.0.1:2", state, 900, 0.5, True, data=data)

    members = (
        member("peer-1", "alive", DataStatus(7, share=0.25, trained=100, left=3)),
        member("peer-2", "dead", DataStatus(7, share=0.05, trained=50, left=0)),
        member("peer-3", "alive", None),
    )
    console, file = screen()
    pace = PaceStatus(0.05, 16, 0.65, 0.1, 0.25, samples_per_s=640.0)
    own = DataStatus(7, share=0.7, trained=1400, left=9)
    show(Status("peer-0", "abc", 1000, 2, True, "overlay", "ad_psgd", members, {}, pace=pace, data=own), console)
    lines = [line.split() for line in text_of(file).splitlines()]
    heading = "pace steps/s steps a block of epoch 7 trained compute mix wait"
    assert heading.split() in lines
    assert ["peer-0", "20.0", "16", "70%", "1,400", "65%", "10%", "25%"] in lines
    assert ["peer-1", "25%", "100"] in lines
    assert ["peer-2", "5%", "50"] in lines, "what the dead trained stays theirs"
    assert not any(line[:1] == ["peer-3"] and len(line) < 6 for line in lines), "nothing is known of its part"
