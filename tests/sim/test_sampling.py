"""Simulated peers share data: every sample is trained while anybody survives, and few are trained twice."""

from __future__ import annotations

import pytest

import sim
from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.config import MembershipConfig
from gossiptrain.protocol.data_plan import LedgerState
from gossiptrain.protocol.notices import EpochFinished
from sim.checkers import InvariantBroken

STEPS = sim.LogNormalSteps(0.1, between=0.4, within=0.05)
# One peer's loader and blocks: what it may have trained without having said so, in samples.
UNSAID = 64 + 4 * 32 + 32


def simulation(data: sim.SharedData, peers: int = 6, **options) -> sim.Simulation:
    workload = sim.TimedWorkload(100_000, options.pop("steps", STEPS))
    return sim.Simulation(peers=peers, workload=workload, data=data, **options)


def finished(peer) -> dict[int, EpochFinished]:
    return {notice.epoch: notice for _, notice in peer.notices if isinstance(notice, EpochFinished)}


@pytest.mark.slow
def test_peers_share_epochs_by_speed_and_nothing_is_trained_twice_or_missed() -> None:
    data = sim.SharedData(16_384, batch=32, ahead=64)
    run = simulation(data, steps=sim.BimodalSteps(0.05, 0.25, slow_share=0.25))
    run.run(40)
    assert data.starved == 0
    complete = min(peer.training.sampling.floor for peer in run.living())
    assert complete >= 2
    for epoch in range(1, complete):
        assert data.truth(epoch) == sim.EpochTruth(epoch, 16_384, untrained=0, twice=0)
    trained = sorted(peer.training.sampling.trained for peer in run.living())
    assert trained[-1] > 3.5 * trained[0]


def test_status_and_report_tell_each_peers_part_of_the_data() -> None:
    data = sim.SharedData(65_536, batch=32)
    run = simulation(data, peers=3, steps=sim.BimodalSteps(0.05, 0.2, slow_share=0.4), formed=True)
    report = run.run(30)
    trained = {peer.name: peer.training.sampling.trained for peer in run.living()}
    peers = report.to_pandas().peers.set_index("peer")
    assert peers.samples_trained.to_dict() == trained
    shares = {name: count / sum(trained.values()) for name, count in trained.items()}
    assert peers.data_share.to_dict() == pytest.approx(shares)
    status = run.process(0).protocol.status(run.now)
    assert status.data is not None
    told = {status.name: status.data.share, **{m.name: m.data.share for m in status.members if m.data is not None}}
    assert told == pytest.approx(shares, abs=0.08)
    assert max(told.values()) > 2.5 * min(told.values())


def test_without_shared_data_the_report_tells_no_part() -> None:
    run = sim.Simulation(peers=2, workload=sim.TimedWorkload(1000, sim.ConstantSteps(0.1)))
    assert run.run(3).to_pandas().peers.samples_trained.isna().all()
    assert run.process(0).protocol.status(run.now).data is None


def test_a_death_costs_what_the_dead_had_not_said_and_moves_its_chunks_alone() -> None:
    data = sim.SharedData(16_384, batch=32, ahead=64, chunk_samples=64)
    faults = sim.FaultSchedule().crash(3, at_s=12.0)
    run = simulation(data, peers=6, faults=faults)
    run.run(60)
    truths = [data.truth(epoch) for epoch in range(1, min(p.training.sampling.floor for p in run.living()))]
    assert len(truths) >= 2
    assert sum(truth.untrained for truth in truths) == 0
    assert sum(truth.twice for truth in truths) <= UNSAID


