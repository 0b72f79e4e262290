"""Every block of the README and of the pages runs, and every notebook."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ELSEWHERE = {
    "topologies.md",
    "schedules.md",
    "simulator.md",
}  # their own tests run their blocks, and look at what they print
DOCS = [path for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in ELSEWHERE]
PAGES = [page for page in (ROOT / "README.md", *DOCS) if "```python" in page.read_text(encoding="utf-8")]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

TRAIN = """
import sys, time, pathlib, torch
import gossiptrain as gt
torch.set_num_threads(1)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
stop = pathlib.Path(__file__).with_name("stop")
deadline = time.monotonic() + 60
with gt.attach(model, optimizer) as peer:
    while time.monotonic() < deadline and ("--until-told" not in sys.argv or not stop.exists()):
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if "--until-told" not in sys.argv and peer.step_count >= 50:
            break
"""


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "page"}
    found = blocks(page.read_text(encoding="utf-8"), "python")
    for number, block in enumerate(found):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    assert len(found) == page.read_text(encoding="utf-8").count("```python"), "a block was not recognised"


@pytest.mark.slow
def test_the_diff_of_the_readme_makes_a_working_script():
    (diff,) = blocks(README, "diff")
    added = [line for line in diff.splitlines() if line.startswith("+")]
    script = "\n".join(line[1:] for line in diff.splitlines() if not line.startswith("-"))
    assert len(added) <= 6
    prelude = "import torch\nbuild_model = lambda: torch.nn.Linear(2, 1)\nloader = [(torch.zeros(1, 2), 0)]\n"
    names: dict = {"__name__": "script"}
    exec(compile(prelude + script, "diff", "exec"), names)
    assert names["peer"].name


@pytest.fixture
def command_lines() -> list[str]:
    lines = [line for block in blocks(README, "sh") for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith("gossiptrain ")]


@pytest.mark.slow
@pytest.mark.chaos
def test_the_commands_of_the_readme_work_as_printed(command_lines, tmp_path):
    (tmp_path / "train.py").write_text(TRAIN)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    launch, join, status = (line.replace("tcp://127.0.0.1:7400", address) for line in command_lines)
    founder = gossiptrain(f"gossiptrain launch --peers 1 --listen {address} train.py --until-told", tmp_path)
    try:
        answer = until_ok(status, tmp_path)
        assert "peer-0" in answer
        assert gossiptrain(join, tmp_path).wait(60) == 0
        assert gossiptrain(launch, tmp_path).wait(90) == 0
    finally:
        (tmp_path / "stop").touch()
        try:
            assert founder.wait(30) == 0
        finally:
            founder.kill()


def gossiptrain(line: str, folder: Path) -> subprocess.Popen:
    """Starts a command line of the README."""
    words = line.split()
    assert words[0] == "gossiptrain"
    command = [sys.executable, "-m", "gossiptrain.cli", *words[1:]]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, env=environment())


def until_ok(line: str, folder: Path) -> str:
    """Runs a command until it succeeds; returns what it printed."""
    deadline = time.monotonic() + 60
    while True:
        command = [sys.executable, "-m", "gossiptrain.cli", *line.split()[1:]]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment(), check=False)
        if done.returncode == 0:
            return done.stdout
        assert time.monotonic() < deadline, done.stderr


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_stored_without_outputs(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert all(cell.execution_count for cell in cells)
