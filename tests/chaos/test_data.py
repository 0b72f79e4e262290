"""An epoch shared by real processes, one of which is killed while another joins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.chaos.harness import Swarm
from tests.chaos.settings import quick

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.xdist_group("chaos-a")]

SAMPLES = 4000
BATCH = 8


def trained(run_dir: Path) -> np.ndarray:
    """How often each sample was in a step, of any process."""
    files = sorted((run_dir / "data").glob("*"))
    numbers = np.concatenate([np.fromfile(path, dtype=np.int32) for path in files])
    return np.bincount(numbers, minlength=SAMPLES)


def test_an_epoch_survives_a_kill_and_a_newcomer(tmp_path: Path) -> None:
    paces_s = (0.01, 0.01, 0.01, 0.04)
    with Swarm(tmp_path, shared=SAMPLES, attach={"membership": quick()}) as swarm:
        names = swarm.start_together(4, pace_s=lambda number: paces_s[number])
        swarm.until(lambda: trained(tmp_path).sum() > SAMPLES // 4, "a quarter of the epoch is trained")
        swarm.kill("peer-1")
        swarm.start("peer-9", pace_s=0.01)
        swarm.wait_for("peer-0", "PeerDied", peer="peer-1")
        first = swarm.wait_for("peer-0", "EpochFinished", epoch=0)
        assert trained(tmp_path).min() >= 1, "the epoch lacks a sample"
        swarm.wait_for("peer-9", "EpochFinished")
        rest = swarm.wait_for("peer-0", "EpochFinished", epoch=2)
        slow = swarm.wait_for("peer-3", "EpochFinished", epoch=2)
        survivors = [*(name for name in names if name != "peer-1"), "peer-9"]
        assert swarm.finish(*survivors) == dict.fromkeys(survivors, 0)
        assert first["samples"] == SAMPLES
        # Epochs of a second or two, on a machine whose speed changes: some chunks are begun before news are here.
        assert first["trained_twice"] <= SAMPLES * 0.1
        assert rest["trained_twice"] <= SAMPLES * 0.1
        assert rest["own"] > 1.5 * slow["own"], "a slow peer has a smaller part"
