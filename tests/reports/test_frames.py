"""Data frames of a run whose every event is known."""

from __future__ import annotations

import pytest

from tests.reports.made import small

pytest.importorskip("pandas")


def test_every_process_is_a_row_of_peers():
    peers = small().to_pandas().peers
    assert peers[["peer", "process", "end", "steps", "exchanges", "bytes_sent"]].values.tolist() == [
        ["a", 0, "", 40, 1, 10000],
        ["b", 0, "crashed", 16, 1, 10000],
        ["b", 1, "", 14, 0, 10000],
        ["c", 0, "", 40, 0, 10000],
    ]


def test_samples_are_one_row_a_moment_measure_and_peer():
    samples = small().to_pandas().samples
    assert list(samples.columns) == ["time_s", "peer", "measure", "value"]
    whole = samples[samples.peer == ""].pivot(index="time_s", columns="measure", values="value")
    assert whole.loc[3.0, "consensus_distance"] == 0.25
    assert whole.loc[3.0, "bytes_sent"] == 3e6
    assert whole.loc[3.0, "steps"] == 6, "three blocks of two steps of half a second"
    loss = samples[samples.measure == "loss"].pivot(index="time_s", columns="peer", values="value")
    assert loss.loc[3.0].tolist() == [1.0, 0.5, 0.75]
    assert loss.loc[9.0].isna().tolist() == [False, True, False], "a peer that is down has no rows"


def test_notices_come_in_order_of_time_with_whom_they_are_about():
    notices = small().to_pandas().notices
    assert notices.time_s.is_monotonic_increasing
    died = notices[notices.kind == "PeerDied"]
    assert died[["time_s", "peer", "about"]].values.tolist() == [[10.0, "a", "b"], [10.0, "c", "b"]]
    assert died.fields.iloc[0] == {"reason": "its address refuses"}
    assert notices[notices.kind == "Exchanged"].fields.iloc[0] == {"partners": ("b",), "seconds": 1.0}


def test_blocks_and_edges_have_their_times():
    frames = small().to_pandas()
    first = frames.blocks.iloc[0]
    assert (first.peer, first.began_s, first.ended_s, first.steps, first.waited_s) == ("a", 0.0, 1.0, 2, 0.0)
    assert len(frames.blocks) == 20 + 8 + 7 + 20
    assert len(frames.edges) == 9
