"""Virtual time: a heap of (time, priority, counter, action, argument).

The counter breaks ties, so that events of one instant happen in the order of their scheduling, and the heap never
compares two actions. An action is a bound method and its one argument: no closure is made for an event.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

# At one instant: faults strike, then what arrived is looked at, then training goes on, then timers, then observers.
FAULTS, ARRIVALS, TRAINING, DEADLINES, OBSERVERS = range(5)

Item = tuple[float, int, int, Callable[[Any], None], Any]


class Clock:
    """The time now, in seconds since the start, and everything that is still to happen.

    Attributes:
        now: virtual seconds; never goes back.
        count: events that have happened.
    """

    __slots__ = ("_counter", "_heap", "count", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.count = 0
        self._counter = 0
        self._heap: list[Item] = []

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, time_s: float, action: Callable[[Any], None], argument: Any = None, priority: int = ARRIVALS) -> None:
        """Has `action(argument)` called at a time, which must not lie in the past.

        Raises:
            ValueError: the time lies in the past or is no number.
        """
        if not time_s >= self.now:
            raise ValueError(f"time_s={time_s}: lies before now, {self.now}")
        self._counter = counter = self._counter + 1
        heappush(self._heap, (time_s, priority, counter, action, argument))

    def next_s(self) -> float:
        """The time of the next event; infinity when nothing is to happen."""
        return self._heap[0][0] if self._heap else float("inf")

    def step(self) -> bool:
        """Lets one event happen; False when there is none."""
        if not self._heap:
            return False
        self.now, _, _, action, argument = heappop(self._heap)
        self.count += 1
        action(argument)
        return True

    def run(self, until_s: float, events_max: int = 1 << 62) -> bool:
        """Lets everything happen up to a time, that instant included; the clock then shows it.

        Returns:
            False when there would have been more than `events_max` events: the clock shows the last of them.
        """
        heap, last = self._heap, self.count + events_max
        while heap and heap[0][0] <= until_s:
            if self.count == last:
                return False
            self.now, _, _, action, argument = heappop(heap)
            self.count += 1
            action(argument)
        self.now = max(self.now, until_s)
        return True
