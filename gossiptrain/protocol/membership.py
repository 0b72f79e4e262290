"""Who is in the run: SWIM (Das et al. 2002) with Lifeguard's local health (Dadgar et al. 2018), made for training.

Theory of operation. A peer enters by its own HELLO to any member, which lets it in and tells the others. From then on
news travel as entries that merge in any order (`member_table`), riding on probes and on gossip (`dissemination`). Each
peer probes one random member a period, and neighbours that were silent (`probing`). Who does not answer is SUSPECT: left
out of mixing at once, and only that. Who does not speak up within the tolerance for stalls, or whose address refuses
the connections of two observers, is DEAD: the graph is re-wired (`suspicion`). A suspect hears of the suspicion, raises
its incarnation, and is alive for all. What becomes of whom is kept in `roster`.

    unknown --HELLO or news--> alive <--higher incarnation-- suspect --time, refusals--> dead --higher incarnation--> alive
                                 \\------------------- LEAVE ------------------> left

Two peers whose views stay different for a while send each other their lists; the dead are tried now and then. Both heal
partitions: what one side buried is suspect to the other side's news, speaks up, and lives again.
"""

from __future__ import annotations

from gossiptrain.protocol import messages as m
from gossiptrain.protocol.chance import Chance
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.correspondents import Correspondents
from gossiptrain.protocol.effects import Effect, Send
from gossiptrain.protocol.handshake import run_tag
from gossiptrain.protocol.member_table import Member
from gossiptrain.protocol.probing import Probing
from gossiptrain.protocol.roster import Roster

NEVER_S = float("inf")
PIGGYBACK_MAX = 8
GOSSIP_MAX = 32
LOST_RETRY_S_RANGE = (2.0, 30.0)
FORGETS_EVERY_S = 60.0
LEAVE_FANOUT = 16
TELLS_EVERY_S = 0.5


