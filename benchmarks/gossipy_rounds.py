"""The same gossip learning in gossipy (`pip install gossipy-dfl`), for the row beside it in simulator.py.

A node's round there: once a round it sends its model to a random node, which averages it with its own and takes an epoch, 5
steps of 32 samples. Everything happens one node after the other; nothing is lost, late or failing.
"""

from __future__ import annotations

import importlib
import sys
import time
import types
from typing import Any

import torch
import torch.nn.functional as F
from common import print_table
from torch import Tensor, nn

SAMPLES_EACH = 160
# Why fluke, the other simulator of this kind, has no figure: what `pip install fluke-fl` (0.8.1) brings along.
WITHOUT_FLUKE = "not run: its package requires wandb, clearml, opacus, datasets, hydra and tensorboard"


def node_rounds(nodes: int, rounds: int, make: Any, data: tuple[Tensor, Tensor]) -> float | str:
    """Returns node-rounds a CPU-second, or why gossipy cannot be measured here."""
    try:
        _stand_in_for_torchvision()
        core, node, simul, model, handler, sets, reading = (
            importlib.import_module(f"gossipy.{name}")
            for name in ("core", "node", "simul", "model", "model.handler", "data", "data.handler")
        )
    except ImportError as error:
        return f"not installed ({error})"

    class Net(model.TorchModel):
        def __init__(self) -> None:
            super().__init__()
            self.body: nn.Module = make()

        def init_weights(self, *arguments: Any, **options: Any) -> None:
            """Torch has done it."""

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    numbers = torch.arange(nodes * SAMPLES_EACH) % len(data[0])
    held = reading.ClassificationDataHandler(data[0][numbers], data[1][numbers], data[0][:100], data[1][:100])
    shares = sets.DataDispatcher(held, n=nodes, eval_on_user=False)
    trains = handler.TorchModelHandler(
        net=Net(),
        optimizer=torch.optim.SGD,
        optimizer_params={"lr": 0.1},
        criterion=F.cross_entropy,
        local_epochs=1,
        batch_size=32,
        create_model_mode=core.CreateModelMode.MERGE_UPDATE,
    )
    network = core.StaticP2PNetwork(nodes)
    made = node.GossipNode.generate(
        data_dispatcher=shares, p2p_net=network, model_proto=trains, round_len=100, sync=True
    )
    run = simul.GossipSimulator(
        nodes=made, data_dispatcher=shares, delta=100, protocol=core.AntiEntropyProtocol.PUSH, sampling_eval=1 / nodes
    )
    run.init_nodes(seed=1)
    began_s = time.process_time()
    run.start(n_rounds=rounds)
    return nodes * rounds / (time.process_time() - began_s)


def others(row: dict[str, Any]) -> dict[str, Any]:
    """Prints who ran beside us, with what and who not; adds it to the row as "others".

    Args:
        row: with what `node_rounds` returned under "gossipy".
    """
    rate = row["gossipy"]
    how = "as installed"
    if is_torchvision_empty():
        how = "torchvision emptied: gossipy needs it at import, for CIFAR-10 alone"
    if isinstance(rate, str):
        how = rate
    found = {"gossipy-dfl": how, "fluke-fl": WITHOUT_FLUKE}
    rates = (rate, WITHOUT_FLUKE)
    cells = [
        (name, "" if isinstance(value, str) else f"{value:,.0f}", how)
        for (name, how), value in zip(found.items(), rates, strict=True)
    ]
    print_table("Others on this workload", ("package", "node-rounds a CPU-second", "how"), cells)
    return {**row, "others": found}


def is_torchvision_empty() -> bool:
    """Says whether `torchvision` is the empty stand-in."""
    module = sys.modules.get("torchvision")
    return module is not None and getattr(module, "__file__", None) is None


def _stand_in_for_torchvision() -> None:
    """Gossipy imports it for CIFAR-10 alone; a build that does not fit the installed torch fails on import."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        sys.modules["torchvision"] = types.ModuleType("torchvision")
