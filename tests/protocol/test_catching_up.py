"""A newcomer takes a member's whole state before it counts; the donor's training and mixing go on."""

from __future__ import annotations

import numpy as np
import pytest

from gossiptrain.protocol.catching_up import PIECE_TRIES_MAX, STATE_FACTOR_MAX, STATE_SLACK_BYTES, CatchingUp
from gossiptrain.protocol.config import ExchangeConfig
from gossiptrain.protocol.donating import LINGER_S, SERVED_MAX
from gossiptrain.protocol.effects import (
    AdoptState,
    Discard,
    DropState,
    Effect,
    ExpectManifest,
    ExpectPiece,
    FreezeState,
    Notify,
    Send,
    SendManifest,
    SendPiece,
    ThawState,
)
from gossiptrain.protocol.events import AdoptionFailed, FreezeFailed, ManifestReceived, StateFrozen
from gossiptrain.protocol.fetching import CHUNK_BYTES, PIECE_BYTES_MAX
from gossiptrain.protocol.membership import Member
from gossiptrain.protocol.messages import (
    Abort,
    Accept,
    ExchangeId,
    Offer,
    PieceWanted,
    Received,
    Reject,
    StateReady,
    TransferKey,
)
from gossiptrain.protocol.notices import Joined, SnapshotRefused, StateAwaited, StateFetched
from gossiptrain.protocol.open_exchange import PULL_NUMBERS
from tests.protocol.virtual_network import VirtualNetwork, cluster, config

PULL = ExchangeId(9, PULL_NUMBERS + 1)
PIECE = ExchangeId(9, PULL_NUMBERS + 2)
MIB = 1 << 20


