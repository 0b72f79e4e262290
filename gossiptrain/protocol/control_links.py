"""Which control links are open: opened by the first message, closed when they were long idle.

A link to a member begins with an introduction: news of this peer may not have reached it yet, and it drops the messages
of strangers. With few members all links stay open, so that a killed process is noticed by everybody at once; with many,
those used longest ago make room. Links to strangers and to the dead, who are spoken to now and then, are closed soon after.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs

from gossiptrain.protocol.effects import Connect, Disconnect, Effect, Send
from gossiptrain.protocol.messages import Ack, Gossip, Ping, PingRequest

CARRY_NEWS = (Ack, Gossip, PingRequest)
LINKING = (Connect, Disconnect)
LINKS_MAX = 128
STRANGER_IDLE_S = 6.0
LOOKS_EVERY_S = 5.0


class ControlLinks:
    """Remembers when each link was used last."""

    def __init__(self, is_member: Callable[[str], bool], introduction: Callable[[float], Gossip]) -> None:
        """
        Args:
            is_member: whether a living member has this control address.
            introduction: tells who this peer is; takes the time now.
        """
        self._is_member, self._introduction = is_member, introduction
        self._used_s: dict[str, float] = {}
        self._look_at_s = 0.0

    def mind(self, effects: list[Effect], now: float) -> list[Effect]:
        """Returns the effects with a `Connect` before each `Send` that has no link yet."""
        used_s = self._used_s
        result: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Send):
                address = effect.address
                if used_s.pop(address, None) is None:
                    result.append(Connect(address, "control"))
                    result += self._introduced(effect, now)
                else:
                    result.append(effect)
                used_s[address] = now
            elif isinstance(effect, LINKING) and effect.lane == "control":
                result += self._link(effect, now)
            else:
                result.append(effect)
        return result

    def close_idle(self, needed: set[str], now: float) -> list[Effect]:
        """Closes what is not needed any more; looks every few seconds.

        Args:
            needed: addresses of links to be kept whatever their use.
        """
        if now < self._look_at_s:
            return []
        self._look_at_s = now + LOOKS_EVERY_S
        surplus = len(self._used_s) - LINKS_MAX
        idle: list[Effect] = []
        for address, used_s in self._used_s.items():  # longest unused first
            idle_s = now - used_s
            if idle_s < STRANGER_IDLE_S:
                break
            if address not in needed and (surplus > len(idle) or not self._is_member(address)):
                idle.append(Disconnect(address, "control"))
        return idle

    def _link(self, effect: Connect | Disconnect, now: float) -> list[Effect]:
        """A link is to be opened or closed, unless it is."""
        address, is_open = effect.address, effect.address in self._used_s
        if isinstance(effect, Disconnect):
            self._used_s.pop(address, None)
            return [effect] if is_open else []
        if is_open:
            return []
        self._used_s[address] = now
        return [effect, *self._introduce(address, now)]

    def _introduced(self, effect: Send, now: float) -> list[Effect]:
        """Lets an introduction ride on what carries news anyway, else sends it before; a ping has it where it is needed."""
        message = effect.message
        if isinstance(message, Ping) or not self._is_member(effect.address):
            return [effect]
        introduction = self._introduction(now)
        if isinstance(message, CARRY_NEWS):
            updates = (*introduction.updates, *message.updates)
            return [Send(effect.address, structs.replace(message, updates=updates))]
        return [Send(effect.address, introduction), effect]

    def _introduce(self, address: str, now: float) -> list[Effect]:
        return [Send(address, self._introduction(now))] if self._is_member(address) else []
