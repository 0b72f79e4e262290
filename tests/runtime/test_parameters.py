"""The flat vector under a model: training goes on as before, snapshots and corrections are exact."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

from gossiptrain.errors import ConfigurationError
from gossiptrain.mixing import ad_psgd, d_psgd
from gossiptrain.runtime.corrections import ReceiveBuffer
from gossiptrain.runtime.parameters import ParameterVector


class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embedding(tokens)))


class MixedPrecision(nn.Module):
    """Float32 norm inside a bfloat16 network, a learned temperature without dimensions, a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8, dtype=torch.bfloat16)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.norm = nn.LayerNorm(8)
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.frozen(self.first(x.bfloat16()).float())) * self.temperature


def cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)), lambda: torch.randn(4, 6)),
    "cnn with batchnorm": (cnn, lambda: torch.randn(4, 3, 8, 8)),
    "channels last": (lambda: cnn().to(memory_format=torch.channels_last), lambda: torch.randn(4, 3, 8, 8)),
    "tied embeddings": (TiedLanguageModel, lambda: torch.randint(0, 11, (4, 5))),
    "bfloat16": (lambda: nn.Linear(6, 3).bfloat16(), lambda: torch.randn(4, 6).bfloat16()),
    "mixed precision": (MixedPrecision, lambda: torch.randn(4, 6)),
}
OPTIMIZERS = {
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adamw fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
    "adamw foreach": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, foreach=True),
}


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(batch).float().pow(2).mean().backward()
    optimizer.step()


def receive(vector: ParameterVector, sender: ParameterVector, version: int) -> ReceiveBuffer:
    buffer = vector.receive_buffer()
    buffer.view[:] = sender.pin(version)
    sender.release(version)
    return buffer


