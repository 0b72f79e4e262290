"""What a peer computes on: cores behind limits, threads that somebody chose, devices by rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

import gossiptrain as gt
from gossiptrain.runtime import cores, resources


def groups(tmp_path, lines: str, **limits: str):
    """A file system with /proc/self/cgroup and some limits, named by their path with "/" as "__"."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(lines)
    for name, text in limits.items():
        file = tmp_path / "sys/fs/cgroup" / name.replace("__", "/").replace("_DOT_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_a_quota_of_the_control_group_limits_the_cores(tmp_path):
    files = groups(tmp_path, "0::/jobs/one\n", jobs__one__cpu_DOT_max="150000 100000\n")
    assert cores.quota(files) == 1.5
    assert cores.usable(files) == min(1.5, cores.allowed())


def test_the_least_limit_of_all_groups_around_counts(tmp_path):
    files = groups(
        tmp_path, "0::/jobs/one\n", jobs__one__cpu_DOT_max="max 100000\n", jobs__cpu_DOT_max="50000 100000\n"
    )
    assert cores.quota(files) == 0.5


def test_a_group_seen_from_inside_a_container_is_found_at_the_root(tmp_path):
    files = groups(tmp_path, "0::/\n", cpu_DOT_max="200000 100000\n")
    assert cores.quota(files) == 2.0


def test_the_older_files_are_read_as_well(tmp_path):
    files = groups(
        tmp_path,
        "4:cpu,cpuacct:/box\n",
        cpu__box__cpu_DOT_cfs_quota_us="300000\n",
        cpu__box__cpu_DOT_cfs_period_us="100000\n",
        cpu__cpu_DOT_cfs_quota_us="-1\n",
        cpu__cpu_DOT_cfs_period_us="100000\n",
    )
    assert cores.quota(files) == 3.0


@pytest.mark.parametrize("text", ["max 100000", "", "nonsense", "0 100000", "100000 0", "1 2 3"])
def test_what_is_no_limit_limits_nothing(tmp_path, text):
    files = groups(tmp_path, "0::/\n", cpu_DOT_max=text)
    assert cores.quota(files) is None
    assert cores.usable(files) == cores.allowed()


def test_a_system_without_control_groups_has_no_quota(tmp_path):
    assert cores.quota(tmp_path) is None


@pytest.mark.parametrize(
    ("total", "peers", "threads"), [(16, 4, 3), (16, 1, 15), (6, 2, 3), (2, 4, 1), (1.5, 1, 1), (3, 1, 3)]
)
def test_peers_share_the_cores_and_leave_one_of_four_to_the_network(total, peers, threads):
    assert cores.threads_for(total, peers) == threads


def test_threads_that_somebody_chose_are_kept(monkeypatch):
    monkeypatch.setattr(cores, "usable", lambda: 2.0)
    monkeypatch.setattr(resources, "_defaults", lambda: {64})
    assert resources.pick_threads({"OMP_NUM_THREADS": "64"}, 64) == (64, "OMP_NUM_THREADS=64")
    assert resources.pick_threads({}, 5) == (5, "set by the script")
    assert resources.pick_threads({}, 64) == (2, "2 cores for 1 peer")
    assert resources.pick_threads({"LOCAL_WORLD_SIZE": "2"}, 64) == (1, "2 cores for 2 peers")
    assert resources.pick_threads({"SLURM_CPUS_PER_TASK": "8"}, 64) == (7, "SLURM_CPUS_PER_TASK=8")


def test_of_several_gpus_a_process_takes_the_one_of_its_local_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert resources.pick_device({"LOCAL_RANK": "6"}) == ("cuda:2", "LOCAL_RANK=6 of 4 GPUs")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resources.pick_device({"LOCAL_RANK": "6"})[0] == "cuda:0"


def test_a_machine_without_gpus_gives_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resources.pick_device({}) == ("cpu", "torch finds no CUDA device")
    assert resources.pick_device({"CUDA_VISIBLE_DEVICES": "-1"})[1] == "CUDA_VISIBLE_DEVICES hides all GPUs"
    assert gt.device() == torch.device("cpu")


def test_a_process_that_may_use_one_core_of_several_gets_one_thread():
    """In a process of its own, since thread counts belong to the process."""
    code = (
        "import json, gossiptrain as gt, torch; from gossiptrain.runtime import cores; cores.quota = lambda *_: 1.0; "
        "found = gt.resources(); print(json.dumps([found.threads, torch.get_num_threads(), found.threads_because]))"
    )
    environ = {key: value for key, value in os.environ.items() if key not in resources._THREAD_VARIABLES}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [1, 1, "1 core for 1 peer"]
