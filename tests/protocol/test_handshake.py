"""Two real protocols meet that do not fit: both sides name both values, one fails, the other goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gossiptrain.protocol import handshake
from gossiptrain.protocol.effects import Fail
from gossiptrain.protocol.events import SeedsFound
from gossiptrain.protocol.handshake import PARAMETERS_HASHED_MAX, Handshake
from gossiptrain.protocol.messages import VERSION_MAX, VERSION_MIN
from gossiptrain.protocol.notices import PeerJoined, PeerRefused
from gossiptrain.protocol.peer_protocol import PeerProtocol
from tests.protocol.virtual_network import VirtualNetwork, config
from tests.protocol.virtual_peer import VirtualPeer

MODEL = ("conv.weight float32 [8, 1, 3, 3]", "conv.bias float32 [8]")


def meet(first: dict, second: dict, after: Callable[[PeerProtocol], None] = lambda protocol: None) -> VirtualNetwork:
    """A founder runs; another joins it, is refused, and time goes on for five seconds."""
    net = VirtualNetwork()
    net.add(config("established", 0, **first), 1.0)
    net.run(1.0)
    name = second.pop("name", "newcomer")
    peer = net.add(config(name, 1, **second), 2.0, known_as="newcomer")
    after(peer.protocol)
    net.run(2.0)
    net.give(peer, SeedsFound(("control:0",)))
    net.run(7.0)
    return net


def the_failure(peer: VirtualPeer) -> Fail:
    assert len(peer.failures) == 1, peer.failures
    return peer.failures[0]


def the_refusal(peer: VirtualPeer) -> PeerRefused:
    refusals = peer.told(PeerRefused)
    assert len(refusals) == 1, refusals
    return refusals[0]


def assert_both_name(net: VirtualNetwork, kind: str, mine: str, theirs: str) -> None:
    """`mine` is the newcomer's value; each side must say which value is whose."""
    failure, refusal = the_failure(net["newcomer"]), the_refusal(net["established"])
    assert failure.kind == kind
    assert refusal.reason == kind
    assert refusal.peer == "newcomer"
    for text in (failure.text, refusal.text):
        assert mine in text
        assert theirs in text
    assert not net["established"].failures
    assert net["established"].told(PeerJoined) == []
    assert net["established"].step_times_s[-1] > 6.9, "the established peer goes on training"


def test_a_parameter_of_another_shape_is_named_on_both_sides() -> None:
    other = (MODEL[0], "conv.bias float32 [16]")
    net = meet({"parameters": MODEL}, {"parameters": other})
    assert_both_name(net, "model", "parameter 1", MODEL[1])
    assert_both_name(net, "model", other[1], MODEL[1])
    assert f"is {other[1]} here and {MODEL[1]} on established" in the_failure(net["newcomer"]).text
    assert f"is {MODEL[1]} here and {other[1]} on newcomer" in the_refusal(net["established"]).text


@pytest.mark.parametrize("newcomer_has_more", [True, False])
def test_a_model_with_more_parameters_is_told_where_the_other_ends(newcomer_has_more: bool) -> None:
    longer = (*MODEL, "fc.weight float32 [10, 8]")
    small, large = {"parameters": MODEL}, {"parameters": longer}
    net = meet(small, large) if newcomer_has_more else meet(large, small)
    assert_both_name(net, "model", "fc.weight float32 [10, 8]", "nothing (the model has 2 mixed parameters)")


def test_models_that_differ_beyond_the_hashed_parameters_are_refused_and_say_so() -> None:
    many = tuple(f"p{i} float32 [1]" for i in range(PARAMETERS_HASHED_MAX + 5))
    net = meet({"parameters": many}, {"parameters": (*many[:-1], "last float32 [2]")})
    assert_both_name(net, "model", f"{PARAMETERS_HASHED_MAX}", "or a later one")


def test_a_parameter_description_longer_than_a_message_still_gets_a_refusal() -> None:
    net = meet({"parameters": ("x" * 9000,)}, {"parameters": ("y" * 9000,)})
    assert_both_name(net, "model", "y" * 500, "x" * 500)


def test_another_run_id_is_named_on_both_sides() -> None:
    net = meet({"run_id": "tuesday"}, {"run_id": "wednesday"})
    assert_both_name(net, "run", "'wednesday'", "'tuesday'")


def test_another_mixer_is_named_on_both_sides() -> None:
    net = meet({"mixer": "ad_psgd(weight=0.5)"}, {"mixer": "ad_psgd(weight=0.25)"})
    assert_both_name(net, "mixer", "weight=0.25", "weight=0.5")