def perturbed(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy of the model that differs everywhere."""
    other = copy.deepcopy(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in (*trainable(other), *other.buffers()):
            if value.dtype.is_floating_point:
                value.add_(torch.rand_like(value))
    return other


def held(model: nn.Module) -> list[torch.Tensor]:
    """Return copies of everything that is mixed."""
    floats = [buffer for buffer in model.buffers() if buffer.dtype.is_floating_point]
    return [value.detach().clone() for value in (*trainable(model), *floats)]


@pytest.fixture(params=MODELS, name="model_and_batch")
def _model_and_batch(request):
    torch.manual_seed(0)
    model, batch = MODELS[request.param]
    return model(), batch()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_attached_training_takes_bitwise_the_steps_of_plain_training(model_and_batch, optimizer):
    model, batch = model_and_batch
    plain = copy.deepcopy(model)
    ours, theirs = OPTIMIZERS[optimizer](trainable(model)), OPTIMIZERS[optimizer](trainable(plain))
    step(model, ours, batch)  # the optimizer's state exists before attaching
    step(plain, theirs, batch)
    vector = ParameterVector(model)
    for _ in range(3):
        step(model, ours, batch)
        step(plain, theirs, batch)
        vector.apply()
        vector.publish()
    for attached, alone in zip(model.parameters(), plain.parameters()):
        assert torch.equal(attached, alone)
        assert attached.stride() == alone.stride()


def test_half_of_the_partner_is_what_averaging_leaves(model_and_batch):
    model, _ = model_and_batch
    other = perturbed(model)
    ours, theirs = ParameterVector(model), ParameterVector(other)
    assert ours.schema_hash == theirs.schema_hash
    before, partner = held(model), held(other)
    ours.publish()
    theirs.publish()
    distance = ours.mix(1, [(receive(ours, theirs, 1), 0.5)], ad_psgd())
    assert ours.apply() == 1
    for now, mine, yours in zip(held(model), before, partner):
        torch.testing.assert_close(now, (mine + yours) / 2)
    count = len(trainable(model))
    squares = [(a - b).double().pow(2).sum() for a, b in zip(before[:count], partner[:count])]
    assert distance == pytest.approx(float(sum(squares)) ** 0.5, rel=1e-2)


def test_local_steps_during_an_exchange_are_kept(model_and_batch):
    model, batch = model_and_batch
    other = ParameterVector(perturbed(model))
    vector = ParameterVector(model)
    vector.publish()
    other.publish()
    version = vector.latest().version
    received = receive(vector, other, 1)
    optimizer = OPTIMIZERS["momentum"](trainable(model))
    step(model, optimizer, batch)
    stepped = held(model)
    before = held_at(vector, version)
    partner = held_at(other, 1)
    vector.mix(version, [(received, 0.25)], ad_psgd())
    vector.apply()
    for now, live, mine, yours in zip(trainable(model), stepped, before, partner):
        torch.testing.assert_close(now.detach(), live + (0.25 * (yours - mine)).to(live.dtype))


def held_at(vector: ParameterVector, version: int) -> list[torch.Tensor]:
    """Read the parameters out of a snapshot by the layout, in the model's order."""
    data = vector.get(version).data
    entries = {}
    for group in vector._layout.parameters:
        for slot in group.slots:
            values = group.view(data)[slot.offset : slot.offset + slot.numel]
            entries[slot.spec.name] = values.as_strided(slot.spec.shape, slot.spec.strides).clone()
    return [entries[spec.name] for spec in vector.schema if not spec.is_buffer]


def test_a_published_snapshot_never_changes_while_training_steps_and_publishes_on():
    model = cnn()
    vector = ParameterVector(model)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    vector.publish()
    pinned = bytes(vector.pin(vector.latest().version))
    for _ in range(5):
        step(model, optimizer, torch.randn(4, 3, 8, 8))
        vector.publish()
        vector.latest()
    view = vector.pin(1)
    assert bytes(view) == pinned
    assert view.readonly
    assert bytes(vector.pin(vector.latest().version)) != pinned


def test_an_adoption_supersedes_what_waited(model_and_batch):
    model, _ = model_and_batch
    other = perturbed(model)
    ours, theirs = ParameterVector(model), ParameterVector(other)
    ours.publish()
    theirs.publish()
    ours.mix(1, [(receive(ours, theirs, 1), 0.5)], ad_psgd())
    model.load_state_dict(other.state_dict())
    assert ours.note_adoption() == ours.apply() == 2
    for mine, yours in zip(held(model), held(other)):
        assert torch.equal(mine, yours), "the correction that waited was against the parameters before"


def test_a_snapshots_bytes_read_back_by_name(model_and_batch):
    model, _ = model_and_batch
    vector = ParameterVector(model)
    vector.publish()
    views = vector.views(torch.frombuffer(bytearray(vector.pin(1)), dtype=torch.uint8))
    own = dict(model.state_dict())
    assert set(views) == {spec.name for spec in vector.schema}
    assert all(torch.equal(view, own[name]) for name, view in views.items())


def test_a_variance_moves_towards_the_received_one_and_stays_positive():
    models = [nn.BatchNorm1d(4) for _ in range(3)]
    for model, variance in zip(models, (1e-8, 4.0, 9.0)):
        model.running_var.fill_(variance)
    ours, *others = (ParameterVector(model) for model in models)
    for vector in (ours, *others):
        vector.publish()
    ours.latest()
    models[0].running_var.fill_(1e-9)  # training went on: an additive correction against 1e-8 would be off
    ours.mix(1, [(receive(ours, other, 1), weight) for other, weight in zip(others, (0.25, 0.5))], d_psgd())
    ours.apply()
    torch.testing.assert_close(models[0].running_var, torch.full((4,), 0.25e-9 + 0.25 * 4 + 0.5 * 9))
    assert int(models[0].num_batches_tracked) == 0


def test_equal_buffers_stay_bitwise_equal_whatever_the_weights():
    models = [nn.BatchNorm1d(64) for _ in range(4)]
    constant = torch.rand(64)
    for model in models:
        model.running_var.copy_(constant)
    ours, *others = (ParameterVector(model) for model in models)
    for vector in (ours, *others):
        vector.publish()
    for _ in range(3):
        ours.mix(1, [(receive(ours, other, 1), 0.3) for other in others], d_psgd())
    ours.apply()
    assert torch.equal(models[0].running_var, constant)


def test_corrections_that_wait_are_summed_into_one():
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)) for _ in range(3)]
    models[1][1].running_var.fill_(2.0)
    models[2][1].running_var.fill_(5.0)
    ours, *others = (ParameterVector(model) for model in models)
    for vector in (ours, *others):
        vector.publish()
    one_by_one = copy.deepcopy(models[0])
    stepwise = ParameterVector(one_by_one)
    stepwise.publish()
    for other, weight in zip(others, (0.5, 0.25)):
        ours.mix(1, [(receive(ours, other, 1), weight)], ad_psgd())
        stepwise.mix(1, [(receive(stepwise, other, 1), weight)], ad_psgd())
        stepwise.apply()
    assert len(ours._corrections._waiting) == 1
    assert ours.apply() == 2
    for together, apart in zip(held(models[0]), held(one_by_one)):
        torch.testing.assert_close(together, apart)


