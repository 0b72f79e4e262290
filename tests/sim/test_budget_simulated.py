"""A bandwidth budget in the simulator: what leaves a peer keeps to it, and nobody waits for the line in vain."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

import sim
from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.notices import Exchanged, ExchangeFailed, Joined
from sim.scenario import dumps

SNAPSHOT_BYTES = 500_000
MBPS = 4.0  # a snapshot takes a second
WINDOW_S = 2.0


def simulation(peers: int = 5, **options) -> sim.Simulation:
    workload = sim.TimedWorkload(SNAPSHOT_BYTES, sim.ConstantSteps(0.05))
    return sim.Simulation(peers, workload=workload, seed=2, **{"max_mbps": MBPS, **options})


def sent(run: sim.Simulation, until_s: float) -> dict[int, list[tuple[float, float, float]]]:
    """Runs, and returns what left each host: (from, to, bits), between two changes of a transfer's rate."""
    pieces: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
    bandwidth = run.network.bandwidth
    settle = bandwidth._settle

    def watch(flow) -> None:
        begin_s, bits = flow.since_s, flow.left_bits
        settle(flow)
        if flow.rate:
            pieces[flow.source].append((begin_s, run.now, bits - flow.left_bits))

    bandwidth._settle = watch
    run.run(until_s)
    return pieces


def most_in_a_window(pieces: list[tuple[float, float, float]]) -> float:
    """The most bits within any two seconds."""
    begins_s, ends_s, bits = np.array([piece for piece in pieces if piece[1] > piece[0]]).T
    edges_s = np.unique(np.concatenate([begins_s, ends_s, begins_s - WINDOW_S, ends_s - WINDOW_S]))
    overlap_s = np.minimum(ends_s, edges_s[:, None] + WINDOW_S) - np.maximum(begins_s, edges_s[:, None])
    return float((np.clip(overlap_s, 0, None) / (ends_s - begins_s) * bits).sum(1).max())


def test_over_any_two_seconds_a_peer_sends_no_more_than_its_budget():
    run = simulation(faults=sim.FaultSchedule().join(12.0))
    pieces = sent(run, 40.0)
    assert set(pieces) == set(range(6)), "all send, the newcomer too"
    for host in pieces:
        assert most_in_a_window(pieces[host]) <= WINDOW_S * MBPS * 1e6 * 1.0001, f"peer-{host}"
    assert any(isinstance(notice, Joined) for _, notice in run.process(5).notices)
    without = most_in_a_window(max(sent(simulation(max_mbps=0.0), 20.0).values(), key=most_in_a_window))
    assert without > 3 * WINDOW_S * MBPS * 1e6, "and would send far more without"


def test_the_protocol_waits_for_the_line_so_that_no_exchange_reaches_its_time_out():
    run = simulation(formed=True)
    run.run(60.0)
    told = [notice for peer in run.living() for _, notice in peer.notices]
    mixes = sum(isinstance(notice, Exchanged) for notice in told)
    assert mixes > 100
    assert not [notice for notice in told if isinstance(notice, ExchangeFailed)]
    lasted_s = [notice.seconds for notice in told if isinstance(notice, Exchanged)]
    assert max(lasted_s) < 2.5, "an exchange is two snapshots at once, and not queued behind others"


def test_each_peer_may_have_a_budget_of_its_own():
    run = simulation(peers=3, max_mbps=[4.0, 8.0, 0.0], formed=True)
    pieces = sent(run, 30.0)
    most = [most_in_a_window(pieces[host]) / WINDOW_S / 1e6 for host in range(3)]
    assert most[0] <= 4.001
    assert 4.0 < most[1] <= 8.001
    told = [run.process(host).protocol.config.limits.max_mbps for host in range(3)]
    assert told == [4.0, 8.0, 0.0], "the protocol knows of it: it begins nothing while the line is busy"


def test_a_scenario_holds_the_budget():
    run = simulation(max_mbps=[4.0, 8.0, 0.0], peers=3)
    text = dumps(run.options, 10.0)
    assert "max_mbps = [4.0, 8.0, 0.0]" in text
    assert sim.loads(text).run().trace_hash == run.run(10.0).trace_hash


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (0.01, "max_mbps=0.01"),
        (0.3, "must be at least"),
        ([4.0, 4.0], r"max_mbps=\[4.0, 4.0\]: must be one number of megabit a second or 5 of them"),
        ("4", "max_mbps='4'"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(given, named: str):
    with pytest.raises(ConfigurationError, match=named):
        simulation(max_mbps=given)
