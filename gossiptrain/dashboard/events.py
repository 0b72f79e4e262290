"""Reads what peers record while they run: their event logs, line by line, into one view per peer."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gossiptrain.runtime.words import asked

READ_BYTES_MAX = 1 << 20  # of one log per look, so that a long run that is watched anew does not stall the screen
LOSSES_KEPT = 4096


class EventTail:
    """Follows a growing log of one JSON object a line.

    Args:
        path: The log; it may appear later.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._partial = b""

    def new(self) -> list[dict[str, Any]]:
        """Returns the objects that were added since the last call; lines that hold none are passed over."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(READ_BYTES_MAX)
        except OSError:
            return []
        self._offset += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [event for line in lines if (event := _event(line)) is not None]


@dataclass
class PeerView:
    """What is known of one peer.

    Attributes:
        state: "starting", "training", "finished" (its script may still evaluate), "failed", "killed" or "stopped".
        step: Optimizer steps taken.
        loss: The last recorded; None until there is one.
        losses: The recorded losses, oldest first, for a small chart.
        steps_per_s, consensus_distance, bytes_sent, bytes_received, members: As last recorded.
        neighbours: Names of those it exchanges with.
    """

    name: str
    state: str = "starting"
    step: int = 0
    loss: float | None = None
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=LOSSES_KEPT))
    steps_per_s: float | None = None
    neighbours: tuple[str, ...] = ()
    consensus_distance: float | None = None
    bytes_sent: int = 0
    bytes_received: int = 0
    members: int = 0

    def update(self, event: dict[str, Any]) -> None:
        """Takes in one line of the peer's log; kinds that say nothing about these fields are passed over."""
        if event["kind"] == "Progress":
            self._progress(event)
        elif event["kind"] == "Rewired":
            self.neighbours = tuple(event.get("neighbours", ()))
            self.members = int(event.get("members", self.members))
        elif event["kind"] == "Finished":
            self.state = "finished" if event.get("ok") and self.state in ("starting", "training") else self.state
            self.step = int(event.get("step") or self.step)
            self.bytes_sent = int(event.get("bytes_sent") or self.bytes_sent)
            self.bytes_received = int(event.get("bytes_received") or self.bytes_received)

    def _progress(self, event: dict[str, Any]) -> None:
        if self.state == "starting":
            self.state = "training"
        self.step = int(event.get("step") or 0)
        self.steps_per_s = event.get("steps_per_s")
        self.consensus_distance = event.get("consensus_distance")
        self.neighbours = tuple(event.get("neighbours") or ())
        self.bytes_sent = int(event.get("bytes_sent") or 0)
        self.bytes_received = int(event.get("bytes_received") or 0)
        self.members = int(event.get("members") or 0)
        if event.get("loss") is not None:
            self.loss = float(event["loss"])
            self.losses.append(self.loss)


class Watcher:
    """Keeps a view of each peer up to date with its log.

    Args:
        logs: Where each peer's events are, by name.
        since: What was noted before, in seconds since the epoch, belongs to an earlier part of the run.
    """

    def __init__(self, logs: dict[str, Path], since: float = 0.0) -> None:
        self._since = since
        self.views = {name: PeerView(name) for name in logs}
        self._tails = {name: EventTail(path) for name, path in logs.items()}

    def look(self) -> list[tuple[str, dict[str, Any]]]:
        """Reads what is new; returns the events with their peers' names, in order for each peer."""
        found = [
            (name, event)
            for name, tail in self._tails.items()
            for event in tail.new()
            if event.get("t", self._since) >= self._since
        ]
        for name, event in found:
            self.views[name].update(event)
        return found


class Storyteller:
    """Puts what peers notice about each other into one sentence each, told once however many noticed it.

    Args:
        names: The peers that were started together; that these find each other is no news.
    """

    def __init__(self, names: list[str]) -> None:
        self._expected = set(names)
        self._told: set[tuple[str, str]] = set()

    def tell(self, name: str, event: dict[str, Any]) -> str | None:
        """Returns a sentence, or None for what is no news."""
        kind = str(event["kind"])
        of_itself = name if kind in ("Resumed", "CheckpointFailed", "StateAwaited") else ""
        subject = str(event.get("peer", event.get("address", of_itself)))
        sentence = self._sentence(name, kind, subject, event)
        if sentence is None or (kind, subject) in self._told:
            return None
        self._told.add((kind, subject))
        if kind in ("PeerJoined", "PeerRecovered"):  # may die, or be suspected, once more
            self._told -= {("PeerDied", subject), ("PeerSuspected", subject), ("PeerLeft", subject)}
        else:
            self._told -= {("PeerJoined", subject), ("PeerRecovered", subject)}
        return sentence

    def _sentence(self, name: str, kind: str, subject: str, event: dict[str, Any]) -> str | None:
        why = f" ({event['reason']})" if event.get("reason") else ""
        if kind == "PeerDied":
            return f"{name} noticed that {subject} is dead{why}; the others go on without it"
        if kind == "PeerSuspected":
            return f"{name} hears nothing from {subject}{why}; it is left out of mixing"
        if kind == "PeerRecovered":
            return f"{name} hears {subject} again"
        if kind == "PeerJoined" and subject not in self._expected:
            return f"{name} met {subject}"
        if kind == "PeerLeft" and subject not in self._expected:
            return f"{subject} left{why}"
        if kind == "SeedSilent":
            return f"{name} has waited {event.get('waited_s', 0):.0f} s for an answer from {subject}"
        if kind == "StateAwaited":
            waits = f"{name} has waited {event.get('waited_s', 0):.0f} s for a state to begin from"
            return f"{waits}: {asked(event.get('answers', ()))}"
        if kind == "PeerRefused":
            return f"{name} refused {subject}: {event.get('text') or event.get('reason')}"
        if kind == "Resumed":
            return f"{name} goes on from a checkpoint, at step {event.get('step')}"
        if kind == "CheckpointFailed":
            return f"{name} could not write a checkpoint{why}; training goes on"
        if kind == "SnapshotRefused":
            return f"{name} did not use a snapshot from {subject}{why}; training goes on"
        return None


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None
