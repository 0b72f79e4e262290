"""The members' standing: how news, evidence and time change it, and what this peer tells of itself.

Every change of a verdict is passed on; every change of a state is told to the watchers and, where it ends an exchange,
to the rest of the protocol (`take_lost`).
"""

from __future__ import annotations

from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.dissemination import Dissemination
from gossiptrain.protocol.effects import Disconnect, Effect, Fail, Notify, Send
from gossiptrain.protocol.member_table import Member, MemberTable, digest, order_of
from gossiptrain.protocol.messages import STATES, Gossip, MemberEntry, Sync
from gossiptrain.protocol.name_claims import NameClaims
from gossiptrain.protocol.notices import PeerDied, PeerJoined, PeerLeft, PeerRecovered, PeerSuspected
from gossiptrain.protocol.probing import Probing
from gossiptrain.protocol.suspicion import Suspicions
from gossiptrain.protocol.sync_lists import in_messages

# An incarnation grows by one at a time; who claims much more would leave its owner no room to object.
INCARNATION_JUMP_MAX = 1 << 20
# So many members look for themselves, on average, when somebody says that a suspect's address refuses connections.
OBSERVERS = 8


class Roster:
    """The table of members, the suspicions against them, and the news of both. Methods return effects.

    Attributes:
        me: this peer's own entry. claims: to names. changed_at_s: when somebody last joined or was lost.
    """

    def __init__(self, config: ProtocolConfig, probing: Probing) -> None:
        self._config = config
        self._probing = probing
        self.table = MemberTable(config.name, config.boot)
        self.suspicions = Suspicions(config.membership, self.table.living_count)
        self.news = Dissemination()
        self.claims = NameClaims(config)
        self.me = Member(config.name, config.boot, config.control_address, config.data_address)
        self.me.caught_up = config.founder
        self.me.digest = digest(config.name, config.boot)
        self.changed_at_s = 0.0
        self._lost: list[tuple[str, bool]] = []
        self._unsure: dict[str, None] = {}
        self._leases: dict[str, None] = {}
        self._limit = (0, 0)

    def limit(self) -> int:
        """How often a piece of news is passed on."""
        living = self.table.living_count()
        if living != self._limit[0]:
            self._limit = (living, self._config.membership.retransmissions(living))
        return self._limit[1]

    def view_hash(self) -> int:
        """Hashes the living members and their boots; equal views have equal hashes."""
        return self.table.hash(self.me.digest)

    def take_lost(self) -> list[tuple[str, bool]]:
        """Returns (name, gone) of those lost since the last call: dead, left or replaced (gone), or only suspect."""
        if not self._lost:
            return self._lost
        lost, self._lost = self._lost, []
        return lost

    def take_unsure(self) -> list[Member]:
        """Returns the suspects, accused since the last call, whose refusals need another observer."""
        if not self._unsure:
            return []
        unsure, self._unsure = self._unsure, {}
        found = [self.table.get(name) for name in unsure if self.suspicions.wants_observers(name)]
        return [member for member in found if member is not None and self._is_observer(member)]

    def _is_observer(self, suspect: Member) -> bool:
        """Draws about `OBSERVERS` of all members by lot: with a thousand, all would ask a suspect at one moment.

        Its neighbours see it in any case, and the probes in turn do a little later, should all the chosen be gone.
        """
        return (self.me.digest ^ suspect.digest) % self.table.living_count() < OBSERVERS

    def may_answer(self, member: Member, now: float) -> bool:
        """Says whether to ask it: no silence was announced, nor did its address refuse this peer and others."""
        return now >= member.busy_until_s and not (member.link_is_down and self.suspicions.is_refused(member.name))

    def lists(self, now: float, wants_reply: bool) -> list[Sync]:
        """Returns everything this peer knows of members, itself included, in messages of bounded size."""
        # Old tombstones are not spread any more, so that they end everywhere.
        told_since_s = now - self._config.membership.tombstone_s / 2
        others = [member for member in self.table.others() if member.is_living or member.since_s > told_since_s]
        return in_messages([self.me.entry(now), *(member.entry(now) for member in others)], wants_reply)

    def updates(self, count: int, receiver: Member | None, now: float) -> tuple[MemberEntry, ...]:
        """Returns news to ride on a message; a receiver that is suspect or dead hears of that first."""
        news = self.news.take(count, self.limit())
        if receiver is not None and receiver.verdict in ("suspect", "dead"):
            return (receiver.entry(now, self._config.name), *news)
        return news

    def leases_over(self, now: float) -> list[Effect]:
        """Counts with those again whose announced pause is over."""
        over = [m for name in self._leases if (m := self.table.get(name)) is None or now >= m.busy_until_s]
        effects = [effect for member in over if member is not None for effect in self.refresh(member, "", now)]
        self._leases = {n: None for n in self._leases if (m := self.table.get(n)) and now < m.busy_until_s}
        return effects

    # What this peer says of itself

    def raise_incarnation(self, incarnation: int, now: float) -> None:
        """Tells everybody how this peer is now."""
        self.me.incarnation = incarnation
        self.pass_on(self.me.entry(now))

    def pass_on(self, entry: MemberEntry) -> None:
        """Has this told to others."""
        self.news.add(entry)

    # News

    def merge(self, entries: tuple[MemberEntry, ...], teller: str, now: float, whole: bool = False) -> list[Effect]:
        """Takes in news.

        Args:
            whole: the entries are from somebody's list: the dead in it are taken for suspects, so that they can speak up.
        """
        effects: list[Effect] = []
        known = self.table.get
        for entry in entries:
            member = known(entry.name)
            if member is not None:
                is_known = entry.incarnation == member.incarnation and entry.boot == member.boot
                if not (is_known and entry.state == member.verdict):
                    effects += self._merge_one(entry, member, teller, now, whole)
                elif entry.state == "suspect":
                    effects += self.accuse(member, entry.accuser or teller, entry.refused, "", now)
                # Most news are known already; this is where a large group spends its time.
            elif entry.name == self._config.name:
                effects += self._about_me(entry, teller, now)
            elif entry.incarnation <= INCARNATION_JUMP_MAX:
                effects += self._meet(entry, teller, now)
        return effects

    def _merge_one(self, entry: MemberEntry, member: Member, teller: str, now: float, whole: bool) -> list[Effect]:
        if entry.incarnation > member.incarnation + INCARNATION_JUMP_MAX:
            return []
        state, is_same = entry.state, member.boot == entry.boot
        if state == "dead" and member.is_living and is_same and (whole or self._was_heard(member, entry, now)):
            state = "suspect"
        order, mine = (*order_of(entry)[:2], STATES.index(state)), member.order()
        if order == mine:  # by what is known here
            return self.accuse(member, entry.accuser or teller, entry.refused, "", now) if state == "suspect" else []
        if order < mine:
            if not is_same or not member.is_living:
                self.pass_on(member.entry(now))
            return self._correct(teller, member, now) if entry.state in ("suspect", "dead") else []
        if not is_same:
            return self._meet(entry, teller, now)
        if state == "suspect":
            if entry.incarnation > member.incarnation:
                self.suspicions.clear(member.name)
            self.table.changed(member, "suspect", entry.incarnation, now)
            reason = f"{entry.accuser or teller} accuses it"
            return self.accuse(member, entry.accuser or teller, entry.refused, reason, now)
        return self._changes(member, entry, teller, now)

    def _was_heard(self, member: Member, entry: MemberEntry, now: float) -> bool:
        """Whether who is said to have been silent too long was heard here meanwhile: it is asked, not buried.

        So it is when a partition ends: what each side made of the other comes to those whom it is about.
        """
        tolerance_s = self._config.membership.suspicion_min_s(self.table.living_count())
        return member.has_spoken and not entry.refused and now - member.heard_s < tolerance_s

    def _changes(self, member: Member, entry: MemberEntry, teller: str, now: float) -> list[Effect]:
        """A member is alive with a higher incarnation, dead, or gone."""
        if entry.state != "alive":
            effects = self._end(member, entry.state, entry.incarnation, now)
            self.pass_on(entry)
            if entry.state == "left":
                return [Notify(PeerLeft(member.name, f"{teller} says so")), *effects]
            why = "its address refuses connections" if entry.refused else "silent too long"
            return [Notify(PeerDied(member.name, f"{why}, says {entry.accuser or teller}")), *effects]
        was_living = member.is_living
        self.suspicions.clear(member.name)
        self.table.changed(member, "alive", entry.incarnation, now)
        member.caught_up = entry.caught_up
        self._take_pace(member, entry)
        self._lease(member, entry, now)
        self.pass_on(entry)
        if was_living:
            if teller == member.name:
                member.link_is_down = False
            return self.refresh(member, "", now)
        member.link_is_down, member.state, member.heard_s = False, "alive", now
        self.changed_at_s = now
        self._probing.joined(member.name)
        joined = Notify(PeerJoined(member.name, member.control_address))
        # Who was lost may be one of many beyond a partition: compare at once.
        lists = self.lists(now, wants_reply=True) if teller == member.name else []
        return [joined, *self.refresh(member, "", now), *(Send(member.control_address, part) for part in lists)]

    def _meet(self, entry: MemberEntry, teller: str, now: float) -> list[Effect]:
        """News of a process not known so far."""
        member = Member(entry.name, entry.boot, entry.control_address, entry.data_address)
        member.incarnation, member.caught_up = entry.incarnation, entry.caught_up
        self._take_pace(member, entry)
        self._lease(member, entry, now)
        if entry.state in ("dead", "left"):
            member.verdict = member.state = entry.state
        effects = self.enter(member, now)
        if self.table.get(entry.name) is not member:
            return effects
        if member.is_living:
            self.pass_on(entry)
        if entry.state == "suspect":
            reason = f"{entry.accuser or teller} accuses it"
            effects += self.accuse(member, entry.accuser or teller, entry.refused, reason, now)
        return effects

    def _take_pace(self, member: Member, entry: MemberEntry) -> None:
        if member.pace != entry.pace:
            member.pace = entry.pace
            self.table.paces_version += 1

    def _lease(self, member: Member, entry: MemberEntry, now: float) -> None:
        member.busy_until_s = now + entry.busy_s if entry.busy_s else 0.0
        if entry.busy_s:
            self._leases[member.name] = None

    def enter(self, member: Member, now: float) -> list[Effect]:
        """Puts a process into the table, in place of an older one of its name."""
        old = self.table.get(member.name)
        member.heard_s = member.since_s = now
        if not self.table.put(member):
            return []
        effects: list[Effect] = []
        if old is not None:
            self._forget(old.name)
            if old.is_living:
                self._lost.append((old.name, True))
            if (old.control_address, old.data_address) != (member.control_address, member.data_address):
                effects += self._hang_up(old)
        self.changed_at_s = now
        if member.is_living:
            self._probing.joined(member.name)
            effects.append(Notify(PeerJoined(member.name, member.control_address)))
        return effects

    def know(self, entries: tuple[MemberEntry, ...], now: float) -> None:
        """Puts those into the table who are known from the beginning. They are no news, to nobody."""
        for entry in entries:
            if entry.name == self._config.name or entry.state != "alive":
                continue
            member = Member(entry.name, entry.boot, entry.control_address, entry.data_address)
            member.incarnation, member.caught_up = entry.incarnation, entry.caught_up
            self._take_pace(member, entry)
            member.heard_s = member.since_s = now
            self.table.put(member)
        self.changed_at_s = now

    def _correct(self, teller: str, about: Member, now: float) -> list[Effect]:
        """Whoever tells old ill news has missed that they are over, and would act on them."""
        member = self.table.get(teller)
        return [Send(member.control_address, Gossip((about.entry(now),)))] if member is not None else []

    def _about_me(self, entry: MemberEntry, teller: str, now: float) -> list[Effect]:
        """Others are told that this peer lives, whatever they heard; a second process of its name is found out."""
        mine = self.me.order()
        if entry.incarnation > self.me.incarnation + INCARNATION_JUMP_MAX:
            return []
        if entry.boot != self.me.boot:
            if order_of(entry) <= mine:
                return []
            self.raise_incarnation(entry.incarnation + 1, now)
            text = self.claims.contested(entry)
            return [Fail("name", text)] if text else []
        is_wrong = entry.state != "alive" or entry.caught_up != self.me.caught_up
        if is_wrong and order_of(entry) >= mine:
            self.raise_incarnation(entry.incarnation + 1, now)
            self._probing.worsen(entry.state == "suspect")
        elif is_wrong:
            return self._correct(teller, self.me, now)
        elif entry.incarnation > self.me.incarnation and entry.pace != self.me.pace:
            self.raise_incarnation(entry.incarnation + 1, now)
        elif entry.incarnation > self.me.incarnation:
            self.me.incarnation = entry.incarnation
        return []

    # Verdicts

    def accuse(self, member: Member, accuser: str, refused: bool, reason: str, now: float) -> list[Effect]:
        """Makes a member suspect, or adds an accuser to those it has."""
        if not member.is_living:
            return []
        is_news = self.suspicions.accuse(member.name, accuser, refused, now)
        if member.verdict != "suspect":
            self.table.changed(member, "suspect", member.incarnation, now)
        if is_news:
            self.pass_on(member.entry(now, accuser, refused))
        if refused and accuser != self._config.name:
            self._unsure[member.name] = None
        return self.refresh(member, reason, now)

    def bury(self, name: str, reason: str, now: float, is_gone: bool = False) -> list[Effect]:
        """A member is taken for dead: because of its silence, or because its process is gone for sure."""
        member = self.table.get(name)
        if member is None or not member.is_living:
            self.suspicions.clear(name)
            return []
        refused = is_gone or self.suspicions.is_refused(name)
        effects = self._end(member, "dead", member.incarnation, now)
        self.pass_on(member.entry(now, self._config.name, refused))
        return [Notify(PeerDied(name, reason)), *effects]

    def _end(self, member: Member, verdict: str, incarnation: int, now: float) -> list[Effect]:
        """A member is dead or gone."""
        was_living = member.is_living
        self.table.changed(member, verdict, incarnation, now)
        member.state = verdict
        self._forget(member.name)
        self.changed_at_s = now
        if was_living:
            self._lost.append((member.name, True))
        return self._hang_up(member)

    def refresh(self, member: Member | None, reason: str, now: float) -> list[Effect]:
        """Works out the state of a living member from its verdict, its link and its lease."""
        if member is None or not member.is_living:
            return []
        before = member.state
        if member.verdict == "suspect" or member.link_is_down:
            member.state = "suspect"
        else:
            member.state = "busy" if now < member.busy_until_s else "alive"
        if member.state == "suspect" and before != "suspect":
            self._lost.append((member.name, False))
            return [Notify(PeerSuspected(member.name, reason))]
        return [Notify(PeerRecovered(member.name))] if before == "suspect" != member.state else []

    def left(self, name: str, reason: str, now: float) -> list[Effect]:
        """A member said goodbye."""
        member = self.table.get(name)
        if member is None or not member.is_living:
            return []
        effects = self._end(member, "left", member.incarnation, now)
        self.pass_on(member.entry(now))
        return [Notify(PeerLeft(name, reason)), *effects]

    def bury_former_tenant(self, address: str, newcomer: str, now: float) -> list[Effect]:
        """A suspect whose address another peer now speaks from is gone; waiting would only delay the verdict."""
        tenant = self.table.at(address)
        if tenant is None or tenant.name == newcomer or tenant.state != "suspect":
            return []
        return self.bury(tenant.name, f"{newcomer} has its address", now, is_gone=True)

    def _forget(self, name: str) -> None:
        self.suspicions.clear(name)
        self._probing.forget(name)
        self.claims.forget(name)

    def _hang_up(self, member: Member) -> list[Effect]:
        """Closes the links to a member, but for those that by now lead to another one."""
        effects: list[Effect] = []
        if self.table.at(member.control_address) is None:
            effects.append(Disconnect(member.control_address, "control"))
        if not self.table.has_data_address(member.data_address):
            effects.append(Disconnect(member.data_address, "data"))
        return effects
