"""The page of a run: whole in one file, with data that says what was, and code that reads it so."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from gossiptrain.reports import payload as made_of
from gossiptrain.reports.page import SCRIPTS, asset, embedded, fill, page
from tests.reports.made import crowd, small, write_folder

node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the page's code cannot be run")


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def data_of(text: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="run">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def in_node(run: dict, expression: str):
    """The value of a JavaScript expression over `run` and the functions of replay.js."""
    code = f"{asset('replay.js')}\nconst run = {json.dumps(run)};\nconsole.log(JSON.stringify({expression}));"
    done = subprocess.run(["node", "-"], input=code, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nothing_is_loaded_from_elsewhere():
    text = page(small())
    parser = Elements()
    parser.feed(text)
    assert not [
        (tag, attrs) for tag, attrs in parser.found if {"src", "href"} & attrs.keys() or tag in ("link", "iframe")
    ]
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\s*\(|WebSocket", text)
    assert not re.search(r"https?://", text)


def test_the_data_is_where_the_page_looks_and_a_hostile_name_closes_no_element():
    text = page(small())
    assert data_of(text)["title"] == "made by hand <&>"
    assert "<title>made by hand &lt;&amp;&gt; · gossiptrain</title>" in text
    assert "</script>" not in embedded({"reason": "</script><script>alert(1)</script>"})
    assert fill("{{css}}|{{data}}", css="a", data="{{css}}") == "a|{{css}}"


def test_every_element_that_the_code_asks_for_is_there():
    ids = set(re.findall(r'id="(\w+)"', asset("page.html")))
    asked = {name for script in SCRIPTS for name in re.findall(r'\$\("(\w+)"\)', asset(script))}
    assert asked <= ids


def test_the_edges_lives_and_suspicions_are_those_of_the_run():
    run = made_of.payload(small())
    assert [peer["name"] for peer in run["peers"]] == ["a", "b", "c"]
    tick = lambda time_s: round(time_s / run["tick_s"])  # noqa: E731
    rows = [tuple(run["edges"][i : i + 5]) for i in range(0, len(run["edges"]), 5)]
    assert (0, 1, tick(0.5), tick(8), 1) in rows
    assert (0, 1, tick(8), tick(10), 0) in rows
    assert len(rows) == 9
    lives = run["peers"][1]["lives"]
    assert lives[0] == [0, 0, tick(8), "crashed", "killed by SIGKILL"]
    assert lives[1][:2] == [tick(13), tick(14)]
    assert lives[1][2] > tick(20), "it lives at the end"
    assert run["peers"][2]["suspected"] == [tick(3), 1, tick(4), 0]
    assert run["shunned"][:4] in ([0, 2, tick(3), tick(4)], [0, 1, tick(9), tick(10)])
    assert run["exchanges"] == [0, 1, tick(4), tick(5), 1, 0, tick(4), tick(5)]


def test_activity_says_when_a_peer_computed_stood_still_or_was_down():
    rows = made_of.payload(small())["activity"]["rows"]
    at = lambda row, time_s: row[int(time_s / 20 * len(row))]  # noqa: E731
    assert at(rows[0], 17) == "9"
    assert at(rows[1], 11) == "-"
    assert at(rows[2], 17) == "0", "the stall from 16 to 18 s"
    assert at(rows[2], 15) == "9"


def test_curves_hold_the_mean_the_band_and_every_peers_own():
    curves = {curve["name"]: curve for curve in made_of.payload(small())["curves"]}
    assert list(curves) == ["loss", "consensus_distance", "spectral_gap"]
    loss = curves["loss"]
    assert loss["mean"][1] == pytest.approx(1.5)
    assert loss["mean"][9] == pytest.approx(0.35), "the mean of those that live"
    assert loss["low"][1] < loss["mean"][1] < loss["high"][1]
    assert loss["own"][1][9] is None
    assert curves["consensus_distance"]["log"]


@node
def test_the_pages_code_tells_the_state_of_each_peer_at_a_time():
    run = made_of.payload(small())
    at = lambda time_s: round(time_s / run["tick_s"])  # noqa: E731
    times = [0.2, 3.5, 8.5, 9.7, 13.5, 19.0]
    states = in_node(run, f"{[at(t) for t in times]}.map(t => run.peers.map(peer => stateAt(peer, t)))")
    assert states == [
        ["mixing", "mixing", "mixing"],
        ["mixing", "mixing", "suspected"],
        ["mixing", "down", "mixing"],
        ["mixing", "down", "mixing"],
        ["mixing", "joining", "mixing"],
        ["mixing", "mixing", "mixing"],
    ]
    assert in_node(run, f"countsAt(run, {at(8.5)})")["down"] == 1
    assert in_node(run, f"[{at(8.9)}, {at(9.2)}, {at(9.7)}, {at(11)}].map(t => suspectedBy(run.peers[1], t))") == [
        0,
        1,
        2,
        0,
    ]


@node
def test_the_pages_code_tells_edges_neighbours_exchanges_and_values_at_a_time():
    run = made_of.payload(small())
    at = lambda time_s: round(time_s / run["tick_s"])  # noqa: E731
    pairs = "edgesAt(run, T).map(i => [run.edges[i], run.edges[i + 1], run.edges[i + 4]])"
    assert in_node(run, pairs.replace("T", str(at(9.0)))) == [[0, 2, 1], [0, 1, 0], [1, 2, 0]]
    assert in_node(run, pairs.replace("T", str(at(12.0)))) == [[0, 2, 1]]
    assert in_node(run, f"neighboursAt(run, 0, {at(18)})") == [1, 2]
    assert in_node(run, f"[...shunnedAt(run, {at(3.5)})]") == ["0-2"]
    assert in_node(run, f"[{at(3.9)}, {at(4.5)}, {at(5.5)}].map(t => exchangesAt(run, t, {at(1)}).length)") == [0, 2, 2]
    assert in_node(run, "valueAt(run.curves[1].time_s, run.curves[1].mean, 3.4)") == 0.25


@node
def test_round_numbers_and_times_for_people():
    run = {"peers": []}
    assert in_node(run, "ticksOf(0, 10, 5)") == [0, 2, 4, 6, 8, 10]
    assert in_node(run, "ticksOf(0.003, 20, 4, true)") == [0.01, 0.1, 1, 10]
    assert in_node(run, "timesOf(3600, 8)") == [0, 600, 1200, 1800, 2400, 3000, 3600]
    assert in_node(run, "[number(0.12345), number(1234567), number(null), number(4321)]") == [
        "0.123",
        "1.2e6",
        "–",
        "4,321",
    ]
    assert in_node(run, "[clock(5, 60), clock(125, 600), clock(3725, 7200)]") == ["5.0 s", "2:05", "1:02:05"]


@node
def test_all_of_the_pages_code_can_be_read(tmp_path):
    for names in (SCRIPTS, ("replay.js", "compare.js")):
        file = tmp_path / "all.js"
        file.write_text("\n".join(asset(name) for name in names))
        subprocess.run(["node", "--check", str(file)], check=True, timeout=60)


@pytest.mark.slow
def test_a_long_run_of_many_peers_makes_a_page_of_a_few_megabytes():
    text = page(crowd(400, crashes=6))
    assert len(text) < 4e6
    run = data_of(text)
    assert run["exchanges_in_all"] > 100_000
    assert len(run["exchanges"]) // 4 <= made_of.EXCHANGES_MAX
    assert all(0 <= peer["x"] <= 1 and 0 <= peer["y"] <= 1 for peer in run["peers"])


def test_a_real_runs_page_says_that_it_is_real(tmp_path):
    from gossiptrain.reports import open_run

    path = open_run(write_folder(tmp_path / "run")).save(tmp_path / "run.html")
    run = data_of(path.read_text())
    assert (run["origin"], len(run["peers"]), run["peers"][1]["lives"][0][3]) == ("real", 2, "crashed")


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: the page cannot be shown")
def test_the_page_runs_in_a_browser_without_an_error(tmp_path):
    path = small().save(tmp_path / "run.html")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    url = f"{path.as_uri()}#t=9.6&peer=b"
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=120, check=False)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    counts = re.search(r'id="counts".*?</div>', done.stdout, re.DOTALL)
    assert counts is not None
    assert "<b>2</b>mixing" in counts.group()
    assert "<b>1</b>crashed" in counts.group()