class _OtherVersions:
    """The newcomer's protocol reads the module's constants as if it were of another release."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, minimum: int, maximum: int) -> None:
        self.monkeypatch, self.range = monkeypatch, (minimum, maximum)

    def __call__(self, protocol: PeerProtocol) -> None:
        handle = protocol.handle

        def handle_as_other_release(event, now):
            with self.monkeypatch.context() as patch:
                patch.setattr(handshake, "VERSION_MIN", self.range[0])
                patch.setattr(handshake, "VERSION_MAX", self.range[1])
                return handle(event, now)

        protocol.handle = handle_as_other_release  # type: ignore[method-assign]


def test_versions_that_do_not_meet_are_named_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    net = meet({}, {}, _OtherVersions(monkeypatch, 7, 9))
    assert_both_name(net, "version", "7 to 9", f"{VERSION_MIN} to {VERSION_MAX}")


def test_version_ranges_that_overlap_work_together(monkeypatch: pytest.MonkeyPatch) -> None:
    net = meet({}, {}, _OtherVersions(monkeypatch, 1, 9))
    assert net["newcomer"].failures == []
    assert [notice.peer for notice in net["established"].told(PeerJoined)] == ["newcomer"]


def test_a_name_that_a_living_peer_has_is_refused_and_told_once_on_both_sides() -> None:
    net = VirtualNetwork()
    net.add(config("established", 0), 1.0)
    holder = net.add(config("twin", 1), 1.0, seeds=("control:0",))
    net.run(3.0)
    twin = net.add(config("twin", 2), 1.0, seeds=("control:0",), known_as="second twin")
    net.run(9.0)
    failure, refusal = the_failure(twin), the_refusal(net["established"])
    assert failure.kind == refusal.reason == "name"
    assert "'twin'" in failure.text
    for part in ("'twin'", "control:2", "control:1"):
        assert part in refusal.text
    assert holder.failures == []
    assert net["established"].protocol.living() == ("established", "twin")
    assert len(net["established"].told(PeerJoined)) == 1


def test_a_newcomer_with_the_name_of_its_seed_is_refused() -> None:
    net = VirtualNetwork()
    net.add(config("same", 0), 1.0)
    net.run(1.0)
    twin = net.add(config("same", 1), 1.0, seeds=("control:0",), known_as="twin")
    net.run(4.0)
    assert the_failure(twin).kind == "name"


@pytest.mark.parametrize("kind", ["run", "model", "mixer", "name"])
def test_nothing_is_said_any_more_after_a_refusal(kind: str) -> None:
    value = {"model": ("x",), "name": "established"}.get(kind, "x")
    net = meet({}, {{"run": "run_id", "model": "parameters"}.get(kind, kind): value})
    said = dict(net.sent)
    notices = [len(peer.notices) for peer in net.peers.values()]
    net.run(60.0)
    assert dict(net.sent) == said
    assert [len(peer.notices) for peer in net.peers.values()] == notices
    assert all(("control:1", "control") not in peer.links for peer in net.peers.values()), "the link is closed"


def test_two_runs_that_greet_each_other_both_go_on_and_tell_once_each() -> None:
    net = VirtualNetwork()
    one = net.add(config("one", 0, run_id="a", expects_seeds=True), 1.0, seeds=("control:1",))
    other = net.add(config("other", 1, run_id="b", founder=True), 1.0, seeds=("control:0",))
    while net.now < 30.0:
        net.give(one, SeedsFound(("control:1",)))
        net.run(net.now + 3.0)
    assert the_refusal(one).peer == "other"
    assert the_refusal(other).peer == "one"
    assert one.failures == other.failures == []


def test_a_refused_peer_that_has_other_members_stays() -> None:
    """One wrong seed among right ones costs a notice, once the right one has answered."""
    net = VirtualNetwork()
    net.add(config("right", 0), 1.0)
    net.add(config("stranger", 9, run_id="other", founder=True), 1.0)
    peer = net.add(config("peer", 1), 1.0, seeds=("control:0",))
    net.run(2.0)
    net.give(peer, SeedsFound(("control:9",)))
    net.run(5.0)
    assert peer.failures == []
    assert the_refusal(peer).peer == "stranger"
    assert peer.protocol.living() == ("peer", "right")


def test_the_first_difference_is_found_among_many_parameters() -> None:
    lines = tuple(f"layer{i}.weight float32 [{i}]" for i in range(500))
    mine = Handshake(config("a", 0, parameters=lines))
    for index in (0, 1, 250, 499):
        theirs = Handshake(config("b", 1, parameters=(*lines[:index], "other", *lines[index + 1 :])))
        refuse = mine.judge(theirs.hello(0, True, True))
        assert refuse is not None
        assert (refuse.kind, refuse.index, refuse.mine) == ("model", index, lines[index])
        assert "other" in mine.explain(theirs.answer(refuse), "b")


def test_equal_models_are_welcome() -> None:
    mine, theirs = (Handshake(config(name, i, parameters=MODEL)) for i, name in enumerate("ab"))
    assert mine.judge(theirs.hello(0, True, True)) is None
