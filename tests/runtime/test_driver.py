"""What the network thread does with what training hands in, watched at the protocol's door."""

from __future__ import annotations

import pytest
import torch

import gossiptrain as gt
from gossiptrain.protocol.events import BusyAnnounced, StepsCompleted
from gossiptrain.runtime import driver as driver_module

BLOCKS = 400


def blocks_handled(mixer: str) -> list[int]:
    """Trains alone for many short blocks; returns the steps of the boundaries that the protocol was told of."""
    told: list[int] = []
    with gt.attach(torch.nn.Linear(2, 1), mixer=mixer, sync_every=1) as peer:
        assert peer._driver is not None
        protocol = peer._driver._protocol
        handle = protocol.handle

        def watch(event, now):
            if isinstance(event, StepsCompleted) and event.step:
                told.append(event.step)
            return handle(event, now)

        protocol.handle = watch
        for _ in range(BLOCKS):
            peer.step()
    return told


def test_of_boundaries_that_pile_up_only_the_newest_is_handled():
    told = blocks_handled("ad_psgd")
    assert told[-1] == BLOCKS
    assert len(told) < BLOCKS / 2


def test_in_synchronous_mode_every_boundary_is_answered():
    assert blocks_handled("d_psgd") == list(range(1, BLOCKS + 1))


def test_goodbye_waits_while_an_exchange_is_open(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver_module, "LEAVE_GRACE_S", 60.0)
    asked: list[bool] = []
    with gt.attach(torch.nn.Linear(2, 1)) as peer:
        assert peer._driver is not None

        def is_exchanging() -> bool:
            asked.append(True)
            return len(asked) < 3

        peer._driver._protocol.is_exchanging = is_exchanging
    assert len(asked) == 3


def test_what_nobody_else_would_hear_of_wakes_nobody_and_is_handled_all_the_same(until):
    with gt.attach(torch.nn.Linear(2, 1)) as peer:
        driver = peer._driver
        assert driver is not None
        handled: list[object] = []
        handle, wake = driver._protocol.handle, driver.transport.wake
        driver._protocol.handle = lambda event, now: handled.append(event) or handle(event, now)
        wakes: list[bool] = []
        driver.transport.wake = lambda: wakes.append(True) or wake()
        event = BusyAnnounced(0.0)
        driver.tell_at_leisure(event)
        until(lambda: event in handled, "the event is handled at the next turn")
        assert not wakes
        driver.plan = driver.plan._replace(publish=True)
        driver.tell_at_leisure(event)
        assert wakes, "others live, and wait to hear what is trained"
