"""How a newcomer comes by the run's parameters: it pulls a member's snapshot and adopts it.

    seeking --offer "pull"--> asked --accept, snapshot--> adopting --boundary--> done
       ^--------- reject, abort, time-out ----'

The donor serves a pull beside its other exchanges, from the snapshot it has. Where nobody has parameters to give (the
founder died before anybody could pull), the first by name of those left declares its own the beginning after `settle_s`,
also when it is left alone. A member that has them and only does not answer for now is waited for.
"""

from __future__ import annotations

from collections.abc import Callable

from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.effects import Adopt, Connect, Discard, Effect, ExpectSnapshot, Notify, Send
from gossiptrain.protocol.member_table import Member
from gossiptrain.protocol.messages import Abort, Accept, ExchangeId, Offer, Received, Reject, TransferKey
from gossiptrain.protocol.notices import ExchangeFailed, Joined, SnapshotRefused
from gossiptrain.protocol.open_exchange import NEVER_S, PULL_NUMBERS, OpenExchange

SERVED_MAX = 2
RETRY_S = 0.1


class CatchingUp:
    """Both ends of a pull. `done` says whether this peer counts in mixing."""

    def __init__(self, config: ProtocolConfig, member: Callable[[str], Member | None]) -> None:
        self._config = config
        self._timing = config.exchange
        self._member = member
        self._transfer_s = config.exchange.transfer_s(config.snapshot_bytes)
        self._own: OpenExchange | None = None
        self._served: dict[ExchangeId, OpenExchange] = {}
        self._adopting: str | None = None
        self._adopted_at = 0
        self._corrections = 0
        self._version: int | None = None
        self._attempts = 0
        self._seek_at_s = 0.0
        self._settle_at_s: float | None = None
        self._shunned_until_s: dict[str, float] = {}
        self.done = config.founder

    # The newcomer

    def start(self) -> list[Effect]:
        """A founder begins with its own parameters."""
        return [Notify(Joined(""))] if self.done else []

    def boundary(self, version: int | None, corrections: int) -> list[Effect]:
        """The training thread reached a boundary: this snapshot may hold the adopted parameters."""
        self._version, self._corrections = version, corrections
        if self._adopting is None or corrections < self._adopted_at:
            return []
        source, self._adopting, self.done = self._adopting, None, True
        return [Notify(Joined(source))]

    def seek(self, others: list[Member], is_first: bool, now: float) -> list[Effect]:
        """Asks a member for its parameters, the ready ones in turn; or becomes the beginning where there are none.

        Args:
            others: everybody this peer has met, the gone among them.
            is_first: whether this peer's name is the first of the living.
        """
        if self.done or not others or now < self._seek_at_s:
            return []
        self._seek_at_s = now + RETRY_S
        alive = [member for member in others if member.state == "alive"]
        ready = [member for member in alive if member.caught_up]
        if self._settle_at_s is None or any(m.caught_up and m.is_living for m in others):
            self._settle_at_s = now + self._config.membership.settle_s
        if is_first and now >= self._settle_at_s and self._adopting is None:
            return self._become_source()
        if self._own is not None or self._adopting is not None:
            return []
        usable = [m for m in ready or alive if now >= self._shunned_until_s.get(m.name, 0.0)]
        return self._ask(usable[self._attempts % len(usable)], now) if usable else []

    def _become_source(self) -> list[Effect]:
        effects = self._close(self._own) if self._own else []
        self.done = True
        return [*effects, Notify(Joined(""))]

    def _ask(self, source: Member, now: float) -> list[Effect]:
        self._attempts += 1
        exchange = ExchangeId(self._config.boot, PULL_NUMBERS + self._attempts)
        self._own = OpenExchange(exchange, source, True, now, now + self._timing.offer_timeout_s)
        return [
            Connect(source.data_address, "data"),
            ExpectSnapshot(self._own.theirs(), source.control_address),
            Send(source.control_address, Offer(exchange, "pull", 0, 0)),
        ]

    def accepted(self, accept: Accept, sender: Member, now: float) -> list[Effect]:
        """The member sends its snapshot."""
        own = self._own
        if own is None or not own.is_with(sender, accept.exchange):
            return [Send(sender.control_address, Abort(accept.exchange, "not open here"))]
        if not own.accepted:
            own.accepted, own.deadline_s = True, now + self._transfer_s
        return []

    def rejected(self, reject: Reject, sender: Member, now: float) -> list[Effect]:
        """The member cannot give now; another is asked at the next attempt."""
        own = self._own
        if own is None or own.accepted or not own.is_with(sender, reject.exchange):
            return []
        return self._close(own)

    def snapshot_received(self, key: TransferKey, now: float) -> list[Effect]:
        """The parameters are here: have them adopted."""
        own = self._own
        if own is None or own.theirs() != key:
            return [Discard(key)]
        self._own = None
        self._adopting, self._adopted_at = own.partner.name, self._corrections + 1
        return [Send(own.partner.control_address, Received(own.exchange, again=False)), Adopt(key)]

    def snapshot_rejected(self, key: TransferKey, reason: str, now: float) -> list[Effect]:
        """The member's parameters cannot be used: leave it alone for a while."""
        own = self._own
        if own is None or own.theirs() != key:
            return [Discard(key)]
        name = own.partner.name
        self._shunned_until_s = {n: t for n, t in self._shunned_until_s.items() if t > now}
        self._shunned_until_s[name] = now + self._timing.quarantine_s
        return [Notify(SnapshotRefused(name, reason)), *self._fail(own, f"snapshot refused: {reason}")]

    # The donor

    def takes(self, offer: Offer) -> bool:
        """Says whether the offer is well formed for this part."""
        return offer.kind == "pull"

    def offered(self, offer: Offer, sender: Member, now: float) -> list[Effect]:
        """A newcomer asks for this peer's snapshot."""
        if offer.exchange in self._served:
            return []
        if not self.done or self._version is None:
            return [Send(sender.control_address, Reject(offer.exchange, "unready", 0))]
        if len(self._served) >= SERVED_MAX:
            return [Send(sender.control_address, Reject(offer.exchange, "busy", 0))]
        served = OpenExchange(offer.exchange, sender, False, now, now + self._transfer_s, accepted=True)
        self._served[offer.exchange] = served
        accept = Send(sender.control_address, Accept(offer.exchange, 0))
        return [accept, *served.send_mine(self._version, self._config.boot)]

    def received(self, message: Received, sender: Member, now: float) -> list[Effect]:
        """The newcomer holds this peer's snapshot."""
        served = self._served.get(message.exchange)
        return self._close(served) if served is not None and served.is_with(sender, message.exchange) else []

    # Both

    def aborted(self, message: Abort, sender: Member, now: float) -> list[Effect]:
        """The other end gave up."""
        for found in self._open_now():
            if found.is_with(sender, message.exchange):
                return self._fail(found, message.reason, tell=False)
        return []

    def peer_lost(self, name: str, gone: bool, now: float) -> list[Effect]:
        """A member died, left or came back as another process (`gone`), or is suspect; another is asked."""
        lost = [found for found in self._open_now() if found.partner.name == name]
        return [effect for found in lost for effect in self._fail(found, "the partner is gone")]

    def tick(self, now: float) -> list[Effect]:
        """Gives up what passed its deadline."""
        late = [found for found in self._open_now() if now >= found.deadline_s]
        return [e for found in late for e in self._fail(found, "time-out" if found.accepted else "no answer")]

    def close_all(self, now: float) -> list[Effect]:
        """This peer leaves: give up everything."""
        return [effect for found in self._open_now() for effect in self._fail(found, "leaving")]

    def busy_with(self) -> set[str]:
        """Names of the other ends of all open pulls."""
        return {found.partner.name for found in self._open_now()}

    def is_idle(self) -> bool:
        """Says whether nothing is open and nothing waits to be adopted."""
        return not self._open_now() and self._adopting is None

    def next_deadline(self, has_met_others: bool) -> float:
        """The next time at which `tick` or `seek` has something to do."""
        times_s = [found.deadline_s for found in self._open_now()]
        if not self.done and has_met_others:
            times_s.append(self._seek_at_s)
        return min(times_s, default=NEVER_S)

    def _open_now(self) -> list[OpenExchange]:
        return [*self._served.values(), *([self._own] if self._own else [])]

    def _fail(self, found: OpenExchange, reason: str, tell: bool = True) -> list[Effect]:
        effects = self._close(found)
        if tell:
            effects.append(Send(found.partner.control_address, Abort(found.exchange, reason)))
        return [*effects, Notify(ExchangeFailed(found.partner.name, reason))]

    def _close(self, found: OpenExchange) -> list[Effect]:
        if found is self._own:
            self._own = None
        else:
            self._served.pop(found.exchange, None)
        return found.let_go(self._config.boot, expects_theirs=found.initiator)
