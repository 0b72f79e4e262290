"""Checkpoints: whole or not at all, whatever fails while they are written; the newest that is whole is found."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import gossiptrain as gt
from gossiptrain.errors import ConfigurationError, GossipTrainError
from gossiptrain.intervals import Interval, parse
from gossiptrain.runtime import checkpoint
from gossiptrain.runtime.checkpoint import Checkpoints, candidates, load, newest_step, saved_in
from gossiptrain.runtime.keeper import FrozenState
from gossiptrain.runtime.staging import as_memoryview
from tests.runtime.test_state import frozen, peer_state

pytestmark = pytest.mark.usefixtures("one_core")

CALLS = ("write", "fsync", "replace")


def state(value: float, step: int) -> FrozenState:
    model = nn.Linear(4, 3)
    nn.init.constant_(model.weight, value)
    manifest, data = frozen(peer_state(model, None), step)
    return FrozenState(manifest, as_memoryview(data).toreadonly())


def value_of(saved: checkpoint.Saved) -> float:
    manifest, data = load(saved)
    model = nn.Linear(4, 3)
    taker = peer_state(model, None)
    taker.check(manifest)
    taker.adopt(manifest, data)
    return float(model.weight.detach().mean())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[str]]:
    """Lets the n-th call that touches the disk fail; returns the list of calls made so far."""

    def arm(at: int, number: int) -> list[str]:
        calls: list[str] = []
        for name in CALLS:
            real = getattr(os, name)

            def fails(*args: Any, name: str = name, real: Any = real) -> Any:
                calls.append(name)
                if len(calls) == at:
                    raise OSError(number, os.strerror(number))
                return real(*args)

            monkeypatch.setattr(checkpoint.os, name, fails)
        return calls

    return arm


def test_what_is_written_comes_back_and_is_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path / "a", 3).write(state(2.5, 40))
    assert value_of(saved) == 2.5
    tensors = load_file(saved.data_path)
    assert torch.equal(tensors["model/weight"], torch.full((3, 4), 2.5))
    assert json.loads(saved.manifest_path.read_text())["step"] == 40


def test_the_newest_are_kept_and_the_highest_number_is_the_newest_whatever_its_step(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 2)
    for number, step in enumerate((100, 200, 150, 160)):
        checkpoints.write(state(float(number), step))
    assert [saved.step for saved in saved_in(tmp_path)] == [160, 150]
    assert len(names(tmp_path)) == 4
    assert value_of(saved_in(tmp_path)[0]) == 3.0


@pytest.mark.parametrize("at", range(1, 10))
def test_whatever_call_fails_the_old_one_stays_and_nothing_is_left_behind(
    tmp_path: Path, failing: Callable[[int, int], list[str]], at: int
) -> None:
    checkpoints = Checkpoints(tmp_path, 3)
    checkpoints.write(state(1.0, 10))
    before = names(tmp_path)
    calls = failing(at, errno.ENOSPC)
    try:
        checkpoints.write(state(2.0, 20))
    except OSError:
        assert names(tmp_path) == before
    else:
        # Syncing a folder may fail where a file system cannot do it; nine calls are all there are.
        assert calls[at - 1] == "fsync" or len(calls) < at
    assert value_of(saved_in(tmp_path)[0]) == saved_in(tmp_path)[0].step / 10


CRASH = """
import os, sys
from pathlib import Path
from gossiptrain.runtime import checkpoint
from tests.runtime.test_checkpoint import state
folder, at, count = Path(sys.argv[1]), int(sys.argv[2]), 0
checkpoints = checkpoint.Checkpoints(folder, 2)
checkpoints.write(state(1.0, 10))
def dying(real):
    def call(*args, **more):
        global count
        count += 1
        if count == at:
            os._exit(9)
        return real(*args, **more)
    return call
for name in ("write", "fsync", "replace", "open", "close"):
    setattr(os, name, dying(getattr(os, name)))
