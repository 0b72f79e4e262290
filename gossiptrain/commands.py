"""What the `gossiptrain` command accepts, and what its helps say."""

from __future__ import annotations

from gossiptrain.launchers.env import LOOPBACK_ANY_PORT
from gossiptrain.options import Command, Option, addresses, every, folder, one_of, steps_or_time, whole

DEFAULT_TOPOLOGY, DEFAULT_MIXER, DEFAULT_CODEC = "overlay", "ad_psgd", "none"
HELP = """\
usage: gossiptrain COMMAND ...

Train one PyTorch model with many peers and no server.

Commands
  launch    start peers on this machine, or add some to a run
  peer      be one peer, in this terminal: for other launchers, and for debuggers
  status    ask a running peer how it sees the run
  report    show a run, ended or not: a page with a replay, curves and events

Examples
  gossiptrain launch --peers 4 train.py --lr 3e-4
  gossiptrain launch --join tcp://127.0.0.1:7400 train.py --lr 3e-4
  gossiptrain status runs/20260101-120000-train
  gossiptrain report latest --open

`gossiptrain COMMAND --help` shows a command's options, `gossiptrain --version` the version.
"""

_SHARED = (
    Option(
        "--topology",
        "Who exchanges with whom: overlay (a random graph that re-wires with few changes), ring, complete, torus, "
        "exponential, ...; an unknown name lists all.",
        DEFAULT_TOPOLOGY,
        "NAME",
        group="Mixing: equal on all peers of a run",
    ),
    Option(
        "--mixer",
        "ad_psgd (pairwise averaging, nobody ever waits) or d_psgd (synchronous rounds).",
        DEFAULT_MIXER,
        "NAME",
        group="Mixing: equal on all peers of a run",
    ),
    Option(
        "--codec",
        "How snapshots are written on the wire: as they are, in half precision (bfloat16, float16), or with one byte a "
        "value (int8).",
        DEFAULT_CODEC,
        "NAME",
        group="Mixing: equal on all peers of a run",
    ),
    Option(
        "--sync-every",
        "Local optimizer steps between two exchanges; or a time (2s), which each peer fills with as many as it can; "
        'or "auto".',
        4,
        "STEPS",
        steps_or_time,
        'a whole number, a time such as 500ms or 2s, or "auto"',
        group="Mixing: equal on all peers of a run",
    ),
    Option(
        "--listen",
        "Where to listen; port 0 takes a free one. Of several peers the first gets this port, the others free ones "
        "of the same host.",
        LOOPBACK_ANY_PORT,
        "ADDRESS",
        group="Network",
    ),
    Option(
        "--max-mbps",
        "What a peer may send of snapshots and states, in megabit a second, 0.2 or more; peers of one host do not count "
        "[no limit]",
        0.0,
        "MBPS",
        float,
        "a number",
        group="Network",
    ),
    Option(
        "--max-buffer-mb",
        "What a peer's buffers for exchanges may take of memory, in megabytes; at least about four times the model "
        "[no limit]",
        0.0,
        "MB",
        float,
        "a number",
        group="Network",
    ),
    Option(
        "--insecure",
        "Allow an address that other machines can reach, without encryption. For trusted networks only.",
        False,
        group="Network",
    ),
)

_CHECKPOINTS = (
    Option(
        "--checkpoint-every",
        "Steps (500) or time (10min) between two checkpoints of a peer, in RUN_DIR/checkpoints/NAME [none]",
        "",
        "EVERY",
        every,
        "a number of steps, or a time such as 90s, 10min or 2h",
        group="Checkpoints",
    ),
    Option(
        "--keep-checkpoints",
        "How many of the newest are kept.",
        3,
        "K",
        whole,
        "a whole number",
        group="Checkpoints",
    ),
)

