"""From `with peer:` to the first step: taking another's state over, and waiting for those that were started together."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from gossiptrain.protocol.events import AdoptionFailed, StepsCompleted
from gossiptrain.runtime.beginning import say_fresh_optimizer
from gossiptrain.runtime.driver import Driver
from gossiptrain.runtime.keeper import Keeper
from gossiptrain.runtime.parameters import ParameterVector
from gossiptrain.runtime.progress import Progress
from gossiptrain.runtime.state import Model

log = logging.getLogger("gossiptrain")

LOOK_S = 0.05


@dataclass(frozen=True)
class Joining:
    """The training thread of a peer that does not train yet.

    Attributes:
        address: where others may join. began_s: when `with peer:` began (monotonic).
    """

    name: str
    address: str
    driver: Driver
    vector: ParameterVector
    model: Model
    keeper: Keeper
    progress: Progress
    began_s: float

    def wait(self, awaited: int, timeout_s: float) -> None:
        """Waits until this peer counts in mixing, and a while for others.

        Who has joined applies nothing more here: peers that wait for each other would exchange one and the same vector.
        But it gives its state to those that come.

        Args:
            awaited: how many peers are to be ready, itself included. timeout_s: how long they are waited for.

        Raises:
            GossipTrainError: this peer cannot take part; see `Peer.__enter__`.
        """
        driver, deadline_s = self.driver, self.began_s + timeout_s
        while True:
            if driver.failure is not None:
                raise driver.failure
            if not driver.joined:
                self._take_over()
            if self.keeper.wanted:
                self.keeper.at_step(self.progress.step_count)
            if driver.joined and (driver.ready >= awaited or time.monotonic() >= deadline_s):
                break
            driver.wait_for_change(LOOK_S)
        driver.is_awaited = False
        self.keeper.is_training = True
        self._say_who_is_missing(awaited)

    def _take_over(self) -> None:
        fetched = self.driver.take_adoption()
        if fetched is None:
            return
        try:
            fresh = self.model.adopt(fetched.manifest, fetched.data)
        except ValueError as error:
            log.warning("%s: the state of %s is unusable: %s", self.name, fetched.source, error)
            self.driver.tell(AdoptionFailed("non-finite"))
            return
        if fresh:
            say_fresh_optimizer(self.name, fetched.source, fresh)
        applied = self.vector.note_adoption()
        self.progress.begin_at(fetched.manifest.step)
        self.driver.completed(StepsCompleted(0, self.vector.publish().version, applied))

    def _say_who_is_missing(self, awaited: int) -> None:
        driver = self.driver
        if driver.ready < awaited:
            text = "%s: of %d peers only %d were ready within %.0f s; training begins, the others may still join at %s"
            log.warning(text, self.name, awaited, driver.ready, time.monotonic() - self.began_s, self.address)
        elif driver.members == 1:
            log.warning("%s: trains alone until another peer joins it at %s", self.name, self.address)
