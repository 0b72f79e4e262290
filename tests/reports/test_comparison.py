"""Runs beside each other, simulated and real."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from gossiptrain.errors import ConfigurationError
from gossiptrain.reports import Samples, compare, open_run, plot_steps_to_target
from gossiptrain.reports.comparison import time_to
from tests.reports.made import small, write_folder


def slower():
    record = small()
    loss_TN = 1.5 * record.samples.by_peer["loss"]
    return replace(record, title="slower", samples=replace(record.samples, by_peer={"loss": loss_TN}))


def test_the_table_holds_what_happened_and_the_time_to_the_target():
    fast, slow = compare(small(), slower(), labels=["fast", "slow"], target=0.75).rows()
    assert (fast["run"], fast["crashes"], fast["suspicions"], fast["re-wirings"]) == ("fast", 1, 3, 8)
    assert fast["exchanges"] == 2
    assert fast["MB sent"] == pytest.approx(0.04)
    assert fast["final loss"] == pytest.approx(9 / 21 / 3)
    assert (fast["seconds to loss 0.75"], slow["seconds to loss 0.75"]) == (3.0, 5.0)
    assert (fast["steps to loss 0.75"], slow["steps to loss 0.75"]) == (6.0, 10.0)


def test_a_target_that_was_never_reached_is_no_number():
    (row,) = compare(small(), target=0.001).rows()
    assert math.isnan(row["seconds to loss 0.001"])


def test_an_accuracy_is_reached_from_below():
    record = small()
    samples = Samples(record.samples.time_s, overall={"accuracy": record.samples.time_s / 20})
    assert time_to(replace(record, samples=samples), "accuracy", 0.5) == 10.0


def test_simulated_and_real_runs_compare(tmp_path):
    pytest.importorskip("pandas")
    real = open_run(write_folder(tmp_path / "run"))
    table = compare(small(), real, labels=["simulated", "measured"]).to_pandas()
    assert table.loc["measured", "origin"] == "real"
    assert table.loc["measured", "final loss"] == 0.5
    assert table.loc["simulated", "peers"] == 3


def test_the_page_needs_nothing_from_elsewhere_and_holds_table_and_curves(tmp_path):
    path = compare(small(), slower(), labels=["<one>", "two"], target=0.75).save(tmp_path / "compare.html")
    text = path.read_text()
    assert not re.search(r"https?://|<link|@import|url\(|\ssrc=", text)
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(found)
    assert data["labels"] == ["<one>", "two"]
    assert ["seconds to loss 0.75", 3.0, 5.0] in data["table"]
    (loss,) = [curve for curve in data["curves"] if curve["name"] == "loss"]
    assert [run["run"] for run in loss["runs"]] == [0, 1]
    assert loss["runs"][0]["step"][3] == 6
    assert loss["runs"][0]["bytes"][3] == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"labels": ["one"]}, "one for each of the 2 reports"),
        ({"measure": "perplexity"}, "all have loss, consensus_distance"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, says):
    with pytest.raises(ConfigurationError, match=says):
        compare(small(), slower(), **arguments)


def test_curves_over_each_other_and_steps_to_target_are_drawn():
    pytest.importorskip("matplotlib").use("Agg")
    figure = compare(small(), slower()).plot("loss", x="step")
    (ax,) = figure.axes
    assert [line.get_label() for line in ax.get_lines()] == ["made by hand <&>", "slower"]
    assert ax.get_lines()[0].get_xdata()[3] == 6
    figure = plot_steps_to_target([small(), slower()], "loss", 0.75)
    measured = figure.axes[0].get_lines()[0]
    assert sorted(np.asarray(measured.get_ydata()).tolist()) == [6.0, 10.0]
    with pytest.raises(ConfigurationError, match="no run has 'x'"):
        compare(small()).plot("x")
