"""The training side of a simulated peer: blocks of local steps, snapshots, corrections, exactly as `Peer` does them.

One event stands for a whole block of local steps: nothing can reach training between two boundaries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from gossiptrain.protocol.events import BlockTiming, DriftMeasured, StepsCompleted, TugMeasured
from gossiptrain.tug import WINDOW, Tug
from sim.clock import TRAINING
from sim.sampling import Sampling

if TYPE_CHECKING:
    from sim.peer import SimulatedPeer

# How long a joining peer takes to notice that parameters are here, in seconds.
JOIN_LOOK_S = 0.001
DRIFT_EVERY_BLOCKS = 8


class Payload(NamedTuple):
    """A published snapshot. `fault` is "" or what a hostile peer did to it ("nan", "size")."""

    value: Any
    fault: str


class Block(NamedTuple):
    """One block of local steps, from `began_s` to `end_s`; the longest time between two of its steps was `gap_s`."""

    end_s: float
    steps: int
    gap_s: float
    began_s: float = float("nan")


class Drift:
    """When it is measured how far apart peers are, as `runtime.blocks` does: every eighth block.

    Attributes:
        distance: the last estimate of this peer's distance to the mean of all; 0 before the first.
    """

    def __init__(self) -> None:
        self.distance = 0.0
        self._at_block = DRIFT_EVERY_BLOCKS

    def is_due(self, block: int) -> bool:
        """Says whether the block of this number is one that is looked at."""
        return block >= self._at_block

    def looked(self, block: int) -> None:
        """It was."""
        self._at_block = block + DRIFT_EVERY_BLOCKS

    def mixed(self, apart: float | None) -> None:
        """Two peers are sqrt(2) times as far apart as each is from the mean, when their deviations are independent."""
        if apart is not None:
            self.distance = apart / math.sqrt(2)


class LazyTug:
    """How hard a peer and mixing pull against each other, as `runtime.blocks` measures it, looked at a block later.

    By then most values have been computed, since others have asked for them; to ask at once would have each peer's block
    computed alone.
    """

    def __init__(self, sample: Callable[[Any], Any]) -> None:
        self._sample = sample
        self._tug = Tug()
        self._waiting: tuple[Any, Any] | None = None
        self._blocks = 0

    def boundary(self, before: Any, after: Any) -> float | None:
        """A block has ended, with these values before and after mixing; returns the tug at a window's end."""
        self._blocks += 1
        waiting, self._waiting = self._waiting, (before, after)
        if waiting is None:
            return None
        before_S = self._sample(waiting[0])
        if before_S is None:
            return 0.0 if self._blocks % WINDOW == 1 else None
        after_S = before_S if waiting[1] is waiting[0] else self._sample(waiting[1])
        found = self._tug.boundary(before_S, after_S)
        return None if found is None else found.tug()


