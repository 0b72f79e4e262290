"""What a peer learns from its environment, whoever launched it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossiptrain.errors import ConfigurationError
from gossiptrain.launchers.env import PeerSettings, check_address, from_environment, is_loopback, seed_addresses

names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")
seeds = st.lists(st.sampled_from(["tcp://a:1", "tcp://[::1]:65535", "@/tmp/x y/peers"]), max_size=3).map(tuple)


def test_a_script_started_by_hand_runs_alone_and_founds_its_run():
    settings = from_environment({"HOME": "/root"})
    assert settings == PeerSettings()
    assert settings.founder
    assert settings.seeds == ()
    assert settings.run_dir is None


@given(
    st.builds(
        PeerSettings,
        name=names,
        run_id=names,
        run_dir=st.one_of(st.none(), st.just(Path("/tmp/a run"))),
        seeds=seeds,
        founder=st.booleans(),
        topology=st.sampled_from(["ring", "base_k"]),
        codec=st.sampled_from(["none", "int8"]),
        sync_every=st.integers(1, 999),
        insecure=st.booleans(),
        keep_checkpoints=st.integers(1, 99),
        resume=st.sampled_from(["", "/tmp/another run"]),
    )
)
def test_settings_survive_the_way_through_the_environment(settings):
    assert from_environment(settings.environment()) == settings


def test_checkpoints_survive_the_way_through_the_environment():
    settings = PeerSettings(run_dir=Path("/tmp/a run"), checkpoint_every="10min", keep_checkpoints=7, resume="1")
    assert from_environment(settings.environment()) == settings


@pytest.mark.parametrize(
    ("text", "resume"), [("1", "1"), ("true", "1"), ("0", ""), ("no", ""), ("", ""), ("runs/old", "runs/old")]
)
def test_whether_to_resume_is_said_by_yes_or_no_or_a_folder(text, resume):
    assert from_environment({"GOSSIPTRAIN_RESUME": text, "GOSSIPTRAIN_RUN_DIR": "/tmp/run"}).resume == resume


@pytest.mark.parametrize(
    ("environ", "name", "founder"),
    [
        ({"RANK": "0", "WORLD_SIZE": "4"}, "peer-0", True),
        ({"RANK": "3", "WORLD_SIZE": "4"}, "peer-3", False),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "8"}, "peer-2", False),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, "peer-1", False),
        ({"JOB_COMPLETION_INDEX": "5"}, "peer-5", False),
        ({"JOB_COMPLETION_INDEX": "0"}, "peer-0", True),
        ({"RANK": "2", "WORLD_SIZE": "3", "SLURM_PROCID": "7"}, "peer-2", False),
        ({"RANK": "2", "WORLD_SIZE": "3", "GOSSIPTRAIN_NAME": "zoe", "GOSSIPTRAIN_FOUNDER": "1"}, "zoe", True),
    ],
)
def test_ranks_of_other_launchers_make_names_and_one_founder(environ, name, founder):
    settings = from_environment({**environ, "GOSSIPTRAIN_RUN_DIR": "/shared/run"})
    assert (settings.name, settings.founder) == (name, founder)
    assert settings.seeds == ("@/shared/run/peers",)


def test_a_job_of_one_task_is_a_peer_alone():
    assert from_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) == PeerSettings()


def test_a_rank_that_cannot_find_the_others_says_what_to_set():
    with pytest.raises(ConfigurationError, match=r"SLURM_PROCID=1.*GOSSIPTRAIN_SEEDS.*GOSSIPTRAIN_RUN_DIR"):
        from_environment({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"})
    assert from_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}).founder


def test_a_peer_with_seeds_is_no_founder_unless_told_so():
    environ = {"GOSSIPTRAIN_NAME": "peer-9", "GOSSIPTRAIN_SEEDS": "tcp://127.0.0.1:7400, tcp://127.0.0.1:7401,"}
    settings = from_environment(environ)
    assert settings.seeds == ("tcp://127.0.0.1:7400", "tcp://127.0.0.1:7401")
    assert not settings.founder
    assert from_environment({**environ, "GOSSIPTRAIN_FOUNDER": "1"}).founder


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("GOSSIPTRAIN_NAME", "a/b", "it names files"),
        ("GOSSIPTRAIN_NAME", "../x", "it names files"),
        ("GOSSIPTRAIN_LISTEN", "127.0.0.1:0", "tcp://host:port"),
        ("GOSSIPTRAIN_LISTEN", "tcp://127.0.0.1:70000", "0 to 65535"),
        ("GOSSIPTRAIN_SEEDS", "tcp://a:1,nonsense", "'nonsense'"),
        ("GOSSIPTRAIN_SYNC_EVERY", "0", "at least 1"),
        ("GOSSIPTRAIN_SYNC_EVERY", "often", "GOSSIPTRAIN_SYNC_EVERY='often'"),
        ("GOSSIPTRAIN_FOUNDER", "maybe", "GOSSIPTRAIN_FOUNDER='maybe'"),
        ("RANK", "-1", "RANK='-1'"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named_with_its_value(variable, value, what):
    with pytest.raises(ConfigurationError, match=what):
        from_environment({variable: value})


def test_a_folder_of_addresses_is_read_anew_each_time(tmp_path):
    folder = tmp_path / "peers"
    wanted = (f"@{folder}", "tcp://10.0.0.1:7400")
    assert seed_addresses(wanted) == ["tcp://10.0.0.1:7400"]
    folder.mkdir()
    (folder / "peer-1.address").write_text("tcp://127.0.0.1:4001\n")
    (folder / "peer-0.address").write_text("tcp://127.0.0.1:4000")
    (folder / "peer-2.address").write_text("")
    (folder / "peer-3.address").write_bytes(b"\xff\xfe")
    (folder / "notes.txt").write_text("tcp://127.0.0.1:9")
    (folder / "copy.address").write_text("tcp://10.0.0.1:7400")
    assert seed_addresses(wanted) == ["tcp://10.0.0.1:7400", "tcp://127.0.0.1:4000", "tcp://127.0.0.1:4001"]


def test_addresses_are_taken_apart_and_loopback_is_known():
    assert check_address("listen", "tcp://[::1]:80") == ("[::1]", 80)
    assert check_address("listen", "tcp://node-1.cluster:0") == ("node-1.cluster", 0)
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.1.1", "localhost", "[::1]")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "10.0.0.1", "*", "localhost.evil.org")] == [False] * 4
