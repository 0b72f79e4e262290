"""Launcher and real peers together, through the command line: training, joining, raising, interrupts, the demo."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import sim

pytestmark = [pytest.mark.slow, pytest.mark.chaos]
ROOT = Path(__file__).parents[2]

# No optimizer: torch takes seconds to make its first, and peers can do without.
TRAIN = """
    import os, pathlib, sys, time
    import torch
    import gossiptrain as gt
    torch.manual_seed(hash(os.environ["GOSSIPTRAIN_NAME"]) % 1000)
    model = torch.nn.Linear(8, 8)
    peer = gt.attach(model, sync_every=2)
    with peer:
        while not pathlib.Path(sys.argv[1]).exists():
            with torch.no_grad():
                model.weight += 0.01 * torch.randn(8, 8)
            peer.record(loss=model.weight.norm())
            peer.step()
            if peer.name in sys.argv[2:] and peer.step_count == 5:
                raise ValueError("boom")
            time.sleep(0.005)
"""


def run_folder(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


def progress(folder: Path, name: str) -> list[dict]:
    path = folder / "events" / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [event for event in map(json.loads, lines) if event["kind"] == "Progress"]


def steps(folder: Path, name: str) -> int:
    return max((line["step"] for line in progress(folder, name)), default=0)


def all_exchange(folder: Path, names: list[str]) -> bool:
    return all(line and line[-1]["consensus_distance"] for line in (progress(folder, name) for name in names))


@pytest.mark.timeout(300)
def test_a_peer_joins_from_another_shell_and_the_average_is_that_of_all_survivors(
    command, script, tmp_path, eventually
):
    train, go = script(TRAIN), tmp_path / "go"
    first = command("launch", "--peers", "2", "--run-dir", tmp_path / "run", train, go)
    told = next(line for line in first.stdout if "Join from another shell: " in line)
    address = re.search(r"tcp://\S+", told)[0]
    joined = ("launch", "--join", address, "--name", "zoe", "--run-dir", tmp_path / "run", train, go)
    second = command(*joined)
    names = ["peer-0", "peer-1", "zoe"]
    eventually(lambda: all_exchange(tmp_path / "run", names), "exchanges of all three")
    status = command("status", tmp_path / "run").communicate()[0]
    assert all(name in status for name in names)
    go.touch()
    assert re.search(r"peer-\d met zoe", first.communicate()[0])
    assert second.wait(timeout=60) == first.returncode == 0
    models = [load_file(tmp_path / "run" / "models" / f"{name}.safetensors") for name in names]
    average = load_file(tmp_path / "run" / "models" / "average.safetensors")
    for name, value in average.items():
        mean = np.mean([model[name].astype(np.float64) for model in models], axis=0)
        two = np.mean([model[name].astype(np.float64) for model in models[:2]], axis=0)
        # Whichever launcher ended last has averaged; the first may have found two models only.
        assert np.allclose(value, mean, atol=1e-6) or np.allclose(value, two, atol=1e-6)


@pytest.mark.timeout(300)
def test_a_peer_that_raises_while_training_is_shown_once_and_the_others_go_on(command, script, tmp_path, eventually):
    train, go = script(TRAIN), tmp_path / "go"
    launcher = command("launch", "--peers", "3", "--run-dir", tmp_path / "run", train, go, "peer-1")
    events = tmp_path / "run" / "events" / "peer-1.jsonl"
    eventually(lambda: events.exists() and "Finished" in events.read_text(), "the raising peer's end")
    others = ("peer-0", "peer-2")
    reached = {name: steps(tmp_path / "run", name) for name in others}

    def went_on() -> bool:
        return all(steps(tmp_path / "run", name) > reached[name] + 20 for name in others)

    eventually(went_on, "further steps of the others")
    go.touch()
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert output.count("ValueError: boom\n") == 2, "in the traceback and in the summary"
    assert "2 of 3 peers finished" in output
    assert sorted(path.stem for path in (tmp_path / "run" / "models").iterdir()) == ["average", "peer-0", "peer-2"]


@pytest.mark.timeout(300)
def test_a_real_run_calibrates_a_simulation_of_more_peers_like_it(command, script, tmp_path, eventually):
    train, go, folder = script(TRAIN), tmp_path / "go", tmp_path / "run"
    launcher = command("launch", "--peers", "2", "--run-dir", folder, train, go)

    def links_were_timed() -> bool:
        logs = [folder / "events" / f"{name}.jsonl" for name in ("peer-0", "peer-1")]
        lines = [json.loads(line) for log in logs if log.exists() for line in log.read_text().splitlines()]
        links = [line for line in lines if line["kind"] == "LinkTimes"]
        return sum(len(line["round_trips_s"]) for line in links) > 3 and any(line["snapshots_s"] for line in links)

    eventually(links_were_timed, "records of links")
    go.touch()
    assert launcher.wait(timeout=60) == 0
    environment = sim.calibrate(folder)
    for peer, name in enumerate(("peer-0", "peer-1")):
        times_s = np.fromfile(folder / "events" / f"{name}.steps", "<f8")
        assert environment.compute.mean_s(peer) == pytest.approx(np.diff(times_s).mean(), rel=0.02)
    assert 0 < environment.network.latency_s[0][1] < 0.5
    report = sim.Simulation(6, environment=environment, sync_every=2).run(3.0)
    assert all(peer.exchanges() for peer in report.peers)


@pytest.mark.timeout(300)
def test_an_interrupt_lets_real_peers_leave_within_five_seconds(command, script, tmp_path, eventually):
    train, go = script(TRAIN), tmp_path / "go"
    launcher = command("launch", "--peers", "2", "--run-dir", tmp_path / "run", train, go)
    eventually(lambda: all_exchange(tmp_path / "run", ["peer-0", "peer-1"]), "exchanges")
    launcher.send_signal(signal.SIGINT)
    began = time.monotonic()
    output, _ = launcher.communicate(timeout=60)
    assert time.monotonic() - began < 5.0
    assert launcher.returncode == 130
    assert "Traceback" not in output
    for name in ("peer-0", "peer-1"):
        last = json.loads((tmp_path / "run" / "events" / f"{name}.jsonl").read_text().splitlines()[-1])
        assert last["kind"] == "Finished", "it had the time to say goodbye"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("image_classifier.py", ["--epochs", "0.05", "--width", "4"], r"6 steps, accuracy \d+"),
        ("char_gpt.py", ["--steps", "2", "--channels", "16", "--layers", "1"], r"\d\.\d+ bits per character"),
    ],
)
def test_an_example_runs_alone_like_any_script(tmp_path, name, arguments, said):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(said, done.stdout)
    assert not (tmp_path / "runs").exists()


@pytest.mark.timeout(300)
@pytest.mark.skipif(
    not os.environ.get("GOSSIPTRAIN_FULL_CHAOS"), reason="`make demo` runs it, and so does GOSSIPTRAIN_FULL_CHAOS=1"
)
def test_the_demo_ends_with_its_figures_after_a_kill(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py", "--peers", "3", "--seconds", "6", "--width", "4"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"average of 2\s+\d+\.\d %", done.stdout)
    assert re.search(r"peer-2 was killed after \d+\.\d s; noticed after", done.stdout)
    unwrapped = " ".join(done.stdout.split())
    assert re.search(r"\d+ ms in the 10 s after the kill, \d+ ms before it: \d+\.\d\dx", unwrapped)
    assert f"Run folder  {run_folder(tmp_path).relative_to(tmp_path)}" in done.stdout
    assert len(list((run_folder(tmp_path) / "models").iterdir())) == 3
