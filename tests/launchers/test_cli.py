"""The `gossiptrain` command as a person meets it: exit codes, what is shown, Ctrl-C, and mistakes."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from gossiptrain import cli
from gossiptrain.errors import SeedUnreachableError
from gossiptrain.launchers import seeds

slow = pytest.mark.slow
SPIN = """
    import os, time
    print("pid", os.getpid(), flush=True)
    while True:
        time.sleep(0.01)
"""


def finish(process) -> tuple[int, str]:
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def read_pids(process, count: int) -> list[int]:
    """Reads the launcher's output until `count` peers have said their process ids."""
    found: list[int] = []
    for line in process.stdout:
        match = re.search(r"\| pid (\d+)", line)
        if match:
            found.append(int(match[1]))
        if len(found) == count:
            return found
    raise AssertionError(f"only {len(found)} peers spoke")


@slow
def test_a_run_in_which_every_peer_finishes_succeeds(command, script, tmp_path):
    train = script("import sys; print('got', sys.argv[1:])")
    code, output = finish(command("launch", "--peers", "3", train, "--peers", "9", "--", "-x"))
    assert code == 0
    for name in ("peer-0", "peer-1", "peer-2"):
        assert f"{name} | got ['--peers', '9', '--', '-x']" in output
    assert "3 of 3 peers finished" in output
    assert re.search(r"Run folder  runs/\S+-train\n", output)


@slow
def test_what_a_terminal_cannot_encode_is_replaced(command, script):
    train = script("import sys; sys.stdout.buffer.write('größe €'.encode())")
    code, output = finish(command("launch", "--peers", "1", train, PYTHONIOENCODING="ascii"))
    assert code == 0
    assert "peer-0 | gr??e ?" in output


@slow
def test_a_traceback_is_shown_once_and_the_summary_says_who_failed_and_why(command, script):
    train = script("""
        import os
        if os.environ["GOSSIPTRAIN_NAME"] != "peer-0":
            raise ValueError("boom [bold]!")
    """)
    code, output = finish(command("launch", "--peers", "4", train))
    assert code == 1
    assert output.count("Traceback (most recent call last)") == 1
    assert "1 of 4 peers finished" in output
    for name in ("peer-1", "peer-2", "peer-3"):
        assert f"{name}  exit code 1: ValueError: boom [bold]!" in output


