"""Figures: what they show, with units and names."""

from __future__ import annotations

import numpy as np
import pytest

from gossiptrain.errors import ConfigurationError
from gossiptrain.reports import plots
from tests.reports.made import small

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def test_a_measure_has_its_mean_its_band_and_marks():
    (ax,) = small().plot("loss").axes
    assert ax.get_xlabel() == "virtual seconds"
    assert ax.get_ylabel() == "loss"
    assert ax.get_lines()[0].get_ydata()[1] == pytest.approx(1.5)
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["mean", "10-90 % of the peers", "graph laid anew", "crash"]


@pytest.mark.parametrize(("x", "third", "unit"), [("step", 6.0, "local steps"), ("bytes", 3.0, "MB sent")])
def test_measures_are_drawn_against_steps_and_bytes_too(x, third, unit):
    (ax,) = small().plot("loss", x=x).axes
    assert ax.get_lines()[0].get_xdata()[3] == third
    assert unit in ax.get_xlabel()


@pytest.mark.slow
def test_every_panel_can_be_drawn_and_saved(tmp_path):
    figure = small().plot("loss", "consensus_distance", "spectral_gap", "living", "graph", "gantt", "staleness")
    assert len(figure.axes) == 7
    assert figure.axes[1].get_yscale() == "log"
    assert small().save(tmp_path / "run.png").stat().st_size > 10_000


def test_staleness_counts_the_steps_from_the_snapshot_to_the_boundary_where_its_mix_was_applied():
    # a offers at 4 s, where a block ends: 8 steps. It decides at 5 s, a boundary as well: applied at once, after 10.
    assert plots.staleness_of(small()).tolist() == [2, 2]


def test_what_the_run_does_not_have_is_refused_and_what_it_has_is_named():
    with pytest.raises(ConfigurationError, match="'perplexity'; it has loss, consensus_distance, spectral_gap"):
        small().plot("perplexity")
    with pytest.raises(ConfigurationError, match="must be one of time, step, bytes"):
        small().plot("loss", x="epochs")


def test_spans_that_could_not_be_seen_apart_are_drawn_as_one():
    begins_s, ends_s = np.array([0.0, 1.0, 5.0]), np.array([0.99, 2.0, 6.0])
    assert plots._joined(begins_s, ends_s, 0.1) == [(0.0, 2.0), (5.0, 1.0)]


def test_a_distance_that_begins_at_next_to_nothing_does_not_squeeze_the_rest() -> None:
    figure, axes = plots.new_figure([2.0])
    plots.scale(axes[0], "consensus_distance", [np.array([1e-7, 0.5, 0.6, 0.1]), np.array([2e-7, 1e-4, 0.4, 0.3])])
    assert 0.05 < axes[0].get_ylim()[0] < 0.1
    plots.scale(axes[0], "consensus_distance", [np.geomspace(1.0, 1e-6, 50)])
    assert axes[0].get_ylim()[0] < 1e-6
