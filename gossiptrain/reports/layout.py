"""Where the peers stand in the picture of a run: once for the whole run, so that only the edges move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gossiptrain.reports.record import Array

CIRCLE_MAX = 20
GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
PAIRS_BUDGET = 6e7


def layout(names: Sequence[str], pairs: Iterable[tuple[str, str, float]]) -> Array:
    """Places peers in the unit square: a circle for few, else by springs along the edges and repulsion between all.

    Fruchterman & Reingold 1991, "Graph drawing by force-directed placement", from a sunflower's spiral in the order of the
    names, so that the same run gives the same picture.

    Args:
        names: N peers.
        pairs: (a, b, weight) of peers that were neighbours; the weight says for how long.

    Returns:
        float64 [N, 2] within [0, 1].
    """
    n = len(names)
    if n <= CIRCLE_MAX:
        return _scaled(_circle(n))
    index = {name: place for place, name in enumerate(names)}
    known = [(index[a], index[b], weight) for a, b, weight in pairs if a in index and b in index]
    x_N2 = _spiral(n)
    if known:
        a_E, b_E, weight_E = (np.array(column) for column in zip(*known))
        x_N2 = _settle(x_N2, a_E.astype(int), b_E.astype(int), weight_E / weight_E.max())
    return _scaled(x_N2)


def _circle(n: int) -> Array:
    turns = 2 * np.pi * np.arange(n) / max(1, n)
    return np.stack([np.sin(turns), -np.cos(turns)], 1)


def _spiral(n: int) -> Array:
    turns = GOLDEN_ANGLE * np.arange(n)
    return np.sqrt((np.arange(n) + 0.5) / n)[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)


def _settle(x_N2: Array, a_E: np.ndarray, b_E: np.ndarray, weight_E: Array) -> Array:
    n = len(x_N2)
    length = 1.8 / np.sqrt(n)
    rounds = int(np.clip(PAIRS_BUDGET / n**2, 40, 300))
    for heat in np.linspace(0.1, 0.004, rounds):
        away_NN2 = x_N2[:, None] - x_N2
        square_NN = np.maximum((away_NN2**2).sum(2), 1e-6)
        force_N2 = (away_NN2 * (length**2 / square_NN)[:, :, None]).sum(1)
        along_E2 = x_N2[a_E] - x_N2[b_E]
        pull_E2 = along_E2 * (weight_E * np.linalg.norm(along_E2, axis=1) / length)[:, None]
        np.add.at(force_N2, a_E, -pull_E2)
        np.add.at(force_N2, b_E, pull_E2)
        size_N1 = np.linalg.norm(force_N2, axis=1, keepdims=True)
        x_N2 = x_N2 + force_N2 / np.maximum(size_N1, 1e-9) * np.minimum(size_N1, heat)
    return _spread(_drawn_in(x_N2), rounds // 3)


def _drawn_in(x_N2: Array) -> Array:
    """Brings the few that stand far outside closer, so that they do not shrink all the others."""
    away_N2 = x_N2 - np.median(x_N2, axis=0)
    distance_N1 = np.maximum(np.linalg.norm(away_N2, axis=1, keepdims=True), 1e-9)
    usual = float(np.quantile(distance_N1, 0.93))
    return away_N2 * np.minimum(1.0, (usual + 0.25 * (distance_N1 - usual)) / distance_N1)


def _spread(x_N2: Array, rounds: int) -> Array:
    """Moves apart what stands closer than most do, so that no peer hides another."""
    room = 0.9 * float(np.ptp(x_N2, axis=0).mean()) / np.sqrt(len(x_N2))
    for _ in range(rounds):
        away_NN2 = x_N2[:, None] - x_N2
        apart_NN = np.maximum(np.sqrt((away_NN2**2).sum(2)), 1e-9)
        np.fill_diagonal(apart_NN, room)
        push_NN = np.where(apart_NN < room, 0.25 * (room - apart_NN) / apart_NN, 0.0)
        x_N2 = x_N2 + (away_NN2 * push_NN[:, :, None]).sum(1)
    return x_N2


def _scaled(x_N2: Array) -> Array:
    if len(x_N2) < 2:
        return np.full((len(x_N2), 2), 0.5)
    low, high = x_N2.min(0), x_N2.max(0)
    return 0.5 + (x_N2 - (low + high) / 2) / max(float((high - low).max()), 1e-9)
