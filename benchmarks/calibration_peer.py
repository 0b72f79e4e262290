"""One peer of `calibration.py`: a small network whose steps last as long as those of a given device would.

What a step computes takes 2 or 3 ms here; the rest of its time is slept, so that a few cores can stand for several devices.
Twice a second the parameters are kept, with the time, for the curve of the average.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import gossiptrain as gt
from gossiptrain import data

PEERS = 4
BATCH = 64
LR = 0.005
KEEP_EVERY_S = 0.5
# How much a device's steps differ: sigma of their logarithm.
SIGMA = 0.1


def build_model() -> nn.Module:
    """Images [N, 1, 28, 28] to scores [N, 10] through 32 hidden units; every peer begins alike."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))


def load_images() -> data.LabelledData:
    """Fashion-MNIST with pixels of mean 0 and deviation 1: learning then goes on steadily, without a long plateau."""
    images = data.load("fashion-mnist")
    mean, deviation = images.train_x.mean(), images.train_x.std()
    train_x, test_x = ((x - mean) / deviation for x in (images.train_x, images.test_x))
    return replace(images, train_x=train_x, test_x=test_x)


def main() -> None:
    """Trains for a while at the device's pace, and writes the kept parameters to RUN/curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--step-s", type=float, default=0.1, help="the median step of a device")
    parser.add_argument("--straggler", default="", help="this peer's steps take --factor times longer")
    parser.add_argument("--factor", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0, help="of the batches and of the device's steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    peer = gt.attach(model, optimizer)
    number = int(peer.name.removeprefix("peer-"))
    median_s = options.step_s * (options.factor if peer.name == options.straggler else 1.0)
    images = load_images()
    batches = own_batches(images.train_x[number::PEERS], images.train_y[number::PEERS], PEERS * options.seed + number)
    chance = np.random.default_rng((options.seed, number))
    kept_s, kept = [], []
    with peer:
        ends_s = time.monotonic() + options.seconds
        while (began_s := time.monotonic()) < ends_s:
            x, y = next(batches)
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            time.sleep(max(0.0, began_s + median_s * float(np.exp(SIGMA * chance.normal())) - time.monotonic()))
            optimizer.step()
            if not kept_s or time.time() >= kept_s[-1] + KEEP_EVERY_S:
                kept_s.append(time.time())
                kept.append(nn.utils.parameters_to_vector(model.parameters()).detach().numpy().copy())
    assert peer.config.settings.run_dir is not None, "started by the launcher"
    folder = peer.config.settings.run_dir / "curve"
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{peer.name}.npz", times_s=kept_s, parameters_TP=np.stack(kept))


def own_batches(x: torch.Tensor, y: torch.Tensor, seed: int):
    """Yields batches of a peer's own share, anew in another order when all were seen."""
    chance = torch.Generator().manual_seed(seed)
    for _ in itertools.count():
        for rows in torch.randperm(len(x), generator=chance).split(BATCH):
            yield x[rows], y[rows]


if __name__ == "__main__":
    main()
