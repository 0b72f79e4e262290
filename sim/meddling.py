"""What somebody between two peers does to control messages: damages them, cuts them off, blows them up, sends them again.

Control messages have no checksum of their own. A damaged one that still decodes is dropped here, as TCP's checksum or the
encryption's does it; what reaches the receiver are the frames that only its decoder can refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gossiptrain.errors import WireError
from gossiptrain.protocol import wire
from gossiptrain.protocol.messages import Ack, Envelope, Gossip, MemberEntry, Message, Ping
from sim.links import Link
from sim.streams import Uniforms

if TYPE_CHECKING:
    from sim.network import Network


class Garbling:
    """Replaces a share of a host's messages by frames that are none."""

    def __init__(self, network: Network, how: str, share: float, chance: Uniforms) -> None:
        self._network, self._how, self._share, self._chance = network, how, share, chance

    def __call__(self, link: Link, envelope: Envelope, arrives_s: float) -> bool:
        """Says whether it took the message, which is then not to arrive as it was."""
        if self._chance.next() >= self._share:
            return False
        frame = self._damage(wire.encode(envelope))
        if self._how == "corrupt" and _decodes(frame):
            self._network.counters["damaged_and_dropped"] += 1
            return True
        assert link.target is not None
        self._network.counters["damaged"] += 1
        self._network.clock.at(arrives_s, link.target.take_frame, frame)
        return True

    def _damage(self, frame: bytes) -> bytes:
        place = int(self._chance.next() * len(frame))
        if self._how == "truncate":
            return frame[:place]
        if self._how == "oversize":
            return frame + bytes(wire.CONTROL_FRAME_BYTES_MAX)
        return frame[:place] + bytes([frame[place] ^ (1 << int(self._chance.next() * 8))]) + frame[place + 1 :]


class Replaying:
    """Sends a share of a host's messages once more, to whoever holds the receiver's address by then."""

    def __init__(self, network: Network, host: int, share: float, later_s: float, chance: Uniforms) -> None:
        self._network, self._host = network, host
        self._share, self._later_s, self._chance = share, later_s, chance

    def __call__(self, link: Link, envelope: Envelope, arrives_s: float) -> bool:
        """Notes the message; it arrives now as well."""
        if self._chance.next() < self._share:
            again_s = arrives_s + self._later_s * self._chance.next()
            self._network.clock.at(again_s, self._again, (link.address, envelope))
        return False

    def _again(self, item: tuple[str, Envelope]) -> None:
        address, envelope = item
        receiver = self._network.listening.get(address)
        if receiver is not None and self._network.is_connected(self._host, receiver.host):
            self._network.counters["replayed"] += 1
            receiver.take_message(envelope)


class Slander:
    """Has a member add to each of its messages with news that somebody it has told of before is dead."""

    def __init__(self, own: str, chance: Uniforms) -> None:
        self._own, self._chance = own, chance
        self._known: dict[str, MemberEntry] = {}

    def __call__(self, message: Message) -> Message:
        """Returns the message with one lie more."""
        if not isinstance(message, (Ping, Ack, Gossip)):
            return message
        self._known.update({entry.name: entry for entry in message.updates if entry.name != self._own})
        if not self._known:
            return message
        victim = list(self._known.values())[int(self._chance.next() * len(self._known))]
        lie = msgspec.structs.replace(victim, state="dead", accuser=self._own)
        return msgspec.structs.replace(message, updates=(*message.updates[:7], lie))


def _decodes(frame: bytes) -> bool:
    try:
        wire.decode(frame)
    except WireError:
        return False
    return True