Path.unlink = dying(Path.unlink)
checkpoints.write(state(2.0, 20))
checkpoints.write(state(3.0, 30))
os._exit(0)
"""


@pytest.mark.slow
def test_a_process_that_dies_at_any_call_leaves_one_that_loads_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    at, over = 0, False
    while not over:
        at += 1
        folder = tmp_path / str(at)
        pid = os.fork()
        if pid == 0:
            sys_argv = ["", str(folder), str(at)]
            try:
                exec(compile(CRASH, "crash", "exec"), {"__name__": "crash", **_arguments(sys_argv)})
            finally:
                os._exit(3)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, 9)
        over = code == 0
        newest = saved_in(folder)[0]
        assert value_of(newest) == newest.step / 10
        Checkpoints(folder, 2).write(state(4.0, 40))
        assert len(names(folder)) == 4, "two checkpoints of two files, and no scratch"
    assert at > 20


def _arguments(arguments: list[str]) -> dict[str, Any]:
    import sys

    sys.argv = arguments
    return {}


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, where this user may mount one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=False)


def test_on_a_disk_that_is_full_the_old_one_stays(tiny_disk: Path) -> None:
    checkpoints = Checkpoints(tiny_disk / "a", 3)
    checkpoints.write(state(1.0, 10))
    (tiny_disk / "filler").write_bytes(b"x" * (os.statvfs(tiny_disk).f_bavail * os.statvfs(tiny_disk).f_bsize))
    before = names(tiny_disk / "a")
    with pytest.raises(OSError, match="No space left"):
        checkpoints.write(state(2.0, 20))
    assert names(tiny_disk / "a") == before
    assert value_of(saved_in(tiny_disk / "a")[0]) == 1.0


def damage(saved: checkpoint.Saved, how: str) -> None:
    data, manifest = saved.data_path, saved.manifest_path
    if how == "bit":
        raw = bytearray(data.read_bytes())
        raw[-3] ^= 1
        data.write_bytes(raw)
    elif how == "header":
        raw = bytearray(data.read_bytes())
        raw[20] ^= 1
        data.write_bytes(raw)
    elif how == "short":
        data.write_bytes(data.read_bytes()[:-1])
    elif how == "long":
        data.write_bytes(data.read_bytes() + b"x")
    elif how == "missing":
        data.unlink()
    elif how == "manifest":
        manifest.write_text(manifest.read_text()[:-40])
    else:
        manifest.write_bytes(b"\x80\x04\x95 a pickle would begin like this")


@pytest.mark.parametrize("how", ["bit", "header", "short", "long", "missing", "manifest", "pickle"])
def test_a_damaged_checkpoint_is_refused_naming_the_file(tmp_path: Path, how: str) -> None:
    saved = Checkpoints(tmp_path, 3).write(state(1.0, 10))
    damage(saved, how)
    with pytest.raises(ConfigurationError, match=saved.data_path.name):
        load(saved)


def test_a_peer_takes_its_own_first_and_else_the_most_advanced_of_others(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for name, steps in (("a", (10, 20)), ("b", (50,)), ("c", (30, 40))):
        for step in steps:
            Checkpoints(folder / name, 3).write(state(1.0, step))
    found = [(saved.manifest_path.parent.name, saved.step) for saved in candidates(tmp_path, "a")]
    assert found == [("a", 20), ("a", 10), ("b", 50), ("c", 40), ("c", 30)]
    assert next(candidates(tmp_path, "new")).step == 50
    assert newest_step(tmp_path) == 50
    assert list(candidates(tmp_path / "elsewhere", "a")) == []


# In training


def train(peer: gt.Peer, model: nn.Module, optimizer: torch.optim.Optimizer, until_step: int) -> None:
    while peer.step_count < until_step:
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().mean().backward()
        optimizer.step()


def attached(run_dir: Path, **changes: Any) -> tuple[gt.Peer, nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return gt.attach(model, optimizer, name="a", run_dir=run_dir, **changes), model, optimizer


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    path = run_dir / "events" / "a.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


def test_a_peer_that_resumes_goes_on_exactly_where_it_was(tmp_path: Path) -> None:
    peer, model, optimizer = attached(tmp_path / "whole")
    with peer:
        train(peer, model, optimizer, 30)
    whole = model.state_dict()
    peer, model, optimizer = attached(tmp_path / "parts")
    with peer:
        train(peer, model, optimizer, 17)
        peer.checkpoint(wait=True)
    peer, model, optimizer = attached(tmp_path / "parts", resume=True)
    with peer:
        assert peer.step_count == 17
        train(peer, model, optimizer, 30)
    assert all(torch.equal(one, other) for one, other in zip(whole.values(), model.state_dict().values()))
    assert events(tmp_path / "parts", "Resumed")[0]["step"] == 17


def test_checkpoints_come_when_they_are_due_and_where_training_ends(
    tmp_path: Path, until: Callable[[Callable[[], Any], str], Any]
) -> None:
    peer, model, optimizer = attached(tmp_path, checkpoint_every=1000, keep_checkpoints=2)
    folder = tmp_path / "checkpoints" / "a"

    def has(number: int) -> bool:
        train(peer, model, optimizer, peer.step_count + 1)
        return bool(saved_in(folder)) and saved_in(folder)[0].number == number

    with peer:
        for number in (1, 2, 3):
            train(peer, model, optimizer, number * 1000 - 1)
            assert number == 1 or saved_in(folder)[0].number == number - 1
            until(lambda number=number: has(number), f"checkpoint {number}")
        last = peer.step_count
    written = [event["step"] for event in events(tmp_path, "Checkpoint")]
    assert [step // 1000 for step in written] == [1, 2, 3, 3]
    assert written[-1] == last
    assert len(saved_in(folder)) == 2


def test_a_disk_that_fails_costs_the_checkpoint_and_one_warning_and_the_next_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    peer, model, optimizer = attached(tmp_path)
    real = os.write
    with peer:
        peer.checkpoint(wait=True)
        monkeypatch.setattr(checkpoint.os, "write", _full)
        for _ in range(3):
            train(peer, model, optimizer, peer.step_count + 1)
            with pytest.raises(GossipTrainError, match="no checkpoint was written"):
                peer.checkpoint(wait=True)
        monkeypatch.setattr(checkpoint.os, "write", real)
        train(peer, model, optimizer, peer.step_count + 1)
        peer.checkpoint(wait=True)
        assert peer.step_count == 4
    assert len(events(tmp_path, "CheckpointFailed")) == 3
    assert "No space left" in events(tmp_path, "CheckpointFailed")[0]["reason"]
    assert caplog.text.count("a checkpoint could not be written") == 1
    assert [saved.step for saved in saved_in(tmp_path / "checkpoints" / "a")] == [4, 0]


def _full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_damaged_newest_is_passed_over_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    peer, model, optimizer = attached(tmp_path)
    with peer:
        for step in (5, 9):
            train(peer, model, optimizer, step)
            peer.checkpoint(wait=True)
    damage(saved_in(tmp_path / "checkpoints" / "a")[0], "bit")
    peer, model, optimizer = attached(tmp_path, resume=True)
    with peer:
        assert peer.step_count == 5
    assert "was not used, an older one is tried" in caplog.text
    assert "damaged within" in caplog.text


def test_another_runs_folder_can_be_resumed_from(tmp_path: Path) -> None:
    peer, model, optimizer = attached(tmp_path / "old")
    with peer:
        train(peer, model, optimizer, 6)
        peer.checkpoint(wait=True)
    peer, model, optimizer = attached(tmp_path / "new", resume=tmp_path / "old")
    with peer:
        assert peer.step_count == 6
        peer.checkpoint(wait=True)
    assert len(saved_in(tmp_path / "old" / "checkpoints" / "a")) == 1
    assert len(saved_in(tmp_path / "new" / "checkpoints" / "a")) == 1


def test_resuming_where_nothing_is_begins_anew_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    peer, _, _ = attached(tmp_path, resume=True)
    with peer:
        assert peer.step_count == 0
    assert "no checkpoint in" in caplog.text


def test_a_step_is_not_held_up_by_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    real, slow = os.fsync, threading.Event()
    monkeypatch.setattr(checkpoint.os, "fsync", lambda descriptor: slow.wait(30) and real(descriptor))
    peer, model, optimizer = attached(tmp_path, checkpoint_every=2)
    with peer:
        train(peer, model, optimizer, 200)
        assert not events(tmp_path, "Checkpoint"), "200 steps went by while the disk kept the first waiting"
        slow.set()
    assert events(tmp_path, "Checkpoint")


@pytest.mark.parametrize(
    ("value", "means"),
    [
        (500, Interval(steps=500)),
        ("500", Interval(steps=500)),
        ("90s", Interval(seconds=90)),
        ("10min", Interval(seconds=600)),
        ("1.5h", Interval(seconds=5400)),
        (" 2 M", Interval(seconds=120)),
    ],
)
def test_how_often_is_said_in_steps_or_in_time(value: int | str, means: Interval) -> None:
    assert parse("checkpoint_every", value) == means


@pytest.mark.parametrize("value", [0, -1, "0", "0s", "", "ten", "10 parsecs", True, "1e3", 1.5])
def test_what_is_neither_is_refused_with_its_name(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="checkpoint_every="):
        parse("checkpoint_every", value)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"checkpoint_every": 5}, "checkpoint_every"),
        ({"resume": True}, "resume"),
        ({"keep_checkpoints": 0}, "keep_checkpoints"),
        ({"checkpoint_every": "soon", "run_dir": "x"}, "checkpoint_every"),
        ({"compile_busy_s": 0.0}, "compile_busy_s"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}="):
        gt.attach(nn.Linear(2, 2), **changes)


def test_without_a_folder_a_checkpoint_on_demand_says_what_is_missing() -> None:
    with gt.attach(nn.Linear(2, 2)) as peer, pytest.raises(ConfigurationError, match="run_dir="):
        peer.checkpoint()
