"""Runs made by hand, whose every event is known, and a large one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import topologies
from gossiptrain.protocol.notices import (
    Exchanged,
    Joined,
    Notice,
    PeerDied,
    PeerJoined,
    PeerRecovered,
    PeerSuspected,
    Rewired,
)
from gossiptrain.reports import Blocks, FaultRecord, ProcessRecord, RunRecord, Samples

INFINITY = float("inf")


def blocks(begin_s: float, end_s: float, step_s: float = 0.5, size: int = 2) -> Blocks:
    """Whole blocks of `size` steps, one after the other, from a time to another."""
    count = int((end_s - begin_s) / (step_s * size) + 1e-9)
    ended_s = begin_s + step_s * size * np.arange(1, count + 1)
    return Blocks(ended_s - step_s * size, ended_s, np.full(count, size), np.full(count, step_s))


def process(
    name: str,
    notices: list[tuple[float, Notice]],
    *,
    number: int = 0,
    began_s: float = 0.0,
    ended_s: float = INFINITY,
    end: str = "",
    until_s: float = 20.0,
) -> ProcessRecord:
    made = blocks(began_s, min(ended_s, until_s))
    return ProcessRecord(
        name=name,
        number=number,
        began_s=began_s,
        ended_s=ended_s,
        end=end,
        reason="killed by SIGKILL" if end == "crashed" else "",
        steps=int(made.steps.sum()),
        blocks=made,
        notices=tuple(notices),
        traffic={"bytes": 1000, "snapshot_bytes": 9000},
    )


def small() -> RunRecord:
    """Three peers in a triangle for 20 s. "b" crashes at 8 s, is suspected at 9, dead at 10, and back from 14 s on.

    "a" suspects "c" from 3 to 4 s. "a" and "b" exchange at 5 s, having begun at 4.
    """
    a = [
        (0.0, Joined("")),
        (0.5, Rewired(1, 3, ("b", "c"))),
        (3.0, PeerSuspected("c", "no answer")),
        (4.0, PeerRecovered("c")),
        (5.0, Exchanged(("b",), 1.0)),
        (9.0, PeerSuspected("b", "the link to it broke")),
        (10.0, PeerDied("b", "its address refuses")),
        (10.0, Rewired(2, 2, ("c",))),
        (14.5, PeerJoined("b", "tcp://b")),
        (15.0, Rewired(3, 3, ("b", "c"))),
    ]
    b = [(0.0, Joined("a")), (0.5, Rewired(1, 3, ("a", "c"))), (5.0, Exchanged(("a",), 1.0))]
    again = [(14.0, Joined("a")), (15.0, Rewired(1, 3, ("a", "c")))]
    c = [
        (0.0, Joined("a")),
        (1.0, Rewired(1, 3, ("a", "b"))),
        (9.5, PeerSuspected("b", "the link to it broke")),
        (10.0, PeerDied("b", "its address refuses")),
        (10.0, Rewired(2, 2, ("a",))),
        (15.0, Rewired(3, 3, ("a", "b"))),
    ]
    time_s = np.arange(0.0, 21.0)
    loss_TN = np.stack([4.0 / (1 + time_s), 2.0 / (1 + time_s), 3.0 / (1 + time_s)], 1)
    loss_TN[(time_s >= 8) & (time_s < 14), 1] = np.nan
    return RunRecord(
        title="made by hand <&>",
        origin="simulated",
        until_s=20.0,
        processes=(
            process("a", a),
            process("b", b, ended_s=8.0, end="crashed"),
            process("b", again, number=1, began_s=13.0),
            process("c", c),
        ),
        samples=Samples(
            time_s, ("a", "b", "c"), {"consensus_distance": 1 / (1 + time_s)}, {"loss": loss_TN}, time_s * 1e6
        ),
        faults=(FaultRecord("crash", 8.0, 8.0, ("b",)), FaultRecord("stall", 16.0, 18.0, ("c",))),
        settings={"topology": "overlay", "mixer": "ad_psgd", "seed": "7"},
    )


def crowd(n: int, crashes: int = 20, until_s: float = 3600.0) -> RunRecord:
    """A long run of many peers with the default overlay, of which some crash one after the other and come back."""
    names = [f"peer-{number}" for number in range(n)]
    chance = np.random.default_rng(0)
    notices: dict[str, list[tuple[float, Notice]]] = {name: [(0.1, Joined("peer-0"))] for name in names}
    lives: dict[str, list[tuple[float, float, str]]] = {name: [(0.0, INFINITY, "")] for name in names}
    living = set(names)
    down: str | None = None
    for epoch, at_s in enumerate(np.linspace(0.2, 0.9 * until_s, 2 * crashes + 1), start=1):
        if down is not None:
            living.add(down)
            lives[down].append((float(at_s) - 1, INFINITY, ""))
            notices[down].append((float(at_s), Joined("peer-0")))
            down = None
        elif epoch > 1:
            down = names[int(chance.integers(1, n))]
            living.discard(down)
            lives[down][-1] = (lives[down][-1][0], float(at_s) - 5, "crashed")
        graph = topologies.overlay(sorted(living))
        for name in living:
            if down is not None:
                notices[name].append((float(at_s) - float(chance.uniform(1, 4)), PeerSuspected(down, "silent")))
                notices[name].append((float(at_s) - float(chance.uniform(0, 1)), PeerDied(down, "silent")))
            notices[name].append((float(at_s), Rewired(epoch, len(living), tuple(graph[name]))))
    for name in names:
        times_s = np.sort(chance.uniform(1, until_s, 300))
        partners = chance.integers(0, n, 300)
        notices[name] += [(float(t), Exchanged((names[int(p)],), 0.2)) for t, p in zip(times_s, partners)]
    time_s = np.linspace(0, until_s, 1000)
    loss_TN = 2 * np.exp(-3 * time_s / until_s)[:, None] * chance.uniform(0.8, 1.2, (1, n)) + 0.3
    return RunRecord(
        title=f"a crowd of {n}",
        origin="simulated",
        until_s=until_s,
        processes=tuple(
            process(
                name,
                sorted((told for told in notices[name] if began_s <= told[0] < ended_s), key=lambda told: told[0]),
                number=number,
                began_s=began_s,
                ended_s=ended_s,
                end=end,
                until_s=until_s,
            )
            for name in names
            for number, (began_s, ended_s, end) in enumerate(lives[name])
        ),
        samples=Samples(time_s, tuple(names), {"consensus_distance": np.exp(-time_s / until_s)}, {"loss": loss_TN}),
        settings={"topology": "overlay", "mixer": "ad_psgd"},
    )


def write_folder(path: Path, *, summary: bool = True, progress: bool = True) -> Path:
    """The folder of a real run of two peers that began at 1,000,000 s: "peer-1" is killed, and another process goes on."""
    began = 1_000_000.0
    (path / "events").mkdir(parents=True)

    def lines(name: str, origin: float, rows: list[tuple[float, str, dict]]) -> None:
        with (path / "events" / f"{name}.jsonl").open("a") as file:
            for elapsed_s, kind, fields in rows:
                file.write(json.dumps({"t": origin + elapsed_s, "elapsed_s": elapsed_s, "kind": kind, **fields}) + "\n")

    def told(step: int, loss: float | None, sent: int) -> dict:
        common = {"steps_per_s": 10.0, "longest_gap_s": 0.1, "neighbours": [], "members": 2, "consensus_distance": 0.5}
        return {"step": step, "loss": loss, "accuracy": 0.9, "bytes_sent": sent, "bytes_received": 0, **common}

    rewired = {"epoch": 1, "members": 2}
    lines(
        "peer-0",
        began,
        [
            (0.0, "Joined", {"source": ""}),
            (1.0, "Rewired", {**rewired, "neighbours": ["peer-1"]}),
            *([(2.0, "Progress", told(20, 1.5, 500)), (8.0, "Progress", told(80, 0.5, 2000))] if progress else []),
            (3.0, "Exchanged", {"partners": ["peer-1"], "seconds": 0.25}),
            (5.0, "PeerDied", {"peer": "peer-1", "reason": "refuses"}),
            (9.5, "Left", {"reason": "finished", "step": 95}),
            (10.0, "Finished", {"step": 95, "ok": True, "bytes_sent": 2500, "counters": {"snapshot_bytes_sent": 2400}}),
        ],
    )
    lines(
        "peer-1",
        began + 1,
        [(0.0, "Joined", {"source": "peer-0"}), (0.5, "Rewired", {**rewired, "neighbours": ["peer-0"]})],
    )
    with (path / "events" / "peer-1.jsonl").open("a") as file:
        file.write('{"t": 1000003.0, "elapsed')  # it was killed while it wrote
        file.write("\n")
    lines("peer-1", began + 6, [(0.0, "Joined", {"source": "peer-0"}), (3.0, "Finished", {"step": 50, "ok": True})])
    np.concatenate([began + np.arange(0.1, 9.55, 0.1)]).astype("<f8").tofile(path / "events" / "peer-0.steps")
    first, second = began + 1 + np.arange(0.1, 3.05, 0.1), began + 6 + np.arange(0.1, 2.05, 0.1)
    np.concatenate([first, second + 0.5 * (np.arange(20) >= 10)]).astype("<f8").tofile(path / "events" / "peer-1.steps")
    with (path / "events" / "peer-1.steps").open("ab") as file:
        file.write(b"abc")
    config = {
        "topology": "overlay",
        "mixer": "ad_psgd",
        "sync_every": 5,
        "script": "/x/train.py",
        "arguments": ["--lr", "1"],
    }
    (path / "config.json").write_text(json.dumps(config))
    if summary:
        exits = {name: {"returncode": 0, "stopped": False, "cause": "finished"} for name in ("peer-0", "peer-1")}
        (path / "summary.json").write_text(json.dumps({"success": True, "peers": exits}))
    return path
