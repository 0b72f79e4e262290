"""Scenario files that train: `[workload] kind = "torch"`, read and run, and what is wrong in them named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import sim
from gossiptrain.errors import ConfigurationError
from sim import __main__ as command
from sim.scenario import dumps

OWN = """
import torch
from tests.sim.learning.models import blobs, mlp

def data():
    return blobs()

def held_out():
    return blobs(100, seed=1)

def hinge(output, y):
    return torch.nn.functional.multi_margin_loss(output, y)

def model(wide=False):
    width = 32 if wide else 8
    return torch.nn.Sequential(torch.nn.Linear(12, width), torch.nn.Tanh(), torch.nn.Linear(width, 4))

def rate(step):
    return 0.99 ** step
"""
BLANK = (torch.zeros(40, 2), torch.zeros(40, dtype=torch.int64))
HEAD = 'peers = 4\nseed = 2\nuntil_s = 4.0\nformed = true\n[workload]\nkind = "torch"\n'
TRAINS = """
model = { kind = "mlp", hidden = [24, 12] }
data = "own_models_1:data"
evaluate = "own_models_1:held_out"
optimizer = { kind = "adam", lr = 0.01, betas = [0.8, 0.99] }
schedule = { kind = "cosine", steps = 60, warmup = 5 }
batch_size = 16
codec = "int8"
partition = ["dirichlet", 0.5]
evaluation_samples = 50
threads = 1
[workload.steps]
kind = "lognormal"
median_s = 0.05
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own_models_1.py").write_text(OWN)
    return tmp_path


def test_a_file_that_trains_is_written_back_and_gives_the_same_run(folder: Path) -> None:
    (folder / "trains.toml").write_text(HEAD + TRAINS)
    run = sim.load(folder / "trains.toml").simulation()
    report = run.run(4.0)
    (folder / "again.toml").write_text(dumps(run.options, 4.0))
    again = sim.load(folder / "again.toml").run()
    assert again.trace_hash == report.trace_hash
    assert again.samples == report.samples, "the same losses, to the last bit"
    program = sim.Simulation(2, workload=sim.TorchWorkload(torch.nn.Linear(2, 2), F.cross_entropy, BLANK))
    with pytest.raises(ConfigurationError, match=r'workload=TorchWorkload: .*kind = "torch"'):
        dumps(program.options, 4.0)


def test_a_file_that_trains_is_read_whole_and_learns(folder: Path) -> None:
    (folder / "trains.toml").write_text(HEAD + TRAINS)
    before = list(sys.path)
    simulation = sim.load(folder / "trains.toml").simulation()
    assert sys.path == before
    work = simulation.options.workload
    assert isinstance(work, sim.TorchWorkload)
    assert work.snapshot_bytes < work.state_bytes / 3
    said = work.describe()
    assert f"{12 * 24 + 24 + 24 * 12 + 12 + 12 * 4 + 4:,} parameters, Adam by a schedule, batches of 16 of 400" in said
    assert isinstance(work.step_times, sim.LogNormalSteps)
    report = simulation.run(4.0, progress=False)
    first, last = report.samples[0].values, report.samples[-1].values
    assert last["average_accuracy"] > first["average_accuracy"] + 0.2
    assert len({tuple(share) for share in work.shares()}) == 4


def test_the_command_runs_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "own.toml").write_text(
        HEAD + 'model = { kind = "own_models_1:model", wide = true }\ndata = "own_models_1:data"\nmode = "loop"\n'
        'loss = "own_models_1:hinge"\noptimizer = "sgd"\nschedule = "own_models_1:rate"\n'
    )
    assert command.main([str(folder / "own.toml"), "--until", "2", "--quiet"]) == 0
    assert "peer-3" in capsys.readouterr().out
    work = sim.load(folder / "own.toml").simulation().options.workload
    assert "548 parameters, SGD by a schedule" in work.describe()


def test_another_seed_begins_another_model(folder: Path) -> None:
    text = HEAD + 'model = "logistic"\ndata = "own_models_1:data"\n'
    begun = []
    for seed in (1, 1, 2):
        work = sim.loads(text, folder).simulation(seed).options.workload
        assert isinstance(work, sim.TorchWorkload)
        work.begin(seed, 0)
        begun.append(work.vector(work.publish(0)).clone())
    assert torch.equal(begun[0], begun[1])
    assert not torch.equal(begun[0], begun[2])


def test_a_set_of_the_library_brings_its_own_evaluation() -> None:
    work = sim.loads(HEAD + 'model = "logistic"\ndata = "fashion-mnist"\n').simulation().options.workload
    assert work.snapshot_bytes == 4 * (784 * 10 + 10)
    work.begin(2, 0)
    assert "average_accuracy" in work.measure([0])


DATA = 'data = "own_models_1:data"\n'


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('model = "mlp"', "workload: 'data' is missing"),
        (DATA, "workload: 'model' is missing"),
        ('optimiser = "sgd"', "'optimiser' is not known; did you mean 'optimizer'"),
        (DATA + 'model = "mpl"', "workload.model='mpl' is not known; did you mean 'mlp'"),
        (DATA + 'model = { kind = "mlp", hiden = [3] }', "workload.model: 'hiden' is not known; did you mean 'hidden'"),
        (DATA + "model = { hidden = [3] }", "workload.model: 'kind' is missing"),
        (DATA + 'model = "own_models_1:modell"', "no such function in own_models_1; did you mean 'model'"),
        (DATA + 'model = "no_such_module_1:make"', "'no_such_module_1' cannot be imported"),
        (DATA + 'model = "mlp"\nloss = "cros_entropy"', "workload.loss='cros_entropy' is not known; did you mean"),
        (DATA + 'model = "mlp"\noptimizer = "adamm"', "workload.optimizer='adamm' is not known; did you mean 'adam"),
        (DATA + 'model = "mlp"\noptimizer = { kind = "sgd", learning_rate = 1.0 }', "'learning_rate' is not known"),
        (DATA + 'model = "mlp"\noptimizer = { kind = "sgd", lr = "high" }', "workload: .*optimizer: fails"),
        (DATA + 'model = "mlp"\nschedule = { kind = "cosin", steps = 9 }', "did you mean 'cosine'"),
        (DATA + 'model = "mlp"\nschedule = { kind = "cosine", steps = 5, warmup = 5 }', "must be 0 <= warmup < steps"),
        (DATA + 'model = "mlp"\nschedule = { kind = "steps", every = 5, factor = 2.0 }', "factor=2.0: must be"),
        (DATA + 'model = "mlp"\nschedule = { kind = "own_models_1:rate", a = 1 }', "takes no options from a file"),
        (DATA + 'model = "mlp"\npartition = ["dirichlet", -1.0]', "workload|alpha"),
        (
            'model = "mlp"\ndata = "fashion-mist"',
            "workload.data='fashion-mist' is not known; did you mean 'fashion-mnist'",
        ),
        ('model = "mlp"\ndata = "stdlib-text"', "is text without labels"),
        (DATA + 'model = "mlp"\nbatch_size = 1000', "workload: batch_size=1000: must be between 1 and"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(folder: Path, lines: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        sim.loads(HEAD + lines + "\n", folder).simulation()


def test_an_unknown_kind_of_workload_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="kind='toch' is not known; did you mean 'torch'"):
        sim.loads('[workload]\nkind = "toch"\n').simulation()