def messages(effects: list[Effect]) -> list:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def kinds(effects: list[Effect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def member(name: str, boot: int, **changes) -> Member:
    verdict = changes.get("state", "alive")
    return Member(name, boot, f"control:{name}", f"data:{name}", verdict=verdict, **changes)


def test_a_newcomer_takes_the_runs_parameters_and_only_then_mixes() -> None:
    net = cluster(3)
    net.run(3.0)
    newcomer = net.add(config("peer-9", 9), 100.0, 0.05, seeds=("control:0",))
    net.run(6.0)
    assert newcomer.value == 0.0
    assert net.total() == 0.0, "a hundred that nobody asked for never reached the others"
    joined_s = newcomer.told_at(Joined)[0]
    assert all(time_s > joined_s for time_s, _ in newcomer.mixes)
    assert newcomer.longest_gap_s() < 0.06, "its own training does not wait either"


@pytest.mark.parametrize("kind", ["pair", "round"])
def test_twelve_newcomers_at_once_are_served_in_turn(kind: str) -> None:
    net = VirtualNetwork()
    net.add(config("peer-0", 0, kind=kind), 7.0, 0.2)
    for index in range(1, 13):
        net.add(config(f"peer-{index}", index, kind=kind), float(index), 0.2, seeds=("control:0",))
    most_served = 0
    while net.now < 6.0:
        net.run(net.now + 0.01)
        most_served = max(most_served, *(len(p.protocol._catching_up._donor._served) for p in net.living()))
    assert {peer.value for peer in net.living()} == {7.0}
    assert most_served <= SERVED_MAX


def test_a_donor_that_freezes_is_replaced_by_another() -> None:
    net = cluster(4)
    net.run(3.0)
    net.freeze("peer-0", 20.0)
    net.freeze("peer-1", 20.0)
    newcomer = net.add(config("peer-9", 9), 100.0, 0.05, seeds=("control:2",))
    net.run(12.0)
    assert newcomer.protocol.caught_up
    assert newcomer.told(Joined)[0].source in ("peer-2", "peer-3")


def fetching_from(newcomer) -> str:
    own = newcomer.protocol._catching_up._own
    assert own is not None
    assert own.piece is not None
    return own.source.name


def test_a_donor_killed_while_it_sends_is_replaced_by_another() -> None:
    net = cluster(3)
    net.run(3.0)
    net.transfer_s = 2.0
    newcomer = net.add(config("peer-9", 9), 100.0, 0.05, seeds=("control:0",))
    net.run(4.0)
    donor = fetching_from(newcomer)
    net.kill(donor)
    net.transfer_s = 0.1
    net.run(6.0)
    assert newcomer.protocol.caught_up
    assert newcomer.told(Joined)[0].source != donor


@pytest.mark.parametrize("equal_chunks", [10, 6, 0])
def test_the_next_donor_sends_only_what_differs_from_what_the_dead_one_sent(equal_chunks: int) -> None:
    net = cluster(3, pace=4)
    net.state_bytes = 10 * CHUNK_BYTES - 5
    net.digest = lambda peer, index: f"{'' if index < equal_chunks else peer.name} {index}".encode()
    net.run(3.0)
    net.transfer_s = 0.5
    newcomer = net.add(config("peer-9", 9), 100.0, 0.05, seeds=("control:0",))
    while len(newcomer.states.chunks) < 8:
        net.run(net.now + 0.05)
    donor = fetching_from(newcomer)
    net.kill(donor)
    net.run(net.now + 8.0)
    fetched = newcomer.told(StateFetched)[0]
    assert fetched.peer == newcomer.told(Joined)[0].source != donor
    assert fetched.kept_bytes == min(equal_chunks, 8) * CHUNK_BYTES
    assert fetched.nbytes + fetched.kept_bytes == net.state_bytes


def test_a_newcomer_that_froze_goes_on_where_it_was_with_the_same_donor() -> None:
    net = cluster(1)
    net.state_bytes = 20 * CHUNK_BYTES
    net.digest = lambda peer, index: f"{peer.steps} {index}".encode()
    net.run(1.0)
    net.transfer_s = 0.2
    newcomer = net.add(config("peer-9", 9), 100.0, 0.05, seeds=("control:0",))
    while len(newcomer.states.chunks) < 8:
        net.run(net.now + 0.05)
    net.freeze("peer-9", 4.0)
    net.run(net.now + 9.0)
    fetched = newcomer.told(StateFetched)[0]
    assert fetched.kept_bytes >= 8 * CHUNK_BYTES, "the donor's state had another step number by then, had it thawed"


def test_what_is_lost_on_its_way_is_asked_for_again() -> None:
    net = cluster(1)
    net.run(1.0)
    lost = []
    net.loses_piece = lambda key: len(lost) < 2 and not lost.append(key)
    newcomer = net.add(
        config("peer-9", 9, exchange=ExchangeConfig(transfer_timeout_s=1.0)), 100.0, 0.05, seeds=("control:0",)
    )
    net.run(6.0)
    assert len(lost) == 2
    assert newcomer.protocol.caught_up
    assert not newcomer.told_at(SnapshotRefused)


@pytest.mark.parametrize("reason", ["digest", "manifest"])
def test_a_donor_that_sends_rubbish_is_shunned(reason: str) -> None:
    net = cluster(3)
    net.run(3.0)
    net.spoil = lambda key: reason if key.sender_boot in (1000, 1001) and key.exchange.number > 1 << 32 else None
    newcomer = net.add(config("peer-9", 9), 100.0, 0.05, seeds=("control:0",))
    net.run(5.0)
    assert newcomer.told(Joined)[0].source == "peer-2"
    assert newcomer.protocol.counters[f"snapshot_{reason}"] == len(newcomer.told(SnapshotRefused)) > 0


def test_a_donor_with_nan_is_shunned() -> None:
    net = cluster(3)
    net.run(3.0)
    net.spoils_state = lambda value: True
    newcomer = net.add(config("peer-9", 9), 100.0, 0.05, seeds=("control:0",))
    net.run(3.5)
    assert not newcomer.protocol.caught_up
    assert newcomer.protocol.counters["snapshot_non-finite"] == len(newcomer.told(SnapshotRefused)) == 3
    net.spoils_state = lambda value: False
    net.run(16.0)
    assert newcomer.protocol.caught_up, "after the quarantine they are asked again"


def test_a_newcomer_that_nobody_gives_a_state_says_so_every_half_minute_and_whom_it_asked() -> None:
    part, met = newcomer(), [member("a", 1, caught_up=True), member("b", 2, caught_up=True)]
    told: dict[float, StateAwaited] = {}
    now = 100.0
    while now < 165.0:
        effects = part.seek(met, False, now)
        for effect in effects:
            if isinstance(effect, Notify) and isinstance(effect.notice, StateAwaited):
                told[now] = effect.notice
            if isinstance(effect, Send) and isinstance(effect.message, Offer):
                sender = next(m for m in met if m.control_address == effect.address)
                part.rejected(
                    Reject(effect.message.exchange, "busy" if sender.name == "a" else "unready", 0), sender, now
                )
        now += 0.25
    first, second = sorted(told)
    assert first == pytest.approx(130.0, abs=0.5)
    assert second == pytest.approx(160.0, abs=0.5)
    assert told[first].waited_s == pytest.approx(30.0, abs=0.5)
    assert dict(told[second].answers) == {"a": "busy", "b": "unready"}


def test_while_a_state_is_on_its_way_nobody_is_told_of_waiting() -> None:
    part, met = newcomer(), [member("a", 1, caught_up=True)]
    (offer,) = messages(part.seek(met, False, 0.0))
    part.accepted(Accept(offer.exchange, 0), met[0], 0.1)
    part.told(StateReady(offer.exchange, 1, 5, 100, 1000), met[0], 0.2)
    assert not [e for now in range(1, 100) for e in part.seek(met, False, float(now)) if isinstance(e, Notify)]


def newcomer() -> CatchingUp:
    part = CatchingUp(config("me", 9, boot=9, exchange=ExchangeConfig(offer_timeout_s=3.0)), lambda name: None)
    part.boundary(1, 0)
    return part


def donor() -> CatchingUp:
    part = CatchingUp(config("donor", 0, boot=1), lambda name: None)
    part.boundary(5, 0)
    return part


def test_ready_members_are_asked_before_others_and_each_in_turn() -> None:
    part = newcomer()
    alive = [member("a", 1), member("b", 2, caught_up=True), member("c", 3, caught_up=True)]
    asked = []
    for attempt in range(4):
        now = float(attempt)
        effects = part.seek(alive, False, now)
        asked.append(effects[0].address)
        offer = messages(effects)[0]
        donor_ = next(m for m in alive if m.control_address == asked[-1])
        part.rejected(Reject(offer.exchange, "busy", 0), donor_, now)
    assert asked in (["control:b", "control:c"] * 2, ["control:c", "control:b"] * 2)


def test_newcomers_begin_with_different_members_and_ask_busy_ones_later_and_later() -> None:
    alive = [member(name, boot, caught_up=True) for boot, name in enumerate("abcdefgh")]
    firsts = set()
    for index in range(20):
        part = CatchingUp(config(f"peer-{index}", index + 100), lambda name: None)
        times_s, now = [], 0.0
        while len(times_s) < 12:
            for offer in (m for m in messages(part.seek(alive, False, now)) if isinstance(m, Offer)):
                times_s.append(now)
                source = part._own.source
                firsts.add(source.name) if len(times_s) == 1 else None
                part.rejected(Reject(offer.exchange, "busy", 0), source, now)
            now += 0.01
        pauses_s = np.diff(times_s)
        assert pauses_s[0] < 0.2
        assert 0.9 < pauses_s[-1] < 1.05
    assert len(firsts) > 4


def promised(part: CatchingUp, state_bytes: int = 6 * MIB) -> tuple[Member, ExchangeId, TransferKey]:
    """The newcomer has asked, the member's state is ready, and its manifest asked for: under the key returned."""
    source = member("a", 1)
    exchange = messages(part.seek([source], False, 0.0))[0].exchange
    part.accepted(Accept(exchange, 0), source, 0.1)
    effects = part.told(StateReady(exchange, 3, 40, 77, state_bytes), source, 0.2)
    assert effects is not None
    wanted = messages(effects)[0]
    assert wanted == PieceWanted(exchange, wanted.piece, 3, 0, 0)
    key = TransferKey(1, wanted.piece)
    assert effects[0] == ExpectManifest(key, "control:a", 77, state_bytes)
    return source, exchange, key


def digests(count: int) -> tuple[bytes, ...]:
    return tuple(bytes([index]) * 16 for index in range(count))


def test_pieces_are_asked_for_one_after_another_and_the_last_is_what_is_left() -> None:
    part = newcomer()
    _, exchange, key = promised(part, 6 * MIB - 1)
    effects = part.happened(ManifestReceived(key, MIB, digests(6)), 0.3)
    first = messages(effects)[0]
    assert first == PieceWanted(exchange, first.piece, 3, 0, 4 * MIB)
    assert effects[0] == ExpectPiece(TransferKey(1, first.piece), "control:a", 0, 4 * MIB)
    second = messages(part.snapshot_received(TransferKey(1, first.piece), 0.4))[0]
    assert (second.begin, second.end) == (4 * MIB, 6 * MIB - 1)
    assert part.snapshot_received(TransferKey(1, first.piece), 0.4) == [Discard(TransferKey(1, first.piece))]


def test_adoption_counts_from_the_boundary_that_made_it() -> None:
    part = newcomer()
    part.boundary(2, 4)
    _, exchange, key = promised(part, 5)
    effects = part.happened(ManifestReceived(key, MIB, digests(1)), 0.3)
    effects = part.snapshot_received(TransferKey(1, messages(effects)[0].piece), 0.5)
    assert effects == [
        Send("control:a", Received(exchange, False)),
        Notify(StateFetched("a", 40, 5, 0, 0.5)),
        AdoptState("a"),
    ]
    assert part.boundary(3, 4) == []
    assert not part.done
    assert part.boundary(4, 5) == [Notify(Joined("a"))]
    assert part.done


@pytest.mark.parametrize(("chunk_bytes", "count"), [(MIB, 5), (MIB, 7), (0, 6), (PIECE_BYTES_MAX + 1, 2), (MIB, 0)])
def test_a_manifest_that_contradicts_itself_is_refused(chunk_bytes: int, count: int) -> None:
    part = newcomer()
    source, _, key = promised(part)
    effects = part.happened(ManifestReceived(key, chunk_bytes, digests(count)), 0.3)
    assert Notify(SnapshotRefused("a", "manifest")) in effects
    assert DropState() in effects
    assert part.seek([source], False, 1.0) == [], "it is left alone for a while"


def test_a_state_too_large_for_this_model_is_refused_before_anything_is_fetched() -> None:
    part = newcomer()
    source = member("a", 1)
    exchange = messages(part.seek([source], False, 0.0))[0].exchange
    too_large = STATE_FACTOR_MAX * 4 + STATE_SLACK_BYTES + 1
    effects = part.told(StateReady(exchange, 3, 40, 77, too_large), source, 0.2)
    assert Notify(SnapshotRefused("a", "size")) in effects
    assert not any(isinstance(effect, ExpectManifest) for effect in effects)


@pytest.mark.parametrize("loses", ["manifest", "piece"])
def test_after_some_losses_the_donor_is_given_up(loses: str) -> None:
    part = newcomer()
    _, exchange, key = promised(part)
    if loses == "piece":
        part.happened(ManifestReceived(key, MIB, digests(6)), 0.3)
    asked = 1
    while part._own is not None:
        effects = part.tick(part.next_deadline(has_met_others=False))
        asked += sum(isinstance(message, PieceWanted) for message in messages(effects))
    assert asked == PIECE_TRIES_MAX
    assert messages(effects) == [Abort(exchange, "time-out")]


def test_an_adoption_that_fails_leads_to_another_donor() -> None:
    part = newcomer()
    _, _, key = promised(part, 5)
    effects = part.happened(ManifestReceived(key, MIB, digests(1)), 0.3)
    part.snapshot_received(TransferKey(1, messages(effects)[0].piece), 0.4)
    assert part.happened(AdoptionFailed("non-finite"), 0.5) == [
        DropState(),
        Notify(SnapshotRefused("a", "non-finite")),
    ]
    assert part.boundary(3, 1) == []
    others = [member("a", 1), member("b", 2)]
    assert [effect.address for effect in part.seek(others, False, 1.0)] == ["control:b"]


@pytest.mark.parametrize("state", ["suspect", "dead", "left"])
def test_nobody_to_ask_leaves_no_deadline_that_finds_nothing_to_do(state: str) -> None:
    part = newcomer()
    for now in (0.0, 0.1, 0.2):
        assert part.seek([member("a", 1, state=state)], False, now) == []
        assert part.next_deadline(has_met_others=True) > now


@pytest.mark.parametrize(("state", "becomes"), [("suspect", False), ("dead", True), ("left", True)])
def test_left_alone_a_newcomer_begins_itself_but_waits_for_one_that_may_still_answer(state: str, becomes: bool) -> None:
    part, met = newcomer(), [member("a", 1, state=state, caught_up=True)]
    effects = [effect for now in range(8) for effect in part.seek(met, True, float(now))]
    assert part.done == becomes
    assert effects == ([DropState(), Notify(Joined(""))] if becomes else [])


def test_one_whose_only_seed_dies_before_the_pull_goes_on_alone() -> None:
    net = VirtualNetwork()
    net.add(config("seed", 0), 1.0)
    peer = net.add(config("peer", 1), 2.0, seeds=("control:0",))
    net.transfer_s = 100.0
    net.run(1.0)
    net.kill("seed")
    net.run(9.0)
    assert peer.told(Joined) == [Joined("")]
    assert peer.failures == []


ME = member("me", 9)
STATE = StateFrozen(1, 40, 77, 10 * MIB)


def serving() -> CatchingUp:
    """A donor with one newcomer that has the manifest."""
    part = donor()
    part.offered(Offer(PULL, "pull", 0, 0), ME, 0.0)
    part.happened(STATE, 1.0)
    return part


def wanted(begin: int = 0, end: int = MIB, piece: ExchangeId = PIECE, version: int = 1) -> PieceWanted:
    return PieceWanted(PULL, piece, version, begin, end)


def test_a_pull_offered_twice_is_served_once_and_ends_with_everything_given_back() -> None:
    part = donor()
    offer = Offer(PULL, "pull", 0, 0)
    assert FreezeState() in part.offered(offer, ME, 0.0)
    assert part.offered(offer, ME, 0.1) == []
    assert part.happened(STATE, 1.0) == [Send("control:me", StateReady(PULL, 1, 40, 77, 10 * MIB))]
    assert part.told(wanted(0, 0), ME, 1.1) == [SendManifest("data:me", TransferKey(1, PIECE), 1)]
    effects = part.told(wanted(), ME, 1.2)
    assert effects is not None
    assert SendPiece("data:me", TransferKey(1, PIECE), 1, 0, MIB) in effects
    assert kinds(part.received(Received(PULL, False), ME, 1.3)) == ["CancelSnapshot", "ThawState"]
    assert part.is_idle()
    assert part.next_deadline(has_met_others=True) == float("inf")


def test_newcomers_share_one_frozen_state_which_thaws_behind_the_last() -> None:
    part = serving()
    other, exchange = member("other", 3), ExchangeId(3, PULL_NUMBERS + 1)
    effects = part.offered(Offer(exchange, "pull", 0, 0), other, 2.0)
    assert FreezeState() not in effects
    assert StateReady(exchange, 1, 40, 77, 10 * MIB) in messages(effects)
    assert ThawState(1) not in part.received(Received(PULL, False), ME, 3.0)
    assert ThawState(1) in part.received(Received(exchange, False), other, 4.0)


def test_a_frozen_state_outlives_a_lost_newcomer_for_a_moment_and_no_longer() -> None:
    part = serving()
    assert ThawState(1) not in part.peer_lost("me", False, 2.0)
    again = ExchangeId(9, PULL_NUMBERS + 7)
    effects = part.offered(Offer(again, "pull", 0, 0), ME, 3.0)
    assert StateReady(again, 1, 40, 77, 10 * MIB) in messages(effects)
    assert part.next_deadline(has_met_others=False) == 33.0, "whoever comes back has all the time again"
    part.aborted(Abort(again, "x"), ME, 4.0)
    assert part.next_deadline(has_met_others=False) == 4.0 + LINGER_S
    assert part.tick(4.0 + LINGER_S) == [ThawState(1)]


def test_a_state_that_froze_for_nobody_thaws_at_once() -> None:
    part = donor()
    part.offered(Offer(PULL, "pull", 0, 0), ME, 0.0)
    part.peer_lost("me", True, 0.5)
    assert part.happened(STATE, 1.0) == [ThawState(1)]


def test_an_old_state_is_not_shared_any_more() -> None:
    part = serving()
    late, exchange = member("late", 3), ExchangeId(3, PULL_NUMBERS + 1)
    busy = part.offered(Offer(exchange, "pull", 0, 0), late, 60.0)
    assert messages(busy) == [Reject(exchange, "busy", 0)]
    part.received(Received(PULL, False), ME, 61.0)
    assert FreezeState() in part.offered(Offer(exchange, "pull", 0, 0), late, 62.0)


def test_a_state_that_cannot_be_given_is_said_so() -> None:
    part = donor()
    part.offered(Offer(PULL, "pull", 0, 0), ME, 0.0)
    assert messages(part.happened(FreezeFailed("sparse"), 1.0)) == [Abort(PULL, "sparse")]
    # for a moment newcomers are sent to others
    assert messages(part.offered(Offer(PULL, "pull", 0, 0), ME, 2.0)) == [Reject(PULL, "busy", 0)]
    assert FreezeState() in part.offered(Offer(PULL, "pull", 0, 0), ME, 7.0)


def test_pieces_go_out_at_the_pace_and_newcomers_share_it() -> None:
    part = serving()
    other, exchange = member("other", 3), ExchangeId(3, PULL_NUMBERS + 1)
    part.offered(Offer(exchange, "pull", 0, 0), other, 1.0)
    assert any(isinstance(effect, SendPiece) for effect in part.told(wanted(0, 4 * MIB), ME, 2.0) or [])
    second = PieceWanted(exchange, ExchangeId(3, PULL_NUMBERS + 2), 1, 0, MIB)
    assert part.told(second, other, 2.0) == []
    due_s = part.next_deadline(has_met_others=False)
    assert due_s == pytest.approx(2.0 + 4 * MIB / (ExchangeConfig().state_mbps * 125e3))
    assert part.tick(due_s - 1e-3) == []
    assert [type(effect) for effect in part.tick(due_s)] == [SendPiece]


@pytest.mark.parametrize(
    "message",
    [
        wanted(begin=MIB, end=MIB),
        wanted(begin=9 * MIB, end=10 * MIB + 1),
        wanted(begin=0, end=PIECE_BYTES_MAX + 1),
        wanted(piece=ExchangeId(8, PULL_NUMBERS + 2)),
        wanted(piece=ExchangeId(9, 5)),
    ],
)
def test_a_piece_that_nobody_may_ask_for_is_not_sent(message: PieceWanted) -> None:
    assert serving().told(message, ME, 2.0) is None


def test_a_piece_of_another_version_or_of_anothers_pull_is_refused() -> None:
    part = serving()
    assert messages(part.told(wanted(version=2), ME, 2.0) or []) == [Abort(PULL, "not open here")]
    assert messages(part.told(wanted(), member("thief", 5), 2.0) or []) == [Abort(PULL, "not open here")]


def test_a_donor_serves_a_bounded_number_and_says_when_it_is_busy_or_not_ready() -> None:
    part = donor()
    replies = []
    for number in range(SERVED_MAX + 1):
        exchange = ExchangeId(9, PULL_NUMBERS + number)
        replies += messages(part.offered(Offer(exchange, "pull", 0, 0), member("me", 9), 0.0))
    assert [type(reply) for reply in replies] == [Accept] * SERVED_MAX + [Reject]
    assert replies[-1].reason == "busy"
    assert messages(newcomer().offered(Offer(PULL, "pull", 0, 0), member("x", 3), 0.0))[0].reason == "unready"


def test_another_peer_cannot_end_a_pull_that_is_not_its_own() -> None:
    part = serving()
    assert part.received(Received(PULL, False), member("other", 3), 0.1) == []
    assert part.aborted(Abort(PULL, "x"), member("other", 3), 0.1) == []
    assert not part.is_idle()


def test_a_newcomer_that_says_nothing_more_is_given_up_at_the_deadline_and_the_state_thawed() -> None:
    part = serving()
    effects = part.tick(part.next_deadline(has_met_others=True))
    assert Abort(PULL, "time-out") in messages(effects)
    assert part.tick(part.next_deadline(has_met_others=True)) == [ThawState(1)]
    assert part.next_deadline(has_met_others=True) == float("inf")


def test_the_first_by_name_waits_for_settle_before_it_becomes_the_beginning() -> None:
    part, alive = newcomer(), [member("z", 3)]
    joined_s = None
    now = 0.0
    while joined_s is None and now < 20:
        effects = part.seek(alive, True, now)
        for offer in (m for m in messages(effects) if isinstance(m, Offer)):
            part.rejected(Reject(offer.exchange, "unready", 0), alive[0], now)
        joined_s = now if Notify(Joined("")) in effects else None
        now += 0.05
    assert joined_s == pytest.approx(5.0, abs=0.11)
    assert part.done
    assert part.is_idle()
