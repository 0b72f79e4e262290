"""Two processes that want one name: which of them is refused."""

from __future__ import annotations

from dataclasses import dataclass

from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.messages import MemberEntry

CLAIMS_MAX = 256
# An older process's last news may still be on their way; who goes on claiming after so many objections lives.
OBJECTIONS_MAX = 2


@dataclass(slots=True)
class _Claim:
    """Another process (its boot id) wants a member's name; has the member spoken since?"""

    boot: int
    is_answered: bool = False


class NameClaims:
    """Claims to members' names, and to this peer's own."""

    def __init__(self, config: ProtocolConfig) -> None:
        self._config = config
        self._claims: dict[str, _Claim] = {}
        self._objections: dict[int, int] = {}

    def has_answered(self, name: str, boot: int) -> bool:
        """Notes that another process claims a member's name; says whether the member has spoken since.

        A process that restarts at once may greet before its predecessor's broken link was looked at, so that the holder
        is asked before the claimant, who greets again, is refused.
        """
        claim = self._claims.get(name)
        if claim is None or claim.boot != boot:
            if len(self._claims) >= CLAIMS_MAX:
                del self._claims[next(iter(self._claims))]
            claim = self._claims[name] = _Claim(boot)
        return claim.is_answered

    def spoke(self, name: str) -> None:
        """The member said something."""
        if claim := self._claims.get(name):
            claim.is_answered = True

    def forget(self, name: str) -> None:
        """The member is gone or replaced: its name is free."""
        self._claims.pop(name, None)

    def contested(self, entry: MemberEntry) -> str:
        """News of another process with this peer's own name, which seems to be the newer one.

        Returns:
            Why this peer has to give way; "" while the other's news may be the last of one that has ended.
        """
        if entry.state != "alive":
            return ""
        if len(self._objections) >= CLAIMS_MAX:
            del self._objections[next(iter(self._objections))]
        self._objections[entry.boot] = self._objections.get(entry.boot, 0) + 1
        if self._objections[entry.boot] <= OBJECTIONS_MAX:
            return ""
        return (
            f"another living process, at {entry.control_address}, goes by the name {self._config.name!r} of this one at "
            f"{self._config.control_address}, and was let in elsewhere. Give one of them another name"
        )
