"""Where the network thread lays the chunks that training does next, and training what it has begun and done.

Training takes from it without waiting: the ledger keeps it filled. It waits, briefly, where nothing lies there: at the
beginning, while others are asked what is trained already.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.data_plan import LedgerState
from gossiptrain.protocol.effects import Effect, HandChunks, RefuseSharing, WithdrawChunks
from gossiptrain.protocol.events import ChunksTaken
from gossiptrain.protocol.messages import ChunkId


class Desk:
    """Chunks on their way from the network thread to training.

    Attributes:
        share: this peer's part of an epoch, in (0, 1]; 0 before it is known.
        trained: samples of the chunks that this peer has trained so far; None where it shares no data.
        state: what is trained, as the network thread last said.
        is_closed: the network thread is over and lays down nothing more.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ahead: deque[ChunkId] = deque()
        self._taken: list[ChunkId] = []
        self._most = 0
        self._refused = ""
        self.share = 0.0
        self.trained: int | None = None
        self.state = LedgerState()
        self.is_closed = False

    # The network thread

    def carry_out(self, effect: Effect) -> bool:
        """Does what the ledger wants; says whether the effect was one of its."""
        with self._changed:
            match effect:
                case HandChunks(chunks, share):
                    self._ahead.extend(chunks)
                    self._most = max(self._most, len(self._ahead))
                    self.share = share
                case WithdrawChunks(chunks):
                    gone = frozenset(chunks)
                    self._ahead = deque(chunk for chunk in self._ahead if chunk not in gone)
                case RefuseSharing(text):
                    self._refused = text
                case _:
                    return False
            self._changed.notify_all()
        return True

    def close(self, state: LedgerState) -> None:
        """Nothing more will be laid down."""
        with self._changed:
            self.state, self.is_closed = state, True
            self._changed.notify_all()

    # Training

    def take(self, post: Callable[[ChunksTaken], None], timeout_s: float) -> ChunkId | None:
        """Takes the next chunk; None when the network thread is over, or nothing came in time.

        Args:
            post: tells the network thread which were begun, so that it lays more down; called when half of them are.

        Raises:
            ConfigurationError: this peer's data differ from those that the others share.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ahead or self._refused or self.is_closed, timeout_s)
            if self._refused:
                raise ConfigurationError(self._refused)
            chunk = self._ahead.popleft() if self._ahead else None
            if chunk is not None:
                self._taken.append(chunk)
            taken: tuple[ChunkId, ...] = ()
            if 2 * len(self._ahead) <= self._most:
                taken, self._taken = tuple(self._taken), []
                self._most = len(self._ahead)
        if taken and not self.is_closed:
            post(ChunksTaken(taken))
        return chunk

    def untaken(self) -> tuple[ChunkId, ...]:
        """The chunks that lie here."""
        with self._changed:
            return tuple(self._ahead)
