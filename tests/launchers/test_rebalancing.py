"""A device that becomes slower in the middle of a run is noticed, and blocks last alike again: real processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gossiptrain.launchers.local import LaunchConfig, LocalRun

pytestmark = [pytest.mark.slow, pytest.mark.chaos]
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "stragglers_peer.py"
SLOW_FROM_S, SECONDS, FACTOR = 3.0, 14.0, 5.0


def test_a_peer_that_becomes_five_times_slower_takes_a_fifth_of_the_steps_in_blocks_that_last_alike(tmp_path):
    arguments = ("--mode", "gossip", "--seconds", str(SECONDS), "--step-s", "0.03", "--straggler", "peer-2")
    arguments += ("--factor", str(FACTOR), "--from-s", str(SLOW_FROM_S))
    config = LaunchConfig(SCRIPT, arguments, peers=3, run_dir=tmp_path / "run", threads=1, sync_every="600ms")
    with LocalRun(config) as run:
        while run.running:
            run.poll(0.1)
    assert run.failures == []
    blocks, steps = {}, {}
    for name in run.names:
        kept = np.load(run.folder.path / "times" / f"{name}.npz")
        ends_s = kept["blocks_s"]
        last = ends_s[ends_s >= kept["times_s"][0] + SLOW_FROM_S][3:]  # the third block after the change and later
        assert len(last) >= 3, f"{name} ended {len(last)} blocks"
        blocks[name] = float(np.median(np.diff(last)))
        inside = (kept["times_s"] > last[0]) & (kept["times_s"] <= last[-1])
        steps[name] = int(inside.sum()) / (len(last) - 1)
    assert max(blocks.values()) / min(blocks.values()) < 1.5, blocks
    share = steps["peer-2"] / np.mean([steps["peer-0"], steps["peer-1"]])
    assert 0.5 / FACTOR < share < 2 / FACTOR, steps
    told = [json.loads(line) for line in run.folder.events("peer-2").read_text().splitlines()]
    assert [event["step_s"] for event in told if event["kind"] == "Paced"][-1] > 0.5 * FACTOR * 0.03