class Membership:
    """Keeps the roster up to date by messages and the clock. Methods return effects."""

    def __init__(self, config: ProtocolConfig) -> None:
        self._config = config
        self._timing = config.membership
        self._chance = Chance(config.seed, config.name, config.boot, "membership")
        self._probing = Probing(self._timing, self._chance)
        self._roster = Roster(config, self._probing)
        self._suspicions, self._news = self._roster.suspicions, self._roster.news
        self.table = self._roster.table
        self._correspondents = Correspondents(self.table, self._chance)
        self.get = self.table.get
        self._run = run_tag(config)
        self._step = 0
        self._told_s: dict[str, float] = {}
        self._looked_s = NEVER_S
        self._pulse_at_s = NEVER_S
        self._probe_at_s = self._gossip_at_s = self._lost_at_s = 0.0
        self._synced_at_s = self._forgot_at_s = 0.0
        self._differs_since_s = NEVER_S
        self.neighbours: tuple[str, ...] = ()
        """Those that this peer exchanges with: their silence is noticed sooner."""

    # Queries

    def living(self) -> tuple[str, ...]:
        """Sorted names of this peer and all members that the graph is built on: neither dead nor gone."""
        return self.table.living()

    def others(self) -> list[Member]:
        """All members in the table, sorted by name."""
        return self.table.others()

    def knows_address(self, address: str) -> bool:
        """Says whether a living member has this control address."""
        return self.table.at(address) is not None

    def holder(self, name: str, boot: int) -> Member | None:
        """Returns another living process of this name: not suspect, its link unbroken."""
        member = self.table.get(name)
        is_other = member is not None and member.boot != boot and member.state in ("alive", "busy")
        return member if is_other else None

    def has_answered_claim(self, name: str, boot: int) -> bool:
        """Notes that another process claims a member's name; says whether the member has spoken since."""
        return self._roster.claims.has_answered(name, boot)

    def ask(self, member: Member) -> list[Effect]:
        """Asks a member for a sign of life."""
        return [Send(member.control_address, self._ping(self._probing.number()))]

    def view_hash(self) -> int:
        """Hashes the living members and their boots; equal views have equal hashes."""
        return self._roster.view_hash()

    def incarnation(self) -> int:
        """This peer's own."""
        return self._roster.me.incarnation

    def health(self) -> int:
        """Lifeguard's local health multiplier, 0 when this peer is well."""
        return self._probing.health

    def introduction(self, now: float) -> m.Gossip:
        """Tells who this peer is."""
        return m.Gossip((self._roster.me.entry(now),))

    def take_lost(self) -> list[tuple[str, bool]]:
        """Returns (name, gone) of those lost since the last call: dead, left or replaced (gone), or only suspect."""
        return self._roster.take_lost()

    def lists(self, now: float, wants_reply: bool) -> list[m.Sync]:
        """Returns everything this peer knows of members, itself included, in messages of bounded size."""
        return self._roster.lists(now, wants_reply)

    def told_of_leaving(self) -> list[Member]:
        """Returns whom to tell goodbye: the neighbours, and a few others who pass it on."""
        return self._correspondents.around(self.neighbours, LEAVE_FANOUT)

    def next_deadline(self) -> float:
        """The next time at which `tick` has something to do, in seconds."""
        if self._pulse_at_s == NEVER_S:
            return NEVER_S
        next_s = min(self._pulse_at_s, self._suspicions.next_deadline(), self._probing.next_deadline())
        return self._gossip_at_s if self._gossip_at_s < next_s and self._has_to_gossip() else next_s

    # What this peer says of itself

    def stepped(self, step: int) -> None:
        """This peer has taken so many steps."""
        self._step = step

    def caught_up(self, now: float) -> None:
        """This peer counts in mixing from now on, which others may wait for."""
        me = self._roster.me
        me.caught_up = True
        self._roster.raise_incarnation(me.incarnation + 1, now)

    def paced(self, pace: m.Pace, now: float) -> None:
        """This peer's pace has changed enough to be told."""
        me = self._roster.me
        me.pace = pace
        self._roster.raise_incarnation(me.incarnation + 1, now)

    def busy(self, seconds: float, now: float) -> list[Effect]:
        """This peer may be silent for so many seconds; 0 ends that. Said at once, as the silence may begin at once."""
        me = self._roster.me
        me.busy_until_s = now + seconds
        self._roster.raise_incarnation(me.incarnation + 1, now)
        news = m.Gossip((me.entry(now),))
        return [Send(member.control_address, news) for member in self._correspondents.around(self.neighbours)]

    def note_own_stall(self, now: float) -> float:
        """Notices a gap in this peer's own clock and takes it off everybody's time; returns it in seconds.

        To be called at each event: a healthy driver looks once a probe period at least.
        """
        gap_s, self._looked_s = now - self._looked_s, now
        if gap_s <= 2 * self._timing.probe_period_s or not len(self.table) or not self._timing.minds_own_stalls:
            return 0.0
        self._roster.suspicions.shift(gap_s)
        self._probing.drop_all()
        self._probing.worsen()
        for member in self.table.others():
            member.heard_s += gap_s
        self._pulse_at_s = self._probe_at_s = now + self._timing.probe_period_s
        self._roster.raise_incarnation(self._roster.me.incarnation + 1, now)
        return gap_s

    # What is heard

    def admit(self, sender: str, boot: int, hello: m.Hello, now: float) -> list[Effect]:
        """Takes in a peer whose HELLO was accepted; a new boot id replaces the old one at once."""
        old = self.table.get(sender)
        if old is not None and old.boot == boot and old.is_living:
            old.heard_s = now
            return self._tell_it(old, now) if old.verdict == "suspect" else []
        member = Member(sender, boot, hello.control_address, hello.data_address, step=hello.step)
        member.caught_up = hello.caught_up
        member.incarnation = old.incarnation + 1 if old is not None else 0
        effects = self._roster.bury_former_tenant(hello.control_address, sender, now)
        effects += self._roster.enter(member, now)
        if self.table.get(sender) is member:
            self._roster.pass_on(member.entry(now))
        return effects + self._wake(now)

    def know(self, members: tuple[m.MemberEntry, ...], now: float) -> list[Effect]:
        """Takes in those who are known from the beginning; all know it, so there is nothing to tell."""
        self._roster.know(members, now)
        return self._wake(now)

    def hear(self, envelope: m.Envelope, now: float) -> list[Effect] | None:
        """Notes a word of a member. Returns None when the sender is no member, or an older or unknown boot."""
        member = self.get(envelope.sender)
        effects: list[Effect] = []
        if member is None or member.boot != envelope.boot:
            updates = getattr(envelope.message, "updates", ())
            if envelope.run != self._run or not updates:
                return None
            effects += self._roster.merge(updates, envelope.sender, now) + self._wake(now)
            member = self.table.get(envelope.sender)
            if member is None or member.boot != envelope.boot:
                return None
        if member.verdict == "left":
            return None
        member.heard_s, member.has_spoken = now, True
        self._probing.word_of(member.name)
        self._roster.claims.spoke(member.name)
        if member.verdict != "alive":
            effects += self._tell_it(member, now)
        elif member.link_is_down:
            member.link_is_down = False
            effects += self._roster.refresh(member, "", now)
        return effects

    def progress(self, name: str, step: int) -> None:
        """Notes how far a member says it is."""
        if member := self.table.get(name):
            member.step = step

    def news(self, updates: tuple[m.MemberEntry, ...], sender: Member, now: float) -> list[Effect]:
        """Takes in what rides on a message."""
        return self._roster.merge(updates, sender.name, now) + self._wake(now)

    def answer_ping(self, sender: Member, ping: m.Ping, now: float) -> list[Effect]:
        """Acknowledges, and sends the list of members when the views stay different."""
        self.progress(sender.name, ping.step)
        self._correspondents.met(sender.name)
        updates = self._roster.updates(PIGGYBACK_MAX, sender, now)
        ack = Send(sender.control_address, m.Ack(ping.number, self._step, self.view_hash(), updates))
        return [ack, *self._sync_if_different(sender, ping.view_hash, now)]

    def answered(self, sender: Member, ack: m.Ack, now: float) -> list[Effect]:
        """A ping was answered: whoever asked for it is told; lists are exchanged when the views stay different."""
        self.progress(sender.name, ack.step)
        effects = self._sync_if_different(sender, ack.view_hash, now)
        relay = self._probing.relayed(ack.number, sender.name)
        asker = self.table.get(relay.asker) if relay else None
        if relay and asker:
            effects.append(Send(asker.control_address, m.PingResult(relay.asker_number, True)))
        return effects

    def asked_to_ping(self, sender: Member, request: m.PingRequest, now: float) -> list[Effect]:
        """Another cannot reach a member: try for it."""
        target = self.table.get(request.target)
        number = self._probing.relay(sender.name, request.number, request.target, now) if target else None
        return [Send(target.control_address, self._ping(number, target, now))] if target and number else []

    def result(self, result: m.PingResult, now: float) -> list[Effect]:
        """One who was asked for help tells what came of it."""
        name = self._probing.result(result.number, result.answered)
        if name is not None and (member := self.table.get(name)):
            self._probing.word_of(name)
            member.heard_s = now
        return []

    def take_list(self, sender: Member, sync: m.Sync, now: float) -> list[Effect]:
        """Merges another's list, and sends this peer's where that is wanted."""
        effects = self._roster.merge(sync.entries, sender.name, now, whole=True) + self._wake(now)
        if sync.wants_reply:
            effects += [Send(sender.control_address, part) for part in self.lists(now, wants_reply=False)]
        return effects

    def left(self, name: str, reason: str, now: float) -> list[Effect]:
        """A member said goodbye."""
        return self._roster.left(name, reason, now)

    def link_evidence(self, address: str, kind: str, now: float) -> list[Effect]:
        """Takes the transport's word about a control address: "up", "down" or "refused"."""
        member = self.table.at(address)
        if member is None:
            return []
        if kind == "up":
            was_suspect, member.link_is_down = member.state == "suspect", False
            effects = self._roster.refresh(member, "", now)
            return effects + self._probe(member, now) if was_suspect else effects
        member.link_is_down = True
        if kind == "refused" and self._timing.refused_observers:
            effects = self._roster.accuse(member, self._config.name, True, "its address refuses connections", now)
            if not self._roster.may_answer(member, now):
                self._probing.forget(member.name)  # those who were asked to try would see it too, and ask others
        else:
            effects = self._roster.refresh(member, "the link to it broke", now)
        return effects + self._probe(member, now)

    # By the clock

    def tick(self, now: float) -> list[Effect]:
        """Probes, asks for help, accuses, buries and gossips, each when it is due."""
        effects: list[Effect] = []
        if now >= self._pulse_at_s:
            effects += self._pulse(now)
        if now >= self._probing.next_deadline():
            effects += self._follow_probes(now)
        if now >= self._suspicions.next_deadline():
            for name, reason in self._suspicions.due(now):
                effects += self._roster.bury(name, reason, now)
        if now >= self._gossip_at_s and self._has_to_gossip():
            effects += self._gossip(now)
        return effects

    def _pulse(self, now: float) -> list[Effect]:
        """Once a period: probe the next in turn and silent neighbours, try one of the lost, let leases end."""
        self._pulse_at_s = now + self._timing.probe_period_s
        effects = self._roster.leases_over(now)
        if now >= self._probe_at_s:
            self._probe_at_s = now + self._probing.period_s()
            name = self._probing.next_target(self.table.living_others(), self.table.is_living)
            effects += self._probe(self.table.get(name or ""), now)
        for member in self._correspondents.around(self.neighbours):
            if member.heard_s < now - 1.5 * self._timing.probe_period_s:
                effects += self._probe(member, now)
        if now >= self._lost_at_s:
            effects += self._try_lost(now)
        if now >= self._forgot_at_s + FORGETS_EVERY_S:
            self._forgot_at_s = now
            self.table.forget_before(now - self._timing.tombstone_s)
            self._told_s = {name: at_s for name, at_s in self._told_s.items() if now - at_s < TELLS_EVERY_S}
        return effects

    def _follow_probes(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for probe in self._probing.to_ask(now):
            helpers = self.table.sample(self._timing.indirect_probes, self._chance, without=probe.name)
            probe.helpers = len(helpers)
            request = m.PingRequest(probe.number, probe.name, self._roster.updates(PIGGYBACK_MAX, None, now))
            effects += [Send(helper.control_address, request) for helper in helpers]
        for probe in self._probing.failed(now):
            member = self.table.get(probe.name)
            if member is not None and member.is_living and now >= member.busy_until_s:
                reason = f"no answer for {now - member.heard_s:.1f} s"
                effects += self._roster.accuse(member, self._config.name, False, reason, now)
        for relay in self._probing.relays_over(now):
            if asker := self.table.get(relay.asker):
                effects.append(Send(asker.control_address, m.PingResult(relay.asker_number, False)))
        return effects

    def _probe(self, member: Member | None, now: float) -> list[Effect]:
        """Asks a member for a sign of life, unless that is under way or it is known why there is none."""
        if member is None or self._probing.is_open(member.name) or not self._roster.may_answer(member, now):
            return []
        self._correspondents.met(member.name)
        return [Send(member.control_address, self._ping(self._probing.begin(member.name, now), member, now))]

    def _try_lost(self, now: float) -> list[Effect]:
        """Tells one of the dead that it is taken for dead; if it lives, it will object.

        Another process at its address, which knows nobody yet, learns of this peer.
        """
        low_s, high_s = LOST_RETRY_S_RANGE
        self._lost_at_s = now + min(max(self._timing.lost_retry_s * self.table.living_count(), low_s), high_s)
        dead = [member for member in self.table.gone() if member.verdict == "dead"]
        if not dead:
            return []
        lost = self._chance.choice(dead)
        lost.has_spoken = False
        return [Send(lost.control_address, self._ping(self._probing.number(), lost, now))]

    def _gossip(self, now: float) -> list[Effect]:
        self._gossip_at_s = now + self._timing.gossip_period_s
        effects: list[Effect] = []
        for listener in self._correspondents.listeners(self._timing.gossip_fanout, self.neighbours):
            if updates := self._roster.updates(GOSSIP_MAX, listener, now):
                effects.append(Send(listener.control_address, m.Gossip(updates)))
        return effects

    # Small things

    def _wake(self, now: float) -> list[Effect]:
        """After news: the first members start the pulse; others are asked to observe what some have seen."""
        if self._pulse_at_s == NEVER_S and len(self.table):
            # At different times for different peers, and after the newcomer is known to those it will ask.
            self._pulse_at_s = self._probe_at_s = now + self._timing.probe_period_s * (0.5 + self._chance.uniform())
        return [effect for member in self._roster.take_unsure() for effect in self._probe(member, now)]

    def _has_to_gossip(self) -> bool:
        return self._news.has_some() and self.table.living_count() > 1

    def _ping(self, number: int, receiver: Member | None = None, now: float = 0.0) -> m.Ping:
        """A ping introduces its sender to those who may not have heard of it yet."""
        updates = self._roster.updates(PIGGYBACK_MAX, receiver, now) if receiver is not None else ()
        if receiver is None or not receiver.has_spoken:
            updates = (self._roster.me.entry(now), *updates)
        return m.Ping(number, self._step, self.view_hash(), updates)

    def _tell_it(self, member: Member, now: float) -> list[Effect]:
        """Lets a suspect or dead member that is heard of know how it is seen, so that it speaks up."""
        if now < self._told_s.get(member.name, -NEVER_S) + TELLS_EVERY_S:
            return []
        self._told_s[member.name] = now
        return [Send(member.control_address, m.Gossip(self._roster.updates(PIGGYBACK_MAX, member, now)))]

    def _sync_if_different(self, member: Member, view_hash: int, now: float) -> list[Effect]:
        if view_hash == self.view_hash():
            self._differs_since_s = NEVER_S
            return []
        # News on their way make views differ for a moment.
        self._differs_since_s = min(self._differs_since_s, now)
        if now < max(self._differs_since_s, self._synced_at_s) + self._timing.sync_settle_s:
            return []
        self._synced_at_s = now
        return [Send(member.control_address, part) for part in self.lists(now, wants_reply=True)]