LAUNCH = Command(
    "gossiptrain launch",
    "SCRIPT",
    "[SCRIPT'S ARGUMENTS ...]",
    about=(
        "Starts peers on this machine; together they train one model. Each runs SCRIPT, an ordinary training script "
        "with `peer = gossiptrain.attach(model, optimizer)` and `with peer:` around its loop, in a process of its "
        "own. What follows SCRIPT is handed to it untouched.",
        "A peer that dies does not stop the others. Ctrl-C ends all of them within 5 s. The exit code is 0 when every "
        "peer finished, 1 when one failed, 2 for a command that cannot work, 130 after Ctrl-C.",
    ),
    examples=(
        "gossiptrain launch --peers 4 train.py --lr 3e-4",
        "gossiptrain launch --peers 8 --topology torus --sync-every 16 train.py",
        "gossiptrain launch --join tcp://127.0.0.1:7400 train.py --lr 3e-4",
        "gossiptrain launch --checkpoint-every 10min train.py --lr 3e-4",
        "gossiptrain launch --resume latest --checkpoint-every 10min train.py --lr 3e-4",
    ),
    options=(
        Option(
            "--peers",
            "How many to start [one per GPU; 2 without GPUs; 1 with --join; as before with --resume]",
            None,
            "N",
            whole,
            "a whole number",
        ),
        Option(
            "--join",
            "Add peers to the run of the peer at this address, or at one of several with commas, instead of "
            "beginning a run.",
            (),
            "ADDRESS",
            addresses,
            "tcp://host:port",
        ),
        Option("--name", "The name of a single peer [peer-0; a random one with --join]", None, "NAME"),
        Option(
            "--threads",
            "CPU threads per peer [the cores divided by the peers]",
            None,
            "K",
            whole,
            "a whole number",
        ),
        Option(
            "--run-dir",
            "Where logs, events and models go [runs/DATE-TIME-SCRIPT]",
            None,
            "FOLDER",
            folder,
            "a folder",
        ),
        Option(
            "--progress",
            "table (live), log (a line per peer every few seconds; also where there is no terminal) or none (only "
            "what the peers print).",
            "table",
            "KIND",
            one_of("table", "log", "none"),
            "table, log or none",
        ),
        Option(
            "--allow-failures",
            "How many peers may fail for the exit code still to be 0 [0]",
            0,
            "N",
            whole,
            "a whole number",
        ),
        *_CHECKPOINTS,
        Option(
            "--resume",
            "Go on with the run in this folder, from its checkpoints, with as many peers as are started now [as many as "
            "before]; 'latest' means the newest below runs/.",
            None,
            "RUN_DIR",
            folder,
            "a run's folder, or latest",
            group="Checkpoints",
        ),
        *_SHARED,
    ),
)

PEER = Command(
    "gossiptrain peer",
    "SCRIPT",
    "[SCRIPT'S ARGUMENTS ...]",
    about=(
        "Runs SCRIPT as one peer, in the foreground and in this very process: nothing is captured, a debugger works. "
        "Peers started one by one, by hand, by srun or by ssh, form a run when each knows the address of another.",
    ),
    examples=(
        "gossiptrain peer --name a --listen tcp://127.0.0.1:7400 train.py",
        "gossiptrain peer --name b --seeds tcp://127.0.0.1:7400 train.py",
    ),
    options=(
        Option("--name", "Unique among the peers of the run.", "peer-0", "NAME"),
        Option(
            "--seeds",
            "Peers that run already, with commas between them, or @FOLDER for the *.address files in a folder. "
            "Without any, this peer begins the run.",
            (),
            "ADDRESSES",
            addresses,
            "tcp://host:port or @FOLDER",
        ),
        Option("--run-id", "Peers of another run are refused.", "local", "ID"),
        Option("--run-dir", "Where events and the final model go [nowhere]", None, "FOLDER", folder, "a folder"),
        *_CHECKPOINTS,
        Option("--resume", "Begin from the newest checkpoint in RUN_DIR.", False, group="Checkpoints"),
        *_SHARED,
    ),
)

STATUS = Command(
    "gossiptrain status",
    "ADDRESS|RUN_DIR",
    "",
    about=("Asks a running peer how it sees the run: its members with their states and steps, and its counters.",),
    examples=("gossiptrain status tcp://127.0.0.1:7400", "gossiptrain status runs/20260101-120000-train"),
    options=(Option("--timeout-s", "How long to wait for an answer.", 3.0, "SECONDS", float, "a number of seconds"),),
)

REPORT = Command(
    "gossiptrain report",
    "RUN",
    "",
    about=(
        "Reads a run's folder and makes one page of it: the graph as it was re-wired, along a time slider, beside the "
        "curves of what the peers recorded, the events, and what every peer did. The page is one file and needs no "
        "network. RUN is a folder, or 'latest' for the newest below runs/; of a run that is still going it is the part so "
        "far.",
    ),
    examples=(
        "gossiptrain report latest --open",
        "gossiptrain report runs/20260101-120000-train --html train.html",
        "gossiptrain report runs/20260101-120000-train --chrome-trace trace.json",
    ),
    options=(
        Option("--html", "Where the page goes [RUN/report.html]", None, "FILE", folder, "a file"),
        Option(
            "--chrome-trace",
            "Writes a trace for ui.perfetto.dev and chrome://tracing as well.",
            None,
            "FILE",
            folder,
            "a file",
        ),
        Option("--open", "Show the page in a browser.", False),
    ),
)
