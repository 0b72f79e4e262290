"""The data ledger: who gets which chunk, and what becomes of them when peers die, come, differ or fall silent."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossiptrain.protocol import messages as m
from gossiptrain.protocol.chunk_owners import Owners
from gossiptrain.protocol.data_ledger import AHEAD_CHUNKS_MIN
from gossiptrain.protocol.data_plan import DataPlan, LedgerState, each_of, make_plan
from gossiptrain.protocol.messages import ChunkId
from gossiptrain.protocol.notices import EpochFinished, SharingDiffers
from tests.protocol.ledgers import PLAN, Ledgers


def finished(ledgers: Ledgers, name: str) -> dict[int, EpochFinished]:
    return {n.epoch: n for n in ledgers.workers[name].told if isinstance(n, EpochFinished)}


def run_epoch(ledgers: Ledgers, epoch: int, *, every_s: float = 0.3, skip: frozenset[str] = frozenset()) -> None:
    """Everybody trains one chunk after the other until the epoch is complete for all."""
    for _ in range(10 * PLAN.chunks):
        workers = [worker for worker in ledgers.living() if worker.name not in skip]
        if all(worker.ledger.state().floor > epoch for worker in workers):
            return
        for worker in workers:
            if worker.ledger.state().floor <= epoch:
                ledgers.train(worker.name)
        ledgers.spread(every_s)
    pytest.fail("the epoch does not end")


# Alone


def test_a_peer_alone_gets_two_chunks_at_once_and_then_one_after_the_other() -> None:
    ledgers = Ledgers("a")
    assert len(ledgers.workers["a"].hand) == AHEAD_CHUNKS_MIN
    ledgers.train("a", PLAN.chunks)
    assert ledgers.times_trained(0) == dict.fromkeys(range(PLAN.chunks), 1)
    assert ledgers.workers["a"].hand[0].epoch == 1


def test_a_fast_peer_has_a_second_of_work_ahead_and_a_very_fast_one_no_more_than_the_most() -> None:
    ledgers = Ledgers("a", plan=make_plan(6400, 3, 10))
    ledgers.train("a", speed=75.0)
    assert len(ledgers.workers["a"].hand) == 8
    ledgers.train("a", speed=1e9)
    assert len(ledgers.workers["a"].hand) == 32


def test_a_peer_alone_is_not_woken_for_every_chunk_that_it_has_finished() -> None:
    ledgers = Ledgers("a")
    ledgers.spread(1.0)
    ticks, at_s = 0, ledgers.now
    ledger = ledgers.workers["a"].ledger
    while ledgers.now < at_s + 4.0:
        ledgers.train("a")
        ledgers.now += 0.05
        if ledger.next_deadline() <= ledgers.now:
            ticks += 1
            ledgers.carry_out(ledgers.workers["a"], ledger.tick(ledgers.now))
    assert ticks <= 14, "80 chunks in four seconds; a look every 0.4 s, the comparisons, an epoch's end"


def test_an_epoch_that_is_complete_is_told_with_what_was_trained() -> None:
    ledgers = Ledgers("a")
    ledgers.train("a", PLAN.chunks)
    ledgers.spread(3.0)
    assert finished(ledgers, "a") == {0: EpochFinished(0, 640, trained_twice=0, own=640, moved=0, given=0)}


def test_before_sharing_begins_nothing_is_due_and_whoever_asks_hears_that_there_is_nothing() -> None:
    ledgers = Ledgers("a")
    quiet = ledgers.enter("b")
    assert quiet.ledger.next_deadline() == float("inf")
    late = ledgers.join("c")
    ledgers.deliver()
    assert late.hand, "c has heard from a, and need not wait for b"


def test_what_a_checkpoint_tells_is_not_trained_again() -> None:
    begins = LedgerState(3, ((3, PLAN.everything & ~0b1011),))
    worker = Ledgers().join("a", begins=begins)
    assert {chunk for chunk in worker.hand if chunk.epoch == 3} <= {ChunkId(3, c) for c in (0, 1, 3)}
    assert min(worker.hand).epoch == 3


def test_everybodys_part_of_the_epoch_is_told_and_the_parts_make_it_up() -> None:
    ledgers = Ledgers("a", "b", "c")
    ledgers.spread()
    ledgers.train("a", 6, speed=30.0)
    for name in ("b", "c"):
        ledgers.train(name, 2, speed=10.0)
    ledgers.spread(2.0)
    ledgers.kill("c")
    ledgers.tell_dead("c")
    ledgers.spread(2.0)
    for worker in ledgers.living():
        parts = worker.ledger.parts()
        assert {name: part.trained for name, part in parts.items()} == {"a": 60, "b": 20, "c": 20}
        assert parts["c"].left == 0, "the dead have no part in what is left"
        assert sum(part.trained + 10 * part.left for part in parts.values()) == PLAN.samples
        assert sum(part.share for part in parts.values()) == pytest.approx(1, abs=1e-3)
        assert parts["a"].share > 2 * parts["b"].share, "by speed"
    assert ledgers.enter("d").ledger.parts() == {}, "it shares no data"


def test_the_last_chunk_counts_with_its_own_size() -> None:
    plan = make_plan(25, order=3, chunk_samples=10)
    (part,) = Ledgers("a", plan=plan).workers["a"].ledger.parts().values()
    assert (part.share, part.left) == (1.0, 3)


# Together


def test_peers_share_an_epoch_and_no_chunk_is_trained_twice() -> None:
    ledgers = Ledgers("a", "b", "c")
    ledgers.spread(3.0)
    run_epoch(ledgers, 0)
    run_epoch(ledgers, 1)
    assert ledgers.times_trained(1) == dict.fromkeys(range(PLAN.chunks), 1)
    # At the beginning each held two chunks before it had heard of the others; no more than these can collide.
    assert sum(ledgers.times_trained(0).values()) <= PLAN.chunks + 2
    ledgers.spread(3.0)
    for name in "abc":
        assert finished(ledgers, name)[1].trained_twice == 0


def test_a_fast_peer_takes_more_of_an_epoch_than_a_slow_one() -> None:
    ledgers = Ledgers("fast", "slow")
    ledgers.spread(3.0)
    for _ in range(200):
        if ledgers.workers["fast"].ledger.state().floor > 1:
            break
        ledgers.train("fast", 4, speed=40.0)
        ledgers.train("slow", 1, speed=10.0)
        ledgers.spread(0.5)
    counts = [sum(c.epoch == 1 for c in ledgers.workers[name].trained) for name in ("fast", "slow")]
    assert counts[0] + counts[1] == PLAN.chunks
    assert 2.5 < counts[0] / counts[1] < 6.0


def test_whoever_has_none_left_is_given_some_and_nobody_waits() -> None:
    ledgers = Ledgers("a", "b")
    ledgers.spread(3.0)
    # b stands still: it holds what it has in hand, a does all the rest, and goes on with the next epoch.
    held = set(ledgers.workers["b"].hand)
    for _ in range(2 * PLAN.chunks):
        ledgers.train("a")
        ledgers.spread(0.05)
    done = set(ledgers.workers["a"].trained)
    assert {ChunkId(0, chunk) for chunk in range(PLAN.chunks)} - done == {c for c in held if c.epoch == 0}
    assert max(done).epoch >= 1
    assert ledgers.sent[m.ChunksGiven] >= 1


def test_when_a_peer_dies_its_chunks_are_trained_by_the_others_and_only_those_move() -> None:
    ledgers = Ledgers("a", "b", "c", "d")
    ledgers.spread(3.0)
    run_epoch(ledgers, 0)
    for _ in range(5):
        for worker in ledgers.living():
            ledgers.train(worker.name)
        ledgers.spread(1.0)
    dead = ledgers.workers["d"]
    ledgers.kill("d")
    missing = PLAN.chunks - sum(c.epoch == 1 for w in ledgers.workers.values() for c in w.trained)
    owners = Owners(PLAN.order, 1, PLAN.chunks)
    owners.share(dict.fromkeys("abcd", 10.0))
    left = [c for c in each_of(owners.owned["d"]) if ChunkId(1, c) not in dead.trained]
    ledgers.spread(1.0)
    ledgers.tell_dead("d")
    run_epoch(ledgers, 1)
    ledgers.spread(3.0)
    assert set(ledgers.times_trained(1)) == set(range(PLAN.chunks))
    assert sum(ledgers.times_trained(1).values()) <= PLAN.chunks + 1
    for name in "abc":
        assert abs(finished(ledgers, name)[1].moved - len(left)) <= 2 < missing


def test_a_newcomer_takes_its_share_of_what_is_left_and_nothing_that_is_done() -> None:
    ledgers = Ledgers("a", "b")
    ledgers.spread(3.0)
    for _ in range(10):
        ledgers.train("a")
        ledgers.train("b")
        ledgers.spread(0.5)
    before = set(ledgers.times_trained(0))
    ledgers.join("c")
    ledgers.spread(2.0)
    run_epoch(ledgers, 0)
    by_newcomer = [c for c in ledgers.workers["c"].trained if c.epoch == 0]
    assert len(by_newcomer) >= (PLAN.chunks - len(before)) // 6
    assert not before & {c.chunk for c in by_newcomer}
    assert sum(ledgers.times_trained(0).values()) <= PLAN.chunks + 3


def test_a_newcomer_goes_on_in_the_epoch_that_the_others_are_in() -> None:
    ledgers = Ledgers("a")
    ledgers.train("a", 3 * PLAN.chunks + 5)
    newcomer = ledgers.join("b")
    assert not newcomer.hand, "it asks first"
    ledgers.deliver()
    assert newcomer.hand[0].epoch == 3


def test_a_newcomer_that_nobody_answers_begins_after_two_seconds() -> None:
    ledgers = Ledgers("a")
    ledgers.loses = lambda sender, receiver: True
    newcomer = ledgers.join("b")
    ledgers.spread(1.9)
    assert not newcomer.hand
    ledgers.spread(0.2)
    assert newcomer.hand


def test_what_a_restarted_process_held_before_is_free() -> None:
    ledgers = Ledgers("a", "b")
    ledgers.spread(3.0)
    held = {c for c in ledgers.workers["b"].hand if c.epoch == 0}
    ledgers.kill("b")
    ledgers.join("b")
    ledgers.spread(3.0)
    run_epoch(ledgers, 0)
    assert held <= {c for w in ledgers.living() for c in w.trained}


def test_a_word_that_was_overtaken_by_a_newer_one_is_passed_over() -> None:
    ledgers = Ledgers("a", "b")
    ledgers.spread(3.0)
    a = ledgers.workers["a"]
    boot = ledgers.workers["b"].boot
    hands = a.ledger._shares.hands
    newest = hands["b", boot]
    old = m.ChunkHand("b", boot, newest.version - 1, 99.0, (ChunkId(0, 0),), ())
    member = a.table.get("b")
    assert member is not None
    a.ledger.told(m.LedgerNews(*PLAN, 0, (), (old,), False), member, ledgers.now)
    assert hands["b", boot] == newest


def test_of_two_that_hold_one_chunk_unbegun_one_lets_it_go() -> None:
    ledgers = Ledgers("a", "b")
    both = [set(ledgers.workers[name].hand) for name in "ab"]
    forced = m.ChunksGiven(0, tuple(c.chunk for c in both[0] if c.epoch == 0))
    ledgers.spread(3.0)
    b = ledgers.workers["b"]
    member = b.table.get("a")
    assert member is not None
    b.ledger._asked = ("a", 0, ledgers.now + 1)
    ledgers.carry_out(b, b.ledger.told(forced, member, ledgers.now))
    ledgers.spread(2.0)
    assert not set(ledgers.workers["a"].hand) & set(b.hand)


def test_a_gift_that_is_lost_is_taken_back() -> None:
    ledgers = Ledgers("a", "b")
    ledgers.spread(3.0)
    a = ledgers.workers["a"]
    member = a.table.get("b")
    assert member is not None
    # The answer goes nowhere.
    given = a.ledger.told(m.ChunksWanted(0, 5), member, ledgers.now)[0].message.chunks  # type: ignore[union-attr]
    assert len(given) == 5
    ledgers.spread(6.0)
    run_epoch(ledgers, 0)
    assert set(given) <= set(ledgers.times_trained(0))


def test_nobody_is_given_more_than_half_of_what_is_left() -> None:
    ledgers = Ledgers("a", "b", plan=make_plan(640, 3, 64))
    ledgers.spread(3.0)
    a = ledgers.workers["a"]
    member = a.table.get("b")
    assert member is not None
    free = len(a.ledger._shares.to_give(0, 64))
    (answer,) = a.ledger.told(m.ChunksWanted(0, 64), member, ledgers.now)
    assert len(answer.message.chunks) == free  # type: ignore[union-attr]
    (answer,) = a.ledger.told(m.ChunksWanted(9999, 64), member, ledgers.now)
    assert answer.message.chunks == ()  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_hanging_peer_delays_an_epoch_but_when_the_window_is_used_up_others_do_its_chunks() -> None:
    plan = make_plan(40, 3, 10)
    small = Ledgers("a", "b", plan=plan)
    small.spread(3.0)
    for _ in range(plan.window * plan.chunks + 8):
        small.train("a")
        small.spread(0.02)
    assert small.workers["a"].ledger.state().floor > 0
    assert small.workers["a"].counters["chunk_taken_over"] >= 1


def test_who_comes_with_other_data_is_refused_and_the_others_say_so_and_go_on() -> None:
    ledgers = Ledgers("a", "b")
    ledgers.spread(3.0)
    stranger = ledgers.join("c", plan=make_plan(641, order=3, chunk_samples=10))
    ledgers.spread(1.0)
    assert "641 samples" in stranger.refused
    assert "640 samples" in stranger.refused
    assert not stranger.hand
    told = [n for w in "ab" for n in ledgers.workers[w].told if isinstance(n, SharingDiffers)]
    assert told
    assert all(n.peer == "c" for n in told)
    run_epoch(ledgers, 0, skip=frozenset("c"))


@pytest.mark.parametrize("other", [DataPlan(640, 20, 3), DataPlan(640, 10, 4)], ids=["chunk size", "seed"])
def test_data_cut_or_ordered_otherwise_are_other_data(other: DataPlan) -> None:
    ledgers = Ledgers("a")
    assert ledgers.join("b", plan=other).refused == ""
    ledgers.deliver()
    assert "differ from those of a" in ledgers.workers["b"].refused


def test_both_sides_of_a_partition_train_everything_and_what_was_trained_twice_is_told() -> None:
    ledgers = Ledgers("a", "b", "c", "d")
    ledgers.spread(3.0)
    run_epoch(ledgers, 0)
    sides = {"a": 0, "b": 0, "c": 1, "d": 1}
    ledgers.loses = lambda sender, receiver: sides[sender] != sides[receiver]
    for worker in ledgers.living():
        for name, side in sides.items():
            if side != sides[worker.name]:
                ledgers.end(worker, name)
    ledgers.spread(0.1)
    run_epoch(ledgers, 1)
    assert set(ledgers.times_trained(1)) == set(range(PLAN.chunks))
    ledgers.loses = lambda sender, receiver: False
    twice = sum(ledgers.times_trained(1).values()) - PLAN.chunks
    assert twice > PLAN.chunks // 2


def test_leaving_tells_what_was_done_last() -> None:
    ledgers = Ledgers("a", "b")
    ledgers.spread(3.0)
    ledgers.train("a")
    (done,) = ledgers.workers["a"].trained
    a, b = ledgers.workers["a"], ledgers.workers["b"]
    ledgers.carry_out(a, a.ledger.leave())
    ledgers.deliver()
    assert dict(b.ledger.state().done)[0] >> done.chunk & 1


def test_whoever_leaves_tells_of_the_epochs_that_have_just_ended() -> None:
    ledgers = Ledgers("a")
    ledgers.train("a", PLAN.chunks)
    ledgers.carry_out(ledgers.workers["a"], ledgers.workers["a"].ledger.leave())
    assert list(finished(ledgers, "a")) == [0]


def test_every_message_fits_a_control_frame_when_there_is_most_to_tell() -> None:
    plan = make_plan(8192 * 3, order=3, chunk_samples=3)
    ledgers = Ledgers("a", "b", plan=plan)
    ledgers.spread(2.5)
    shares = ledgers.workers["a"].ledger._shares
    held = tuple(ChunkId((1 << 40) - 1, 8191) for _ in range(m.HAND_CHUNKS_MAX))
    counts = tuple(((1 << 40) - 1, 1 << 62) for _ in range(m.COUNTS_TOLD_MAX))
    for number in range(200):
        hand = m.ChunkHand("\N{SNOWMAN}" * 125 + f"{number:03}", 1 << 62, 1 << 62, 1e11, held, counts)
        shares.take_in(hand, ledgers.now)
        ledgers.workers["a"].ledger._gossip.note_hand((hand.name, hand.boot))
    for epoch in range(plan.window):
        ledgers.workers["a"].ledger._done.add([ChunkId(epoch, 8191)])
    before = sum(ledgers.sent.values())
    ledgers.spread(2.5)  # encoding, in `ledgers.carry_out`, refuses what is too long
    assert sum(ledgers.sent.values()) > before + 10


# Anything at all

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("train"), st.integers(0, 4)),
        st.tuples(st.just("spread"), st.sampled_from([0.05, 0.5, 2.0])),
        st.tuples(st.just("crash"), st.integers(0, 4)),
        st.tuples(st.just("restart"), st.integers(0, 4)),
        st.tuples(st.just("lossy"), st.booleans()),
    ),
    max_size=80,
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(ACTIONS, st.integers(0, 1000))
def test_whatever_happens_every_chunk_is_trained_while_anybody_survives(actions: list, seed: int) -> None:
    plan = make_plan(120, order=seed, chunk_samples=10)
    names = [f"peer-{n}" for n in range(5)]
    ledgers = Ledgers(*names, plan=plan, seed=seed)
    for kind, value in actions:
        name = names[value % 5] if kind in ("train", "crash", "restart") else ""
        worker = ledgers.workers.get(name)
        if kind == "spread":
            ledgers.spread(value)
        elif kind == "lossy":
            ledgers.loses = (lambda s, r: ledgers.chance.below(2) == 0) if value else (lambda s, r: False)
        elif kind == "train" and worker is not None and worker.alive and worker.hand:
            ledgers.train(name)
        elif kind == "crash" and len(ledgers.living()) > 1 and worker is not None and worker.alive:
            ledgers.kill(name)
            ledgers.tell_dead(name)
        elif kind == "restart" and worker is not None and not worker.alive:
            ledgers.past = [*getattr(ledgers, "past", []), *worker.trained]  # type: ignore[attr-defined]
            ledgers.join(name, plan)
    ledgers.loses = lambda sender, receiver: False
    ledgers.spread(5.0)
    for _ in range(20 * plan.chunks):
        if min(worker.ledger.state().floor for worker in ledgers.living()) >= 2:
            break
        for worker in ledgers.living():
            if worker.hand:
                ledgers.train(worker.name)
        ledgers.spread(0.5)
    else:
        pytest.fail("the second epoch does not end")
    done = {*getattr(ledgers, "past", []), *(chunk for w in ledgers.workers.values() for chunk in w.trained)}
    assert {ChunkId(epoch, chunk) for epoch in (0, 1) for chunk in range(plan.chunks)} <= done
