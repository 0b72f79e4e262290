"""The giving end of a state transfer: one frozen state, shared by all who ask, sent piece by piece at a pace.

    offered --> freezing --StateFrozen--> serving --Received by the last, or time over--> thawed

Freezing copies as many bytes as the state has, so it is done once for all newcomers that come while it is young. It is
kept a moment longer when a newcomer is lost in the middle: it may come back and go on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass

from gossiptrain.protocol.budget import Line
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.effects import (
    CancelSnapshot,
    Connect,
    Effect,
    FreezeState,
    Notify,
    Send,
    SendManifest,
    SendPiece,
    ThawState,
)
from gossiptrain.protocol.events import StateFrozen
from gossiptrain.protocol.fetching import PIECE_BYTES_MAX
from gossiptrain.protocol.member_table import Member
from gossiptrain.protocol.messages import Abort, Accept, ExchangeId, PieceWanted, Reject, StateReady, TransferKey
from gossiptrain.protocol.notices import ExchangeFailed
from gossiptrain.protocol.open_exchange import NEVER_S, PULL_NUMBERS

SERVED_MAX = 4
LINGER_S = 5.0
# A freeze waits for the end of an optimizer step, which may take minutes; that the donor lives is the detector's matter.
FREEZE_PATIENCE = 10


@dataclass(slots=True, eq=False)
class _Served:
    """A newcomer. `under_way`: the key of what is being sent to it. `waiting`: the piece it wants next."""

    exchange: ExchangeId
    partner: Member
    deadline_s: float
    under_way: TransferKey | None = None
    waiting: PieceWanted | None = None

    def is_with(self, sender: Member) -> bool:
        return self.partner.boot == sender.boot


class Donor:
    """Gives this peer's state to newcomers."""

    def __init__(self, config: ProtocolConfig, line: Line) -> None:
        self._boot = config.boot
        self._timing = config.exchange
        self._line = line
        self._bytes_per_s = config.exchange.state_mbps * 125e3
        self._served_max = line.newcomers_max(SERVED_MAX, config.snapshot_bytes, self._timing.transfer_timeout_s)
        self._served: dict[ExchangeId, _Served] = {}
        self._is_freezing = False
        self._frozen: StateFrozen | None = None
        self._share_until_s = self._keep_until_s = self._linger_until_s = 0.0
        self._paced_until_s = self._refuses_until_s = 0.0

    def offered(self, exchange: ExchangeId, sender: Member, now: float) -> list[Effect]:
        """A newcomer asks for this peer's state."""
        if exchange in self._served:
            return []
        is_old = self._frozen is not None and now >= self._share_until_s
        if is_old and not self._served:
            return self._thaw() + self.offered(exchange, sender, now)
        if is_old or len(self._served) >= self._served_max or now < self._refuses_until_s:
            return [Send(sender.control_address, Reject(exchange, "busy", 0))]
        patience_s = FREEZE_PATIENCE * self._timing.transfer_timeout_s
        served = self._served[exchange] = _Served(exchange, sender, now + patience_s)
        effects: list[Effect] = [
            Send(sender.control_address, Accept(exchange, 0)),
            Connect(sender.data_address, "data"),
        ]
        if self._frozen is not None:
            return effects + self._announce(served, self._frozen, now)
        if not self._is_freezing:
            self._is_freezing = True
            effects.append(FreezeState())
        return effects

    def frozen(self, state: StateFrozen, now: float) -> list[Effect]:
        """The state is frozen: tell those that wait."""
        self._is_freezing = False
        if not self._served:
            return [ThawState(state.version)]
        lasts_s = self._timing.transfer_s(state.state_bytes)
        self._frozen, self._share_until_s, self._keep_until_s = state, now + lasts_s / 2, now + lasts_s
        return [effect for served in self._served.values() for effect in self._announce(served, state, now)]

    def freeze_failed(self, reason: str, now: float) -> list[Effect]:
        """The state cannot be given; nor will it be in a moment, so newcomers are sent to others for a while."""
        self._is_freezing = False
        self._refuses_until_s = now + LINGER_S
        return [effect for served in [*self._served.values()] for effect in self._fail(served, reason, now)]

    def wanted(self, message: PieceWanted, sender: Member, now: float) -> list[Effect] | None:
        """A newcomer wants a piece: now, or when it is its turn. None when it may not ask for that."""
        served, state = self._served.get(message.exchange), self._frozen
        if served is None or not served.is_with(sender) or state is None or state.version != message.version:
            return [Send(sender.control_address, Abort(message.exchange, "not open here"))]
        begin, end, piece = message.begin, message.end, message.piece
        is_within = (begin < end <= state.state_bytes and end - begin <= PIECE_BYTES_MAX) or begin == end == 0
        if not is_within or piece.initiator_boot != sender.boot or piece.number < PULL_NUMBERS:
            return None
        effects = self._cancel(served)
        served.waiting = message
        served.deadline_s = NEVER_S
        return effects + self._send_due(now)

    def received(self, exchange: ExchangeId, sender: Member) -> list[Effect]:
        """A newcomer has everything."""
        served = self._served.get(exchange)
        if served is None or not served.is_with(sender):
            return []
        effects = self._close(served)
        return effects if self._served else effects + self._thaw()

    def aborted(self, exchange: ExchangeId, sender: Member, reason: str, now: float) -> list[Effect] | None:
        """A newcomer gave up; None when it is none of those served."""
        served = self._served.get(exchange)
        if served is None or not served.is_with(sender):
            return None
        return self._fail(served, reason, now, tell=False)

    def peer_lost(self, name: str, now: float) -> list[Effect]:
        """A newcomer is gone."""
        lost = [served for served in self._served.values() if served.partner.name == name]
        return [effect for served in lost for effect in self._fail(served, "the partner is gone", now)]

    def tick(self, now: float) -> list[Effect]:
        """Sends what is due; gives up who says nothing, and a state that is held for too long."""
        effects = self._send_due(now)
        for served in [*self._served.values()]:
            if now >= served.deadline_s:
                effects += self._fail(served, "time-out", now)
        if self._frozen is not None and now >= self._thaw_at_s():
            for served in [*self._served.values()]:
                effects += self._fail(served, "time-out", now)
            effects += self._thaw()
        return effects

    def close_all(self, now: float) -> list[Effect]:
        """This peer leaves."""
        effects = [e for served in [*self._served.values()] for e in self._fail(served, "leaving", now)]
        return effects + self._thaw()

    def busy_with(self) -> set[str]:
        """Names of the newcomers that are served."""
        return {served.partner.name for served in self._served.values()}

    def is_quiet(self) -> bool:
        """Says whether no state is frozen and nobody waits for one."""
        return self._frozen is None and not self._served

    def next_deadline(self) -> float:
        """The next time at which `tick` has something to do."""
        times_s = [served.deadline_s for served in self._served.values()]
        for served in self._served.values():
            if served.waiting:
                times_s.append(max(self._paced_until_s, self._line.free_at_s(served.partner.data_address)))
        if self._frozen is not None:
            times_s.append(self._thaw_at_s())
        return min(times_s, default=NEVER_S)

    def _thaw_at_s(self) -> float:
        return self._keep_until_s if self._served else min(self._keep_until_s, self._linger_until_s)

    def _announce(self, served: _Served, state: StateFrozen, now: float) -> list[Effect]:
        served.deadline_s = now + self._timing.transfer_timeout_s
        ready = StateReady(served.exchange, state.version, state.step, state.manifest_bytes, state.state_bytes)
        return [Send(served.partner.control_address, ready)]

    def _send_due(self, now: float) -> list[Effect]:
        """Sends as many of the waiting pieces as the pace allows, whoever asked first first."""
        effects: list[Effect] = []
        for served in self._served.values():
            piece, state = served.waiting, self._frozen
            address = served.partner.data_address
            if piece is None or state is None or now < max(self._paced_until_s, self._line.free_at_s(address)):
                continue
            nbytes = piece.end - piece.begin or state.manifest_bytes
            self._line.spend(address, nbytes, now)
            # Of a limited line exchanges keep half.
            fastest = self._line.bytes_per_s / 2 if self._line.counts(address) else self._bytes_per_s
            self._paced_until_s = now + nbytes / min(self._bytes_per_s, fastest)
            served.waiting, served.under_way = None, TransferKey(self._boot, piece.piece)
            served.deadline_s = now + self._timing.transfer_s(nbytes)
            if piece.end:
                effects.append(SendPiece(address, served.under_way, piece.version, piece.begin, piece.end))
            else:
                effects.append(SendManifest(address, served.under_way, piece.version))
        return effects

    def _cancel(self, served: _Served) -> list[Effect]:
        key, served.under_way = served.under_way, None
        return [CancelSnapshot(served.partner.data_address, key)] if key is not None else []

    def _close(self, served: _Served) -> list[Effect]:
        del self._served[served.exchange]
        return self._cancel(served)

    def _fail(self, served: _Served, reason: str, now: float, tell: bool = True) -> list[Effect]:
        effects = self._close(served)
        if not self._served:
            self._linger_until_s = now + LINGER_S
        if tell:
            effects.append(Send(served.partner.control_address, Abort(served.exchange, reason)))
        return [*effects, Notify(ExchangeFailed(served.partner.name, reason))]

    def _thaw(self) -> list[Effect]:
        state, self._frozen = self._frozen, None
        return [ThawState(state.version)] if state is not None else []
