"""The three kinds of exchange under one door: states fetched by newcomers, pairs, and synchronous rounds."""

from __future__ import annotations

from collections.abc import Callable

from gossiptrain.protocol import messages as m
from gossiptrain.protocol.budget import Line
from gossiptrain.protocol.catching_up import CatchingUp
from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.effects import Effect, Send
from gossiptrain.protocol.exchange import PairExchange
from gossiptrain.protocol.member_table import Member
from gossiptrain.protocol.open_exchange import PULL_NUMBERS
from gossiptrain.protocol.rounds import NeighbourhoodRounds

Part = CatchingUp | PairExchange | NeighbourhoodRounds
MESSAGES = (m.Offer, m.Accept, m.Reject, m.Received, m.Abort)


class Exchanges:
    """Hands each message to the kind that its number belongs to, and what concerns all kinds to all.

    Attributes:
        catching_up, pairs, rounds: the kinds; of the last two one is used.
    """

    def __init__(
        self, config: ProtocolConfig, member: Callable[[str], Member | None], count: Callable[[str], None]
    ) -> None:
        line = Line(config.limits)
        self.catching_up = CatchingUp(config, count, line)
        self.pairs = PairExchange(config, Chance(config.seed, config.name, config.boot), member, line)
        self.rounds = NeighbourhoodRounds(config, member, line)
        self._mixing = self.rounds if config.kind == "round" else self.pairs
        self._parts: tuple[Part, ...] = (self.catching_up, self._mixing)
        self._count = count

    def round_number(self) -> int:
        """Which graph of a time-varying schedule is meant now."""
        return self.rounds.number if self._mixing is self.rounds else self.pairs.turn

    def part_for(self, exchange: m.ExchangeId) -> Part:
        """Rounds and pairs number their exchanges from below, pulls from `PULL_NUMBERS`."""
        return self.catching_up if exchange.number >= PULL_NUMBERS else self._mixing

    def message(self, message: m.Message, sender: Member, now: float) -> list[Effect]:
        """Takes one of `MESSAGES`."""
        assert isinstance(message, MESSAGES)
        part = self._mixing if message.exchange.number < PULL_NUMBERS else self.catching_up
        match message:
            case m.Offer():
                if message.exchange.initiator_boot != sender.boot or not part.takes(message):
                    self._count("offer_unexpected")
                    return [Send(sender.control_address, m.Reject(message.exchange, "busy", 0))]
                return part.offered(message, sender, now)
            case m.Accept():
                return part.accepted(message, sender, now)
            case m.Reject():
                return part.rejected(message, sender, now)
            case m.Received():
                return part.received(message, sender, now)
            case m.Abort():
                return part.aborted(message, sender, now)

    def peer_lost(self, name: str, gone: bool, now: float) -> list[Effect]:
        """A member died, left or came back as another process (`gone`), or is suspect."""
        return [effect for part in self._parts for effect in part.peer_lost(name, gone, now)]

    def tick(self, now: float) -> list[Effect]:
        """Gives up what passed its deadline, and tries again what is due."""
        effects = self.catching_up.tick(now) if not self.catching_up.is_quiet() else []
        return effects + self._mixing.tick(now)

    def close_all(self, now: float) -> list[Effect]:
        """This peer leaves: give up everything."""
        return [effect for part in self._parts for effect in part.close_all(now)]

    def busy_with(self) -> set[str]:
        """Names of the partners of all that is open."""
        return {name for part in self._parts for name in part.busy_with()}

    def is_idle(self) -> bool:
        """Says whether nothing is open and no correction waits to be applied."""
        return all(part.is_idle() for part in self._parts)

    def next_deadline(self) -> float:
        """The next time at which `tick` has something to do for pairs or rounds; `catching_up` has its own."""
        return self._mixing.next_deadline()
