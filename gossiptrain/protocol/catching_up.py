"""How a newcomer comes by the run's state: it fetches a member's, piece by piece, and adopts it.

    seeking --offer "pull"--> asked --accept--> promised --manifest--> fetching --all here--> adopting --boundary--> done
       ^------------------ reject, abort, time-out, donor lost: what has come stays --------'

The donor serves a pull beside its exchanges, from a frozen copy (`donating`). A donor that dies costs what differs in the
next one's state (`fetching`). Where nobody has a state to give (the founder died before anybody could pull), the first by
name of those left declares its own the beginning after `settle_s`, also when it is left alone. A member that has one and
only does not answer for now is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gossiptrain.protocol.budget import Line
from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.donating import FREEZE_PATIENCE, Donor
from gossiptrain.protocol.effects import (
    AdoptState,
    Discard,
    DropState,
    Effect,
    ExpectManifest,
    ExpectPiece,
    Notify,
    Send,
)
from gossiptrain.protocol.events import AdoptionFailed, FreezeFailed, ManifestReceived, StateFrozen
from gossiptrain.protocol.fetching import Fetch, Piece
from gossiptrain.protocol.member_table import Member
from gossiptrain.protocol.messages import (
    Abort,
    Accept,
    ExchangeId,
    Offer,
    PieceWanted,
    Received,
    Reject,
    StateReady,
    TransferKey,
)
from gossiptrain.protocol.notices import ExchangeFailed, Joined, SnapshotRefused, StateFetched
from gossiptrain.protocol.open_exchange import NEVER_S, PULL_NUMBERS
from gossiptrain.protocol.state_wait import StateWait

RETRY_S = 0.1
RETRY_S_MAX = 1.0
ASKS_AGAIN_S = 10.0
PIECE_TRIES_MAX = 3
# A state holds the parameters, what an optimizer keeps for each of them (two or three values, often wider) and buffers.
STATE_FACTOR_MAX = 32
STATE_SLACK_BYTES = 256 << 20

StateEvent = StateFrozen | FreezeFailed | ManifestReceived | AdoptionFailed


@dataclass(slots=True, eq=False)
class _Pull:
    """What this newcomer has asked a member for. `awaits`: the key under which `piece` will come; None is the manifest."""

    exchange: ExchangeId
    source: Member
    began_s: float
    deadline_s: float
    accepted: bool = False
    ready: StateReady | None = None
    awaits: TransferKey | None = None
    piece: Piece | None = None
    tries: int = 0
    asks_again_s: float = NEVER_S

    def is_with(self, sender: Member, exchange: ExchangeId) -> bool:
        return self.exchange == exchange and self.source.boot == sender.boot


class CatchingUp:
    """Both ends of a pull. `done` says whether this peer counts in mixing."""

    def __init__(self, config: ProtocolConfig, count: Callable[[str], None], line: Line | None = None) -> None:
        """
        Args:
            count: adds one to a counter of this name.
            line: this peer's line out; None for one of its own.
        """
        self._config = config
        self._timing = config.exchange
        self._count = count
        self._donor = Donor(config, line or Line(config.limits))
        self._own: _Pull | None = None
        self._fetch, self._wait = Fetch(), StateWait()
        self._adopting: Member | None = None
        self._adopted_at = 0
        self._corrections = 0
        self._has_stepped_in = False
        self._numbers = PULL_NUMBERS
        # Many who join at once must not all ask the same member, nor at the same moments.
        self._chance = Chance(config.seed, config.name, config.boot, "catching up")
        self._attempts = self._chance.below(1 << 16)
        self._retry_s = RETRY_S
        self._seek_at_s = 0.0
        self._settle_at_s: float | None = None
        self._shunned_until_s: dict[str, float] = {}
        self.done = config.founder

    # The newcomer

    def start(self) -> list[Effect]:
        """A founder begins with its own parameters."""
        return [Notify(Joined(""))] if self.done else []

    def boundary(self, version: int | None, corrections: int) -> list[Effect]:
        """The training thread reached a boundary: it may have adopted the state."""
        self._corrections = corrections
        self._has_stepped_in = self._has_stepped_in or version is not None
        if self._adopting is None or corrections < self._adopted_at:
            return []
        source, self._adopting, self.done = self._adopting.name, None, True
        return [Notify(Joined(source))]

    def may_seek(self, now: float) -> bool:
        """Says whether it is time for `seek`: whom to ask is worked out for it, which takes time in large groups."""
        return now >= self._seek_at_s

    def seek(self, others: list[Member], is_first: bool, now: float) -> list[Effect]:
        """Asks a member for its state, the ready ones in turn; or becomes the beginning where there are none.

        Args:
            others: everybody this peer has met, the gone among them.
            is_first: whether this peer's name is the first of the living.
        """
        if self.done or not others or now < self._seek_at_s:
            return []
        self._seek_at_s = now + self._retry_s
        is_coming = self._adopting is not None or (self._own is not None and self._own.ready is not None)
        return self._wait.goes_on(is_coming, now) + self._seek(others, is_first, now)

    def _seek(self, others: list[Member], is_first: bool, now: float) -> list[Effect]:
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
        return [*effects, DropState(), Notify(Joined(""))]

    def _ask(self, source: Member, now: float) -> list[Effect]:
        self._attempts += 1
        self._own = _Pull(self._new_number(), source, now, now + self._timing.offer_timeout_s)
        return [Send(source.control_address, Offer(self._own.exchange, "pull", 0, 0))]

    def accepted(self, accept: Accept, sender: Member, now: float) -> list[Effect]:
        """The member freezes its state."""
        own = self._own
        if own is None or not own.is_with(sender, accept.exchange):
            return [Send(sender.control_address, Abort(accept.exchange, "not open here"))]
        if not own.accepted:
            self._retry_s = RETRY_S
            self._wait.answered(sender.name, "promised")
            own.accepted, own.deadline_s = True, now + FREEZE_PATIENCE * self._timing.transfer_timeout_s
            own.asks_again_s = now + ASKS_AGAIN_S
        return []

    def rejected(self, reject: Reject, sender: Member, now: float) -> list[Effect]:
        """The member cannot give now; another is asked at the next attempt, each time a little later."""
        own = self._own
        if own is None or (own.accepted and own.ready is not None) or not own.is_with(sender, reject.exchange):
            return []
        self._wait.answered(sender.name, reject.reason)
        if reject.reason == "busy":
            self._retry_s = min(self._retry_s * (1.25 + 0.5 * self._chance.uniform()), RETRY_S_MAX)
        return self._close(own)

    def told(self, message: StateReady | PieceWanted, sender: Member, now: float) -> list[Effect] | None:
        """What only this part says to its like. None for what nobody should say."""
        if isinstance(message, PieceWanted):
            return self._donor.wanted(message, sender, now)
        own = self._own
        if own is None or not own.is_with(sender, message.exchange):
            return [Send(sender.control_address, Abort(message.exchange, "not open here"))]
        if own.ready is not None:
            return []
        if message.state_bytes > STATE_FACTOR_MAX * self._config.snapshot_bytes + STATE_SLACK_BYTES:
            self._count("snapshot_size")
            return self._refuse(own, "size", now)
        own.accepted, own.ready = True, message
        return self._ask_for(own, None, message, now)

    def _manifest_received(self, event: ManifestReceived, now: float) -> list[Effect]:
        own = self._own
        if own is None or own.awaits != event.transfer or own.ready is None or own.piece is not None:
            return []
        if not self._fetch.follow(own.ready.state_bytes, event.chunk_bytes, event.digests):
            self._count("snapshot_manifest")
            return self._refuse(own, "manifest", now)
        own.tries = 0
        return self._go_on(own, now)

    def snapshot_received(self, key: TransferKey, now: float) -> list[Effect]:
        """A piece of the state is here."""
        own = self._own
        if own is None or own.awaits != key or own.piece is None:
            return [Discard(key)]
        self._fetch.take(own.piece)
        own.tries = 0
        return self._go_on(own, now)

    def snapshot_rejected(self, key: TransferKey, reason: str, now: float) -> list[Effect]:
        """What the member sent cannot be used: leave it alone for a while."""
        own = self._own
        if own is None or own.awaits != key:
            return [Discard(key)]
        return self._refuse(own, reason, now)

    def _go_on(self, own: _Pull, now: float) -> list[Effect]:
        """Asks for the next piece, or has the state adopted when all is here."""
        ready = own.ready
        assert ready is not None
        own.awaits, own.piece = None, self._fetch.next_piece()
        if own.piece is not None:
            return self._ask_for(own, own.piece, ready, now)
        self._own = None
        self._adopting, self._adopted_at = own.source, self._corrections + 1
        fetch, name = self._fetch, own.source.name
        seconds = round(now - own.began_s, 6)
        return [
            Send(own.source.control_address, Received(own.exchange, again=False)),
            Notify(StateFetched(name, ready.step, fetch.nbytes, fetch.kept_bytes, seconds)),
            AdoptState(name),
        ]

    def _ask_for(self, own: _Pull, piece: Piece | None, ready: StateReady, now: float) -> list[Effect]:
        number = self._new_number()
        own.tries += 1
        own.awaits = TransferKey(own.source.boot, number)
        begin, end = piece or (0, 0)
        own.deadline_s = now + self._timing.transfer_s(end - begin or ready.manifest_bytes)
        address = own.source.control_address
        if piece is None:
            expect = ExpectManifest(own.awaits, address, ready.manifest_bytes, ready.state_bytes)
        else:
            expect = ExpectPiece(own.awaits, address, begin, end)
        return [expect, Send(address, PieceWanted(own.exchange, number, ready.version, begin, end))]

    def _adoption_failed(self, reason: str, now: float) -> list[Effect]:
        source, self._adopting, self._fetch = self._adopting, None, Fetch()
        if source is None:
            return []
        self._count(f"snapshot_{reason}")
        return [DropState(), *self._shun(source.name, reason, now)]

    # The donor

    def takes(self, offer: Offer) -> bool:
        """Says whether the offer is well formed for this part."""
        return offer.kind == "pull"

    def offered(self, offer: Offer, sender: Member, now: float) -> list[Effect]:
        """A newcomer asks for this peer's state."""
        if not self.done or not self._has_stepped_in:
            return [Send(sender.control_address, Reject(offer.exchange, "unready", 0))]
        return self._donor.offered(offer.exchange, sender, now)

    def received(self, message: Received, sender: Member, now: float) -> list[Effect]:
        """The newcomer holds this peer's whole state."""
        return self._donor.received(message.exchange, sender)

    # Both

    def happened(self, event: StateEvent, now: float) -> list[Effect]:
        """What the driver reports about states."""
        match event:
            case StateFrozen():
                return self._donor.frozen(event, now)
            case FreezeFailed(reason):
                return self._donor.freeze_failed(reason, now)
            case ManifestReceived():
                return self._manifest_received(event, now)
            case AdoptionFailed(reason):
                return self._adoption_failed(reason, now)

    def aborted(self, message: Abort, sender: Member, now: float) -> list[Effect]:
        """The other end gave up."""
        effects = self._donor.aborted(message.exchange, sender, message.reason, now)
        if effects is not None:
            return effects
        own = self._own
        if own is None or not own.is_with(sender, message.exchange):
            return []
        return self._fail(own, message.reason, tell=False)

    def peer_lost(self, name: str, gone: bool, now: float) -> list[Effect]:
        """A member died, left or came back as another process (`gone`), or is suspect; another is asked."""
        effects = self._donor.peer_lost(name, now)
        own = self._own
        return effects + self._fail(own, "the partner is gone") if own and own.source.name == name else effects

    def tick(self, now: float) -> list[Effect]:
        """Gives up what passed its deadline; a piece that was lost on its way is asked for again first."""
        effects = self._donor.tick(now)
        own = self._own
        if own is not None and own.ready is None and now >= own.asks_again_s:
            # The member may have given this peer up, and its word of that may be lost.
            own.asks_again_s = now + ASKS_AGAIN_S
            effects.append(Send(own.source.control_address, Offer(own.exchange, "pull", 0, 0)))
        if own is None or now < own.deadline_s:
            return effects
        if own.ready is not None and own.awaits is not None and own.tries < PIECE_TRIES_MAX:
            return [*effects, Discard(own.awaits), *self._ask_for(own, own.piece, own.ready, now)]
        return effects + self._fail(own, "time-out" if own.accepted else "no answer")

    def close_all(self, now: float) -> list[Effect]:
        """This peer leaves: give up everything."""
        effects = self._donor.close_all(now)
        return effects + self._fail(self._own, "leaving") if self._own else effects

    def busy_with(self) -> set[str]:
        """Names of the other ends of all open pulls."""
        return self._donor.busy_with() | ({self._own.source.name} if self._own else set())

    def is_idle(self) -> bool:
        """Says whether nothing is open and nothing waits to be adopted."""
        return not self.busy_with() and self._adopting is None

    def is_quiet(self) -> bool:
        """Says whether this peer neither fetches a state nor holds one for others."""
        return self.done and self._own is None and self._donor.is_quiet()

    def next_deadline(self, has_met_others: bool) -> float:
        """The next time at which `tick` or `seek` has something to do."""
        times_s = [self._donor.next_deadline()]
        if self._own is not None:
            times_s.append(self._own.deadline_s)
        if not self.done and has_met_others:
            times_s.append(self._seek_at_s)
        return min(times_s, default=NEVER_S)

    def _new_number(self) -> ExchangeId:
        self._numbers += 1
        return ExchangeId(self._config.boot, self._numbers)

    def _refuse(self, own: _Pull, reason: str, now: float) -> list[Effect]:
        """What the member gives is unusable: forget all of it, whoever it came from, and ask another."""
        self._fetch = Fetch()
        return [*self._shun(own.source.name, reason, now), *self._fail(own, f"state refused: {reason}"), DropState()]

    def _shun(self, name: str, reason: str, now: float) -> list[Effect]:
        self._shunned_until_s = {n: t for n, t in self._shunned_until_s.items() if t > now}
        self._shunned_until_s[name] = now + self._timing.quarantine_s
        return [Notify(SnapshotRefused(name, reason))]

    def _fail(self, own: _Pull, reason: str, tell: bool = True) -> list[Effect]:
        self._wait.answered(own.source.name, reason)
        effects = self._close(own)
        if tell:
            effects.append(Send(own.source.control_address, Abort(own.exchange, reason)))
        return [*effects, Notify(ExchangeFailed(own.source.name, reason))]

    def _close(self, own: _Pull) -> list[Effect]:
        self._own = None
        return [Discard(own.awaits)] if own.awaits is not None else []
