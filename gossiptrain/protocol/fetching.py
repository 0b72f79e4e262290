"""Which bytes of a state are here: chunks are known by their digests, whoever sent them.

A state is cut into chunks; its manifest has a digest of each. A chunk that is held stays held under another manifest that
has the same digest at the same place. So a newcomer that lost its donor goes on where it was if the donor still has the
same state, and fetches from another donor only what differs there.
"""

from __future__ import annotations

from typing import NamedTuple

CHUNK_BYTES = 1 << 20
PIECE_BYTES_MAX = 4 << 20  # what is asked for at once; the next piece is asked for when it is here
DIGEST_BYTES = 16


class Piece(NamedTuple):
    """The bytes [begin, end) of a state."""

    begin: int
    end: int


class Fetch:
    """The chunks of one state, over several donors.

    Attributes:
        nbytes: bytes that came since the last manifest. kept_bytes: bytes that were here already then.
    """

    def __init__(self) -> None:
        self._held: dict[int, bytes] = {}
        self._digests: tuple[bytes, ...] = ()
        self._state_bytes = self._chunk_bytes = 0
        self._next = 0
        self.nbytes = self.kept_bytes = 0

    def follow(self, state_bytes: int, chunk_bytes: int, digests: tuple[bytes, ...]) -> bool:
        """Takes a manifest; what is held and differs from it is no longer held. False if it contradicts itself."""
        if chunk_bytes <= 0 or chunk_bytes > PIECE_BYTES_MAX or len(digests) != -(-state_bytes // chunk_bytes):
            return False
        same_cut = chunk_bytes == self._chunk_bytes
        self._held = {
            index: digest
            for index, digest in self._held.items()
            if same_cut and index < len(digests) and digests[index] == digest
        }
        self._digests, self._state_bytes, self._chunk_bytes = digests, state_bytes, chunk_bytes
        self._next = self.nbytes = 0
        self.kept_bytes = sum(self._extent(index) for index in self._held)
        return True

    def take(self, piece: Piece) -> None:
        """Notes that a piece is here, as the manifest has it."""
        for index in range(piece.begin // self._chunk_bytes, -(-piece.end // self._chunk_bytes)):
            self._held[index] = self._digests[index]
        self.nbytes += piece.end - piece.begin

    def next_piece(self) -> Piece | None:
        """Returns the first bytes that are still missing, as many as are asked for at once; None when all are here."""
        while self._next in self._held:
            self._next += 1
        first = self._next
        if first >= len(self._digests):
            return None
        last = first + 1
        while last < len(self._digests) and last not in self._held and self._fits(first, last + 1):
            last += 1
        return Piece(first * self._chunk_bytes, min(last * self._chunk_bytes, self._state_bytes))

    def _fits(self, first: int, last: int) -> bool:
        return (last - first) * self._chunk_bytes <= PIECE_BYTES_MAX

    def _extent(self, index: int) -> int:
        return min(self._chunk_bytes, self._state_bytes - index * self._chunk_bytes)
