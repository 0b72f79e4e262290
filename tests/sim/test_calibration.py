"""Calibration: what a cluster was made with is found again from the events of a run on it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sim
from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.effects import Discard, ExpectSnapshot, Send
from gossiptrain.protocol.events import MessageReceived, SnapshotReceived
from gossiptrain.protocol.notices import Exchanged
from gossiptrain.runtime.link_times import LinkTimes
from sim.calibration import fit_network, read
from sim.measured_steps import MeasuredSteps
from sim.streams import generator

BEGAN = 1_700_000_000.0


def write_run(folder: Path, steps_s: dict[str, np.ndarray], links: list[dict] | None = None, **settings) -> Path:
    """Writes events as the runtime does: step times since the epoch, and lines of JSON."""
    (folder / "events").mkdir(parents=True)
    for name, row_s in steps_s.items():
        (folder / "events" / f"{name}.steps").write_bytes(
            (BEGAN + 1 + np.cumsum([0.0, *row_s])).astype("<f8").tobytes()
        )
        lines = [{"t": BEGAN, "kind": "Settings", "pace": "pair", "sync_every": 4, **settings}]
        lines += [{"t": BEGAN + 0.5, "kind": "Joined", "source": ""}]
        for link in links or ():
            if link["at"] == name:
                lines.append({"t": BEGAN + 9, "kind": "LinkTimes", **link})
        text = "\n".join(json.dumps(line) for line in lines)
        (folder / "events" / f"{name}.jsonl").write_text(text + '\n{"t": 1.0, "ki')
    return folder


def correlated_s(seed: int, median_s: float, sigma: float, r: float, count: int) -> np.ndarray:
    """Log-normal steps whose logarithms are an AR(1) sequence."""
    noise, z = generator(seed, "test").standard_normal(count), [0.0]
    for value in noise:
        z.append(r * z[-1] + math.sqrt(1 - r * r) * value)
    return median_s * np.exp(sigma * np.array(z[1:]))


def drawn_s(steps: sim.MeasuredSteps, peer: int, count: int, seed: int = 0) -> np.ndarray:
    clockwork = steps.begin(seed, peer)
    return np.array([clockwork.block(i, 1)[0] for i in range(count)])


def test_step_times_are_found_again_with_their_mean_spread_and_order(tmp_path):
    made = {
        "peer-0": (0.05, 0.2, 0.0),
        "peer-1": (0.05, 0.2, 0.8),
        "peer-2": (0.2, 0.5, 0.4),
        "peer-10": (0.1, 0.0, 0.0),
    }
    rows = {name: correlated_s(i, *told, count=4000) for i, (name, told) in enumerate(made.items())}
    compute = sim.calibrate(write_run(tmp_path, rows), network=sim.NetworkOptions()).compute
    assert isinstance(compute, MeasuredSteps)
    for peer, (row_s, (_, sigma, r)) in enumerate(zip(rows.values(), made.values(), strict=True)):
        again_s = drawn_s(compute, peer, 20_000)
        assert compute.mean_s(peer) == pytest.approx(row_s.mean(), rel=1e-6)
        assert again_s.mean() == pytest.approx(row_s.mean(), rel=0.04)
        if sigma:
            assert compute.correlations[peer] == pytest.approx(r, abs=0.06)
            assert np.log(again_s).std() == pytest.approx(sigma, rel=0.08)
            blocks_s, real_s = (x[: len(x) // 16 * 16].reshape(-1, 16).sum(1) for x in (again_s, row_s))
            assert blocks_s.std() == pytest.approx(real_s.std(), rel=0.2)


def test_peers_beyond_the_measured_ones_are_like_one_of_them():
    steps = MeasuredSteps(((0.1,), (0.4,)))
    means = [round(drawn_s(steps, peer, 3).mean(), 3) for peer in range(200)]
    assert means[:2] == [0.1, 0.4]
    assert 70 < sum(mean == 0.4 for mean in means) < 130


def links_of(delays_s: dict, mbps: float, jitter: float, size: int, count: int) -> list[dict]:
    """What links of the simulator's own model show: delays d (1 + j U), and a snapshot's bits at a rate."""
    found = []
    for (a, b), d in delays_s.items():
        for at, other in ((a, b), (b, a)):
            u = generator("links", at, other).random((3, count))
            trips_s = d * (2 + jitter * (u[0] + u[1]))
            transfers_s = d * (2 + jitter * u[2]) + 8e-6 * size / mbps
            found.append(
                {"at": at, "peer": other, "round_trips_s": trips_s.tolist(), "snapshots_s": transfers_s.tolist()}
            )
            found[-1]["snapshot_bytes"] = size
    return found


def test_delays_jitter_and_bandwidths_are_found_again(tmp_path):
    delays_s = {("peer-0", "peer-1"): 0.010, ("peer-0", "peer-2"): 0.040, ("peer-1", "peer-2"): 0.020}
    rows = {f"peer-{i}": np.full(50, 0.1) for i in range(3)}
    links = links_of(delays_s, mbps=80.0, jitter=0.5, size=1_000_000, count=400)
    network = fit_network(read(write_run(tmp_path, rows, links)))
    latencies_s = np.array(network.latencies_s(3))
    for (a, b), d in delays_s.items():
        assert latencies_s[int(a[-1]), int(b[-1])] == pytest.approx(d, rel=0.05)
    assert network.jitter == pytest.approx(0.5, abs=0.1)
    rates_mbps = np.array(network.pairs_mbps(3))[~np.eye(3, dtype=bool)]
    assert rates_mbps == pytest.approx(np.full(6, 80.0), rel=0.05)
    assert network.bandwidths_mbps("uplink_mbps", 3) == pytest.approx([80.0] * 3, rel=0.1)
    assert len(network.latencies_s(64)) == 64  # type: ignore[arg-type]


def test_what_small_snapshots_take_is_handling_not_bandwidth(tmp_path):
    rows = {f"peer-{i}": np.full(50, 0.1) for i in range(2)}
    links = links_of({("peer-0", "peer-1"): 0.01}, mbps=8e-6 * 320 / 0.004, jitter=0.5, size=320, count=400)
    network = fit_network(read(write_run(tmp_path, rows, links)))
    assert network.snapshot_overhead_s == pytest.approx(0.004, rel=0.15)
    assert network.bandwidths_mbps("uplink_mbps", 2) == sim.NetworkOptions().bandwidths_mbps("uplink_mbps", 2)
    work = sim.TimedWorkload(320)
    plain = sim.Simulation(2, workload=work, network=replace(network, snapshot_overhead_s=0.0)).run(20.0)
    slower = sim.Simulation(2, workload=work, network=network).run(20.0)
    assert median_exchange_s(slower) - median_exchange_s(plain) == pytest.approx(0.004, rel=0.3)


def test_a_simulated_cluster_is_found_again_and_answers_what_if(tmp_path):
    """A simulation stands for the real cluster: what its links and steps took is written, fitted, and simulated again."""
    real = sim.NetworkOptions(latency_s=0.03, jitter=0.3, uplink_mbps=40.0, downlink_mbps=1000.0)
    steps = sim.BimodalSteps(0.1, 0.4, slow_share=0.5)
    work = sim.TimedWorkload(400_000, steps)
    cluster = Watched(4, workload=work, network=real, seed=3)
    cluster.links = []
    report = cluster.run(80.0)
    rows = {peer.name: np.concatenate([np.full(b.steps, b.gap_s) for b in peer.blocks[1:]]) for peer in report.peers}
    environment = sim.calibrate(write_run(tmp_path, rows, cluster.links))
    again = sim.Simulation(4, workload=work, environment=environment, seed=4).run(80.0)
    assert [p.steps for p in again.peers] == pytest.approx([p.steps for p in report.peers], rel=0.03)
    assert median_exchange_s(again) == pytest.approx(median_exchange_s(report), rel=0.1)
    exchanges = [sum(p.exchanges() for p in r.peers) for r in (again, report)]
    assert exchanges[0] == pytest.approx(exchanges[1], rel=0.1)
    many = sim.Simulation(12, workload=work, environment=environment, seed=5).run(10.0)
    slow = sum(peer.steps < 50 for peer in many.peers)
    assert 0 < slow < 12


class Watched(sim.Simulation):
    """Notes at each peer what the runtime notes, with its own `LinkTimes`, under virtual time."""

    links: list[dict]

    def start(self, host: int, same_boot: bool = False) -> None:
        super().start(host, same_boot)
        peer, times = self.process(host), LinkTimes()
        handle, carry_out = peer.handle, peer._carry_out
        send, expect, discard = carry_out[Send], carry_out[ExpectSnapshot], carry_out[Discard]

        def handled(event) -> None:
            if isinstance(event, MessageReceived):
                times.hears(event.envelope.sender, event.envelope.message, self.now)
            elif isinstance(event, SnapshotReceived):
                times.received(event.transfer, self.now)
            handle(event)
            self.links += [{"at": peer.name, **record} for record in times.take(self.now, 400_000)]

        def sent(effect: Send) -> None:
            times.sends(effect.address, effect.message, self.now)
            send(effect)

        def expected(effect: ExpectSnapshot) -> None:
            times.expects(effect.transfer, effect.address, self.now)
            expect(effect)

        def discarded(effect: Discard) -> None:
            times.forget(effect.transfer)
            discard(effect)

        carry_out.update({Send: sent, ExpectSnapshot: expected, Discard: discarded})
        peer.handle = handled  # type: ignore[method-assign]


def median_exchange_s(report: sim.Report) -> float:
    return float(np.median([n.seconds for p in report.peers for _, n in p.notices if isinstance(n, Exchanged)]))


def test_times_across_a_restart_are_no_steps(tmp_path):
    folder = write_run(tmp_path, {"peer-0": np.full(60, 0.1)})
    with (folder / "events" / "peer-0.steps").open("ab") as file:
        file.write((BEGAN + 500 + 0.1 * np.arange(30)).astype("<f8").tobytes() + b"half")
    with (folder / "events" / "peer-0.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"t": BEGAN + 499, "kind": "Joined", "source": "peer-1"}) + "\n")
    steps_s = read(folder).steps_s["peer-0"]
    assert len(steps_s) == 89
    assert steps_s.max() < 0.11


def test_waiting_for_a_round_is_no_step(tmp_path):
    row_s = np.full(60, 0.1)
    row_s[3::4] = 5.0  # the interval after each fourth step holds the wait
    assert read(write_run(tmp_path / "a", {"peer-0": row_s}, pace="round")).steps_s["peer-0"].max() < 0.11
    with pytest.raises(ConfigurationError, match="waits for a round after each step"):
        read(write_run(tmp_path / "b", {"peer-0": row_s}, pace="round", sync_every=1))


def test_a_peer_with_too_few_steps_is_left_out_and_that_is_told(tmp_path):
    rows = {"peer-0": np.full(60, 0.1), "peer-1": np.full(5, 0.1)}
    environment = sim.calibrate(write_run(tmp_path, rows), network=sim.NetworkOptions())
    assert "1 peers, 60 steps" in environment.name
    assert "without peer-1" in environment.name
    assert sim.Environment.from_dict(environment.to_dict()) == environment


def test_what_cannot_be_fitted_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match="is it a run's folder"):
        sim.calibrate(tmp_path)
    rows = {"peer-0": np.full(60, 0.1), "peer-1": np.full(60, 0.1)}
    with pytest.raises(ConfigurationError, match="no round trips"):
        sim.calibrate(write_run(tmp_path / "silent", rows))
    with pytest.raises(ConfigurationError, match="train longer"):
        sim.calibrate(write_run(tmp_path / "short", {"peer-0": np.full(3, 0.1)}))
