"""What was the case when, read from notices: edges, suspicions, re-wirings, spectral gaps."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest

import topologies
from gossiptrain.protocol.notices import Exchanged, Joined, Rewired
from gossiptrain.reports import timeline
from gossiptrain.reports.story import story
from tests.reports.made import process, small


def test_an_edge_lasts_while_either_end_names_it_and_is_mutual_while_both_do():
    found = [
        (edge.a, edge.b, edge.began_s, edge.ended_s, edge.mutual)
        for edge in timeline.edges(small())
        if (edge.a, edge.b) == ("a", "b")
    ]
    # Both from 0.5 until b's crash at 8; a alone until it is re-wired at 10; both again from 15.
    assert found == [("a", "b", 0.5, 8.0, True), ("a", "b", 8.0, 10.0, False), ("a", "b", 15.0, 20.0, True)]


def test_while_views_differ_an_edge_is_one_sided():
    ends = [(e.began_s, e.ended_s, e.mutual) for e in timeline.edges(small()) if (e.a, e.b) == ("a", "c")]
    assert ends == [(0.5, 1.0, False), (1.0, 20.0, True)]


def test_under_a_schedule_the_edges_are_the_exchanges_that_happened():
    told = [
        (0.0, Joined("")),
        (0.1, Rewired(1, 2, ("b",))),
        (3.0, Exchanged(("b",), 1.0)),
        (9.0, Exchanged(("c",), 0.5)),
    ]
    others = [process(name, [(0.0, Joined("a"))]) for name in ("b", "c")]
    record = replace(
        small(), processes=(process("a", told), *others), settings={"topology": "one_peer_exponential"}, faults=()
    )
    assert [(e.a, e.b, e.began_s, e.ended_s) for e in timeline.edges(record)] == [
        ("a", "b", 2.0, 9.0),
        ("a", "c", 8.5, 20.0),
    ]


def test_suspicions_end_with_an_answer_or_a_death_and_are_counted_by_suspect():
    found = {(s.by, s.of): (s.began_s, s.ended_s) for s in timeline.suspicions(small())}
    assert found == {("a", "c"): (3.0, 4.0), ("a", "b"): (9.0, 10.0), ("c", "b"): (9.5, 10.0)}
    assert timeline.suspected(small()) == {"c": [(3.0, 1), (4.0, 0)], "b": [(9.0, 1), (9.5, 2), (10.0, 0)]}


def test_a_suspicion_that_was_never_settled_lasts_until_its_owner_ends():
    record = small()
    (c,) = [p for p in record.processes if p.name == "c"]
    cut = replace(c, ended_s=9.75, end="crashed", notices=tuple(told for told in c.notices if told[0] < 9.75))
    record = replace(record, processes=tuple(cut if p.name == "c" else p for p in record.processes))
    assert [(s.began_s, s.ended_s) for s in timeline.suspicions(record) if s.by == "c"] == [(9.5, 9.75)]


def test_the_graph_holds_who_lives_and_mixes():
    record = small()
    assert set(timeline.graph_at(record, 9.0).nodes) == {"a", "c"}
    assert set(timeline.graph_at(record, 13.5).nodes) == {"a", "c"}, "b lives again, but mixes from 14 s on"
    assert set(timeline.graph_at(record, 15.5).edges) == {("a", "b"), ("a", "c"), ("b", "c")}


def test_the_spectral_gap_is_that_of_the_graph_at_each_time_and_zero_where_it_is_in_parts():
    times_s, gaps = timeline.spectral_gaps(small())
    gap_at = lambda time_s: gaps[np.searchsorted(times_s, time_s, side="right") - 1]  # noqa: E731
    triangle = topologies.spectral_gap(topologies.metropolis_hastings(nx.complete_graph(3)))
    pair = topologies.spectral_gap(topologies.metropolis_hastings(nx.complete_graph(2)))
    assert gap_at(5.0) == pytest.approx(triangle)
    assert gap_at(12.0) == pytest.approx(pair)
    assert gap_at(14.2) == pytest.approx(0.0, abs=1e-9), "b mixes, and nobody names it yet"


@pytest.mark.parametrize(
    "graph", [topologies.overlay(range(200)), topologies.torus(12, 15), topologies.ring(160), topologies.star(160)]
)
def test_the_lanczos_process_finds_the_gap_of_the_whole_decomposition(graph):
    W_NN = topologies.metropolis_hastings(graph)
    assert timeline.krylov_gap(W_NN) == pytest.approx(topologies.spectral_gap(W_NN), abs=1e-4)


def test_rewirings_within_a_moment_are_one():
    assert timeline.rewirings(small()) == [(0.5, 1.0, 3), (10.0, 10.0, 2), (15.0, 15.0, 3)]


def test_the_story_tells_what_many_noticed_in_one_line_each():
    lines = {(line.time_s, line.kind): line.text for line in story(small())}
    assert lines[9.0, "suspected"] == "b suspected by 2 peers within 0.5 s, a first: the link to it broke"
    assert lines[10.0, "dead"] == "b taken for dead by 2 peers, a first: its address refuses"
    assert lines[8.0, "fault"] == "crash b"
    assert (8.0, "crashed") not in lines, "that the crash took effect is told by the fault"
    assert lines[13.0, "start"] == "b starts again"


def test_many_peers_that_start_within_a_moment_are_one_line():
    record = small()
    many = [process(f"peer-{number}", [(0.2, Joined("peer-0"))], began_s=number / 100) for number in range(20)]
    lines = [(line.time_s, line.text) for line in story(replace(record, processes=(*many, *record.processes[-1:])))]
    assert (0.0, "21 peers start within 0.19 s, peer-0 first") in lines
    assert (0.0, "21 peers begin to mix within 0.2 s, c first") in lines


def test_the_least_important_is_left_out_of_a_story_that_grows_too_long():
    assert {line.kind for line in story(small(), most=3)} == {"fault", "dead"}
