"""Pairwise averaging (AD-PSGD, Lian et al. 2018): one pair at a time, snapshots pinned, committed by both or by none.

Theory of operation. A peer has one slot. It is free when the peer's latest snapshot holds every correction so far;
then the peer may offer an exchange to a neighbour, or accept one. Both pin a snapshot and send it. Each says
`Received` when it holds the other's, and commits when it holds the other's snapshot and knows that the other holds
its own: x_i += w (x_j - x_i) and x_j += w (x_i - x_j) with the very same vectors, so the sum over all peers stays.
After the commit the slot stays taken until the training thread has applied the correction and published a snapshot
that holds it: without this, overlapping corrections of one snapshot add up to more than an average.

    free --offer--> offered --accept--> open --holds theirs--> in doubt --theirs holds mine--> applying --boundary--> free
    free --accept an offer---------------^
     ^----- reject, abort, time-out ------+

Two peers that offer to each other at once: the offer of the smaller name stands. A refusal comes at once, so circles
of offers cannot lock, and who refuses calls back later (`partner_search`).

A peer that has said `Received` is in doubt: its partner may have committed. It gives up only on the partner's word
(`Abort`) or when the partner is dead, and asks again until then; a peer not in doubt may give up at any time, since
nobody can have committed without its word. So both ends commit or neither does, whatever is late, lost or frozen, as
long as neither end dies, leaves, or takes the other for dead. A partner that becomes suspect, or passes the deadline,
while in doubt is set aside, so that the slot serves others; the exchange is decided beside it, and no other is begun
with that partner until then. Hence it is enough to remember the last exchange committed with each.

A number names one exchange for ever. An offer whose number is not above all that the same process offered before is an old
word (a relay's, a hostile peer's, a link's that died with it on the way) and opens nothing, or it could be filled anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gossiptrain.protocol.budget import Line
from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.effects import Connect, Discard, Effect, ExpectSnapshot, Mix, Notify, Release, Send
from gossiptrain.protocol.member_table import MEMBERS_MAX, Member
from gossiptrain.protocol.messages import Abort, Accept, ExchangeId, Offer, Received, Reject, TransferKey
from gossiptrain.protocol.notices import Exchanged, ExchangeFailed, SnapshotRefused
from gossiptrain.protocol.open_exchange import NEVER_S, OpenExchange
from gossiptrain.protocol.partner_search import PartnerSearch

ASK_AGAIN_S = 2.0
T = TypeVar("T")


class PairExchange:
    """Decides who exchanges with whom and when both ends may commit; see the module's text."""

    def __init__(
        self,
        config: ProtocolConfig,
        chance: Chance,
        member: Callable[[str], Member | None],
        line: Line | None = None,
    ) -> None:
        """
        Args:
            line: this peer's line out; None for one of its own.
        """
        self._config = config
        self._line = line or Line(config.limits)
        self._line_free_s = NEVER_S
        self._timing = config.exchange
        self._chance = chance
        self._member = member
        self._transfer_s = config.exchange.transfer_s(config.snapshot_bytes)
        self._slot: OpenExchange | None = None
        self._aside: list[OpenExchange] = []
        self._number = 0
        self._corrections_due = 0
        self._corrections_applied = 0
        self._version: int | None = None
        self._neighbours: tuple[str, ...] = ()
        self._search = PartnerSearch(self._timing.retry_s)
        self._committed: dict[int, ExchangeId] = {}
        self._last_offered: dict[int, int] = {}
        self._shunned: dict[str, tuple[float, int]] = {}
        self.turn = 0
        """The round of a time-varying graph: it ends with an exchange, or at a boundary that finds none open."""

    # What happened

    def boundary(self, version: int | None, corrections: int) -> None:
        """The training thread reached a boundary: a new snapshot may hold the corrections that were due.

        `version` is None while this peer has nothing to give: none was published, or it has not caught up.
        """
        self._version = version
        self._corrections_applied = corrections
        if self._slot is None:
            self.turn += 1

    def begin(self, neighbours: tuple[str, ...], now: float) -> list[Effect]:
        """Offers an exchange to somebody who asked for one, or to one of these, when the slot is free and it is time."""
        self._neighbours = neighbours
        return self._begin(now)

    def is_free(self) -> bool:
        """Says whether an exchange could be begun now."""
        return self._slot is None and self._version is not None and self._corrections_applied >= self._corrections_due

    def takes(self, offer: Offer) -> bool:
        """Says whether the offer is well formed for this part."""
        return offer.kind == "pair"

    def offered(self, offer: Offer, sender: Member, now: float) -> list[Effect]:
        """Another peer offers an exchange."""
        slot = self._slot
        for found in self._open_now():
            if found.is_with(sender, offer.exchange):
                return []
        if not self._is_new(offer.exchange):
            return []
        effects: list[Effect] = []
        if slot is not None and self._yields_to(slot, sender):
            effects = self._close(slot)
        elif not self.is_free() or not self._may_use(sender.name, now):
            reason = "unready" if self._version is None else "busy"
            self._search.call_back(sender.name)
            return [Send(sender.control_address, Reject(offer.exchange, reason, 0))]
        assert self._version is not None, "a slot is free or yielded only with a snapshot"
        deadline_s = now + self._transfer_s
        self._slot = OpenExchange(offer.exchange, sender, False, now, deadline_s, accepted=True)
        return [
            *effects,
            ExpectSnapshot(self._slot.theirs(), sender.control_address),
            Send(sender.control_address, Accept(offer.exchange, len(self._neighbours))),
            *self._send_mine(self._slot, self._version, now),
        ]

    def accepted(self, accept: Accept, sender: Member, now: float) -> list[Effect]:
        """The partner agreed: send it this peer's snapshot."""
        slot = self._slot
        if slot is None or not slot.is_with(sender, accept.exchange):
            known = any(found.is_with(sender, accept.exchange) for found in self._aside)
            return [] if known else [Send(sender.control_address, Abort(accept.exchange, "not open here"))]
        if slot.accepted:
            return []
        if self._version is None:
            return self._fail(slot, "no snapshot", now)
        slot.accepted, slot.deadline_s = True, now + self._transfer_s
        return self._send_mine(slot, self._version, now)

    def rejected(self, reject: Reject, sender: Member, now: float) -> list[Effect]:
        """The partner cannot now, and will call."""
        slot = self._slot
        if slot is None or slot.accepted or not slot.is_with(sender, reject.exchange):
            return []
        return [*self._close(slot), *self._begin(now)]

    def snapshot_received(self, key: TransferKey, now: float) -> list[Effect]:
        """The partner's snapshot is here, whole and finite."""
        slot = self._slot
        if slot is None or slot.theirs() != key:
            return [Discard(key)]
        slot.holds_theirs = True
        slot.ask_again_s = now + ASK_AGAIN_S
        received = Send(slot.partner.control_address, Received(slot.exchange, again=False))
        return [received, *self._commit_if_sure(slot, now)]

    def received(self, message: Received, sender: Member, now: float) -> list[Effect]:
        """The partner holds this peer's snapshot."""
        for found in self._open_now():
            if found.is_with(sender, message.exchange):
                found.they_hold_mine = found.version is not None
                return self._commit_if_sure(found, now)
        if not message.again:
            return []
        if self._committed.get(sender.boot) == message.exchange:
            return [Send(sender.control_address, Received(message.exchange, again=False))]
        return [Send(sender.control_address, Abort(message.exchange, "not open here"))]

    def aborted(self, message: Abort, sender: Member, now: float) -> list[Effect]:
        """The partner gave up."""
        for found in self._open_now():
            if found.is_with(sender, message.exchange):
                return self._fail(found, message.reason, now, tell=False)
        return []

    def snapshot_rejected(self, key: TransferKey, reason: str, now: float) -> list[Effect]:
        """The partner's snapshot cannot be used: give the exchange up and leave the partner alone for a while."""
        slot = self._slot
        if slot is None or slot.theirs() != key:
            return [Discard(key)]
        name = slot.partner.name
        _, times = self._shunned.pop(name, (0.0, 0))
        self._shunned[name] = (now + self._timing.quarantine_s * 2 ** min(times, 10), times + 1)
        if len(self._shunned) > MEMBERS_MAX:
            del self._shunned[next(iter(self._shunned))]
        return [Notify(SnapshotRefused(name, reason)), *self._fail(slot, f"snapshot refused: {reason}", now)]

    def peer_lost(self, name: str, gone: bool, now: float) -> list[Effect]:
        """A member died, left or came back as another process (`gone`), or is suspect and not to be waited for."""
        if gone:
            lost = [found for found in self._open_now() if found.partner.name == name]
            effects = [effect for found in lost for effect in self._fail(found, "the partner is gone", now)]
            self._search.forget(name)
            return effects
        slot = self._slot
        if slot is None or slot.partner.name != name:
            return []
        return self._set_aside(slot, now) if slot.is_in_doubt() else self._fail(slot, "the partner is suspect", now)

    def tick(self, now: float) -> list[Effect]:
        """Gives up what passed its deadline, asks again where this peer is in doubt, goes on looking for a partner."""
        effects: list[Effect] = []
        for found in self._open_now():
            if now < found.ask_again_s and now < found.deadline_s:
                continue
            if now >= found.ask_again_s:
                found.ask_again_s = now + ASK_AGAIN_S
                effects.append(Send(found.partner.control_address, Received(found.exchange, again=True)))
            if now >= found.deadline_s:
                reason = "time-out" if found.accepted else "no answer"
                effects += self._set_aside(found, now) if found.is_in_doubt() else self._fail(found, reason, now)
        return effects + self._begin(now)

    def close_all(self, now: float) -> list[Effect]:
        """This peer leaves: give up everything."""
        self._neighbours = ()
        self._search.end()
        return [effect for found in self._open_now() for effect in self._fail(found, "leaving", now)]

    def busy_with(self) -> set[str]:
        """Names of the partners of all open exchanges."""
        return {found.partner.name for found in self._open_now()}

    def is_idle(self) -> bool:
        """Says whether nothing is open and no correction waits to be applied."""
        return not self._open_now() and self._corrections_applied >= self._corrections_due

    def next_deadline(self) -> float:
        """The next time at which `tick` has something to do."""
        slot = self._slot
        if slot is not None:
            at_s = slot.deadline_s if slot.deadline_s < slot.ask_again_s else slot.ask_again_s
        elif self.is_free():
            at_s = min(self._search.ask_at_s, self._search.forget_at_s, self._line_free_s)
        else:
            at_s = NEVER_S
        for found in self._aside:
            at_s = min(at_s, found.deadline_s, found.ask_again_s)
        return at_s

    # How it is done

    def _open_now(self) -> list[OpenExchange]:
        return [*self._aside, self._slot] if self._slot is not None else self._aside.copy()

    def _is_new(self, exchange: ExchangeId) -> bool:
        """Says whether the initiator can have begun this exchange now: its numbers only grow."""
        boot, number = exchange
        if number <= self._last_offered.get(boot, -1):
            return False
        _keep(self._last_offered, boot, number)
        return True

    def _may_use(self, name: str, now: float) -> bool:
        member = self._member(name)
        if member is None or member.state != "alive" or (name in self._shunned and now < self._shunned[name][0]):
            return False
        if self._line.is_limited and not self._line.is_free(member.data_address, now):
            self._line_free_s = self._line.free_at_s(member.data_address)
            return False
        return not self._aside or all(found.partner.name != name for found in self._aside)

    def _yields_to(self, slot: OpenExchange, sender: Member) -> bool:
        crossing = slot.initiator and not slot.accepted and not slot.holds_theirs and self._version is not None
        return crossing and slot.partner.boot == sender.boot and sender.name < self._config.name

    def _begin(self, now: float) -> list[Effect]:
        if now >= self._line_free_s:
            self._line_free_s = NEVER_S
        if self._search.waits(now) or not self.is_free():
            return []
        name = self._search.next(self._neighbours, lambda name: self._may_use(name, now), self._chance, now)
        return self._offer(name, now) if name is not None else []

    def _offer(self, name: str, now: float) -> list[Effect]:
        partner = self._member(name)
        assert partner is not None, "usable neighbours are members"
        self._number += 1
        exchange = ExchangeId(self._config.boot, self._number)
        self._slot = OpenExchange(exchange, partner, True, now, now + self._timing.offer_timeout_s)
        return [
            Connect(partner.data_address, "data"),
            ExpectSnapshot(self._slot.theirs(), partner.control_address),
            Send(partner.control_address, Offer(exchange, "pair", 0, len(self._neighbours))),
        ]

    def _send_mine(self, slot: OpenExchange, version: int, now: float) -> list[Effect]:
        self._line.spend(slot.partner.data_address, self._config.snapshot_bytes, now)
        return slot.send_mine(version, self._config.boot)

    def _commit_if_sure(self, found: OpenExchange, now: float) -> list[Effect]:
        if not (found.is_in_doubt() and found.they_hold_mine):
            return []
        assert found.version is not None, "in doubt means sent"
        self._take_out(found)
        self._corrections_due = max(self._corrections_due, self._corrections_applied) + 1
        _keep(self._committed, found.partner.boot, found.exchange)
        self._shunned.pop(found.partner.name, None)
        self._search.over(found.partner.name)
        return [
            Mix(found.version, ((found.theirs(), self._config.pair_weight),)),
            Release(found.version),
            Notify(Exchanged((found.partner.name,), now - found.began_s)),
        ]

    def _set_aside(self, slot: OpenExchange, now: float) -> list[Effect]:
        """Frees the slot for others while the partner's word is awaited; each set aside holds two snapshots in memory."""
        slot.deadline_s = NEVER_S
        if not self._config.limits.asides_max:
            return []
        self._take_out(slot)
        self._aside.append(slot)
        self._search.hurry()
        asides_max = self._config.limits.asides_max
        effects = self._fail(self._aside[0], "too many in doubt", now) if len(self._aside) > asides_max else []
        return [*effects, *self._begin(now)]

    def _fail(self, found: OpenExchange, reason: str, now: float, tell: bool = True) -> list[Effect]:
        effects = self._close(found)
        if tell:
            effects.append(Send(found.partner.control_address, Abort(found.exchange, reason)))
        effects.append(Notify(ExchangeFailed(found.partner.name, reason)))
        return effects + self._begin(now)

    def _close(self, found: OpenExchange) -> list[Effect]:
        self._take_out(found)
        return found.let_go(self._config.boot)

    def _take_out(self, found: OpenExchange) -> None:
        if found is self._slot:
            self._slot = None
        else:
            self._aside.remove(found)


def _keep(kept: dict[int, T], boot: int, what: T) -> None:
    """Remembers this of a process, and forgets what it has heard of least lately where there are too many."""
    kept.pop(boot, None)
    kept[boot] = what
    if len(kept) > MEMBERS_MAX:
        del kept[next(iter(kept))]
