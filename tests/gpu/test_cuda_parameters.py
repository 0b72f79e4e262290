"""The flat vector on a GPU: streams, events and pinned memory, with long kernels in the way to provoke races."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

from gossiptrain.compression import Cast, bfloat16, float16, int8
from gossiptrain.mixing import ad_psgd, d_psgd
from gossiptrain.runtime.parameters import ParameterVector

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch.cuda.is_available() is False"),
]

LONG_CYCLES = 200_000_000  # about a tenth of a second of one kernel


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    model[1].running_mean.uniform_()
    return model.to(memory_format=torch.channels_last)


def held(model: nn.Module) -> list[torch.Tensor]:
    """Return copies on the host of everything that is mixed."""
    floats = [buffer for buffer in model.buffers() if buffer.dtype.is_floating_point]
    return [value.detach().to("cpu", copy=True) for value in (*model.parameters(), *floats)]


def receive(vector: ParameterVector, data: bytes | memoryview):
    buffer = vector.receive_buffer()
    buffer.view[:] = data
    return buffer


def in_another_thread(work) -> None:
    """Run the driver's part as the driver does, in a thread with its own current stream; raise what it raises."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def fill(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


@pytest.mark.parametrize("optimizer", ["momentum", "adamw fused", "adamw foreach"])
def test_attached_training_takes_the_steps_of_plain_training(optimizer):
    make = {
        "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        "adamw fused": lambda parameters: torch.optim.AdamW(parameters, fused=True),
        "adamw foreach": lambda parameters: torch.optim.AdamW(parameters, foreach=True),
    }[optimizer]
    models = [nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 4)).cuda()]
    models.append(copy.deepcopy(models[0]))
    vector = ParameterVector(models[0])
    optimizers = [make(model.parameters()) for model in models]
    for _ in range(5):
        batch = torch.randn(16, 32, device="cuda")
        for model, stepper in zip(models, optimizers):
            stepper.zero_grad()
            model(batch).pow(2).mean().backward()
            stepper.step()
        vector.apply()
        vector.publish()
    for attached, alone in zip(models[0].parameters(), models[1].parameters()):
        torch.testing.assert_close(attached, alone)


def test_a_gpu_and_a_cpu_peer_hold_the_same_schema_and_bytes():
    on_cpu = network(1)
    on_gpu = copy.deepcopy(on_cpu).cuda()
    ours, theirs = ParameterVector(on_gpu), ParameterVector(on_cpu)
    assert ours.schema_hash == theirs.schema_hash
    assert ours.nbytes == theirs.nbytes
    ours.publish()
    theirs.publish()
    assert bytes(ours.pin(1)) == bytes(theirs.pin(1))


def test_network_memory_is_pinned_and_mixing_is_done_on_the_device():
    vector = ParameterVector(network(1).cuda())
    vector.publish()
    buffer = receive(vector, vector.pin(1))
    assert buffer.host.is_pinned()
    assert vector.is_finite(buffer)
    assert buffer.uploaded.data.is_cuda
    assert vector.memory_report()["staging_host"] == vector.nbytes


