"""Getting to know each other: greets addresses, answers those who greet, and tells the refused why.

A link that was opened only to say something once (a refusal, a status) is closed a moment later.
"""

from __future__ import annotations

from collections.abc import Callable

from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.effects import Connect, Disconnect, Effect, Fail, Notify, Send
from gossiptrain.protocol.greeting import Greeting
from gossiptrain.protocol.handshake import Handshake
from gossiptrain.protocol.messages import Envelope, Hello, Message, Refuse, Sync
from gossiptrain.protocol.notices import PeerRefused, SeedSilent

GREETED_AT_ONCE = 2
LINGER_S = 2.0
LINGERING_MAX = 64
TOLD_MAX = 64


class Introductions:
    """The first words with anybody; who is let in is kept elsewhere (`Membership`)."""

    def __init__(
        self,
        config: ProtocolConfig,
        is_member: Callable[[str], bool],
        progress: Callable[[], tuple[int, bool]],
    ) -> None:
        """
        Args:
            is_member: whether a living member has this control address.
            progress: this peer's (step, caught_up), for its HELLO.
        """
        self._config = config
        self._is_member = is_member
        self._progress = progress
        self._handshake = Handshake(config)
        self._greeting = Greeting(config.membership)
        self._started_s = 0.0
        self._lingering: dict[str, float] = {}
        self._told_of: dict[int, None] = {}

    def start(self, now: float) -> None:
        """The time to find a seed begins."""
        self._started_s = now

    def greet(self, addresses: tuple[str, ...], now: float) -> list[Effect]:
        """Introduces this peer at the first addresses, and a moment later at those not known as members by then.

        Each answers with the list of members; one is enough, and a second in case the first is gone.
        """
        others = [address for address in addresses if address != self._config.control_address]
        added = [address for address in others if self._greeting.add(address, now)]
        return [effect for address in added[:GREETED_AT_ONCE] for effect in self._greet(address)]

    def judge(self, hello: Hello, holder_address: str | None, name: str) -> Refuse | None:
        """Returns None when the greeter is welcome, else why it is not.

        Args:
            holder_address: of a living peer that has the greeter's name already, None where nobody has.
        """
        refuse = self._handshake.judge(hello)
        if refuse is None and holder_address is not None:
            return self._handshake.refuse("name", name, wants_reply=False)
        return refuse

    def turn_away(self, refuse: Refuse, envelope: Envelope, hello: Hello, holder: str, now: float) -> list[Effect]:
        """Tells a greeter why it is refused. It answers with its own value, which is then told here (`refused`)."""
        effects = self.say_once(hello.control_address, refuse, now)
        if effects and refuse.kind == "name":
            text = self._handshake.explain_name_taken(envelope.sender, hello.control_address, holder)
            effects += self._tell(envelope, refuse, text)
        return effects

    def welcome(self, hello: Hello, lists: list[Sync]) -> list[Effect]:
        """Answers a greeter that was let in: who this peer is, and whom else it knows."""
        address = hello.control_address
        self._greeting.answered(address)
        if not hello.wants_reply:
            return []
        return [Send(address, self._hello(wants_reply=False)), *(Send(address, part) for part in lists)]

    def refused(self, envelope: Envelope, refuse: Refuse, is_alone: bool, now: float) -> list[Effect]:
        """Another peer refuses this one, or answers a refusal of this one with its own value.

        Ends in a `Fail` where this peer is alone and did not found the run: it has nowhere to go.
        """
        self._greeting.answered(refuse.control_address)
        text = self._handshake.explain(refuse, envelope.sender)
        effects = self._tell(envelope, refuse, text)
        if refuse.wants_reply:
            effects += self.say_once(refuse.control_address, self._handshake.answer(refuse), now)
        is_refusal = refuse.wants_reply or refuse.kind == "name"
        if not is_refusal or not is_alone or self._config.founder:
            return effects
        kind = refuse.kind if refuse.kind in ("model", "mixer", "run", "version", "name") else "model"
        return [*effects, Fail(kind, text)]

    def say_once(self, address: str, message: Message, now: float) -> list[Effect]:
        """Sends one message to somebody who need not be a member; nothing when too many are being spoken to."""
        if address not in self._lingering and len(self._lingering) >= LINGERING_MAX:
            return []
        self._lingering[address] = now + LINGER_S
        return [Connect(address, "control"), Send(address, message)]

    def tick(self, now: float) -> list[Effect]:
        """Greets again, reports silent seeds, closes links of no more use."""
        effects: list[Effect] = []
        over = [address for address, until_s in self._lingering.items() if now >= until_s]
        for address in over:
            del self._lingering[address]
        for address in over:
            if not self._is_member(address) and not self._greeting.knows(address) and address not in self._lingering:
                effects.append(Disconnect(address, "control"))
        for address in self._greeting.due(now):
            if self._is_member(address):
                self._greeting.answered(address)
            else:
                effects += self._greet(address)
        effects += [Notify(SeedSilent(a, round(waited_s, 1))) for a, waited_s in self._greeting.silent(now)]
        return effects

    def give_up_joining(self, now: float) -> list[Effect]:
        """Fails a peer that found nobody in time."""
        if now < self.joining_ends_s():
            return []
        waited_s = now - self._started_s
        tried = self._greeting.summary(now) or f"no address was found within {waited_s:.1f} s"
        text = f"no seed answered: {tried}. Is a peer of run {self._config.run_id!r} running there?"
        return [Fail("seeds", text)]

    def joining_ends_s(self) -> float:
        """When a peer that found nobody gives up."""
        return self._started_s + self._config.membership.join_timeout_s

    def is_quiet(self) -> bool:
        """Says whether nobody is greeted and no link is open for a last word: `tick` has nothing to do."""
        return not (self._lingering or self._greeting.attempts)

    def next_deadline(self) -> float:
        """The next time at which `tick` has something to do."""
        greeting_s = self._greeting.next_deadline() if len(self._greeting) else float("inf")
        return min(greeting_s, *self._lingering.values()) if self._lingering else greeting_s

    def _greet(self, address: str) -> list[Effect]:
        return [Connect(address, "control"), Send(address, self._hello(wants_reply=True))]

    def _hello(self, wants_reply: bool) -> Hello:
        step, caught_up = self._progress()
        return self._handshake.hello(step, caught_up, wants_reply)

    def _tell(self, envelope: Envelope, refuse: Refuse, text: str) -> list[Effect]:
        """Notifies of each process that does not fit once, however often it tries."""
        if envelope.boot in self._told_of:
            return []
        self._told_of[envelope.boot] = None
        if len(self._told_of) > TOLD_MAX:
            del self._told_of[next(iter(self._told_of))]
        return [Notify(PeerRefused(envelope.sender, refuse.kind, text))]
