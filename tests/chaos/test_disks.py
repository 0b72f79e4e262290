"""Disks that fill up, and processes killed while they write: a checkpoint is the old one or the new one, never half."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossiptrain.errors import ConfigurationError
from gossiptrain.runtime.checkpoint import load, saved_in
from tests.chaos.harness import Swarm
from tests.chaos.invariants import check_ended_well, falsely_dead, longest_gap_s, wait_until_whole
from tests.chaos.settings import quick

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.xdist_group("chaos-a")]

WIDTH = 100_000  # 400 KB
ATTACH = {"membership": quick(), "checkpoint_every": "20", "keep_checkpoints": 2}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder for the checkpoints of a run that holds 4 MiB."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "gossiptrain", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def whole(folder: Path) -> list[int]:
    """The steps of a peer's checkpoints, each of which must be complete unless it is just being removed."""
    steps = []
    for saved in saved_in(folder):
        try:
            manifest, _ = load(saved)
        except ConfigurationError:
            assert not saved.manifest_path.exists(), f"{saved.manifest_path} stands for half a checkpoint"
        else:
            steps.append(manifest.step)
    return steps


def test_a_full_disk_costs_checkpoints_but_neither_training_nor_the_older_ones(
    tmp_path: Path, small_disk: Path
) -> None:
    with Swarm(tmp_path, value=1.5, width=WIDTH, attach=ATTACH) as swarm:
        names = swarm.start_together(2)
        wait_until_whole(swarm, names)
        for name in names:
            swarm.wait_for(name, "Checkpoint")
        fill(small_disk / "filler", small_disk)
        failed_s = {name: swarm.wait_for(name, "CheckpointFailed")["t"] for name in names}
        for name in names:
            kept = whole(small_disk / name)
            assert kept, "the older ones are there"
            for _ in range(2):
                swarm.more_steps(name, 30)
                assert set(kept) <= set(whole(small_disk / name)), "nothing new fits, and nothing old goes"
            assert "could not be written" in swarm.log(name)
            assert "No space left" in swarm.events(name, "CheckpointFailed")[0]["reason"]
            assert longest_gap_s(swarm.steps(name), failed_s[name] - 1) < 5.0
        (small_disk / "filler").unlink()
        for name in names:
            last = swarm.events(name, "CheckpointFailed")[-1]
            step = swarm.wait_for(name, "Checkpoint", since=last["t"])["step"]
            swarm.until(lambda name=name, step=step: max(whole(small_disk / name)) >= step, "a new one is whole")
        check_ended_well(swarm, names, lowest=1.5, highest=1.5)
        assert falsely_dead(swarm, names) == []


def fill(path: Path, disk: Path) -> None:
    """Takes all but 100 KB of a disk, so that a checkpoint fails half-way; those who write are waited for."""
    with path.open("wb", buffering=0) as file:
        while (free := os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize - 100_000) > 0:
            try:
                file.write(bytes(min(free, 1 << 20)))
            except OSError:
                return


def test_a_process_killed_while_it_writes_leaves_whole_checkpoints_and_its_next_one_goes_on_from_them(
    tmp_path: Path,
) -> None:
    often = {**ATTACH, "checkpoint_every": "1"}
    with Swarm(tmp_path, value=1.5, width=WIDTH, attach=often) as swarm:
        folder = tmp_path / "checkpoints" / "peer-0"
        reached = 0
        for life in range(3):
            swarm.start("peer-0", attach={"resume": bool(life)})
            swarm.until(lambda: max(whole(folder), default=0) > reached + 20, f"life {life} gets further")  # noqa: B023
            swarm.kill("peer-0")
            swarm.exit_code("peer-0")
            steps = whole(folder)
            assert steps, f"life {life} left none"
            assert max(steps) > reached
            reached = max(steps)
        swarm.start("peer-0", attach={"resume": True})
        swarm.wait_for("peer-0", "Resumed", step=reached)
        swarm.until(lambda: max(whole(folder)) > reached, "the last life writes")
        check_ended_well(swarm, ["peer-0"], lowest=1.5, highest=1.5)
        assert len(list(folder.iterdir())) == 2 * ATTACH["keep_checkpoints"], "nothing half-written is left"
