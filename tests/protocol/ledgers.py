"""Real data ledgers back to back: every message is delivered (or lost), every hand trained, on a virtual clock."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from gossiptrain.protocol import messages as m
from gossiptrain.protocol import notices, wire
from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.data_ledger import DataLedger
from gossiptrain.protocol.data_plan import DataPlan, LedgerState, make_plan
from gossiptrain.protocol.effects import Effect, HandChunks, Notify, RefuseSharing, Send, WithdrawChunks
from gossiptrain.protocol.events import ChunksTaken, ChunksTrained, SharingBegun
from gossiptrain.protocol.member_table import Member, MemberTable
from gossiptrain.protocol.messages import ChunkId

PLAN = make_plan(640, order=3, chunk_samples=10)


class Worker:
    """A ledger, and the training that it serves: takes chunks in order and trains them at its own speed."""

    def __init__(self, name: str, boot: int) -> None:
        config = ProtocolConfig(name, boot, "run", f"tcp://{name}", f"tcp://{name}/data", ("w",), 4)
        self.name, self.boot = name, boot
        self.table = MemberTable(name, boot)
        self.counters: Counter[str] = Counter()
        self.ledger = DataLedger(config, self.table, lambda what: self.counters.update([what]))
        self.config = config
        self.hand: deque[ChunkId] = deque()
        self.told: list[notices.Notice] = []
        self.refused = ""
        self.alive = True
        self.trained: list[ChunkId] = []


class Ledgers:
    """Workers by name, their clock and their network."""

    def __init__(self, *names: str, plan: DataPlan = PLAN, seed: int = 0) -> None:
        self.now = 0.0
        self.chance = Chance("ledgers", seed)
        self.workers: dict[str, Worker] = {}
        self.loses: Callable[[str, str], bool] = lambda sender, receiver: False
        self.sent: Counter[type] = Counter()
        self._posts: deque[tuple[str, int, str, m.Message]] = deque()
        for name in names:
            self.join(name, plan)

    # Whole lives

    def join(self, name: str, plan: DataPlan = PLAN, begins: LedgerState | None = None) -> Worker:
        """A process begins under a name, known to all at once, and shares data."""
        worker = self.enter(name)
        self.happen(worker, SharingBegun(plan, begins))
        return worker

    def enter(self, name: str) -> Worker:
        """A process begins under a name and shares no data yet."""
        worker = Worker(name, boot=1 + self.chance.below(1 << 60))
        self.workers[name] = worker
        for other in self.living():
            if other is not worker:
                self._know(other, worker)
                self._know(worker, other)
        self._tell_members()
        return worker

    def kill(self, name: str) -> None:
        """A process dies; the others learn of it when they are told."""
        self.workers[name].alive = False

    def tell_dead(self, name: str) -> None:
        """All the living hear that a member is dead."""
        for worker in self.living():
            self.end(worker, name)
        self._tell_members()

    def end(self, worker: Worker, name: str) -> None:
        """One worker takes another for dead."""
        member = worker.table.get(name)
        if member is not None and member.is_living:
            worker.table.changed(member, "dead", member.incarnation, self.now)

    def living(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.alive]

    # Time

    def train(self, name: str, chunks: int = 1, speed: float = 10.0) -> None:
        """A worker trains the next chunks of its hand and says so."""
        worker = self.workers[name]
        for _ in range(chunks):
            assert worker.hand, f"{name} has nothing in hand"
            chunk = worker.hand.popleft()
            self.happen(worker, ChunksTaken((chunk,)))
            worker.trained.append(chunk)
            self.happen(worker, ChunksTrained((chunk,), speed))

    def spread(self, seconds: float = 1.0) -> None:
        """Lets gossip go on for a while."""
        end_s = self.now + seconds
        while True:
            self.deliver()
            due = min((worker.ledger.next_deadline() for worker in self.living()), default=float("inf"))
            if due > end_s:
                break
            self.now = max(self.now, due)
            for worker in self.living():
                if worker.ledger.next_deadline() <= self.now:
                    self.carry_out(worker, worker.ledger.tick(self.now))
                    assert worker.ledger.next_deadline() > self.now, "a deadline that finds nothing to do"
        self.now = end_s

    def happen(self, worker: Worker, event: SharingBegun | ChunksTaken | ChunksTrained) -> None:
        if worker.alive:
            self.carry_out(worker, worker.ledger.happened(event, self.now))

    def deliver(self) -> None:
        """Brings all messages to their receivers, and what follows from them."""
        while self._posts:
            sender, boot, address, message = self._posts.popleft()
            receiver = next((w for w in self.living() if w.config.control_address == address), None)
            if receiver is None or self.loses(sender, receiver.name):
                continue
            member = receiver.table.get(sender)
            if member is not None and member.boot == boot:
                self.carry_out(receiver, receiver.ledger.told(message, member, self.now))

    def carry_out(self, worker: Worker, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(address, message):
                    frame = wire.encode(m.Envelope(worker.name, worker.boot, message))
                    self.sent[type(message)] += 1
                    self._posts.append((worker.name, worker.boot, address, wire.decode(frame).message))
                case HandChunks(chunks):
                    worker.hand.extend(chunks)
                case WithdrawChunks(chunks):
                    worker.hand = deque(chunk for chunk in worker.hand if chunk not in chunks)
                case RefuseSharing(text):
                    worker.refused = text
                case Notify(notice):
                    worker.told.append(notice)
                case _:
                    raise AssertionError(f"no effect of a ledger: {effect}")

    def times_trained(self, epoch: int) -> Counter[int]:
        """How often each chunk of an epoch was trained, by whomever."""
        return Counter(c.chunk for worker in self.workers.values() for c in worker.trained if c.epoch == epoch)

    def _know(self, worker: Worker, other: Worker) -> None:
        member = Member(other.name, other.boot, other.config.control_address, other.config.data_address)
        known = worker.table.get(other.name)
        member.incarnation = known.incarnation + 1 if known is not None else 0
        worker.table.put(member)

    def _tell_members(self) -> None:
        for worker in self.living():
            self.carry_out(worker, worker.ledger.members_changed(self.now))
