"""How cores and GPUs are dealt out."""

from __future__ import annotations

import subprocess

import pytest

from gossiptrain.launchers import devices


@pytest.mark.parametrize(
    ("cores", "peers", "share"), [(8, 2, "3"), (8, 3, "2"), (2.5, 1, "2"), (2, 4, "1"), (0.5, 1, "1")]
)
def test_cores_are_divided_one_of_four_or_more_is_left_to_the_network_and_everybody_gets_at_least_one(
    monkeypatch, cores, peers, share
):
    monkeypatch.setattr(devices.cores, "usable", lambda: cores)
    values = devices.environment(0, peers, [], {})
    assert values == {"OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share}


def test_a_thread_count_that_the_user_has_set_is_kept_unless_the_launcher_is_told_another():
    environ = {"OMP_NUM_THREADS": "3"}
    assert "OMP_NUM_THREADS" not in devices.environment(0, 2, [], environ)
    assert devices.environment(0, 2, [], environ, threads=2)["OMP_NUM_THREADS"] == "2"


def test_gpus_are_dealt_out_in_turn_from_those_the_user_allows():
    names = devices.gpus({"CUDA_VISIBLE_DEVICES": "3, GPU-abc"})
    assert names == ["3", "GPU-abc"]
    dealt = [devices.environment(i, 5, names, {})["CUDA_VISIBLE_DEVICES"] for i in range(5)]
    assert dealt == ["3", "GPU-abc", "3", "GPU-abc", "3"]


@pytest.mark.parametrize("visible", ["", "-1"])
def test_gpus_that_the_user_has_hidden_stay_hidden(visible):
    assert devices.gpus({"CUDA_VISIBLE_DEVICES": visible}) == []
    assert "CUDA_VISIBLE_DEVICES" not in devices.environment(0, 1, [], {})


@pytest.mark.parametrize(
    ("returncode", "listing", "names"),
    [(0, "GPU 0: NVIDIA H200 (UUID: a)\nGPU 1: NVIDIA H200 (UUID: b)\n", ["0", "1"]), (9, "No devices", [])],
)
def test_the_drivers_own_tool_is_asked_for_gpus(monkeypatch, returncode, listing, names):
    monkeypatch.setattr(devices.shutil, "which", lambda program: "/usr/bin/nvidia-smi")
    answer = subprocess.CompletedProcess([], returncode, stdout=listing)
    monkeypatch.setattr(devices.subprocess, "run", lambda *args, **kwargs: answer)
    assert devices.gpus({}) == names


def test_a_tool_that_hangs_or_is_missing_means_no_gpus(monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda program: None)
    assert devices.gpus({}) == []

    def hang(*args, **kwargs):
        raise subprocess.TimeoutExpired("nvidia-smi", 10)

    monkeypatch.setattr(devices.shutil, "which", lambda program: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(devices.subprocess, "run", hang)
    assert devices.gpus({}) == []
