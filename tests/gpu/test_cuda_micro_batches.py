"""A batch that really does not fit: the device's memory is limited, and the gradient is right all the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gossiptrain as gt

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LIMIT_BYTES = 512 << 20


@pytest.fixture
def little_memory():
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(0) + LIMIT_BYTES) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_a_batch_that_does_not_fit_is_computed_in_parts(little_memory):
    torch.manual_seed(0)
    layers = [layer for _ in range(8) for layer in (nn.Linear(1024, 1024), nn.Tanh())]
    model = nn.Sequential(*layers).cuda()  # 32 MiB of parameters, as much of gradients; 64 KiB of activations a sample
    x = torch.randn(8192, 1024, device="cuda")
    micro = gt.MicroBatches(model)
    loss = micro.backward(lambda x: model(x).square().mean(), x)
    assert micro.size is not None
    assert micro.size < 8192
    mine = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    total = 0.0
    for part in x.split(256):  # small enough by hand
        part_loss = model(part).square().mean() * (len(part) / len(x))
        part_loss.backward()
        total += float(part_loss)
    assert float(loss) == pytest.approx(total, rel=1e-4)
    for gradient, parameter in zip(mine, model.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.allclose(gradient, parameter.grad, rtol=1e-3, atol=1e-6)
    allocated = torch.cuda.memory_allocated()
    micro.backward(lambda x: model(x).square().mean(), x)
    assert torch.cuda.memory_allocated() <= allocated + (1 << 20), "something of the failed attempt is still held"
