"""A launched run that was killed goes on from its checkpoints, through the command line."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gossiptrain.cli import _names, main
from gossiptrain.launchers import run_folder

SCRIPT = """
    import pathlib, sys, time
    import torch
    import gossiptrain as gt
    model = torch.nn.Linear(4, 4)
    peer = gt.attach(model)
    with peer:
        print("begins at", peer.step_count, flush=True)
        while not pathlib.Path(sys.argv[1]).exists():
            with torch.no_grad():
                model.weight.fill_(peer.step_count + 1)
            peer.step()
            time.sleep(0.01)
"""


def events(folder: Path, name: str, kind: str) -> list[dict[str, Any]]:
    path = folder / "events" / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


@pytest.mark.slow
@pytest.mark.chaos
def test_a_launched_run_that_was_killed_goes_on_with_one_peer_more(
    command: Callable, script: Callable, eventually: Callable, tmp_path: Path
) -> None:
    folder, train = tmp_path / "run", script(SCRIPT)
    options = ("--checkpoint-every", "20", "--keep-checkpoints", "2")
    first = command("launch", "--peers", "2", "--run-dir", folder, *options, train, tmp_path / "never")
    eventually(lambda: all(len(events(folder, f"peer-{n}", "Checkpoint")) > 2 for n in (0, 1)), "checkpoints")
    refused = command("launch", "--resume", folder, train, tmp_path / "stop")
    assert refused.wait(60) == 2
    assert "this run is going on" in refused.stdout.read()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    steps = {n: events(folder, f"peer-{n}", "Checkpoint")[-1]["step"] for n in (0, 1)}
    stop = tmp_path / "stop"
    second = command("launch", "--resume", folder, "--peers", "3", *options, train, stop)
    eventually(lambda: all(len(events(folder, f"peer-{n}", "Resumed")) == 1 for n in range(3)), "all resume")
    assert [events(folder, f"peer-{n}", "Resumed")[0]["step"] >= steps[n] for n in (0, 1)] == [True, True]
    assert events(folder, "peer-2", "Resumed")[0]["step"] >= min(steps.values())
    eventually(lambda: events(folder, "peer-2", "Checkpoint"), "the new one keeps checkpoints, too")
    stop.touch()
    assert second.wait(60) == 0
    printed = second.stdout.read()
    assert "peer-2 goes on from a checkpoint, at step" in printed
    assert len(list(folder.glob("config*.json"))) == 2, "how it was resumed stands beside how it began"
    assert len({json.loads(path.read_text())["run_id"] for path in folder.glob("config*.json")}) == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two peers, one of which left a checkpoint."""
    path = tmp_path / "runs" / "r"
    (path / "checkpoints" / "peer-10").mkdir(parents=True)
    (path / "checkpoints" / "peer-10" / "000001-step-5.json").write_text("{}")
    (path / "config.json").write_text(json.dumps({"run_id": "abc", "peers": ["peer-2", "peer-10"]}))
    return path


@pytest.fixture
def launched_elsewhere(
    script: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Gives the launcher wrong arguments in an empty folder; returns what it says."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def launch(*arguments: str) -> str:
        assert main(["launch", *arguments, str(script("pass"))]) == 2
        return capsys.readouterr().err

    return launch


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--resume", "nowhere"], "is not the config of a run"),
        (["--resume", "latest"], "there is no run below runs/"),
        (["--resume", "RUN", "--join", "tcp://127.0.0.1:9"], "leave join out"),
        (["--resume", "RUN", "--run-dir", "other"], "leave run_dir out"),
        (["--checkpoint-every", "soon"], "--checkpoint-every=soon: must be a number of steps, or a time"),
        (["--keep-checkpoints", "0"], "keep_checkpoints=0: must be at least 1"),
    ],
)
def test_what_cannot_be_resumed_or_kept_is_refused_before_anything_starts(
    launched_elsewhere: Callable[..., str], folder: Path, arguments: list[str], says: str
) -> None:
    given = [str(folder) if word == "RUN" else word for word in arguments]
    assert says in launched_elsewhere("--peers", "1", *given)


def test_a_run_without_checkpoints_says_how_they_come(folder: Path) -> None:
    (folder / "checkpoints" / "peer-10" / "000001-step-5.json").unlink()
    with pytest.raises(Exception, match="--checkpoint-every"):
        run_folder.reopen(folder)


def test_latest_is_the_run_that_began_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder.with_name("older")
    other.mkdir()
    (other / "config.json").write_text("{}")
    os.utime(other / "config.json", (1, 1))
    monkeypatch.chdir(folder.parent.parent)
    assert run_folder.newest().name == "r"


def test_those_that_left_checkpoints_come_first_and_others_get_free_names() -> None:
    assert _names(["peer-0", "peer-2"], 4) == ("peer-0", "peer-2", "peer-1", "peer-3")
    assert _names(["a", "b", "c"], 2) == ("a", "b")
