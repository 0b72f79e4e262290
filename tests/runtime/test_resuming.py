"""Runs whose peers all died go on from their checkpoints, with as many peers as are started: real processes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gossiptrain as gt
from gossiptrain.runtime.checkpoint import FOLDER, newest_step, saved_in
from tests.chaos.harness import Swarm

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

FAR = 1000.0
TRAINS = {"lr": 0.01, "target": 5.0, "attach": {"checkpoint_every": 20, "keep_checkpoints": 2}}


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Callable[[], Swarm]]:
    """Makes swarms of one run's folder, one after the other."""
    made: list[Swarm] = []

    def make() -> Swarm:
        made.append(Swarm(tmp_path / "run"))
        return made[-1]

    yield make
    for each in made:
        each.__exit__()


def killed(swarm: Swarm, count: int) -> int:
    """Trains until everybody is at the target and has a checkpoint of that, kills all; returns the newest one's step."""
    names = swarm.start_together(count, **TRAINS)
    near = lambda name: abs(swarm.value(name) - 5.0) < 0.1  # noqa: E731
    swarm.until(lambda: all(near(name) for name in names), "everybody is at the target")
    at = {name: swarm.events(name, "Progress")[-1]["step"] for name in names}

    def has_saved(name: str) -> bool:
        saved = saved_in(swarm.run_dir / FOLDER / name)
        return bool(saved) and saved[0].step > at[name]

    swarm.until(lambda: all(has_saved(name) for name in names), "everybody has a checkpoint of that")
    for name in names:
        swarm.signal(name, signal.SIGKILL)
    for name in names:
        assert swarm.exit_code(name) == -signal.SIGKILL
    return newest_step(swarm.run_dir)


def resume(swarm: Swarm, names: list[str], **plan: Any) -> None:
    attach = {**TRAINS["attach"], "resume": True, "wait_for_peers": len(names)}
    for name in names:
        # An untrained peer would begin far away, and its first mix would tear the others there.
        swarm.start(name, **{**TRAINS, "value": FAR, **plan, "attach": attach})


def check_goes_on(swarm: Swarm, names: list[str], since: float, newest: int) -> None:
    for name in names:
        resumed = swarm.wait_for(name, "Resumed", since=since)
        assert newest - 100 < resumed["step"] <= newest
        swarm.wait_for(name, "Exchanged", since=since)
        swarm.more_steps(name, 20)
    for name in names:
        progress = [line for line in swarm.events(name, "Progress", since=since) if line["step"] > 0]
        values = [line["value"] for line in progress if line.get("value") is not None]
        assert values
        assert max(abs(value - 5.0) for value in values) < 0.2, "no untrained parameter was ever mixed"
        assert all(line["step"] >= newest - 100 for line in progress)
    assert set(swarm.finish(*names).values()) == {0}


@pytest.mark.parametrize("count", [2, 4])
def test_three_that_were_killed_go_on_as_two_or_as_four(swarm: Callable[[], Swarm], count: int) -> None:
    first = swarm()
    newest = killed(first, 3)
    before = {name: len(saved_in(first.run_dir / FOLDER / name)) for name in ("peer-0", "peer-1", "peer-2")}
    second = swarm()
    names = [f"peer-{number}" for number in range(count)]
    since = max(event["t"] for name in before for event in first.events(name))
    resume(second, names)
    check_goes_on(second, names, since + 1e-6, newest)
    if count == 2:
        assert len(saved_in(second.run_dir / FOLDER / "peer-2")) == before["peer-2"], "what it left is left alone"


def test_without_the_founder_of_then_the_others_go_on(swarm: Callable[[], Swarm]) -> None:
    first = swarm()
    newest = killed(first, 3)
    since = max(event["t"] for name in ("peer-1", "peer-2") for event in first.events(name))
    second = swarm()
    resume(second, ["peer-1", "peer-2"])
    check_goes_on(second, ["peer-1", "peer-2"], since + 1e-6, newest)