@pytest.mark.parametrize("mixer", [ad_psgd(), d_psgd()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mixing_on_the_gpu_is_mixing_on_the_cpu(mixer, dtype):
    count = 1 if mixer.kind == "pair" else 3
    results, distances = [], []
    for device in ("cpu", "cuda"):
        model = network(0).to(device, dtype)
        others = [ParameterVector(network(seed).to(device, dtype)) for seed in range(1, 1 + count)]
        vector = ParameterVector(model)
        for each in (vector, *others):
            each.publish()
        for _ in range(2):  # the second is summed with the first
            inbox = [(receive(vector, other.pin(1)), 0.25) for other in others]
            assert all(vector.is_finite(buffer) for buffer, _ in inbox)
            distances.append(vector.mix(1, inbox, mixer))
        assert vector.apply() == 2
        results.append(held(model))
    for on_cpu, on_gpu in zip(*results):
        torch.testing.assert_close(on_gpu, on_cpu)
    assert distances[2:] == pytest.approx(distances[:2], rel=1e-3)


@pytest.mark.parametrize("codec", [bfloat16(), float16(), int8()], ids=repr)
def test_a_codec_writes_on_the_gpu_what_it_writes_on_the_cpu(codec):
    ours, theirs = (ParameterVector(network(1).to(device), codec=codec) for device in ("cuda", "cpu"))
    assert ours.nbytes == theirs.nbytes
    for vector in (ours, theirs):
        vector.publish()
    on_gpu, on_cpu = (torch.frombuffer(bytearray(vector.pin(1)), dtype=torch.uint8) for vector in (ours, theirs))
    if isinstance(codec, Cast):
        assert torch.equal(on_gpu, on_cpu)
    else:  # one division may be rounded otherwise
        assert float((on_gpu != on_cpu).float().mean()) < 0.01
    for vector, data in ((ours, theirs.pin(1)), (theirs, ours.pin(1))):
        buffer = receive(vector, data)
        assert vector.is_finite(buffer)
        assert vector.mix(1, [(buffer, 0.5)], ad_psgd()) < 0.2
    assert ours.memory_report()["staging_host"] == ours.nbytes


@pytest.mark.parametrize("codec", [bfloat16(), int8()], ids=repr)
def test_two_peers_on_the_gpu_with_a_codec_keep_their_mean(codec):
    models = [network(seed).cuda() for seed in (1, 2)]
    vectors = [ParameterVector(model, codec=codec) for model in models]
    before = [sum(pair) / 2 for pair in zip(*(held(model) for model in models))]
    for version in range(1, 20):
        for vector in vectors:
            vector.publish()
            vector.latest()
        inboxes = [[(receive(vectors[i], vectors[1 - i].pin(version)), 0.5)] for i in (0, 1)]
        for vector, inbox in zip(vectors, inboxes):
            vector.mix(version, inbox, ad_psgd())
        for vector in vectors:
            vector.apply()
            vector.release(version)
    after = [sum(pair) / 2 for pair in zip(*(held(model) for model in models))]
    for now, then in zip(after, before):
        torch.testing.assert_close(now, then, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_value_that_is_not_finite_is_found_on_the_device(dtype):
    vector = ParameterVector(nn.Linear(40, 40).to("cuda", dtype))
    for bad in (float("nan"), float("inf")):
        buffer = vector.receive_buffer()
        buffer.host.zero_()
        vector._layout.parameters[0].view(buffer.host)[1234] = bad
        assert not vector.is_finite(buffer)
        buffer.free()
    buffer = vector.receive_buffer()
    buffer.host.zero_()
    vector._layout.parameters[0].view(buffer.host).fill_(torch.finfo(dtype).max / 2)
    assert vector.is_finite(buffer)


def test_a_boundary_never_makes_the_host_wait_for_the_device():
    model = network(1).cuda()
    vector = ParameterVector(model)
    vector.publish()
    vector.mix(1, [(receive(vector, vector.pin(1)), 0.5)], ad_psgd())
    vector.apply()  # loads the kernels, which may wait
    vector.publish()
    vector.mix(1, [(receive(vector, vector.pin(1)), 0.5)], ad_psgd())
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(LONG_CYCLES)
        vector.apply()
        snapshot = vector.publish()
        assert not snapshot.ready.query(), "the long kernel must still run: the host waited, or it was too short"
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()


def test_a_snapshot_is_the_moment_of_publishing_although_training_runs_ahead():
    model = nn.Linear(500, 500).cuda()
    vector = ParameterVector(model)
    torch.cuda.synchronize()
    torch.cuda._sleep(LONG_CYCLES)
    fill(model, 1.0)
    vector.publish()
    fill(model, 2.0)  # queued at once: the driver must see neither this nor what was before the first fill
    seen: list[torch.Tensor] = []

    def drive() -> None:
        data = vector.pin(vector.latest().version)
        seen.append(torch.frombuffer(bytearray(data), dtype=torch.float32)[:250_000])

    in_another_thread(drive)
    assert (seen[0] == 1.0).all()


def test_mixing_waits_for_the_snapshot_it_reads():
    """Never pinned, so never downloaded: the side stream itself has to wait for the publication."""
    model = nn.Linear(500, 500).cuda()
    fill(model, 0.0)
    vector = ParameterVector(model)
    buffer = vector.receive_buffer()
    buffer.host.zero_()
    vector.publish()
    vector.latest()
    torch.cuda.synchronize()
    torch.cuda._sleep(LONG_CYCLES)
    fill(model, 4.0)
    vector.publish()
    in_another_thread(lambda: vector.mix(vector.latest().version, [(buffer, 0.5)], ad_psgd()))
    vector.apply()
    assert (model.weight == 2.0).all()


def test_device_memory_is_not_overwritten_while_training_still_has_to_read_it():
    model = nn.Linear(500, 500).cuda()
    fill(model, 0.0)
    vector = ParameterVector(model)
    vector.publish()
    vector.latest()
    partner = torch.zeros(vector.nbytes, dtype=torch.uint8)
    values = vector._layout.parameters[0].view(partner)
    for value in (2.0, 6.0):
        values.fill_(value)
        buffer = receive(vector, partner.numpy().data)
        in_another_thread(lambda: vector.mix(1, [(buffer, 0.5)], ad_psgd()))  # noqa: B023
        torch.cuda._sleep(LONG_CYCLES)
        vector.apply()  # queued behind the long kernel; the next round's upload takes the same memory
    torch.cuda.synchronize()
    assert vector.memory_report()["staging_device"] == vector.nbytes
    assert (model.weight == 4.0).all()


def test_training_on_a_stream_of_its_own_is_seen_and_corrected():
    model = nn.Linear(500, 500).cuda()
    vector = ParameterVector(model)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(LONG_CYCLES)
        fill(model, 3.0)
        vector.publish()
        buffer = vector.receive_buffer()
        buffer.host.zero_()
        in_another_thread(lambda: vector.mix(vector.latest().version, [(buffer, 0.5)], ad_psgd()))
        vector.apply()
        result = model.weight.detach().clone()
        torch.cuda.current_stream().synchronize()
    assert (result == 1.5).all()


def test_two_threads_exchange_on_the_gpu_without_losing_anything():
    """Each step adds 1 everywhere; each exchange with a partner 2 ahead adds exactly 1 more: integers in float32."""
    model = nn.Linear(1000, 1000, bias=False).cuda()
    fill(model, 0.0)
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
            received = receive(vector, vector.pin(snapshot.version))
            values = vector._layout.parameters[0].view(received.host)[:1_000_000]
            if values.min() != values.max():
                torn.append((float(values.min()), float(values.max())))
            values += 2.0
            if vector.is_finite(received):
                vector.mix(snapshot.version, [(received, 0.5)], ad_psgd())
                mixes += 1
            vector.release(snapshot.version)

    driver = threading.Thread(target=drive)
    driver.start()
    boundaries = 0
    while boundaries < 3000 or (mixes < 100 and driver.is_alive()):
        with torch.no_grad():
            model.weight.add_(1.0)
        vector.apply()
        vector.publish()
        boundaries += 1
    stop.set()
    driver.join()
    assert mixes >= 100
    assert vector.apply() == mixes
    assert not torn
    assert (model.weight == boundaries + mixes).all()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_driver_works_on_the_models_device_even_if_it_is_not_the_current_one():
    model, other = network(1).to("cuda:1"), network(2).to("cuda:1")
    ours, theirs = ParameterVector(model), ParameterVector(other)
    ours.publish()
    theirs.publish()
    before, partner = held(model), held(other)
    buffer = receive(ours, theirs.pin(1))
    in_another_thread(lambda: ours.mix(1, [(buffer, 0.5)], ad_psgd()))
    ours.apply()
    for now, mine, yours in zip(held(model), before, partner):
        torch.testing.assert_close(now, (mine + yours) / 2)
