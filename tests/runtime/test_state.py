"""States: what is packed comes back bit by bit, in whatever model and optimizer; what cannot be is refused and said."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.fetching import CHUNK_BYTES
from gossiptrain.runtime import manifest as m
from gossiptrain.runtime import optimizer_state
from gossiptrain.runtime.manifest import Manifest
from gossiptrain.runtime.parameters import ParameterVector
from gossiptrain.runtime.staging import as_memoryview
from gossiptrain.runtime.state import Identity, Model, pack

IDENTITY = Identity("peer-0", "run", 7, "ab", {"torch": "2"})

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "adafactor": torch.optim.Adafactor,
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
    "groups": lambda p: torch.optim.Adam([{"params": p[:1], "lr": 0.1}, {"params": p[1:]}]),
}


class Net(nn.Module):
    """Layers whose sizes are no multiples of anything, tied weights, frozen ones, buffers of several kinds."""

    def __init__(self, width: int = 5, dtype: torch.dtype = torch.float32, mixed: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, width, dtype=dtype)
        self.convolution = nn.Conv2d(1, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm1d(width, dtype=dtype)
        self.frozen = nn.Linear(width, width, dtype=dtype).requires_grad_(False)
        self.head = nn.Linear(width, 7, bias=False, dtype=dtype)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64 if mixed else dtype))
        self.register_buffer("mask", torch.full((3,), float("-inf")))
        self.register_buffer("seen", torch.tensor([True, False, True]))
        self.register_buffer("scratch", torch.zeros(4), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        image = self.convolution(torch.ones(1, 1, 4, 4, dtype=self.embedding.weight.dtype)).mean()
        hidden = self.norm(self.embedding(tokens)) * self.scale.to(self.embedding.weight.dtype) + image
        return self.head(hidden + self.frozen(hidden))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def train(model: Net, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        tokens = torch.randint(0, 7, (6,), generator=generator)
        nn.functional.cross_entropy(model(tokens).float(), tokens).backward()
        optimizer.step()


def peer_state(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> Model:
    """As a peer does it: the parameters become views of one vector."""
    return Model(model, optimizer, frozenset(spec.name for spec in ParameterVector(model).schema))


def frozen(state: Model, step: int = 3, with_frozen: bool = True) -> tuple[Manifest, Tensor]:
    parts = state.parts(with_frozen)
    data = torch.empty(parts.nbytes, dtype=torch.uint8)
    pack(parts, data)
    return parts.manifest(IDENTITY, step, as_memoryview(data)), data


def everything(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(OPTIMIZERS)),
    st.tuples(st.integers(1, 9), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), st.booleans()),
    st.integers(0, 3),
    st.booleans(),
)
def test_who_takes_a_state_over_goes_on_exactly_as_its_owner(
    kind: str, net: tuple[int, torch.dtype, bool], steps: int, as_json: bool
) -> None:
    torch.manual_seed(1)
    ours, theirs = Net(*net), Net(*net)
    for name in ("frozen.weight", "frozen.bias"):
        theirs.get_parameter(name).data.copy_(ours.get_parameter(name))
    mine, yours = OPTIMIZERS[kind](trainable(ours)), OPTIMIZERS[kind](trainable(theirs))
    source, target = peer_state(ours, mine), peer_state(theirs, yours)
    train(ours, mine, steps)
    train(theirs, yours, 2, seed=9)
    manifest, data = frozen(source)
    text = m.to_json(manifest) if as_json else m.encode(manifest)
    assert m.decode(text, is_json=as_json) == manifest
    target.check(manifest)
    assert target.adopt(manifest, data) == ""
    train(ours, mine, 2, seed=5)
    train(theirs, yours, 2, seed=5)
    for (name, one), other in zip(everything(ours).items(), everything(theirs).values()):
        assert torch.equal(one, other), name


def test_parameters_stay_where_they_are_and_layouts_are_kept() -> None:
    ours, theirs = Net(), Net()
    mine, yours = (torch.optim.Adam(trainable(model)) for model in (ours, theirs))
    source, target = peer_state(ours, mine), peer_state(theirs, yours)
    train(ours, mine, 2)
    places = [parameter.data_ptr() for parameter in theirs.parameters()]
    target.adopt(*frozen(source))
    assert [parameter.data_ptr() for parameter in theirs.parameters()] == places
    moment = yours.state[theirs.convolution.weight]["exp_avg"]
    assert moment.stride() == theirs.convolution.weight.stride()
    assert moment.data_ptr() % 4 == 0
    assert yours.state[theirs.scale]["step"].device.type == "cpu"


def test_between_peers_frozen_parameters_do_not_travel_and_in_a_checkpoint_they_are() -> None:
    state = peer_state(Net(), None)
    between = {entry.name for entry in frozen(state, with_frozen=False)[0].entries}
    whole = {entry.name for entry in frozen(state)[0].entries}
    assert whole - between == {"model/frozen.weight", "model/frozen.bias"}
    assert {"model/mask", "model/seen", "model/norm.num_batches_tracked", "model/norm.running_var"} <= between
    assert not any("scratch" in name or "head" in name for name in whole), "neither scratch nor a tied name"


def test_every_entry_is_aligned_and_nothing_lies_between() -> None:
    model = Net(mixed=True)
    optimizer = torch.optim.Adam(trainable(model))
    train(model, optimizer, 1)
    manifest, _ = frozen(peer_state(model, optimizer))
    assert all(entry.begin % m.DTYPES[entry.dtype].itemsize == 0 for entry in manifest.entries)
    assert all(one.end == other.begin for one, other in itertools.pairwise(manifest.entries))


@pytest.mark.parametrize(
    ("own", "other", "says"),
    [
        ("adam", "momentum", "Adam, there torch.optim.sgd.SGD momentum"),
        ("adam", "amsgrad", "there torch.optim.adam.Adam amsgrad"),
        ("sgd", "momentum", "there torch.optim.sgd.SGD momentum"),
    ],
)
def test_another_optimizers_state_is_left_and_both_are_named(own: str, other: str, says: str) -> None:
    ours, theirs = Net(), Net()
    mine, yours = OPTIMIZERS[own](trainable(ours)), OPTIMIZERS[other](trainable(theirs))
    source, target = peer_state(theirs, yours), peer_state(ours, mine)
    train(theirs, yours, 2)
    manifest, data = frozen(source)
    assert says in target.adopt(manifest, data)
    assert not mine.state
    assert torch.equal(ours.scale, theirs.scale), "the parameters are taken all the same"
    train(ours, mine, 2)


def test_a_state_of_other_parameters_or_of_another_shape_is_left() -> None:
    model = Net()
    every, some = torch.optim.Adam(trainable(model)), torch.optim.Adam([model.scale])
    train(model, every, 1)
    assert "does not optimize" in peer_state(model, some).adopt(*frozen(peer_state(model, every)))
    kept = {"optimizer/scale/exp_avg": torch.zeros(2)}
    assert "has the shape [2]" in optimizer_state.misfit(some, model, optimizer_state.describe(some), kept)


def test_an_optimizer_whose_state_has_no_names_is_said_to_begin_afresh() -> None:
    model = Net()
    optimizer = torch.optim.LBFGS(trainable(model), max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.arange(6)).float().square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    manifest, data = frozen(peer_state(model, optimizer))
    assert "LBFGS keeps a list" in manifest.lacks_optimizer
    assert peer_state(Net(), torch.optim.LBFGS(trainable(Net()))).adopt(manifest, data) == manifest.lacks_optimizer


@pytest.mark.parametrize("place", ["model/scale", "model/norm.running_var", "optimizer/scale/exp_avg"])
def test_a_state_that_is_not_finite_changes_nothing(place: str) -> None:
    ours, theirs = Net(), Net()
    mine, yours = (torch.optim.Adam(trainable(model)) for model in (ours, theirs))
    source, target = peer_state(ours, mine), peer_state(theirs, yours)
    train(ours, mine, 1)
    manifest, data = frozen(source)
    entry = next(entry for entry in manifest.entries if entry.name == place)
    data[entry.begin : entry.end] = 0xFF
    before = everything(theirs)
    with pytest.raises(ValueError, match=f"'{place}' is not finite"):
        target.adopt(manifest, data)
    assert not yours.state
    assert all(torch.equal(one, other) for one, other in zip(before.values(), everything(theirs).values()))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Net(6), "in this model F32 [7, 6]"),
        (Net(5, torch.float64), "is F32 [], in this model F64 []"),
        (nn.Linear(5, 7), "is not in this model"),
    ],
)
def test_a_state_of_another_model_is_refused_naming_the_first_difference(model: nn.Module, says: str) -> None:
    manifest, _ = frozen(peer_state(Net(), None))
    with pytest.raises(ConfigurationError) as caught:
        peer_state(model, None).check(manifest)
    assert says in str(caught.value)


def test_a_state_that_lacks_a_mixed_parameter_is_refused() -> None:
    state = peer_state(Net(), None)
    manifest, _ = frozen(state)
    entries = tuple(entry for entry in manifest.entries if entry.name != "model/scale")
    with pytest.raises(ConfigurationError, match="'model/scale' is missing"):
        state.check(msgspec.structs.replace(manifest, entries=entries))


def changed(manifest: Manifest, **changes: object) -> bytes:
    return m.encode(msgspec.structs.replace(manifest, **changes))


def test_manifests_that_contradict_themselves_are_refused() -> None:
    manifest, _ = frozen(peer_state(Net(), None))
    first, *rest = manifest.entries
    shifted = msgspec.structs.replace(first, begin=4, end=first.end + 4)
    huge = msgspec.structs.replace(first, shape=(1 << 40, 1 << 40))
    odd = msgspec.structs.replace(first, dtype="PICKLE")
    twice = msgspec.structs.replace(rest[0], name=first.name)
    bad = [
        changed(manifest, entries=(shifted, *rest)),
        changed(manifest, entries=(huge, *rest)),
        changed(manifest, entries=(odd, *rest)),
        changed(manifest, entries=(first, twice, *rest[1:])),
        changed(manifest, entries=(first,)),
        changed(manifest, nbytes=manifest.nbytes + 1),
        changed(manifest, nbytes=0, entries=()),
        changed(manifest, chunk_bytes=CHUNK_BYTES // 2),
        changed(manifest, digests=manifest.digests[:-1]),
        changed(manifest, format=2),
        changed(manifest, step=-1),
        b"",
        m.encode(manifest)[:-9],
        m.encode(manifest) + b"x",
        msgspec.msgpack.encode({"entries": []}),
    ]
    for text in bad:
        with pytest.raises(ConfigurationError):
            m.decode(text)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_no_manifest_and_raise_nothing_else(data: bytes, as_json: bool) -> None:
    with pytest.raises(ConfigurationError):
        m.decode(data, is_json=as_json)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_manifest_is_refused_or_still_describes_something_possible(data: st.DataObject) -> None:
    state = peer_state(Net(), None)
    text = bytearray(m.encode(frozen(state)[0]))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        manifest = m.decode(bytes(text))
        state.check(manifest)
    except ConfigurationError:
        return
    assert manifest.entries[-1].end == manifest.nbytes