def test_one_that_restarts_while_the_others_go_on_takes_their_state_and_not_its_old_checkpoint(
    swarm: Callable[[], Swarm],
) -> None:
    run = swarm()
    names = run.start_together(2, **TRAINS)
    run.until(lambda: saved_in(run.run_dir / FOLDER / "peer-1"), "it has a checkpoint")
    run.signal("peer-1", signal.SIGKILL)
    assert run.exit_code("peer-1") == -signal.SIGKILL
    left = saved_in(run.run_dir / FOLDER / "peer-1")[0].step
    run.until(
        lambda: run.steps("peer-0").size > newest_step(run.run_dir) and run.steps("peer-0").size > left + 100, "on"
    )
    joined = len(run.events("peer-1", "Joined"))
    run.start("peer-1", **{**TRAINS, "value": FAR, "attach": {**TRAINS["attach"], "resume": True}})
    run.until(lambda: len(run.events("peer-1", "Joined")) > joined, "it joins")
    fetched, resumed = run.events("peer-1", "StateFetched"), run.events("peer-1", "Resumed")
    # The survivor may have written a checkpoint in the very moment; then its own is as new as anything.
    assert (fetched and fetched[-1]["step"] > left) or resumed
    assert set(run.finish(*names).values()) == {0}


def linear(value: float) -> tuple[nn.Linear, torch.optim.Optimizer]:
    model = nn.Linear(3, 3, bias=False)
    nn.init.constant_(model.weight, value)
    return model, torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)


def test_a_founder_whose_disk_has_no_checkpoint_waits_for_one_that_has(
    crew: Any, until: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = linear(5.0)
    with gt.attach(model, optimizer, name="peer-1", run_dir=tmp_path / "disk of peer-1") as peer:
        for _ in range(30):
            peer.step()
        peer.checkpoint(wait=True)
    done = threading.Event()
    seen: dict[int, tuple[int, float]] = {}

    def job(number: int, folder: Path) -> None:
        model, optimizer = linear(FAR)
        with crew.peer(number, model, optimizer, resume=folder, sync_every=1) as peer:
            seen[number] = (peer.step_count, float(model.weight.detach().mean()))
            until(lambda: peer.step() or (peer.exchange_count and len(seen) == 2) or done.is_set(), "they mix")
            done.set()
            assert abs(float(model.weight.detach().mean()) - 5.0) < 1e-5

    (tmp_path / "empty").mkdir()
    crew.train(lambda: job(0, tmp_path / "empty"), lambda: job(1, tmp_path / "disk of peer-1"))
    assert seen[1] == (30, 5.0)
    assert seen[0][1] == 5.0
    assert seen[0][0] >= 30
    assert "peer-0: no checkpoint in" in caplog.text


def test_a_donor_killed_in_the_middle_is_replaced_and_the_newcomer_trains(swarm: Callable[[], Swarm]) -> None:
    run = swarm()
    wide = {"width": 6_000_000, "pace_s": 0.02}
    slow = {"attach": {"exchange": gt.ExchangeConfig(state_mbps=40.0), "sync_every": 100_000}}
    names = run.start_together(2, **wide, **slow)
    sent = {name: run.wait_for(name, "Progress", since=time.time())["bytes_sent"] for name in names}
    run.start("late", value=FAR, **wide, **slow)

    def donor() -> str:
        now = {name: run.events(name, "Progress")[-1]["bytes_sent"] for name in names}
        return next((name for name in names if now[name] > sent[name] + (9 << 20)), "")

    source = run.until(donor, "somebody has sent some of its state")
    run.signal(source, signal.SIGKILL)
    fetched = run.wait_for("late", "StateFetched")
    assert fetched["peer"] != source
    assert fetched["kept_bytes"] >= 4 << 20, "the parameters of both are equal, for nobody has learned anything"
    assert fetched["nbytes"] < 24_000_000
    run.wait_for("late", "Joined")
    run.more_steps("late", 3)
    run.stop()
