"""Scenarios as files, the command line, and the replay of what failed."""

from __future__ import annotations

import re
import shlex
import signal

import networkx as nx
import pytest

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.peer_protocol import PeerProtocol
from sim import FaultSchedule, InvariantBroken, NetworkOptions, Simulation, TimedWorkload, TraceSteps, loads
from sim import __main__ as command
from sim.clock import Clock
from sim.quadratic import QuadraticWorkload
from sim.scenario import dumps

SMALL = """
peers = 3
seed = 5
until_s = 12.0
topology = "ring"
[workload]
kind = "timed"
snapshot_bytes = 1000
[workload.steps]
kind = "lognormal"
median_s = 0.1
[network]
regions = ["virginia", "ireland"]
[membership]
stall_tolerance_s = 4.0
[[faults]]
kind = "stall"
peer = "peer-1"
at_s = 5.0
for_s = 2.0
"""


def test_a_scenario_is_read_whole():
    scenario = loads(SMALL)
    options = scenario.simulation().options
    assert (options.peers, options.seed, options.topology, scenario.until_s) == (3, 5, "ring", 12.0)
    assert options.network.regions == ("virginia", "ireland")
    assert options.membership.stall_tolerance_s == 4.0
    assert options.faults == FaultSchedule().stall(1, 5.0, 2.0)
    assert scenario.run().require("fault stall").until_s == 12.0


def test_a_simulation_written_as_a_scenario_gives_the_same_trace():
    workload = TimedWorkload(50_000, TraceSteps(((0.05, 0.07), (0.1,))))
    faults = FaultSchedule().partition([[0], [1, 2]], 4.0, 2.0).join(7.0)
    simulation = Simulation(4, seed=8, workload=workload, faults=faults, network=NetworkOptions(latency_s=0.02))
    text = dumps(simulation.options, 12.0)
    assert loads(text).run().trace_hash == simulation.run(12.0).trace_hash


def test_shared_data_stand_in_a_file_and_are_written_back():
    text = SMALL + "[data]\nsamples = 4096\nbatch = 16\nahead = 32\n"
    run = loads(text).simulation()
    report = run.run(12.0)
    assert report.to_pandas().peers.samples_trained.sum() > 1000
    written = dumps(run.options, 12.0)
    assert "[data]\nsamples = 4096\nbatch = 16\nchunk_samples = 16\nahead = 32\n" in written
    assert loads(written).run().trace_hash == report.trace_hash
    with pytest.raises(ConfigurationError, match="data: 'sample' is not known; did you mean 'samples'"):
        loads("[data]\nsample = 3")


def test_a_workload_from_a_file_is_written_as_it_stood_there():
    text = SMALL.replace('kind = "timed"\nsnapshot_bytes = 1000', 'kind = "quadratic"\nsize = 7\nnoise = 0.1')
    run = loads(text).simulation(seed=9)
    written = dumps(run.options, 12.0)
    assert loads(written).run().trace_hash == run.run(12.0).trace_hash
    assert "noise = 0.1" in written


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"workload": QuadraticWorkload([[1.0]], [[0.0]])}, "workload=QuadraticWorkload.*sim.load"),
        ({"topology": nx.path_graph(["peer-0", "peer-1"])}, "topology=Graph: a file holds the name of a family"),
    ],
)
def test_what_a_program_made_is_not_written_and_the_message_says_what_to_do(options, named):
    simulation = Simulation(2, **options)
    with pytest.raises(ConfigurationError, match=named):
        dumps(simulation.options, 3.0)
    assert "run the same program again" in simulation.replay_text()


def test_another_seed_can_be_given():
    assert loads(SMALL).simulation(seed=6).options.seed == 6


def test_random_faults_may_be_asked_for_in_a_file():
    scenario = loads("peers = 5\nuntil_s = 200.0\n[random_faults]\nseed = 3\nper_minute = 12.0")
    assert scenario.arguments["faults"] == FaultSchedule.random(3, 5, 200.0, per_minute=12.0)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("peers = 3\nseeed = 4", "'seeed' is not known; did you mean 'seed'"),
        ("[network]\nlatency = 1.0", "network: 'latency' is not known; did you mean 'latency_s'"),
        ("[workload]\nkind = 'time'", "workload: kind='time' is not known; did you mean 'timed'"),
        ("[workload.steps]\nkind = 'lognorm'", "did you mean 'lognormal'"),
        ("[workload.steps]\nstep = 1.0", "did you mean 'step_s'"),
        ("[random_faults]\nper_hour = 3", "random_faults: 'per_hour' is not known"),
        ("until_s = -1.0", "until_s=-1.0"),
        ("peers = ", "not TOML"),
        ("[[faults]]\nkind = 'crash'\npeer = 40\nat_s = 2.0", "peer 40 does not exist"),
    ],
)
def test_what_cannot_be_read_is_named(text, named):
    with pytest.raises(ConfigurationError, match=named):
        loads(text).simulation()


def test_the_command_runs_a_file_and_prints_a_table(tmp_path, capsys):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    assert command.main([str(path), "--until", "8", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"peer-1 +living", printed)
    assert "fault stall 1" in printed
    expected = loads(SMALL).simulation().run(8.0).trace_hash
    assert f"trace {expected}" in printed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["missing.toml"], "missing.toml"),
        ([], "give a scenario file"),
        (["a.toml", "--random-faults", "1"], "not both"),
        (["--random-faults", "1", "--peers", "1"], "peers=1"),
        (["--random-faults", "1", "--until", "20"], "until_s=20"),
    ],
)
def test_the_command_explains_what_it_cannot_run(arguments, named, capsys):
    assert command.main(arguments) == 2
    assert named in capsys.readouterr().err


def test_a_broken_invariant_prints_the_command_that_shows_it_again(monkeypatch, capsys):
    living = PeerProtocol.living
    monkeypatch.setattr(
        PeerProtocol, "living", lambda self: living(self)[1:] if self.config.name == "peer-2" else living(self)
    )
    scenario, replay = command.random_scenario(7, 3, 100.0)
    with pytest.raises(InvariantBroken) as caught:
        scenario.simulation(replay=replay).run(100.0)
    words = shlex.split(caught.value.replay.split("replay: ")[1])
    assert words[:3] == ["python", "-m", "sim"]
    assert command.main([*words[3:], "--quiet"]) == 1
    printed = capsys.readouterr()
    assert f"broken at {caught.value.time_s:.6f} s by {caught.value.peer}" in printed.err
    assert "peer-0" in printed.out


def test_an_interrupt_reports_what_happened_so_far(monkeypatch, capsys):
    def interrupted(clock, until_s, events_max):
        signal.raise_signal(signal.SIGINT)
        return run(clock, 3.0) and False

    run = Clock.run
    monkeypatch.setattr(Clock, "run", interrupted)
    assert command.main(["--random-faults", "1", "--peers", "2"]) == 0
    printed = capsys.readouterr()
    assert "the report so far" in printed.err
    assert "3 s, " in printed.out
