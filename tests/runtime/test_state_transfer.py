"""A newcomer among real peers takes a donor's whole state over real sockets; donors that die or lie are replaced."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

import gossiptrain as gt
from gossiptrain.protocol.fetching import CHUNK_BYTES
from gossiptrain.runtime import manifest as m
from gossiptrain.runtime import state, state_transfer
from gossiptrain.runtime.keeper import Freeze, FrozenState, Keeper
from gossiptrain.runtime.state import Identity, Model

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.slow]


class Net(nn.Module):
    """A model whose state is of some chunks; `features` wide."""

    def __init__(self, features: int = 4) -> None:
        super().__init__()
        self.body = nn.Linear(features, features, bias=False)
        self.norm = nn.BatchNorm1d(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.body(x))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(4, model.body.in_features)).square().mean().backward()
    optimizer.step()


def events(run_dir: Path, name: str, kind: str) -> list[dict[str, Any]]:
    path = run_dir / "events" / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


class Trainer:
    """A peer that trains in a thread of its own until it is stopped, or stops when it has taken so many steps."""

    def __init__(
        self, crew: Any, number: int, optimizer: Callable[..., Any] = torch.optim.Adam, **settings: Any
    ) -> None:
        self.model = Net(settings.pop("features", 4))
        self.optimizer = optimizer(self.model.parameters(), lr=0.01)
        self.stop, self.rest = threading.Event(), settings.pop("rest_after", None)
        self.peer = crew.peer(number, self.model, self.optimizer, sync_every=2, **settings)
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self.peer:
                while not self.stop.wait(0.002):
                    if self.rest is None or self.peer.step_count < self.rest:
                        step(self.model, self.optimizer)
        except BaseException as error:
            self.errors.append(error)

    def end(self) -> None:
        self.stop.set()
        self._thread.join(30)
        assert not self.errors


def optimizer_steps(optimizer: torch.optim.Optimizer) -> list[int]:
    return [int(kept["step"]) for kept in optimizer.state.values()]


def test_a_newcomer_has_moments_buffers_and_step_count_before_its_first_step(crew: Any, until: Callable) -> None:
    donor = Trainer(crew, 0)
    until(lambda: donor.peer.step_count >= 40, "the donor trains")
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    with crew.peer(1, model, optimizer) as newcomer:
        begins = newcomer.step_count
        assert begins >= 40
        assert optimizer_steps(optimizer) == [begins] * 3, "Adam goes on where the donor's was"
        assert int(model.norm.num_batches_tracked) == begins
        assert optimizer.param_groups[0]["lr"] == 0.5, "hyperparameters are the script's own"
        assert all(kept["exp_avg"].abs().sum() > 0 for kept in optimizer.state.values())
        step(model, optimizer)
        assert newcomer.step_count == begins + 1
        until(lambda: step(model, optimizer) or newcomer.exchange_count, "it mixes")
    donor.end()
    fetched = events(crew.run_dir, "peer-1", "StateFetched")[0]
    assert (fetched["peer"], fetched["step"], fetched["kept_bytes"]) == ("peer-0", begins, 0)


def test_another_optimizer_begins_afresh_and_both_are_named(
    crew: Any, until: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    donor = Trainer(crew, 0)
    until(lambda: donor.peer.step_count >= 10, "the donor trains")
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with crew.peer(1, model, optimizer) as newcomer:
        assert newcomer.step_count >= 10
        assert not optimizer.state
        step(model, optimizer)
    donor.end()
    assert "peer-1: has the parameters of peer-0, but its optimizer begins with a fresh state" in caplog.text
    assert "here torch.optim.sgd.SGD momentum, there torch.optim.adam.Adam" in caplog.text


def test_a_donor_whose_training_rests_gives_its_parameters(
    crew: Any, until: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state_transfer, "PATIENCE_S", 0.3)
    donor = Trainer(crew, 0, rest_after=12)
    until(lambda: donor.peer.step_count == 12, "the donor rests, in an evaluation for example")
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    with crew.peer(1, model, optimizer) as newcomer:
        assert newcomer.step_count == 12
        assert not optimizer.state
    donor.end()
    assert "its training was not stepping" in caplog.text


@pytest.mark.parametrize("mixer", ["ad_psgd", "d_psgd"])
def test_three_newcomers_at_once_share_one_frozen_state(crew: Any, until: Callable, mixer: str) -> None:
    donor = Trainer(crew, 0, mixer=mixer)
    until(lambda: donor.peer.step_count >= 10, "the donor trains")
    others = [Trainer(crew, number, mixer=mixer) for number in (1, 2, 3)]
    until(lambda: all(events(crew.run_dir, f"peer-{n}", "Joined") for n in (1, 2, 3)), "all have joined")
    until(lambda: all(other.peer.exchange_count > 2 for other in others), "all mix")
    for trainer in (*others, donor):
        trainer.end()
    for number in (1, 2, 3):
        assert events(crew.run_dir, f"peer-{number}", "StateFetched")[0]["step"] >= 10


@pytest.mark.parametrize("shared_memory", [True, False])
def test_a_state_of_many_pieces_arrives_whole_over_either_path(crew: Any, until: Callable, shared_memory: bool) -> None:
    settings = {"features": 1200, "transport": gt.TransportConfig(shared_memory=shared_memory)}
    donor = Trainer(crew, 0, **settings)
    until(lambda: donor.peer.step_count >= 3, "the donor trains")
    newcomer = Trainer(crew, 1, rest_after=0, **settings)
    fetched = until(lambda: events(crew.run_dir, "peer-1", "StateFetched"), "the newcomer has a state")[0]
    until(lambda: events(crew.run_dir, "peer-1", "Joined"), "it adopted it")
    assert fetched["nbytes"] > 3 * 1200 * 1200 * 4 > 8 * CHUNK_BYTES
    assert optimizer_steps(newcomer.optimizer) == [newcomer.peer.step_count] * 3
    newcomer.end()
    donor.end()


def lying(change: Callable[[FrozenState], FrozenState]) -> Callable[..., None]:
    keep = state_transfer.StateTransfers._keep

    def lies(self: Any, freeze: Freeze, frozen: FrozenState, text: bytes) -> None:
        if self._keeper._identity.peer == "peer-0":
            frozen = change(frozen)
            text = m.encode(frozen.manifest)
        keep(self, freeze, frozen, text)

    return lies


def other_bytes(frozen: FrozenState) -> FrozenState:
    return FrozenState(frozen.manifest, memoryview(bytes(len(frozen.data))))


def not_finite(frozen: FrozenState) -> FrozenState:
    data = memoryview(b"\xff" * len(frozen.data))
    return FrozenState(msgspec.structs.replace(frozen.manifest, digests=m.digests_of(data)), data)


def other_entries(frozen: FrozenState) -> FrozenState:
    return FrozenState(msgspec.structs.replace(frozen.manifest, entries=frozen.manifest.entries[:-1]), frozen.data)


@pytest.mark.parametrize(
    ("lie", "counted"), [(other_bytes, "digest"), (not_finite, "non-finite"), (other_entries, "manifest")]
)
def test_a_donor_that_lies_is_counted_and_another_is_asked(
    crew: Any, until: Callable, monkeypatch: pytest.MonkeyPatch, lie: Callable, counted: str
) -> None:
    honest = Trainer(crew, 1, founder=True)
    monkeypatch.setattr(state_transfer.StateTransfers, "_keep", lying(lie))
    liar = Trainer(crew, 0)
    until(lambda: honest.peer.members == 2 and liar.peer.step_count > 5, "both train")
    newcomer = Trainer(crew, 2)
    until(lambda: newcomer.peer.exchange_count, "the newcomer joined and mixes")
    refused = events(crew.run_dir, "peer-2", "SnapshotRefused")
    for trainer in (newcomer, liar, honest):
        trainer.end()
    assert events(crew.run_dir, "peer-2", "Joined")[0]["source"] == "peer-1"
    assert {(line["peer"], line["reason"]) for line in refused} <= {("peer-0", counted)}
    if refused:
        counters = events(crew.run_dir, "peer-2", "Finished")[0]["counters"]
        assert counters[f"snapshot_{counted}"] == len(refused)


# The keeper


def keeper_of(model: nn.Module) -> Keeper:
    identity = Identity("a", "run", 0, "", {})
    return Keeper(Model(model, None, frozenset({"weight"})), identity, torch.device("cpu"))


def test_a_state_that_cannot_be_written_down_is_reported_and_not_raised(until: Callable) -> None:
    model = nn.Linear(2, 2, bias=False)
    model.register_buffer("odd", torch.zeros(2, dtype=torch.complex128))
    keeper, results = keeper_of(model), []
    keeper.want(Freeze(with_frozen=False, done=results.append))
    until(lambda: keeper.at_step(1) or results, "it is reported")
    assert "complex128" in str(results[0])
    assert not keeper.wanted
    keeper.close(5)


def test_a_frozen_state_is_that_of_one_step_whatever_training_does_meanwhile(until: Callable) -> None:
    model = nn.Linear(300, 300, bias=False)
    keeper, results = keeper_of(model), []
    keeper.want(Freeze(with_frozen=False, done=results.append))
    number = 0
    while not results:
        number += 1
        nn.init.constant_(model.weight, float(number))
        keeper.at_step(number)
    frozen = results[0]
    weight = state.view_of(frozen.manifest.entries[0], torch.frombuffer(bytearray(frozen.data), dtype=torch.uint8))
    assert (weight == float(frozen.manifest.step)).all()
    keeper.close(5)


def test_who_waits_for_a_training_that_never_comes_by_is_told(until: Callable) -> None:
    keeper, told = keeper_of(nn.Linear(2, 2, bias=False)), []
    keeper.want(Freeze(with_frozen=False, done=told.append, overdue_s=0.0, overdue=lambda: told.append("overdue")))
    assert until(lambda: told, "it is given up") == ["overdue"]
    keeper.at_step(1)
    assert not keeper.wanted
    keeper.close(5)
    assert told == ["overdue"]


def test_nothing_of_a_state_is_kept_once_who_asked_has_dropped_it(until: Callable) -> None:
    """A state is two or three times the model, and the next one may be wanted in an hour."""
    keeper, results, rooms = keeper_of(nn.Linear(30, 30, bias=False)), [], []
    make_room = keeper._room

    def room(nbytes: int, gently: bool = False) -> torch.Tensor:
        made = make_room(nbytes, gently)
        rooms.append(weakref.ref(made))
        return made

    keeper._room = room
    # Refers to itself, as that of a state transfer does: only a collection would find it.
    freeze = Freeze(with_frozen=False, done=lambda result: results.append((freeze, result)))
    keeper.want(freeze)
    until(lambda: keeper.at_step(1) or results, "it is frozen")
    assert len(rooms) == 1
    assert results[0][1].data.nbytes > 0
    gc.disable()
    try:
        results.clear()
        until(lambda: rooms[0]() is None, "the memory is free")
    finally:
        gc.enable()
    keeper.close(5)
