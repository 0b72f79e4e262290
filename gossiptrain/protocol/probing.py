"""SWIM's probes: one random member a period is asked for a sign of life, through others where it does not answer itself.

    asked --timeout--> asked through others --end of the period--> failed
      ^ any word of the member ends it ^

Members are taken in a shuffled round, so that each is probed within a bounded time (Das et al. 2002, section 4.3). Local
health (Lifeguard, Dadgar et al. 2018): a peer whose own probes fail though those asked for help have answered nothing
either is likely slow itself, and allows everybody more time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.config import MembershipConfig

NEVER_S = float("inf")
RELAYS_MAX = 256


@dataclass(slots=True)
class Probe:
    """One question under way. Times in seconds; `asks_at_s` is infinite once others were asked."""

    number: int
    name: str
    began_s: float
    asks_at_s: float
    ends_s: float
    helpers: int = 0
    refusals: int = 0


class Relay(NamedTuple):
    """A probe on behalf of another: whom to tell, under which number, and until when."""

    number: int
    asker: str
    asker_number: int
    target: str
    gives_up_s: float


class Probing:
    """Whom to ask next, who has not answered, and how well this peer itself is."""

    def __init__(self, config: MembershipConfig, chance: Chance) -> None:
        self._config = config
        self._chance = chance
        self._round: list[str] = []
        self._number = 0
        self._probes: dict[int, Probe] = {}
        self._relays: dict[int, Relay] = {}
        self._next_s: float | None = NEVER_S
        self.health = 0
        """Lifeguard's local health multiplier, from 0 (well) to `local_health_max`."""

    def period_s(self) -> float:
        """Seconds between two probes: longer while this peer is not well."""
        return self._config.probe_period_s * (1 + self.health)

    def next_target(self, names: Sequence[str], is_usable: Callable[[str], bool]) -> str | None:
        """Returns the next of these to be probed; each comes once a round.

        Args:
            is_usable: says whether a name is one of these: with a thousand, looking through them would take long.
        """
        while self._round or names:
            if not self._round:
                self._round = list(names)
            name = self._drawn()
            if is_usable(name):
                return name
        return None

    def joined(self, name: str) -> None:
        """A new member takes a random place in the present round."""
        self._round.append(name)

    def is_open(self, name: str) -> bool:
        """Says whether a question to this member is under way."""
        return any(probe.name == name for probe in self._probes.values())

    def number(self) -> int:
        """Returns the next number for a ping."""
        self._number += 1
        return self._number

    def begin(self, name: str, now: float) -> int:
        """A member is asked; returns the number for the ping."""
        number, scale = self.number(), 1 + self.health
        asks_at_s = now + self._config.probe_timeout_s * scale
        self._probes[number] = Probe(number, name, now, asks_at_s, now + self._config.probe_period_s * scale)
        self._next_s = min(self._next_s, asks_at_s) if self._next_s is not None else None
        return number

    def word_of(self, name: str) -> None:
        """The member said something: whatever was asked of it is answered."""
        if not self._probes:
            return
        for number in [number for number, probe in self._probes.items() if probe.name == name]:
            self._end(number)
            self.health = max(0, self.health - 1)

    def forget(self, name: str) -> None:
        """The member is gone: no answer is awaited."""
        for number in [number for number, probe in self._probes.items() if probe.name == name]:
            self._end(number)

    def result(self, number: int, answered: bool) -> str | None:
        """One who was asked to help tells what came of it. Returns the member that has answered it."""
        probe = self._probes.get(number)
        if probe is None:
            return None
        probe.refusals += not answered
        return probe.name if answered else None

    def to_ask(self, now: float) -> list[Probe]:
        """Returns the probes not answered in time, each once: others are to be asked (set `helpers` to how many)."""
        late = [probe for probe in self._probes.values() if now >= probe.asks_at_s]
        for probe in late:
            probe.asks_at_s = NEVER_S
        self._next_s = None
        return late

    def failed(self, now: float) -> list[Probe]:
        """Ends and returns the probes that nobody answered; this peer's health suffers where its helpers were silent."""
        over = [probe for probe in self._probes.values() if now >= probe.ends_s]
        for probe in over:
            self._end(probe.number)
            missing = probe.helpers - probe.refusals if probe.helpers else 1
            self.worsen(missing)
        return over

    def worsen(self, by: int = 1) -> None:
        """This peer has reason to doubt itself."""
        self.health = min(self._config.local_health_max, self.health + by)

    def drop_all(self) -> None:
        """This peer stood still: whatever was asked before proves nothing."""
        self._probes.clear()
        self._relays.clear()
        self._next_s = NEVER_S

    # On behalf of others

    def relay(self, asker: str, asker_number: int, target: str, now: float) -> int | None:
        """Another asks for help with a member; returns the number for the ping, None when too much is asked."""
        if len(self._relays) >= RELAYS_MAX:
            return None
        number = self.number()
        gives_up_s = now + 0.8 * (self._config.probe_period_s - self._config.probe_timeout_s)
        self._relays[number] = Relay(number, asker, asker_number, target, gives_up_s)
        self._next_s = None
        return number

    def relayed(self, number: int, name: str) -> Relay | None:
        """The member answered a ping of this number: whom is that to be told?"""
        relay = self._relays.get(number)
        if relay is None or relay.target != name:
            return None
        self._next_s = None
        return self._relays.pop(number)

    def relays_over(self, now: float) -> list[Relay]:
        """Ends and returns those whose member has not answered in time."""
        over = [relay for relay in self._relays.values() if now >= relay.gives_up_s]
        for relay in over:
            del self._relays[relay.number]
        self._next_s = None
        return over

    def next_deadline(self) -> float:
        """When `to_ask`, `failed` or `relays_over` next returns something, in seconds."""
        if self._next_s is None:  # asked after every event, and a death in a large run is seen by all at once
            probes_s = (min(probe.asks_at_s, probe.ends_s) for probe in self._probes.values())
            relays_s = (relay.gives_up_s for relay in self._relays.values())
            self._next_s = min(min(probes_s, default=NEVER_S), min(relays_s, default=NEVER_S))
        return self._next_s

    def _end(self, number: int) -> None:
        probe = self._probes.pop(number)
        if self._next_s is not None and min(probe.asks_at_s, probe.ends_s) <= self._next_s:
            self._next_s = None

    def _drawn(self) -> str:
        """Takes one out of the present round: Fisher and Yates' shuffle, a step each time."""
        last = self._round.pop()
        place = self._chance.below(len(self._round) + 1)
        if place == len(self._round):
            return last
        drawn, self._round[place] = self._round[place], last
        return drawn
