"""Budgets of memory and bandwidth: what is refused at attach, what is kept under load."""

from __future__ import annotations

import json
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import gossiptrain as gt
from gossiptrain.errors import ConfigurationError
from gossiptrain.runtime.limits import ASIDES_MAX, MemoryPlan, StateRoom, plan_memory

MB = 1_000_000


@given(
    snapshot_bytes=st.integers(1000, 1 << 34),
    factor=st.floats(1, 100),
    kind=st.sampled_from(["pair", "round"]),
    on_cuda=st.booleans(),
    keeps_copy=st.booleans(),
)
def test_a_plan_never_exceeds_its_budget_and_the_least_said_is_accepted(
    *, snapshot_bytes, factor, kind, on_cuda, keeps_copy
):
    given = {"kind": kind, "on_cuda": on_cuda, "keeps_copy": keeps_copy}
    with pytest.raises(ConfigurationError, match=r"max_buffer_mb=.*must be at least") as refused:
        plan_memory(snapshot_bytes / 1e6, snapshot_bytes, **given)
    least_mb = float(str(refused.value).rsplit(" ", 1)[1])
    plan = plan_memory(factor * least_mb, snapshot_bytes, **given)
    assert plan.state_bytes is not None
    assert plan.state_bytes >= 0
    assert plan.exchange_bytes + plan.state_bytes <= factor * least_mb * 1e6
    assert plan.edges_max >= 1 or kind == "pair"
    assert 0 <= plan.asides_max <= ASIDES_MAX


def test_more_memory_first_makes_room_for_a_state_and_then_for_exchanges_in_doubt():
    plans = [plan_memory(mb, MB, kind="pair", on_cuda=False) for mb in (4, 8, 10, 12, 100)]
    assert plan_memory(9, MB, kind="round", on_cuda=False) == MemoryPlan(2, 1, 5 * MB, 4 * MB)
    assert plans == [
        MemoryPlan(0, 0, 4 * MB, 0),
        MemoryPlan(0, 0, 4 * MB, 4 * MB),
        MemoryPlan(1, 0, 6 * MB, 4 * MB),
        MemoryPlan(2, 0, 8 * MB, 4 * MB),
        MemoryPlan(2, 0, 8 * MB, 92 * MB),
    ]
    assert plan_memory(0, MB, kind="pair", on_cuda=False) == MemoryPlan()


def test_room_is_taken_and_given_back_by_its_owners():
    room = StateRoom(10)
    assert room.take("a", 6)
    assert not room.take("b", 5)
    assert room.take("b", 4)
    assert room.held_bytes == 10
    room.give_back("a")
    room.give_back("a")
    assert room.take("c", 6)


