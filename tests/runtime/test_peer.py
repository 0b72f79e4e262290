"""A peer's life: what it leaves behind, what it lets through, and that alone it trains as if it were not there."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import psutil
import pytest
import torch
from torch import nn

import gossiptrain as gt
from gossiptrain.runtime import status

pytestmark = pytest.mark.usefixtures("one_core")

PROGRESS_FIELDS = {
    "t", "elapsed_s", "kind", "step", "steps_per_s", "longest_gap_s", "loss",
    "neighbours", "members", "consensus_distance", "exchanges", "bytes_sent", "bytes_received",
}  # fmt: skip


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def loss_of(model: nn.Module, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.cross_entropy(
        model(torch.randn(8, 4, generator=generator)), torch.randint(0, 3, (8,), generator=generator)
    )


def events(run_dir: Path, name: str, kind: str) -> list[dict[str, Any]]:
    path = run_dir / "events" / f"{name}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["kind"] == kind]


# Training


def adamw_fused(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)


def two_groups(model: nn.Sequential) -> torch.optim.Optimizer:
    groups = [
        {"params": model[0].parameters()},
        {"params": [*model[1].parameters(), *model[3].parameters()], "lr": 0.5},
    ]
    return torch.optim.SGD(groups, lr=0.05, momentum=0.9)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "adamw_fused": adamw_fused,
    "adamw_foreach": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, foreach=True),
    "adafactor": lambda model: torch.optim.Adafactor(model.parameters()),
    "two_groups": two_groups,
    "lbfgs": lambda model: torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """An ordinary script: a scheduler, skipped steps as a GradScaler makes them, evaluation, checkpoints."""
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.7)
    for step in range(steps):

        def closure(step: int = step) -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            return loss

        loss = closure()
        if step % 4 == 3:
            continue
        optimizer.step(closure if isinstance(optimizer, torch.optim.LBFGS) else None)
        scheduler.step()
        assert torch.isfinite(loss)
        if step == 5:
            saved = {key: value.clone() for key, value in model.state_dict().items()}
            saved_optimizer = optimizer.state_dict()
            model.eval()
            with torch.no_grad():
                loss_of(model, 0)
                for parameter in model.parameters():
                    parameter.mul_(2.0)
            model.train()
            model.load_state_dict(saved)
            optimizer.load_state_dict(saved_optimizer)


@pytest.mark.parametrize("mixer", ["ad_psgd", "d_psgd"])
@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_one_peer_alone_trains_exactly_as_without(kind: str, mixer: str) -> None:
    plain, attached = small_model(), small_model()
    train(plain, OPTIMIZERS[kind](plain), 11)
    optimizer = OPTIMIZERS[kind](attached)
    with gt.attach(attached, optimizer, sync_every=1, mixer=mixer) as peer:
        train(attached, optimizer, 11)
        assert peer.step_count == 9, "once for each step that was taken, LBFGS's inner ones not among them"
    for one, other in zip(plain.state_dict().values(), attached.state_dict().values()):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adamw_fused", "two_groups", "lbfgs"])
def test_two_peers_exchange_under_any_optimizer(crew: Any, until: Callable, kind: str) -> None:
    peers: dict[int, gt.Peer] = {}
    done: list[int] = []

    def job(number: int) -> None:
        model = small_model()
        optimizer = OPTIMIZERS[kind](model)
        peers[number] = crew.peer(number, model, optimizer, sync_every=2, wait_for_peers=2)
        with peers[number] as peer:
            until(lambda: train(model, optimizer, 11) or peer.exchange_count >= 5, "five exchanges")
            assert peer.members == 2
            done.append(number)
            until(lambda: train(model, optimizer, 2) or len(done) == 2, "the other's five exchanges")
            assert peer.consensus_distance is not None
        assert all(torch.isfinite(value).all() for value in model.state_dict().values())

    crew.train(lambda: job(0), lambda: job(1))
    assert all(peer.exchange_count >= 5 and peer.traffic()["bytes_received"] > 0 for peer in peers.values())


def test_a_loop_without_an_optimizer_counts_its_steps() -> None:
    with gt.attach(small_model(), sync_every=3) as peer:
        for _ in range(7):
            peer.step()
        assert peer.step_count == 7
    peer.step()
    assert peer.step_count == 7, "outside of `with peer:` nothing is counted"


def test_a_script_that_forgets_the_with_block_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    peer = gt.attach(model, optimizer, name="hermit")
    train(model, optimizer, 3)
    texts = [record.message for record in caplog.records if "outside `with peer:`" in record.message]
    assert len(texts) == 1
    assert texts[0].startswith("hermit:")
    caplog.clear()
    with peer:
        train(model, optimizer, 3)
    train(model, optimizer, 3)
    peer.step()
    assert not [record for record in caplog.records if "outside" in record.message]


def test_one_peer_alone_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with gt.attach(small_model(), name="hermit") as peer:
        assert (peer.members, peer.neighbours) == (1, ())
        assert f"hermit: trains alone until another peer joins it at {peer.address}" in caplog.text


@pytest.mark.slow
def test_who_does_not_come_is_not_waited_for_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    with gt.attach(small_model(), wait_for_peers=3, wait_timeout_s=0.3) as peer:
        peer.step()
    assert "of 3 peers only 1 were ready within" in caplog.text


# What is left behind


@pytest.mark.slow
def test_twenty_peers_one_after_another_leave_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    process = psutil.Process()

    def live_once(number: int) -> None:
        model = small_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with gt.attach(model, optimizer, run_dir=tmp_path, name=f"peer-{number}"):
            train(model, optimizer, 9)

    live_once(0)  # what is opened once and kept
    gc.collect()
    before = (process.num_fds(), process.num_threads(), threading.active_count())
    for number in range(20):
        live_once(number)
    gc.collect()
    assert (process.num_fds(), process.num_threads(), threading.active_count()) == before
    assert not list((tmp_path / "peers").iterdir())


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_what_is_raised_within_comes_out_and_nothing_stays(tmp_path: Path, error: type[BaseException]) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gc.collect()
    before = (psutil.Process().num_fds(), threading.active_count())
    with pytest.raises(error), gt.attach(model, optimizer, run_dir=tmp_path, name="a"):  # noqa: PT012
        train(model, optimizer, 3)
        raise error
    gc.collect()
    assert (psutil.Process().num_fds(), threading.active_count()) == before
    assert events(tmp_path, "a", "Left")[0]["reason"] == f"stopped by {error.__name__}"
    assert events(tmp_path, "a", "Finished")[0]["ok"] is False
    assert not (tmp_path / "models").exists(), "an unfinished model is not presented as the result"
    assert not list((tmp_path / "peers").iterdir())


@pytest.mark.slow
def test_a_script_that_raises_says_goodbye(crew: Any, until: Callable) -> None:
    def fail() -> None:
        with crew.peer(1, small_model(), wait_for_peers=2):
            raise ZeroDivisionError

    def go_on() -> None:
        with crew.peer(0, small_model(), wait_for_peers=2) as peer:
            until(lambda: peer.step() or peer.members == 1, "the other left")

    with pytest.raises(ZeroDivisionError):
        crew.train(fail, go_on)
    until(lambda: events(crew.run_dir, "peer-0", "Finished"), "the other one finishes")
    assert events(crew.run_dir, "peer-0", "PeerLeft")[0]["reason"] == "stopped by ZeroDivisionError"
    assert events(crew.run_dir, "peer-0", "Finished")[0]["ok"] is True
    assert not events(crew.run_dir, "peer-0", "PeerDied")


def test_a_peer_lives_once() -> None:
    peer = gt.attach(small_model())
    with peer, pytest.raises(gt.PeerStoppedError, match="attach again"):
        peer.__enter__()
    with pytest.raises(gt.PeerStoppedError, match="works once"):
        peer.__enter__()


def test_a_model_can_be_attached_again_and_the_optimizer_drives_only_the_new_peer() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gt.attach(model, optimizer) as first:
        train(model, optimizer, 3)
    with gt.attach(model, optimizer) as second:
        train(model, optimizer, 3)
    assert (first.step_count, second.step_count) == (3, 3)
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.slow
def test_a_founder_that_comes_back_to_a_running_run_begins_from_the_others(crew: Any, until: Callable) -> None:
    came_back: list[float] = []

    def stays() -> None:
        model = nn.Linear(3, 1)
        nn.init.constant_(model.weight, 5.0)
        with crew.peer(0, model, sync_every=1) as peer:
            until(lambda: peer.step() or came_back, "the other founder came back")
        assert bool((model.weight == 5.0).all()), "the fresh parameters were never mixed in"

    def comes_back() -> None:
        until(
            lambda: len(events(crew.run_dir, "peer-0", "Progress")) > 1, "the run has begun and its peer has noted it"
        )
        model = nn.Linear(3, 1)
        nn.init.constant_(model.weight, -1e6)
        with crew.peer(1, model, sync_every=1, founder=True) as peer:
            until(lambda: peer.step() or peer.exchange_count >= 2, "two exchanges")
            came_back.append(float(model.weight.detach()[0, 0]))

    crew.train(stays, comes_back)
    assert came_back == [5.0]


@pytest.mark.parametrize("move", ["double", "assign"])
def test_a_parameter_that_moved_is_named_and_nothing_stays(tmp_path: Path, move: str) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    threads = threading.active_count()
    with (  # noqa: PT012
        pytest.raises(gt.ConfigurationError, match=r"'0\.weight' was moved or replaced after attaching"),
        gt.attach(model, optimizer, sync_every=1, run_dir=tmp_path) as peer,
    ):
        if move == "double":
            model.double()
        else:
            model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
        peer.step()
    assert threading.active_count() == threads
    assert not list((tmp_path / "peers").iterdir())
    optimizer.step()  # its hook is gone


def test_a_failing_network_thread_does_not_stop_training(caplog: pytest.LogCaptureFixture, until: Callable) -> None:
    model = small_model()
    peer = gt.attach(model, sync_every=1)
    with pytest.raises(gt.PeerStoppedError, match="the network thread failed: ZeroDivisionError"), peer:  # noqa: PT012
        protocol = peer._driver._protocol  # type: ignore[union-attr]
        protocol.handle = lambda event, now: 1 // 0  # type: ignore[method-assign, assignment]
        peer.step()
        until(lambda: "training goes on alone" in caplog.text, "the thread fails")
        for _ in range(5):
            peer.step()
    assert peer.step_count == 6


def test_a_forked_child_is_no_peer(tmp_path: Path) -> None:
    model = small_model()
    reader, writer = os.pipe()
    with gt.attach(model, run_dir=tmp_path, name="a", sync_every=1) as peer:
        peer.step()
        pid = os.fork()
        if pid == 0:
            found = b"wrong"
            try:
                peer.step()
                peer.__exit__(None, None, None)
                found = b"%d %d" % (peer.step_count, len(peer.address))
            finally:
                os.write(writer, found)
                os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(reader, 100) == b"1 0"
        assert status.ask(peer.address).name == "a", "the parent is untouched"
        assert (tmp_path / "peers" / "a.address").exists()
    os.close(reader)
    os.close(writer)
    assert len(events(tmp_path, "a", "Finished")) == 1


# What is told


def test_progress_has_its_fields(tmp_path: Path) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gt.attach(model, optimizer, run_dir=tmp_path, name="a") as peer:
        peer.record(loss=torch.tensor(2.5, requires_grad=True), accuracy=0.5, text="none of a number")
        train(model, optimizer, 5)
        peer._report()
    lines = events(tmp_path, "a", "Progress")
    assert all(line.keys() >= PROGRESS_FIELDS for line in lines)
    assert lines[-1].items() >= {"step": 4, "loss": 2.5, "accuracy": 0.5, "text": None, "members": 1}.items()
    finished = events(tmp_path, "a", "Finished")[0]
    assert finished.keys() >= {"step", "seconds", "bytes_sent", "bytes_received", "ok", "counters"}
    assert (finished["step"], finished["ok"]) == (4, True)


@pytest.mark.slow
def test_of_many_exchanges_some_are_recorded_and_all_are_counted(crew: Any, until: Callable) -> None:
    done: list[bool] = []

    def job(number: int) -> None:
        with crew.peer(number, small_model(), sync_every=1, wait_for_peers=2) as peer:
            until(lambda: peer.step() or peer.exchange_count >= 100, "a hundred exchanges")
            done.append(True)
            until(lambda: peer.step() or len(done) == 2, "a hundred at the other as well")
            peer._report()

    crew.train(lambda: job(0), lambda: job(1))
    progress = events(crew.run_dir, "peer-0", "Progress")
    assert progress[-1]["exchanges"] >= 100
    assert 0 < len(events(crew.run_dir, "peer-0", "Exchanged")) <= 5 * len(progress)


@pytest.mark.parametrize("name", ["kind", "members", "step"])
def test_a_recorded_value_cannot_take_a_name_of_the_line(name: str) -> None:
    peer = gt.attach(small_model())
    with pytest.raises(gt.ConfigurationError, match=rf"record\({name}=\.\.\.\)"):
        peer.record(**{name: 1.0})


def test_a_running_peer_tells_its_view(tmp_path: Path) -> None:
    with gt.attach(small_model(), name="a", run_id="r", topology="ring", sync_every=1) as peer:
        peer.step()
        view = status.ask(peer.address)
    assert (view.name, view.run_id, view.topology, view.caught_up, view.members) == ("a", "r", "ring", True, ())


@pytest.mark.slow
def test_where_nobody_is_a_question_ends_in_time() -> None:
    with pytest.raises(gt.GossipTrainError, match=r"no peer answered at tcp://127\.0\.0\.1:9 within 0\.3 s"):
        status.ask("tcp://127.0.0.1:9", timeout_s=0.3)


# Graphs


def ring_of(members: tuple[str, ...]) -> nx.Graph:
    return nx.cycle_graph(members) if len(members) > 2 else nx.path_graph(members)


def fails_for_three(members: tuple[str, ...]) -> nx.Graph:
    if len(members) == 3:
        raise RuntimeError("three is a crowd")
    return nx.path_graph(members)


@pytest.mark.slow
@pytest.mark.parametrize("topology", [nx.petersen_graph(), ring_of, fails_for_three], ids=["petersen", "ring", "fails"])
def test_user_graphs_connect_three_peers(
    crew: Any, until: Callable, topology: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    done: list[bool] = []

    def job(number: int) -> tuple[str, ...]:
        peer = crew.peer(number, small_model(), topology=topology, wait_for_peers=3, sync_every=1)
        with peer:
            until(lambda: peer.step() or peer.exchange_count >= 2, "two exchanges")
            neighbours = peer.neighbours
            done.append(True)
            until(lambda: peer.step() or len(done) == 3, "all have exchanged")
        return neighbours

    neighbours = crew.train(*(lambda number=number: job(number) for number in range(3)))
    graph = nx.Graph((f"peer-{number}", other) for number, others in enumerate(neighbours) for other in others)
    assert nx.is_connected(graph)
    assert graph.number_of_nodes() == 3
    failed = [line for number in range(3) for line in events(crew.run_dir, f"peer-{number}", "TopologyFailed")]
    if topology is fails_for_three:
        assert len(failed) == 3
        assert "three is a crowd" in failed[0]["reason"]
        assert "the default overlay stands in" in caplog.text
    else:
        assert not failed
