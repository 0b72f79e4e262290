"""The parameter vector with a codec: fewer bytes on the wire, the mean kept, everything else as without one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gossiptrain.compression import bfloat16, float16, int8, rounded
from gossiptrain.mixing import ad_psgd, d_psgd
from gossiptrain.runtime.parameters import ParameterVector, ReceiveBuffer

CODECS = [bfloat16(), float16(), int8()]
# The largest value is a gain of 1 of the batch normalization: no step of any codec is larger.
LARGEST_STEP = 1 / 127


class Model(nn.Module):
    """Parameters of two dtypes, one of them frozen, and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30))
        self.scale = nn.Parameter(torch.randn(5, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.randn(9), requires_grad=False)


def models(count: int, seed: int = 0) -> list[Model]:
    torch.manual_seed(seed)
    made = [Model() for _ in range(count)]
    for number, model in enumerate(made, 1):
        model.body[1].running_var.fill_(1e-6 * number)
        model.body[1].running_mean.fill_(100.0 * number)
    return made


def receive(vector: ParameterVector, sender: ParameterVector, version: int) -> ReceiveBuffer:
    buffer = vector.receive_buffer()
    buffer.view[:] = sender.pin(version)
    sender.release(version)
    return buffer


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat(
        [parameter.detach().double().reshape(-1) for parameter in model.parameters() if parameter.requires_grad]
    )


def exchange(vectors: list[ParameterVector], weight: float = 0.5) -> None:
    """All mix with all, each with the versions published now."""
    for vector in vectors:
        vector.publish()
    versions = [vector.latest().version for vector in vectors]  # type: ignore[union-attr]
    mixer = ad_psgd() if len(vectors) == 2 else d_psgd()
    for index, vector in enumerate(vectors):
        others = [(other, version) for place, (other, version) in enumerate(zip(vectors, versions)) if place != index]
        vector.mix(versions[index], [(receive(vector, other, version), weight) for other, version in others], mixer)
    for vector in vectors:
        vector.apply()


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("count", [2, 4])
def test_the_mean_of_all_stays_while_they_come_together(codec, count):
    made = models(count)
    vectors = [ParameterVector(model, codec=codec) for model in made]
    before = torch.stack([flat(model) for model in made])
    for _ in range(30):
        exchange(vectors, 1 / count)
    after = torch.stack([flat(model) for model in made])
    torch.testing.assert_close(after.mean(0), before.mean(0), rtol=0, atol=1e-6)
    assert float((after - after.mean(0)).abs().max()) <= 1.5 * LARGEST_STEP


def test_a_pair_adds_the_halved_difference_of_what_both_read():
    one, other = models(2)
    vectors = [ParameterVector(model, codec=int8()) for model in (one, other)]
    x, y = (model.body[0].weight.detach().clone() for model in (one, other))
    exchange(vectors)
    mine, yours = (model.body[0].weight.detach() for model in (one, other))
    torch.testing.assert_close(mine - x, y - yours, rtol=0, atol=1e-6)
    assert 0 < float((mine - (x + y) / 2).abs().max()) <= LARGEST_STEP


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_buffers_travel_as_they_are(codec):
    one, other = models(2)
    vectors = [ParameterVector(model, codec=codec) for model in (one, other)]
    exchange(vectors)
    for model in (one, other):
        assert torch.equal(model.body[1].running_var, torch.full((30,), 1.5e-6))
        assert torch.equal(model.body[1].running_mean, torch.full((30,), 150.0))


@pytest.mark.parametrize(("codec", "ratio"), [(bfloat16(), 2.0), (int8(), 3.9)], ids=["bfloat16", "int8"])
def test_a_snapshot_takes_so_many_times_fewer_bytes(codec, ratio):
    model = nn.Linear(1000, 100)
    vector, plain = ParameterVector(copy.deepcopy(model), codec=codec), ParameterVector(model)
    assert plain.nbytes / vector.nbytes == pytest.approx(ratio, rel=0.01)
    assert vector.full_bytes == plain.nbytes
    vector.publish()
    assert len(vector.pin(1)) == len(vector.receive_buffer().view) == vector.nbytes


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_a_received_number_that_is_not_finite_is_seen(codec):
    one, other = models(2)
    ours, theirs = (ParameterVector(model, codec=codec) for model in (one, other))
    theirs.publish()
    assert ours.is_finite(receive(ours, theirs, 1))
    other.body[0].weight.data[3, 3] = torch.inf
    theirs.publish()
    assert not ours.is_finite(receive(ours, theirs, 2))


def test_the_distance_is_that_of_what_was_read():
    one, other = (nn.Linear(50, 40), nn.Linear(50, 40))
    vectors = [ParameterVector(model, codec=int8()) for model in (one, other)]
    for vector in vectors:
        vector.publish()
    weights = [torch.cat([_padded(model.weight), _padded(model.bias)]) for model in (one, other)]
    x, y = (rounded(int8(), weight) for weight in weights)
    distance = vectors[0].mix(1, [(receive(vectors[0], vectors[1], 1), 0.5)], ad_psgd())
    assert distance == pytest.approx(float(torch.dist(x, y)), rel=1e-5)


def test_the_copy_for_a_newcomer_is_not_rounded():
    (model,) = models(1)
    vector = ParameterVector(model, codec=int8())
    vector.publish()
    found = vector.views(vector.copy_of(1))
    assert torch.equal(found["body.0.weight"], model.body[0].weight)
    with pytest.raises(LookupError):
        vector.copy_of(2)


def test_memory_goes_back_to_the_pools():
    vectors = [ParameterVector(model, codec=bfloat16()) for model in models(2)]
    for _ in range(3):
        exchange(vectors)
    held = [vector.memory_report() for vector in vectors]
    for _ in range(200):
        exchange(vectors)
    assert [vector.memory_report() for vector in vectors] == held


def _padded(parameter: torch.Tensor) -> torch.Tensor:
    """Each parameter begins at a multiple of 64 bytes."""
    return nn.functional.pad(parameter.detach().reshape(-1), (0, -parameter.numel() % 16))