def model_of(megabytes: float) -> nn.Module:
    return nn.Linear(int(megabytes * 1e6 / 4) - 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_mbps": -1.0}, r"max_mbps=-1\.0: must be at least 0\.2"),
        ({"max_mbps": 0.1}, r"max_mbps=0\.1: must be at least 0\.2"),
        ({"max_mbps": 0.3}, r"max_mbps=0\.3: a snapshot of 1 MB would take 26\.7 s, .*must be at least 3\.2"),
        ({"max_mbps": 0.3, "mixer": "d_psgd"}, r"max_mbps=0\.3: .*round_timeout_s=10 s; must be at least 3\.2"),
        ({"max_buffer_mb": -1.0}, r"max_buffer_mb=-1\.0: must be a positive number of megabytes"),
        ({"max_buffer_mb": float("nan")}, r"max_buffer_mb=nan"),
        ({"max_buffer_mb": 3.0}, r"max_buffer_mb=3: .*snapshots of 1 MB needs 4 times as much; must be at least 4"),
    ],
)
def test_attach_refuses_a_budget_that_cannot_work_and_says_the_least(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        gt.attach(model_of(1.0), **arguments)


def test_budgets_come_from_the_launchers_environment(monkeypatch):
    monkeypatch.setenv("GOSSIPTRAIN_MAX_MBPS", "50")
    monkeypatch.setenv("GOSSIPTRAIN_MAX_BUFFER_MB", "9.5")
    peer = gt.attach(model_of(1.0))
    assert (peer.config.listening.max_mbps, peer.config.settings.max_buffer_mb) == (50.0, 9.5)
    monkeypatch.setenv("GOSSIPTRAIN_MAX_MBPS", "fast")
    with pytest.raises(ConfigurationError, match="GOSSIPTRAIN_MAX_MBPS='fast'"):
        gt.attach(model_of(1.0))


class Training(threading.Thread):
    """A peer that steps until told; keeps the most bytes that its buffers held."""

    def __init__(self, name: str, seeds: tuple[str, ...], megabytes: float, **arguments) -> None:
        super().__init__(daemon=True)
        model = model_of(megabytes)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
        self.peer = gt.attach(
            model, optimizer, name=name, seeds=seeds, wait_for_peers=1, transport=gt.TransportConfig(shared_memory=False),
            **{"sync_every": 1, **arguments},
        )  # fmt: skip
        self._model, self._optimizer, self._width = model, optimizer, int(megabytes * 1e6 / 4) - 1
        self.most: dict[str, int] = {}
        self.most_in_all = 0
        self.sent: list[tuple[float, int]] = []
        self.is_over = False
        self.has_begun = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with self.peer:
                while not self.is_over:
                    self._optimizer.zero_grad()
                    self._model(torch.randn(2, self._width)).mean().backward()
                    self._optimizer.step()
                    self._look()
                    self.has_begun.set()
        except Exception as error:
            self.error = error

    def _look(self) -> None:
        held = self.peer.buffers()
        self.most_in_all = max(self.most_in_all, sum(held.values()))
        self.most = {key: max(value, self.most.get(key, 0)) for key, value in held.items()}
        driver = self.peer._driver
        if driver is not None:
            self.sent.append((time.monotonic(), driver.transport.counters["snapshot_bytes_sent"]))


def together(*, count: int, megabytes: float, seconds: float, newcomers: int = 0, **arguments) -> list[Training]:
    """Peers that train together for a while; newcomers join in the middle."""
    begin = [Training("peer-0", (), megabytes, **arguments)]
    try:
        begin[0].start()
        assert begin[0].has_begun.wait(20)
        address = begin[0].peer.address
        for number in range(1, count + newcomers):
            if number >= count:
                time.sleep(seconds / 2 / newcomers)
            begin.append(Training(f"peer-{number}", (address,), megabytes, **arguments))
            begin[-1].start()
        assert all(each.has_begun.wait(30) or each.error for each in begin)
        time.sleep(seconds)
    finally:
        for each in begin:
            each.is_over = True
        for each in begin:
            each.join(20)
    assert [each.error for each in begin] == [None] * len(begin)
    return begin


@pytest.mark.slow
@pytest.mark.parametrize(("mixer", "codec"), [("ad_psgd", "none"), ("d_psgd", "none"), ("ad_psgd", "int8")])
def test_buffers_stay_within_their_budget_while_peers_exchange_and_newcomers_are_served(mixer, codec):
    budget_mb = 10.0
    limits = {"max_buffer_mb": budget_mb, "mixer": mixer, "codec": codec}
    peers = together(count=3, newcomers=2, megabytes=1.0, seconds=3.0, **limits)
    assert max(each.most_in_all for each in peers) <= budget_mb * MB
    assert max(each.most["states"] for each in peers) > 0, "newcomers were served"
    assert all(each.peer.exchange_count > 3 for each in peers)


@pytest.mark.slow
def test_a_peer_without_room_for_a_state_exchanges_and_leaves_newcomers_to_another(until):
    """It is asked now and then, and never holds a state; newcomers begin all the same."""
    roomy = Training("peer-0", (), 1.0)
    peers = [roomy]
    try:
        roomy.start()
        assert roomy.has_begun.wait(20)
        for number in range(1, 5):
            tight = {"max_buffer_mb": 4.1} if number == 1 else {}
            peers.append(Training(f"peer-{number}", (roomy.peer.address,), 1.0, **tight))
            peers[-1].start()
            assert peers[-1].has_begun.wait(30)
        until(lambda: peers[1].peer.exchange_count > 0, "an exchange of the peer without room")
    finally:
        for each in peers:
            each.is_over = True
        for each in peers:
            each.join(20)
    assert peers[1].most["states"] == 0
    assert peers[1].most_in_all <= 4.1 * MB
    assert [each.error for each in peers] == [None] * len(peers)


def most_in_two_seconds(sent: list[tuple[float, int]]) -> float:
    """The most bytes sent in any two seconds, by what was seen at the ends of steps: a little less than it was."""
    most, first = 0, 0
    for at_s, total in sent:
        while at_s - sent[first][0] > 2.0:
            first += 1
        most = max(most, total - sent[first][1])
    return most


@pytest.mark.slow
def test_peers_keep_to_their_bandwidth_and_no_exchange_times_out(tmp_path):
    """1 MB snapshots at 16 Mbit/s: two a second each, though training steps hundreds of times."""
    peers = together(count=3, newcomers=1, megabytes=1.0, seconds=3.5, max_mbps=16.0, run_dir=tmp_path)
    for each in peers:
        assert most_in_two_seconds(each.sent) <= 1.1 * 2.0 * 2e6
        assert each.peer.exchange_count >= 3
        events = (tmp_path / "events" / f"{each.peer.name}.jsonl").read_text().splitlines()
        failed = [event["reason"] for event in map(json.loads, events) if event["kind"] == "ExchangeFailed"]
        assert not {"time-out", "no answer"}.intersection(failed)
        assert next(event for event in map(json.loads, events) if event["kind"] == "Resources")["max_mbps"] == 16.0
    assert max(most_in_two_seconds(each.sent) for each in peers) >= 0.5 * 2.0 * 2e6, "the budget is there to be used"
