"""One exchange of snapshots under way, as either end keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from gossiptrain.protocol.effects import CancelSnapshot, Connect, Discard, Effect, Release, SendSnapshot
from gossiptrain.protocol.member_table import Member
from gossiptrain.protocol.messages import ExchangeId, TransferKey

NEVER_S = float("inf")
# A pull is numbered from here, so that an exchange's number tells pulls from rounds and pairs.
PULL_NUMBERS = 1 << 32


@dataclass(slots=True, eq=False)
class OpenExchange:
    """Who, since when, until when, and how far. Times in seconds.

    accepted: both ends take part. version: this peer's snapshot that is pinned and on its way, None before.
    """

    exchange: ExchangeId
    partner: Member
    initiator: bool
    began_s: float
    deadline_s: float
    accepted: bool = False
    version: int | None = None
    holds_theirs: bool = False
    they_hold_mine: bool = False
    ask_again_s: float = NEVER_S

    def theirs(self) -> TransferKey:
        """Names the partner's snapshot."""
        return TransferKey(self.partner.boot, self.exchange)

    def is_with(self, sender: Member, exchange: ExchangeId) -> bool:
        """Says whether a message of this sender about this exchange is meant for it."""
        return self.exchange == exchange and self.partner.boot == sender.boot

    def is_in_doubt(self) -> bool:
        """Says whether the partner may have committed: it has been told that this peer holds its snapshot."""
        return self.holds_theirs and self.version is not None

    def send_mine(self, version: int, own_boot: int) -> list[Effect]:
        """Pins this peer's snapshot and sends it."""
        self.version = version
        address = self.partner.data_address
        return [Connect(address, "data"), SendSnapshot(address, TransferKey(own_boot, self.exchange), version)]

    def let_go(self, own_boot: int, expects_theirs: bool = True) -> list[Effect]:
        """Gives back what the exchange holds, on giving it up."""
        effects: list[Effect] = [Discard(self.theirs())] if expects_theirs else []
        if self.version is not None:
            effects.append(CancelSnapshot(self.partner.data_address, TransferKey(own_boot, self.exchange)))
            effects.append(Release(self.version))
        return effects