@pytest.mark.slow
def test_what_was_trained_twice_is_told_as_far_as_anybody_that_lives_knows() -> None:
    data = sim.SharedData(16_384, batch=32)
    faults = sim.FaultSchedule().partition([range(4)], at_s=15.0, for_s=40.0)
    membership = MembershipConfig(stall_tolerance_s=5.0)
    run = simulation(data, faults=faults, membership=membership)
    run.run(90)
    told = finished(run.living()[0])
    truths = {epoch: data.truth(epoch) for epoch in told}
    assert max(truth.twice for truth in truths.values()) > 1000, "both sides trained on"
    for epoch, notice in told.items():
        assert notice.trained_twice <= truths[epoch].twice
    last = max(told)
    assert told[last].trained_twice == truths[last].twice == 0


def test_the_same_seed_gives_the_same_trace_and_the_same_counts() -> None:
    results = []
    for _ in range(2):
        data = sim.SharedData(8192, batch=32, ahead=32)
        run = simulation(data, peers=4, seed=4, faults=sim.FaultSchedule().crash(1, 10.0).join(15.0))
        report = run.run(25)
        results.append((report.trace_hash, [data.truth(epoch) for epoch in data.epochs()]))
    assert results[0] == results[1]


@pytest.mark.slow
def test_a_stall_that_is_taken_for_death_leaves_nothing_untrained() -> None:
    data = sim.SharedData(16_384, batch=32, ahead=64)
    membership = MembershipConfig(stall_tolerance_s=4.0)
    run = simulation(data, faults=sim.FaultSchedule().stall(2, at_s=15.0, for_s=20.0), membership=membership)
    run.run(60)
    for epoch in range(min(peer.training.sampling.floor for peer in run.living())):
        assert data.truth(epoch).untrained == 0
    assert run.process(2).training.sampling.floor >= 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_whatever_goes_wrong_no_complete_epoch_lacks_a_sample(seed: int) -> None:
    """The checker I11 looks at every epoch that any peer takes for complete; here any fault may strike."""
    data = sim.SharedData(8192, batch=16, ahead=32)
    faults = sim.FaultSchedule.random(seed, 5, 100.0, per_minute=15.0, calm_s=40.0)
    run = simulation(data, peers=5, seed=seed, faults=faults, founders=1)
    run.run(100)
    assert run.checkers.saw["epoch complete"] >= 5
    assert max(peer.training.sampling.floor for peer in run.living()) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_under_deaths_restarts_and_joins_little_is_trained_twice(seed: int) -> None:
    data = sim.SharedData(8192, batch=16, ahead=32)
    shares = {"crash": 3.0, "join": 1.0, "leave": 1.0, "crash_loop": 0.5}
    faults = sim.FaultSchedule.random(seed, 6, 100.0, per_minute=6.0, calm_s=40.0, shares=shares)
    run = simulation(data, peers=6, seed=seed, faults=faults)
    run.run(100)
    ends = [fault for fault in faults.faults if fault.kind in ("crash", "leave", "crash_loop")]
    changes = sum(fault.options.get("times", 1) for fault in faults.faults)
    truths = [data.truth(epoch) for epoch in range(1, min(peer.training.sampling.floor for peer in run.living()))]
    assert ends
    assert truths
    assert sum(truth.untrained for truth in truths) == 0
    # A loader's look-ahead and a block of each that ended, and a chunk or two that two held while news were on the way.
    assert sum(truth.twice for truth in truths) <= changes * (32 + 4 * 16 + 4 * data.plan.chunk_samples)


def test_the_checker_finds_an_epoch_that_is_taken_for_complete_too_early() -> None:
    data = sim.SharedData(8192, batch=32)
    run = simulation(data, peers=3)
    run.run(4)
    peer = run.process(0)
    peer.protocol.ledger._done.merge(LedgerState(floor=7))
    with pytest.raises(InvariantBroken, match=r"I11.*takes epoch 0 for complete"):
        run.run(8)


@pytest.mark.parametrize(("name", "values"), [("batch=0", {"batch": 0}), ("ahead=-1", {"ahead": -1})])
def test_what_cannot_be_simulated_is_refused_by_name(name: str, values: dict) -> None:
    with pytest.raises(ConfigurationError, match=name):
        sim.SharedData(100, **values)
