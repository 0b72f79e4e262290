"""Is the bandwidth budget kept, and what does it cost? Real processes on one machine, over TCP (no shared memory).

Four peers train a small network for a while, with several budgets and without one. Each notes, at every step, how many
bytes of snapshots it has handed to the network. Shown are the most of any two seconds against the budget, how much of the
budget was used, how many exchanges a peer had and how many timed out, and the steps a second: with ad_psgd training does
not wait for the line, with d_psgd it waits for its neighbours' snapshots, as ever.

    python benchmarks/budgets.py [--seconds 15] [--mbps 16 32 128]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, print_table, write_results

PEERS = 4
WINDOW_S = 2.0
WARM_S = 3.0
STEP_S = 0.02
WIDTH = 512  # 0.9 million parameters: 3.7 MB a snapshot


def main() -> None:
    """Runs each budget once and prints one table; started as a peer, trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--mbps", type=float, nargs="+", default=[16.0, 32.0, 128.0])
    parser.add_argument("--train", action="store_true", help="be one of the peers (the launcher says so)")
    options = parser.parse_args()
    if options.train:
        train(options.seconds)
        return
    described = machine()
    rows = []
    for mixer, mbps in itertools.product(("ad_psgd", "d_psgd"), (*options.mbps, 0.0)):
        rows.append(measure(mixer, mbps, options.seconds))
        print(rows[-1], flush=True)
    print_table(
        f"{PEERS} peers over TCP, {options.seconds:g} s each",
        (
            *("mixer", "budget Mbit/s", "most in 2 s / budget", "used", "exchanges a peer", "time-outs", "steps/s"),
            "longest step ms",
        ),
        [list(row.values()) for row in rows],
    )
    write_results("budgets", {"machine": described, "rows": rows})


def measure(mixer: str, mbps: float, seconds: float) -> dict[str, Any]:
    """Launches the peers with one budget (0 for none) and returns a row."""
    from gossiptrain.launchers.local import LaunchConfig, LocalRun

    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            Path(__file__),
            ("--train", "--seconds", str(seconds)),
            peers=PEERS,
            mixer=mixer,
            run_dir=Path(folder) / "run",
            threads=1,
            max_mbps=mbps,
        )
        with LocalRun(config) as local:
            while local.running:
                local.poll(0.1)
        if local.failures:
            raise RuntimeError(f"{[(exited.name, exited.last_words) for exited in local.failures]} failed")
        kept = [np.load(local.folder.path / f"{name}.npz") for name in local.names]
        lines = [json.loads(line) for n in local.names for line in local.folder.events(n).read_text().splitlines()]
    most = max(most_in_a_window(each["times_s"], each["sent"]) for each in kept)
    rates = [rate(each["times_s"], each["sent"]) for each in kept]
    late = [line for line in lines if line["kind"] == "ExchangeFailed" and line["reason"] in ("time-out", "late")]
    steps_s = [np.diff(each["times_s"]) for each in kept]
    return {
        "mixer": mixer,
        "budget_mbps": mbps or "none",
        "most_in_2_s": round(most / WINDOW_S / (mbps * 125e3), 3) if mbps else f"{most / WINDOW_S / 125e3:.0f} Mbit/s",
        "used": round(statistics.median(rates) / (mbps * 125e3), 3) if mbps else "",
        "exchanges": statistics.median(int(each["exchanges"]) for each in kept),
        "timed_out": len(late),
        "steps_per_s": round(statistics.median(1 / float(found.mean()) for found in steps_s), 2),
        "longest_step_ms": round(1e3 * max(float(found.max()) for found in steps_s)),
    }


def most_in_a_window(times_s: np.ndarray, sent: np.ndarray) -> float:
    """Returns the most bytes sent between two looks that are at most two seconds apart."""
    first = np.searchsorted(times_s, times_s - WINDOW_S)
    return float((sent - sent[first]).max())


def rate(times_s: np.ndarray, sent: np.ndarray) -> float:
    """Returns bytes a second, but for the beginning."""
    begin = int(np.searchsorted(times_s, times_s[0] + WARM_S))
    return float((sent[-1] - sent[begin]) / (times_s[-1] - times_s[begin]))


def sent_by(peer: Any) -> int:
    """Returns the bytes of snapshots handed to the network so far; `peer.traffic()` is brought up to date too rarely."""
    return peer._driver.transport.counters["snapshot_bytes_sent"]


def train(seconds: float) -> None:
    """One peer: steps of a fixed length; writes RUN/NAME.npz."""
    import torch
    from torch import nn

    import gossiptrain as gt

    model = nn.Sequential(nn.Linear(784, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 512))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    peer = gt.attach(model, optimizer, transport=gt.TransportConfig(shared_memory=False))
    times_s: list[float] = []
    sent: list[int] = []
    with peer:
        ends_s = time.monotonic() + seconds
        while (began_s := time.monotonic()) < ends_s:
            model(torch.randn(8, 784)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            times_s.append(time.monotonic())
            sent.append(sent_by(peer))
            time.sleep(max(0.0, began_s + STEP_S - time.monotonic()))
        exchanges = peer.exchange_count
    assert peer.config.settings.run_dir is not None, "started by the launcher"
    np.savez(peer.config.settings.run_dir / f"{peer.name}.npz", times_s=times_s, sent=sent, exchanges=exchanges)


if __name__ == "__main__":
    main()
