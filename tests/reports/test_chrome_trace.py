"""Chrome's trace format, by its rules, and with what happened."""

from __future__ import annotations

import json

import pytest

from gossiptrain.errors import ConfigurationError
from tests.reports.made import small

NEEDS = {
    "X": {"name", "pid", "tid", "ts", "dur"},
    "i": {"name", "pid", "tid", "ts", "s"},
    "b": {"name", "pid", "tid", "ts", "id", "cat"},
    "e": {"name", "pid", "tid", "ts", "id", "cat"},
    "C": {"name", "pid", "ts", "args"},
    "M": {"name", "pid", "args"},
}


def events() -> list[dict]:
    return small().to_chrome_trace()["traceEvents"]


def test_every_event_has_the_fields_of_its_phase():
    for event in events():
        assert NEEDS[event["ph"]] <= event.keys(), event
        assert event.get("dur", 0) >= 0
        assert event["ph"] == "M" or event["ts"] >= 0
        assert event["ph"] != "i" or event["s"] in ("g", "p", "t")


def test_asynchronous_spans_are_closed_and_complete_ones_of_a_thread_do_not_cross():
    opened: dict = {}
    last: dict = {}
    for event in events():
        if event["ph"] in "be":
            key = (event["cat"], event["id"])
            opened[key] = opened.get(key, 0) + (1 if event["ph"] == "b" else -1)
        if event["ph"] == "X":
            thread = (event["pid"], event["tid"])
            assert event["ts"] >= last.get(thread, 0) - 1e-3
            last[thread] = event["ts"] + event["dur"]
    assert opened
    assert set(opened.values()) == {0}


def test_it_shows_compute_exchanges_suspicions_and_deaths_at_their_times():
    found = {(event["name"], event["pid"], event["ph"]): event for event in events()}
    names = {event["args"]["name"]: event["pid"] for event in events() if event["name"] == "process_name"}
    a = names["a"]
    assert found["suspects b", a, "b"]["ts"] == 9e6
    assert found["suspects b", a, "e"]["ts"] == 10e6
    assert found["exchange with b", a, "b"]["ts"] == 4e6
    assert found["PeerDied b", a, "i"]["ts"] == 10e6
    assert found["crashed", names["b"], "i"]["ts"] == 8e6
    blocks = [event for event in events() if event["ph"] == "X" and event["pid"] == a and event["cat"] == "compute"]
    assert (len(blocks), blocks[0]["dur"], blocks[-1]["args"]["step"]) == (20, 1e6, 40)


def test_the_file_holds_the_same(tmp_path):
    path = small().save(tmp_path / "trace.json")
    assert json.loads(path.read_text()) == json.loads(json.dumps(small().to_chrome_trace()))


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"must end in \.html"):
        small().save(tmp_path / "run.txt")
