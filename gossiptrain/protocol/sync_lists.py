"""A list of members, cut into messages that fit into a frame."""

from __future__ import annotations

from gossiptrain.protocol.messages import MemberEntry, Sync

ENTRIES_PER_MESSAGE = 256
MESSAGE_BYTES = 48 * 1024
ENTRY_BYTES = 64


def in_messages(entries: list[MemberEntry], wants_reply: bool) -> list[Sync]:
    """Returns the entries in messages; only the last asks for a reply."""
    parts: list[list[MemberEntry]] = [[]]
    room = MESSAGE_BYTES
    for entry in entries:
        texts = (entry.name, entry.control_address, entry.data_address, entry.accuser)
        size = ENTRY_BYTES + sum(len(text.encode()) for text in texts)
        if parts[-1] and (size > room or len(parts[-1]) >= ENTRIES_PER_MESSAGE):
            parts.append([])
            room = MESSAGE_BYTES
        parts[-1].append(entry)
        room -= size
    last = len(parts) - 1
    return [Sync(tuple(part), wants_reply and index == last) for index, part in enumerate(parts)]