def test_a_round_without_answers_counts_and_changes_nothing():
    model = nn.Linear(3, 2)
    vector = ParameterVector(model)
    vector.publish()
    before = held(model)
    assert vector.mix(1, [], d_psgd()) == 0.0
    assert vector.apply() == 1
    assert all(torch.equal(a, b) for a, b in zip(before, held(model)))


def test_an_empty_round_between_two_exchanges_loses_neither():
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    ours, theirs = ParameterVector(model), ParameterVector(other)
    ours.publish()
    theirs.publish()
    before, partner = held(model), held(other)
    for inbox in ([(receive(ours, theirs, 1), 0.25)], [], [(receive(ours, theirs, 1), 0.25)]):
        ours.mix(1, inbox, d_psgd())
    assert ours.apply() == 3
    for now, mine, yours in zip(held(model), before, partner):
        torch.testing.assert_close(now, (mine + yours) / 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(dtype, bad):
    model = nn.Sequential(nn.Linear(40, 40), nn.BatchNorm1d(40)).to(dtype)
    vector = ParameterVector(model)
    buffer = vector.receive_buffer()
    for group in vector._groups():
        for position in (0, group.numel // 2, group.numel - 1):
            buffer.host.zero_()
            assert vector.is_finite(buffer)
            group.view(buffer.host)[position] = bad
            assert not vector.is_finite(buffer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_large_finite_values_whose_sum_overflows_are_accepted(dtype):
    vector = ParameterVector(nn.Linear(40, 40).to(dtype))
    buffer = vector.receive_buffer()
    vector._layout.parameters[0].view(buffer.host).fill_(torch.finfo(dtype).max / 2)
    assert vector.is_finite(buffer)


def move_to_double(model: nn.Module) -> None:
    model.double()


def assign_data(model: nn.Module) -> None:
    model[1].weight.data = model[1].weight.data.clone()


def replace_parameter(model: nn.Module) -> None:
    model[1].weight = nn.Parameter(torch.zeros(4, 4))


def check_each(vector: ParameterVector) -> None:
    """Check often enough that each of the six parameters had its turn."""
    for _ in range(6):
        vector.check_in_place()


@pytest.mark.parametrize("change", [move_to_double, assign_data, replace_parameter])
def test_a_model_moved_or_changed_after_attaching_is_noticed_with_the_mend(change):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    vector = ParameterVector(model)
    for _ in range(10):
        vector.check_in_place()
    change(model)
    with pytest.raises(ConfigurationError, match=r"parameter '.*weight' was moved or replaced .*before attaching"):
        check_each(vector)


def test_a_buffer_may_be_replaced_by_one_of_its_shape_but_not_of_another():
    model = nn.BatchNorm1d(4)
    ours, theirs = ParameterVector(model), ParameterVector(nn.BatchNorm1d(4))
    model.running_mean = torch.full((4,), 3.0)
    ours.publish()
    theirs.publish()
    ours.mix(1, [(receive(ours, theirs, 1), 0.5)], ad_psgd())
    ours.apply()
    assert torch.equal(model.running_mean, torch.full((4,), 1.5))
    model.running_mean = torch.zeros(5)
    with pytest.raises(ConfigurationError, match=r"buffer 'running_mean' was .*\[4\].* is .*\[5\] now.*mix_buffers"):
        ours.publish()


def test_buffers_stay_local_when_asked():
    model, other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    other.running_mean.fill_(8)
    ours, theirs = ParameterVector(model, mix_buffers=False), ParameterVector(other, mix_buffers=False)
    ours.publish()
    theirs.publish()
    ours.mix(1, [(receive(ours, theirs, 1), 0.5)], ad_psgd())
    ours.apply()
    assert not model.running_mean.any()
    assert ours.nbytes == 128


def test_a_buffer_is_given_away_only_once():
    vector = ParameterVector(nn.Linear(3, 2))
    vector.publish()
    buffer = vector.receive_buffer()
    buffer.view[:] = vector.pin(1)
    vector.mix(1, [(buffer, 0.5)], ad_psgd())
    buffer.free()  # harmless: the correction still waits in it
    assert vector.receive_buffer().host.data_ptr() != buffer.host.data_ptr()
    with pytest.raises(ValueError, match="freed or mixed before"):
        vector.mix(1, [(buffer, 0.5)], ad_psgd())


def test_state_dicts_and_deep_copies_of_an_attached_model_are_whole():
    model = cnn()
    ParameterVector(model)
    fresh = cnn()
    fresh.load_state_dict(model.state_dict())
    clone = copy.deepcopy(model)
    for a, b, c in zip(model.parameters(), fresh.parameters(), clone.parameters()):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
        assert a.data_ptr() != c.data_ptr()


def test_loading_a_state_dict_after_attaching_reaches_the_vector():
    model, source = nn.Linear(3, 2), nn.Linear(3, 2)
    vector = ParameterVector(model)
    model.load_state_dict(source.state_dict())
    vector.publish()
    assert torch.equal(held_at(vector, 1)[0], source.weight)


def test_memory_stays_at_a_few_snapshots_however_long_it_runs():
    model = nn.Linear(100, 100)
    ours, theirs = ParameterVector(model), ParameterVector(copy.deepcopy(model))
    theirs.publish()
    for round_number in range(200):
        ours.publish()
        if round_number % 3 == 0:
            version = ours.latest().version
            ours.pin(version)
        if round_number % 3 == 2:
            ours.mix(version, [(receive(ours, theirs, 1), 0.5)], ad_psgd())
            ours.release(version)
            ours.apply()
    report = ours.memory_report()
    assert report["parameters"] == 64 * -(-40_000 // 64) + 448  # the bias, 400 bytes, takes 448
    assert report["snapshots"] <= 3 * ours.nbytes
    assert report["receive"] == ours.nbytes


def test_however_long_training_pauses_what_waits_takes_one_buffer():
    ours, theirs = ParameterVector(nn.Linear(30, 30)), ParameterVector(nn.Linear(30, 30))
    ours.publish()
    theirs.publish()
    for _ in range(20):
        ours.mix(1, [(receive(ours, theirs, 1), 0.1), (receive(ours, theirs, 1), 0.1)], d_psgd())
    assert ours.memory_report()["receive"] == 3 * ours.nbytes  # it, and the two that were being received
    assert ours.apply() == 20


@pytest.mark.slow
def test_two_threads_exchange_without_losing_anything():
    """Both threads at full speed; every snapshot read by the driver is one moment of training, never a mixture."""
    model = nn.Linear(200, 200, bias=False)
    nn.init.zeros_(model.weight)
    vector = ParameterVector(model)
    stop = threading.Event()
    torn: list[tuple[float, float]] = []
    mixes = 0

    def drive() -> None:
        nonlocal mixes
        while not stop.is_set():
            snapshot = vector.latest()
            if snapshot is None:
                continue
            received = vector.receive_buffer()
            received.view[:] = vector.pin(snapshot.version)
            values = vector._layout.parameters[0].view(received.host)[:40_000]
            if values.min() != values.max():
                torn.append((float(values.min()), float(values.max())))
            values += 2.0  # a partner that is 2 ahead: half of it is a correction of exactly 1
            vector.mix(snapshot.version, [(received, 0.5)], ad_psgd())
            vector.release(snapshot.version)
            mixes += 1

    driver = threading.Thread(target=drive)
    driver.start()
    boundaries = 0
    while boundaries < 2000 or mixes < 100:
        with torch.no_grad():
            model.weight.add_(1.0)
        vector.apply()
        vector.publish()
        boundaries += 1
    stop.set()
    driver.join()
    assert vector.apply() == mixes
    assert not torn
    assert (model.weight == boundaries + mixes).all()