@slow
@pytest.mark.parametrize(("allowed", "code"), [("0", 1), ("1", 0)])
def test_as_many_failures_as_are_allowed_do_not_fail_the_run(command, script, allowed, code):
    train = script("""
        import os, signal
        if os.environ["GOSSIPTRAIN_NAME"] == "peer-1":
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    got, output = finish(command("launch", "--allow-failures", allowed, train))
    assert got == code
    assert "peer-1  killed by SIGKILL" in output


@slow
def test_a_run_that_nobody_finishes_fails_whatever_is_allowed(command, script):
    code, _ = finish(command("launch", "--peers", "1", "--allow-failures", "5", script("raise SystemExit(3)")))
    assert code == 1


@slow
def test_one_peer_alone_works_and_says_so(command, script):
    code, output = finish(command("launch", "--peers", "1", script("print('alone')")))
    assert code == 0
    assert "trains alone until others join" in output


@slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_every_peer_quietly_within_five_seconds(command, script, is_running, number):
    launcher = command("launch", "--peers", "3", script(SPIN))
    pids = read_pids(launcher, 3)
    launcher.send_signal(number)
    began = time.monotonic()
    code, output = finish(launcher)
    assert time.monotonic() - began < 5.0
    assert code == 128 + number
    assert "Traceback" not in output
    assert "Stopped" in output
    assert not any(is_running(pid) for pid in pids)


@slow
def test_a_second_interrupt_kills_peers_that_ignore_the_first(command, script):
    train = script("""
        import os, signal, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("pid", os.getpid(), flush=True)
        while True:
            time.sleep(0.01)
    """)
    launcher = command("launch", train)
    read_pids(launcher, 2)
    launcher.send_signal(signal.SIGINT)
    for line in launcher.stdout:
        if "once more kills" in line:
            break
    launcher.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert finish(launcher)[0] == 130
    assert time.monotonic() - began < 3.0, "earlier than the SIGTERM that one interrupt leads to"


@slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux's")
def test_no_peer_outlives_a_launcher_that_is_killed(command, script, is_running, eventually):
    launcher = command("launch", "--peers", "3", script(SPIN))
    pids = read_pids(launcher, 3)
    launcher.kill()
    eventually(lambda: not any(is_running(pid) for pid in pids), "the peers' end")


@slow
def test_the_line_with_which_others_join_is_shown_once_a_peer_listens(command, script):
    train = script("""
        import os, pathlib, sys
        folder = pathlib.Path(os.environ["GOSSIPTRAIN_RUN_DIR"]) / "peers"
        (folder / "peer-0.address").write_text("tcp://127.0.0.1:7412")
        import time
        while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)
    """)
    go = train.with_name("the go")
    launcher = command("launch", "--peers", "1", "--sync-every", "6", train, go)
    expected = f"gossiptrain launch --join tcp://127.0.0.1:7412 --sync-every=6 {train} '{go}'"
    assert any(expected in line for line in launcher.stdout)
    go.touch()
    assert finish(launcher)[0] == 0


@slow
def test_peer_becomes_the_script_with_its_settings_around_it(command, script):
    train = script("""
        import os, sys
        print(sys.argv[1:], os.environ["GOSSIPTRAIN_NAME"], os.environ["GOSSIPTRAIN_SEEDS"])
        print(os.environ["GOSSIPTRAIN_FOUNDER"], "__main__" == __name__)
        sys.exit(5)
    """)
    options = ("--name", "zoe", "--seeds", "tcp://127.0.0.1:1,@peers")
    code, output = finish(command("peer", *options, train, "--name", "x"))
    assert code == 5
    assert output.splitlines() == ["['--name', 'x'] zoe tcp://127.0.0.1:1,@peers", "0 True"]


@slow
def test_a_table_fits_eighty_columns_of_a_terminal_and_marks_the_dead(script, tmp_path):
    train = script("""
        import json, os, pathlib, signal
        name, run = os.environ["GOSSIPTRAIN_NAME"], pathlib.Path(os.environ["GOSSIPTRAIN_RUN_DIR"])
        (run / "events").mkdir(exist_ok=True)
        progress = {"kind": "Progress", "step": 12345, "loss": 0.5, "steps_per_s": 123.4,
                    "neighbours": ["peer-1", "peer-2"], "consensus_distance": 0.25}
        (run / "events" / f"{name}.jsonl").write_text(json.dumps(progress) + "\\n")
        print("a long line " * 20)
        if name == "peer-1":
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    screen = terminal(["launch", "--peers", "2", str(train)], tmp_path, columns=80)
    last = screen[screen.rindex("neighbours") :]
    assert re.search(r"✓ peer-0\s+finished\s+12,345\s+0\.5000", last)
    assert re.search(r"✗ peer-1\s+killed\s+12,345", last)
    rows = [line for line in screen.splitlines() if re.match(r"\s*[○●✓✗] peer-", line)]
    assert max(len(row.rstrip()) for row in rows) <= 80