class TrainingThread:
    """Steps, snapshots and corrections of one process.

    Attributes:
        steps: optimizer steps that this process took, after those of the state it began from.
        applied: corrections applied; a superseding adoption counts for all before it.
        snapshots: published values by version: the newest, and those pinned.
        slowness: a step takes so many times longer than the device needs when it is well.
        waits_since_s: since when a synchronous peer waits for its round, None when it does not.
    """

    def __init__(self, peer: SimulatedPeer) -> None:
        self._peer = peer
        world = peer.world
        self._clock, self._workload, self._index = world.clock, world.workload, peer.host
        self._clockwork = (world.step_times or self._workload.step_times).begin(world.seed, peer.host)
        self.is_synchronous = peer.config.kind == "round"
        pacing = peer.config.pacing
        self.plan_steps, self.plan_scale, self.publishes = pacing.steps, 1.0, False
        self._adapts, self._normalises = pacing.adapts, pacing.normalise
        self.drift = Drift() if pacing.mode == "auto" else None
        self._tug = LazyTug(self._workload.sample) if pacing.mode == "auto" else None
        self._base: Any = None
        self._compute_s = self._wait_s = self._step_s = 0.0
        self.sampling = Sampling(peer, world.data)
        self.steps = self.applied = self.version = 0
        self.snapshots: dict[int, Payload] = {}
        self.pins: dict[int, int] = {}
        self._pending: list[tuple[bool, Any, int]] = []
        self._first_step = 0
        self._freezes = False
        self.blocks: list[Block] = []
        self.is_training = False
        self.slowness = 1.0
        self.waits_since_s: float | None = None
        self._last_step_s = self._block_end_s = self._block_began_s = self._paused_until_s = 0.0
        self._block_gap_s = 0.0
        self._block_steps = 0
        self._block_number = 0
        self._block_open = False

    # The network thread's part

    def pin(self, version: int) -> Payload | None:
        """Keeps a version until as many `release` calls; None when it is gone."""
        payload = self.snapshots.get(version)
        if payload is not None:
            self.pins[version] = self.pins.get(version, 0) + 1
        return payload

    def release(self, version: int) -> bool:
        """Takes one pin back; False when there is none."""
        pins = self.pins.get(version, 0)
        if pins > 1:
            self.pins[version] = pins - 1
        elif pins == 1:
            del self.pins[version]
            if version != self.version:
                del self.snapshots[version]
        return pins > 0

    def add_correction(self, correction: Any) -> None:
        """Queues a correction for the next boundary."""
        self._pending.append((False, correction, 1))
        self._look_while_joining()

    def add_adoption(self, value: Any, step: int) -> None:
        """Queues another's state of a step; what waited before is superseded and counted with it."""
        self._first_step = step
        count = 1 + sum(waiting for _, _, waiting in self._pending)
        self._pending = [(True, value, count)]
        self._look_while_joining()

    def freeze_at_next_boundary(self) -> None:
        """Somebody wants this peer's state."""
        self._freezes = True

    def settled(self) -> Any:
        """Applies, on the side, what waits and returns the parameters as they would be then (for conservation laws)."""
        value = self._workload.publish(self._index)
        for adopts, change, _ in self._pending:
            value = change if adopts else value + change
        return value

    def go_on(self) -> None:
        """A synchronous round is over: apply what it brought and take the next steps."""
        if self.waits_since_s is not None:
            self._wait_s += self._clock.now - self.waits_since_s
            self.waits_since_s = None
            self._mix()
            self._begin_block()

    # Boundaries

    def begin(self) -> None:
        """Publishes the first snapshot; steps begin when the peer has joined."""
        self._workload.begin(self._peer.world.seed, self._index)
        self._publish()

    def joined(self) -> None:
        """The peer counts in mixing: train."""
        if not self.is_training:
            self.is_training = True
            self._last_step_s = self._clock.now
            self.sampling.begin()
            self._begin_block()

    def delay(self, for_s: float) -> None:
        """Training stands still for so long from now."""
        now = self._clock.now
        self._paused_until_s = max(self._paused_until_s, now + for_s)
        if self._block_open:
            self._block_end_s += for_s
            self._block_gap_s += for_s
            self._schedule()

    def _begin_block(self) -> None:
        if not self._peer.alive or self._block_open:
            return
        start_s = max(self._clock.now, self._paused_until_s)
        self._block_steps = self.plan_steps
        lasts_s, longest_s = self._clockwork.block(self.steps, self._block_steps, start_s)
        # The first step's gap reaches back to the last step of the block before.
        lasts_s, longest_s = lasts_s * self.slowness, longest_s * self.slowness
        self._step_s = lasts_s / self._block_steps
        self._block_gap_s = longest_s + max(0.0, start_s - self._last_step_s)
        self._block_began_s, self._block_end_s = start_s, start_s + lasts_s
        self._block_open = True
        self._workload.plan(self._index, self._block_steps)
        if self._normalises or (self.drift is not None and self.drift.is_due(len(self.blocks) + 1)):
            self._base = self._workload.publish(self._index)
        self._schedule()

    def _schedule(self) -> None:
        self._block_number += 1
        self._clock.at(self._block_end_s, self._boundary, self._block_number, TRAINING)

    def _boundary(self, number: int) -> None:
        if number != self._block_number or not self._peer.alive:
            return
        self._block_open = False
        self.steps += self._block_steps
        self._last_step_s = self._clock.now
        self.blocks.append(Block(self._clock.now, self._block_steps, self._block_gap_s, self._block_began_s))
        self._workload.train(self._index, self._block_steps)
        self._compute_s += self._clock.now - self._block_began_s
        self._look_at_change()
        if self.is_synchronous:
            self._apply()
        else:
            self._mix()
        if self._freezes:
            self._freezes = False
            self._peer.states.freeze(self._workload.publish(self._index), self._first_step + self.steps)
        if self.is_synchronous:
            self._publish()
            self.waits_since_s = self._clock.now
            self._peer.handle(self._completed(self.version))
            self.sampling.boundary(self._block_steps, self._last_step_s - self._block_began_s)
            return
        version = None
        if self.publishes:
            self._publish()
            version = self.version
        self._peer.handle(self._completed(version))
        self.sampling.boundary(self._block_steps, self._last_step_s - self._block_began_s)
        self._begin_block()

    def _completed(self, version: int | None) -> StepsCompleted:
        timing = None
        if self._adapts:
            blocks = len(self.blocks)
            timing = BlockTiming(self._block_steps, self._step_s, self._compute_s, 0.0, self._wait_s, blocks)
        return StepsCompleted(self._first_step + self.steps, version, self.applied, timing)

    def _look_at_change(self) -> None:
        """Measures, now and then, how far the block moved this peer; and weighs the block where speeds are evened out."""
        base, self._base = self._base, None
        if base is None:
            return
        own, drift = self._workload.publish(self._index), self.drift
        if drift is not None and drift.is_due(len(self.blocks)):
            drift.looked(len(self.blocks))
            moved = self._workload.distance(own, base)
            if moved is not None and drift.distance:
                # Two digits: what follows from it is then the same where values are computed in another order.
                movement = float(f"{moved / math.sqrt(self._block_steps):.2g}")
                self._peer.handle(DriftMeasured(float(f"{drift.distance:.2g}"), movement))
        if self.plan_scale != 1.0:
            change = self._workload.scale(own, base, self.plan_scale)
            self._workload.correct(self._index, change)

    def _mix(self) -> None:
        """Applies what mixing brought, and measures how hard that and this peer pull against each other."""
        if self._tug is None:
            self._apply()
            return
        before = self._workload.publish(self._index)
        self._apply()
        tug = self._tug.boundary(before, self._workload.publish(self._index))
        if tug is not None:
            self._peer.handle(TugMeasured(float(f"{tug:.2f}")))

    def _look_while_joining(self) -> None:
        if not self.is_training:
            at_s = max(self._clock.now, self._paused_until_s) + JOIN_LOOK_S
            self._clock.at(at_s, self._join_boundary, None, TRAINING)

    def _join_boundary(self, _: None) -> None:
        if self.is_training or not self._pending or not self._peer.alive:
            return
        if self._paused_until_s > self._clock.now:
            self._look_while_joining()
            return
        self._apply()
        self._publish()
        self._peer.handle(StepsCompleted(0, self.version, self.applied))

    def _apply(self) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        for adopts, change, count in pending:
            if adopts:
                self._workload.adopt(self._index, change)
            else:
                self._workload.correct(self._index, change)
            self.applied += count

    def _publish(self) -> None:
        if self.version in self.snapshots and self.version not in self.pins:
            del self.snapshots[self.version]
        self.version += 1
        self.snapshots[self.version] = Payload(self._workload.publish(self._index), "")
