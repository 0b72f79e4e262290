"""Peers as real child processes: what they are told, how they end, and that none is left behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from gossiptrain.dashboard.watch import joining_command
from gossiptrain.errors import ConfigurationError
from gossiptrain.launchers import local
from gossiptrain.launchers.local import Exited, LaunchConfig, LocalRun

pytestmark = pytest.mark.slow

SPIN = """
    import os, sys, time
    print("pid", os.getpid())
    while True:
        time.sleep(0.01)
"""
DEAF = """
    import os, signal, sys, time
    for name in sys.argv[1:]:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    print("pid", os.getpid())
    while True:
        time.sleep(0.01)
"""


def config(script: Path, tmp_path: Path, **values) -> LaunchConfig:
    return LaunchConfig(script=script, run_dir=tmp_path / "run", **values)


def pids(run: LocalRun, poll_until) -> list[int]:
    """Waits until every peer has said its process id."""
    found: dict[str, int] = {}

    def all_have_spoken() -> bool:
        for name in run.names:
            words = run.folder.log(name).read_text().split() if run.folder.log(name).exists() else []
            if len(words) >= 2:
                found[name] = int(words[1])
        return len(found) == len(run.names)

    poll_until(run, all_have_spoken)
    return [found[name] for name in run.names]


def test_each_peer_is_told_its_own_settings_and_gets_the_arguments_untouched(script, tmp_path, poll_until):
    report = script("""
        import json, os, sys
        given = {key: value for key, value in os.environ.items() if key.startswith(("GOSSIPTRAIN_", "OMP_"))}
        print(json.dumps({"arguments": sys.argv[1:], **given}))
    """)
    arguments = ("--peers", "9", "--", "--x=a b", "", "é")
    environ = {**os.environ, "GOSSIPTRAIN_SEEDS": "tcp://from.outside:1"}
    environ.pop("OMP_NUM_THREADS", None)
    run = LocalRun(config(report, tmp_path, peers=3, arguments=arguments, topology="ring", threads=5), environ)
    with run:
        printed = poll_until(run)
    said = [json.loads(printed[name][0]) for name in ("peer-0", "peer-1", "peer-2")]
    assert [peer["arguments"] for peer in said] == [list(arguments)] * 3
    assert [peer["GOSSIPTRAIN_NAME"] for peer in said] == ["peer-0", "peer-1", "peer-2"]
    assert [peer["GOSSIPTRAIN_FOUNDER"] for peer in said] == ["1", "0", "0"]
    assert {peer["GOSSIPTRAIN_SEEDS"] for peer in said} == {f"@{tmp_path / 'run' / 'peers'}"}
    assert {peer["GOSSIPTRAIN_TOPOLOGY"] for peer in said} == {"ring"}
    assert {peer["GOSSIPTRAIN_RUN_ID"] for peer in said} == {run.run_id}
    assert {peer["GOSSIPTRAIN_PEERS"] for peer in said} == {"3"}
    assert {peer["OMP_NUM_THREADS"] for peer in said} == {"5"}


def test_peers_that_join_found_nothing_and_have_names_of_their_own(script, tmp_path):
    seeds = ("tcp://127.0.0.1:7400", "tcp://127.0.0.1:7401")
    run = LocalRun(config(script(""), tmp_path, peers=2, join=seeds, run_id="abc"))
    assert not any(settings.founder for settings in run.settings)
    assert {settings.seeds for settings in run.settings} == {seeds}
    assert {settings.run_id for settings in run.settings} == {"abc"}
    assert len(set(run.names)) == 2
    assert not {"peer-0", "peer-1"} & set(run.names)
    run.close()


def test_only_the_first_peer_takes_a_given_port(script, tmp_path):
    run = LocalRun(config(script(""), tmp_path, peers=3, listen="tcp://127.0.0.1:7400"))
    assert [settings.listen for settings in run.settings] == [
        "tcp://127.0.0.1:7400",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:0",
    ]
    run.close()


def test_a_peer_that_raises_does_not_stop_the_others(script, tmp_path, poll_until):
    train = script("""
        import os, pathlib, sys, time
        if os.environ["GOSSIPTRAIN_NAME"] == "peer-1":
            raise ValueError("boom")
        while not pathlib.Path(sys.argv[1]).exists():
            time.sleep(0.01)
        print("went on")
    """)
    go = tmp_path / "go"
    with LocalRun(config(train, tmp_path, peers=3, arguments=(str(go),))) as run:
        before = poll_until(run, lambda: run.exited)
        assert run.running == ["peer-0", "peer-2"]
        go.touch()
        after = poll_until(run)
    raised = run.exited["peer-1"]
    assert (raised.returncode, raised.failed, raised.cause) == (1, True, "exit code 1")
    assert raised.last_words == "ValueError: boom"
    assert before["peer-1"][0] == "Traceback (most recent call last):"
    assert after["peer-0"] == after["peer-2"] == ["went on"]
    assert [failure.name for failure in run.failures] == ["peer-1"]


def test_a_peer_that_is_killed_is_reported_with_the_signal(script, tmp_path, poll_until):
    with LocalRun(config(script(SPIN), tmp_path, peers=2)) as run:
        pids(run, poll_until)
        run.signal("peer-1", signal.SIGKILL)
        poll_until(run, lambda: run.exited)
        assert run.exited["peer-1"].cause == "killed by SIGKILL"
        assert run.exited["peer-1"].failed
        assert run.running == ["peer-0"]
        with pytest.raises(ConfigurationError, match=r"'peer-7'.*peer-0, peer-1"):
            run.signal("peer-7")


@pytest.mark.parametrize(
    "ignored",
    [[], ["SIGINT"], ["SIGINT", "SIGTERM"]],
)
def test_a_stop_ends_even_peers_that_will_not_listen(script, tmp_path, poll_until, monkeypatch, ignored):
    monkeypatch.setattr(local, "TERMINATE_AFTER_S", 0.3)
    monkeypatch.setattr(local, "KILL_AFTER_S", 0.6)
    with LocalRun(config(script(DEAF), tmp_path, arguments=tuple(ignored))) as run:
        pids(run, poll_until)
        run.stop()
        poll_until(run)
    ended_by = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL][len(ignored)]
    assert [exited.returncode for exited in run.exited.values()] == [-ended_by] * 2
    assert not run.failures, "a peer that was asked to end has not failed"


def test_all_have_ended_within_five_seconds_of_a_stop():
    assert local.TERMINATE_AFTER_S < local.KILL_AFTER_S < 5.0


def test_a_second_stop_kills_at_once(script, tmp_path, poll_until):
    with LocalRun(config(script(DEAF), tmp_path, arguments=("SIGINT", "SIGTERM"))) as run:
        pids(run, poll_until)
        run.stop()
        run.stop(at_once=True)
        poll_until(run)
    assert max(exited.seconds for exited in run.exited.values()) < local.TERMINATE_AFTER_S
    assert {exited.returncode for exited in run.exited.values()} == {-signal.SIGKILL}


def test_leaving_the_run_kills_peers_and_what_they_started(script, tmp_path, poll_until, is_running, eventually):
    parent = script("""
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time\\nwhile True: time.sleep(0.01)"])
        print("child", child.pid)
        while True:
            time.sleep(0.01)
    """)
    with LocalRun(config(parent, tmp_path, peers=1)) as run:
        children = pids(run, poll_until)
        assert is_running(children[0])
    eventually(lambda: not is_running(children[0]), "the grandchild's end")


def test_a_process_left_behind_by_a_finished_peer_delays_nobody_and_is_ended(
    script, tmp_path, poll_until, is_running, eventually
):
    train = script("""
        import subprocess, sys
        print("child", subprocess.Popen([sys.executable, "-c", "import time\\nwhile True: time.sleep(0.01)"]).pid)
    """)
    with LocalRun(config(train, tmp_path, peers=1)) as run:
        printed = poll_until(run)
        assert run.exited["peer-0"].returncode == 0
        eventually(lambda: not is_running(int(printed["peer-0"][0].split()[1])), "the end of what was left")


def test_everything_printed_is_kept_and_lines_are_cut_where_they_end(script, tmp_path, poll_until):
    train = script("""
        import sys
        print("one\\ntwo")
        print("10 %", end="\\r"); print("90 %", end="\\r"); print("done")
        print("windows\\r")
        sys.stderr.write("to stderr\\n")
        sys.stdout.buffer.write(b"\\xff\\n")
        print("x" * 100_000)
        print("no end", end="")
    """)
    with LocalRun(config(train, tmp_path, peers=1)) as run:
        lines = poll_until(run)["peer-0"]
    assert [line for line in lines if "x" not in line] == [
        *("one", "two", "done", "windows", "to stderr", "\ufffd", "no end"),
    ]
    assert sum(line.count("x") for line in lines) == 100_000
    assert b"10 %\r90 %\rdone\n" in run.folder.log("peer-0").read_bytes()
    assert run.exited["peer-0"].last_words == "no end"


def test_a_chatty_peer_loses_no_line(script, tmp_path, poll_until):
    train = script("for i in range(50_000): print(i)")
    with LocalRun(config(train, tmp_path, peers=2)) as run:
        printed = poll_until(run)
    assert printed["peer-0"] == printed["peer-1"] == [str(i) for i in range(50_000)]


def test_a_peer_that_closes_its_output_is_still_waited_for(script, tmp_path, poll_until):
    train = script("""
        import os, pathlib, sys, time
        os.close(1); os.close(2)
        while not pathlib.Path(sys.argv[1]).exists():
            time.sleep(0.01)
        os._exit(7)
    """)
    go = tmp_path / "go"
    with LocalRun(config(train, tmp_path, peers=1, arguments=(str(go),))) as run:
        for _ in range(20):
            run.poll(0.01)
        assert run.running == ["peer-0"]
        go.touch()
        poll_until(run)
    assert run.exited["peer-0"].returncode == 7


def test_a_run_writes_down_how_it_was_started(script, tmp_path, poll_until):
    with LocalRun(
        config(script("pass"), tmp_path, peers=2, mixer="d_psgd", codec="int8", arguments=("--lr", "1"))
    ) as run:
        poll_until(run)
    written = json.loads((run.folder.path / "config.json").read_text())
    assert written["peers"] == ["peer-0", "peer-1"]
    assert (written["mixer"], written["arguments"], written["run_id"]) == ("d_psgd", ["--lr", "1"], run.run_id)
    assert written["codec"] == "int8"
    assert set(written["versions"]) >= {"torch", "pyzmq"}


def test_a_folder_that_holds_a_run_is_not_used_for_another(script, tmp_path, poll_until):
    train = script("pass")
    with LocalRun(config(train, tmp_path)) as run:
        poll_until(run)
    with pytest.raises(ConfigurationError, match="holds another run"):
        LocalRun(config(train, tmp_path))
    LocalRun(config(train, tmp_path, join=("tcp://127.0.0.1:7400",))).close()


def test_folders_of_runs_without_a_name_never_collide(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = script("pass")
    runs = [LocalRun(LaunchConfig(script=train)) for _ in range(3)]
    assert len({run.folder.path for run in runs}) == 3
    assert all(run.folder.path.parent == tmp_path / "runs" for run in runs)
    for run in runs:
        run.close()


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"peers": 0}, "peers=0: must be 1 to"),
        ({"peers": -3}, "peers=-3"),
        ({"script": Path("/no/such.py")}, "no such file"),
        ({"sync_every": 0}, "sync_every=0"),
        ({"threads": 0}, "threads=0"),
        ({"listen": "tcp://0.0.0.0:0"}, "insecure"),
        ({"listen": "localhost:7400"}, "tcp://host:port"),
        ({"join": ("10.0.0.1:7400",)}, "join='10.0.0.1:7400'"),
        ({"names": ("a", "a")}, "2 different names"),
        ({"names": ("a/b", "c")}, "names files"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(script, tmp_path, values, what):
    with pytest.raises(ConfigurationError, match=what):
        LaunchConfig(**{"script": script("pass"), **values})


def test_an_address_that_others_can_reach_is_allowed_when_said_so(script):
    assert LaunchConfig(script=script("pass"), listen="tcp://0.0.0.0:7400", insecure=True).insecure


@pytest.mark.parametrize(
    ("returncode", "stopped", "cause", "failed"),
    [
        (0, False, "finished", False),
        (3, False, "exit code 3", True),
        (-9, False, "killed by SIGKILL", True),
        (-9, True, "killed by SIGKILL", False),
        (-250, False, "killed by signal 250", True),
    ],
)
def test_ends_are_put_into_words(returncode, stopped, cause, failed):
    exited = Exited("peer-0", returncode, stopped, 1.0)
    assert (exited.cause, exited.failed) == (cause, failed)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux's")
def test_peers_started_from_a_shell_that_ignores_interrupts_still_hear_them(script, tmp_path, poll_until):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with LocalRun(config(script(SPIN), tmp_path, peers=1)) as run:
            pids(run, poll_until)
            began = time.monotonic()
            run.stop()
            poll_until(run)
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.exited["peer-0"].returncode in (-signal.SIGINT, 130)
    assert time.monotonic() - began < local.TERMINATE_AFTER_S


def test_the_line_to_join_with_says_what_peers_must_agree_on(script, tmp_path):
    train = script("pass")
    plain = joining_command(config(train, tmp_path), "tcp://10.0.0.1:7400")
    assert plain == f"gossiptrain launch --join tcp://10.0.0.1:7400 {train}"
    other = joining_command(config(train, tmp_path, codec="int8", sync_every="auto"), "tcp://10.0.0.1:7400")
    assert "--codec=int8 --sync-every=auto" in other
