"""A newcomer takes a member's parameters before it counts; the donor's training and mixing go on."""

from __future__ import annotations

import pytest

from gossiptrain.protocol.catching_up import SERVED_MAX, CatchingUp
from gossiptrain.protocol.config import ExchangeConfig
from gossiptrain.protocol.effects import Adopt, Effect, ExpectSnapshot, Notify, Release, Send, SendSnapshot
from gossiptrain.protocol.membership import Member
from gossiptrain.protocol.messages import Abort, Accept, ExchangeId, Offer, Received, Reject, TransferKey
from gossiptrain.protocol.notices import Joined
from gossiptrain.protocol.open_exchange import PULL_NUMBERS
from tests.protocol.virtual_network import VirtualNetwork, cluster, config

PULL = ExchangeId(9, PULL_NUMBERS + 1)


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
        most_served = max(most_served, *(len(p.protocol._catching_up._served) for p in net.living()))
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


def test_a_donor_killed_while_it_sends_is_replaced_by_another() -> None:
    net = cluster(3)
    net.run(3.0)
    net.transfer_s = 2.0
    newcomer = net.add(config("peer-9", 9), 100.0, 0.05, seeds=("control:0",))
    net.run(4.0)
    own = newcomer.protocol._catching_up._own
    assert own is not None
    net.kill(own.partner.name)
    net.transfer_s = 0.1
    net.run(6.0)
    assert newcomer.protocol.caught_up
    assert newcomer.told(Joined)[0].source != own.partner.name


def test_a_donor_with_nan_is_shunned() -> None:
    net = cluster(3)
    net.run(3.0)
    net.spoil = lambda key: "non-finite" if key.sender_boot in (1000, 1001) and key.exchange.number > 1 << 32 else None
    newcomer = net.add(config("peer-9", 9), 100.0, 0.05, seeds=("control:0",))
    net.run(5.0)
    assert newcomer.told(Joined)[0].source == "peer-2"


def newcomer() -> CatchingUp:
    part = CatchingUp(config("me", 9, boot=9, exchange=ExchangeConfig(offer_timeout_s=3.0)), {}.get)
    part.boundary(1, 0)
    return part


def donor() -> CatchingUp:
    part = CatchingUp(config("donor", 0, boot=1), {}.get)
    part.boundary(5, 0)
    return part


def test_ready_members_are_asked_before_others_and_each_in_turn() -> None:
    part = newcomer()
    alive = [member("a", 1), member("b", 2, caught_up=True), member("c", 3, caught_up=True)]
    asked = []
    for attempt in range(4):
        now = float(attempt)
        effects = part.seek(alive, False, now)
        expected = [e for e in effects if isinstance(e, ExpectSnapshot)]
        asked.append(expected[0].address)
        offer = messages(effects)[0]
        donor_ = next(m for m in alive if m.control_address == asked[-1])
        part.rejected(Reject(offer.exchange, "busy", 0), donor_, now)
    assert asked == ["control:b", "control:c"] * 2


def test_adoption_counts_from_the_boundary_whose_snapshot_holds_it() -> None:
    part = newcomer()
    part.boundary(2, 4)
    exchange = messages(part.seek([member("a", 1)], False, 0.0))[0].exchange
    part.accepted(Accept(exchange, 0), member("a", 1), 0.1)
    effects = part.snapshot_received(TransferKey(1, exchange), 0.2)
    assert effects == [Send("control:a", Received(exchange, False)), Adopt(TransferKey(1, exchange))]
    assert part.boundary(3, 4) == []
    assert not part.done
    assert part.boundary(4, 5) == [Notify(Joined("a"))]
    assert part.done


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
    assert effects == ([Notify(Joined(""))] if becomes else [])


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


def test_a_pull_offered_twice_is_served_once() -> None:
    part = donor()
    offer = Offer(PULL, "pull", 0, 0)
    assert SendSnapshot("data:me", TransferKey(1, PULL), 5) in part.offered(offer, member("me", 9), 0.0)
    assert part.offered(offer, member("me", 9), 0.1) == []
    assert kinds(part.received(Received(PULL, False), member("me", 9), 0.2)) == ["CancelSnapshot", "Release"]
    assert part.is_idle()


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
    part = donor()
    part.offered(Offer(PULL, "pull", 0, 0), member("me", 9), 0.0)
    assert part.received(Received(PULL, False), member("other", 3), 0.1) == []
    assert part.aborted(Abort(PULL, "x"), member("other", 3), 0.1) == []
    assert not part.is_idle()


def test_a_puller_that_never_confirms_is_given_up_at_the_deadline_and_the_pin_released() -> None:
    part = donor()
    part.offered(Offer(PULL, "pull", 0, 0), member("me", 9), 0.0)
    effects = part.tick(part.next_deadline(has_met_others=True))
    assert Release(5) in effects
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
