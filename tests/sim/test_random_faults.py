"""Random fault schedules, and scenarios kept because they broke something once or are hard.

`make soak` runs 1,000 schedules of 10 virtual minutes. Here are 20 of the same kinds and sizes (2 to 64 peers), but of four
minutes, so that all of them take less than a minute of two cores; pytest-xdist shares them out.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sim import load
from sim.soak import Schedule, run_one

REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*.toml"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10_020, 10_040))
def test_no_invariant_breaks_under_random_faults(seed):
    schedule = Schedule(seed, peers_max=64, minutes=4.0)
    outcome = run_one(schedule)
    assert not outcome.error, f"{outcome.error}\nreplay: {schedule.command()}"
    assert outcome.saw["Joined"] >= outcome.peers


@pytest.mark.slow
@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.stem)
def test_a_scenario_that_is_hard_to_survive_holds(path):
    scenario = load(path)
    scenario.simulation(replay=f"python -m sim tests/sim/regressions/{path.name}").run(scenario.until_s)