def terminal(arguments: list[str], folder, columns: int) -> str:
    """Runs the command in a terminal of its own; returns what it wrote there, without colours and movements."""
    master, slave = pty.openpty()
    variables = {"COLUMNS": str(columns), "LINES": "24", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-m", "gossiptrain.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    written = b""
    while True:
        try:
            data = os.read(master, 1 << 16)
        except OSError:
            break
        if not data:
            break
        written += data
    os.close(master)
    process.wait(timeout=30)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", written.decode())


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["launch", "--peers", "0", "{train}"], "peers=0: must be 1"),
        (["launch", "--peers", "-2", "{train}"], "peers=-2"),
        (["launch", "--peers=two", "{train}"], "--peers=two: must be a whole number"),
        (["launch"], "SCRIPT is missing"),
        (["launch", "no-such.py"], "script='no-such.py': no such file"),
        (["launch", "{broken}"], "not a Python program"),
        (["launch", "--topology", "rng", "{train}"], "topology='rng': not known; choose one of"),
        (["launch", "--listen", "tcp://0.0.0.0:1", "{train}"], "--insecure"),
        (["launch", "--join", "nonsense", "{train}"], "join='nonsense': must be tcp://host:port"),
        (["launch", "--join", ",", "{train}"], "--join=,: must be tcp://host:port"),
        (["launch", "--name", "a", "--peers", "2", "{train}"], "names one peer"),
        (["launch", "--allow-failures", "-1", "{train}"], "allow_failures=-1"),
        (["launch", "--progress", "gif", "{train}"], "must be table, log or none"),
        (["launch", "--max-mbps", "0.1", "{train}"], "max_mbps=0.1: must be at least 0.2 megabit a second"),
        (["launch", "--max-mbps", "fast", "{train}"], "must be a number"),
        (["launch", "--max-buffer-mb", "-1", "{train}"], "max_buffer_mb=-1.0: must be a positive number of megabytes"),
        (["peer", "--max-mbps", "nan", "{train}"], "max_mbps=nan"),
        (["peer", "--name", "a/b", "{train}"], "it names files"),
        (["peer", "--listen", "tcp://10.0.0.1:1", "{train}"], "insecure"),
        (["status", "tcp://127.0.0.1"], "where='tcp://127.0.0.1'"),
        (["status", "/no/such/folder"], "a peer's address"),
        (["status", "a", "b"], "takes one"),
        (["status", "--timeout-s", "0", "tcp://127.0.0.1:1"], "must be a positive"),
        (["lunch"], "known: launch, peer, status"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_started(script, monkeypatch, capsys, arguments, what):
    folder = script("pass").parent
    monkeypatch.chdir(folder)
    places = {"{train}": str(script("pass")), "{broken}": str(script("def f(:", "broken.py"))}
    assert cli.main([places.get(argument, argument) for argument in arguments]) == 2
    assert what in capsys.readouterr().err
    assert not (folder / "runs").exists()


@slow
def test_an_unknown_codec_is_refused_with_the_known_ones(script, capsys):
    assert cli.main(["launch", "--codec", "zip", str(script("pass"))]) == 2
    assert re.search(r"codec='zip'.*none, bfloat16, float16, int8", capsys.readouterr().err)


def test_an_unknown_mixer_is_refused_with_the_known_ones(script, capsys):
    assert cli.main(["launch", "--mixer", "magic", str(script("pass"))]) == 2
    assert re.search(r"mixer='magic'.*ad_psgd, d_psgd", capsys.readouterr().err)


def test_a_run_to_join_where_nobody_answers_is_named_with_the_time_it_was_tried(script, capsys, monkeypatch):
    monkeypatch.setattr(seeds, "find_run", lambda addresses: seeds.ask_any(addresses, 0.2))
    assert cli.main(["launch", "--join", "tcp://127.0.0.1:9,tcp://127.0.0.1:10", str(script("pass"))]) == 1
    message = capsys.readouterr().err
    assert "tcp://127.0.0.1:9, tcp://127.0.0.1:10" in message
    assert "within 0 s" in message


def test_a_seed_that_answers_is_enough(monkeypatch):
    from gossiptrain.runtime import status

    def ask(address, timeout_s):
        if address.endswith(":1"):
            raise SeedUnreachableError("silent")
        return address

    monkeypatch.setattr(status, "ask", ask)
    assert seeds.ask_any(["tcp://a:1", "tcp://a:2"], 5.0) == "tcp://a:2"


def test_a_run_folder_stands_for_the_peers_that_run_in_it(tmp_path, capsys):
    (tmp_path / "peers").mkdir()
    assert cli.main(["status", str(tmp_path)]) == 2
    assert "no peer of this run is running" in capsys.readouterr().err
    (tmp_path / "peers" / "peer-0.address").write_text("tcp://127.0.0.1:7400\n")
    assert seeds.known_addresses(str(tmp_path)) == ["tcp://127.0.0.1:7400"]


@pytest.mark.parametrize("arguments", [["--help"], ["launch", "--help"], ["peer", "-h"], ["status", "--help"]])
def test_help_fits_eighty_columns(arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80 or arguments == ["--help"]
    assert "gossiptrain" in text


def test_no_command_at_all_shows_the_help_and_is_wrong_use(capsys):
    assert cli.main([]) == 2
    assert "launch" in capsys.readouterr().out


@slow
def test_the_command_line_does_not_load_torch():
    code = "import sys, gossiptrain.cli, gossiptrain.dashboard.summary; sys.exit('torch' in sys.modules)"
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=variables, check=False).returncode == 0
