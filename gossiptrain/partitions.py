"""How samples are shared out among peers: pure functions of labels, numbers and a generator, numpy only.

Each returns one array of sample numbers a peer; together they hold every sample exactly once, and no peer has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gossiptrain.errors import ConfigurationError

Shares = list[npt.NDArray[np.int64]]
Partition = Callable[[npt.NDArray[Any], int, np.random.Generator], Sequence[npt.ArrayLike]]
DIRICHLET_TRIES = 20
KNOWN = (
    '"iid", ("dirichlet", alpha), ("shards", shards of each peer), ("column", values), or f(labels, peers, generator)'
)


def partition(spec: Any, labels: npt.ArrayLike, peers: int, chance: np.random.Generator) -> Shares:
    """Shares samples out as told.

    Args:
        spec: "iid"; ("dirichlet", alpha); ("shards", shards of each peer); ("column", one value a sample), where samples of
            one value stay together; or a function of (labels, peers, generator) that returns sample numbers for each peer.
        labels: one a sample, [samples] or [samples, ...]; only their number counts for "iid" and "column".
        peers: how many shares.
        chance: where every random choice comes from.

    Raises:
        ConfigurationError: the spec is not known or does not fit the samples, or there are fewer samples than peers.

    >>> [share.tolist() for share in partition(("column", list("abab")), np.zeros(4), 2, np.random.default_rng(0))]
    [[0, 2], [1, 3]]
    """
    values = np.asarray(labels)
    if len(values) < peers:
        raise ConfigurationError(f"peers={peers}: {len(values)} samples cannot be shared among more peers than samples")
    if callable(spec):
        own: Any = spec(values, peers, chance)
        return _checked([np.asarray(share) for share in own], len(values), peers)
    name: Any = spec
    argument: Any = None
    if isinstance(spec, tuple) and len(spec) == 2:
        name, argument = spec
    if name == "iid" and argument is None:
        return iid(len(values), peers, chance)
    if name == "dirichlet" and argument is not None:
        return dirichlet(_classes(values, name), peers, argument, chance)
    if name == "shards" and argument is not None:
        return shards(_classes(values, name), peers, argument, chance)
    if name == "column" and argument is not None:
        return by_column(argument, len(values), peers)
    raise ConfigurationError(f"partition={_short(spec)}: must be {KNOWN}")


def iid(samples: int, peers: int, chance: np.random.Generator) -> Shares:
    """Deals shuffled samples out evenly."""
    return [np.sort(share) for share in np.array_split(chance.permutation(samples), peers)]


def dirichlet(labels: npt.NDArray[Any], peers: int, alpha: float, chance: np.random.Generator) -> Shares:
    """Splits each class among the peers in proportions drawn from a Dirichlet distribution (Hsu, Qi, Brown 2019).

    With a small alpha a peer has few classes, with a large one the split is nearly even. A draw that leaves a peer without
    a sample is repeated, at most 20 times; then the peers with most samples give one to each that has none.

    Args:
        labels: one class a sample, [samples].
        alpha: the concentration, positive.
    """
    if not isinstance(alpha, (int, float)) or not 0 < alpha < float("inf"):
        raise ConfigurationError(f"partition=('dirichlet', {alpha!r}): alpha must be a positive number")
    members = [chance.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    parts: list[list[npt.NDArray[np.int64]]] = []
    for _ in range(DIRICHLET_TRIES):
        parts = [[] for _ in range(peers)]
        for of_class in members:
            cuts = (np.cumsum(chance.dirichlet(np.full(peers, alpha)))[:-1] * len(of_class)).astype(np.int64)
            for share, piece in zip(parts, np.split(of_class, cuts)):
                share.append(piece)
        if all(sum(map(len, share)) for share in parts):
            break
    return [np.sort(share) for share in _none_empty([np.concatenate(share) for share in parts])]


def shards(labels: npt.NDArray[Any], peers: int, each: int, chance: np.random.Generator) -> Shares:
    """Sorts samples by class, cuts them into equal shards and deals each peer so many (McMahan et al. 2017, section 3).

    Args:
        labels: one class a sample, [samples].
        each: shards of a peer, at least 1; 2 gives most peers two classes.
    """
    if not isinstance(each, int) or each < 1:
        raise ConfigurationError(f"partition=('shards', {each!r}): must be a whole number of at least 1")
    if peers * each > len(labels):
        raise ConfigurationError(
            f"partition=('shards', {each}): {peers} peers with {each} shards each are {peers * each} shards, "
            f"more than the {len(labels)} samples"
        )
    pieces = np.array_split(np.argsort(labels, kind="stable"), peers * each)
    order = chance.permutation(peers * each).reshape(peers, each)
    return [np.sort(np.concatenate([pieces[index] for index in row])) for row in order]


def by_column(values: npt.ArrayLike, samples: int, peers: int) -> Shares:
    """Keeps samples of one value (a writer, a region, a book) together.

    The values with most samples are given out first, each to the peer that has least. With fewer values than peers,
    the largest groups are halved until each peer has one.

    Args:
        values: one a sample, [samples].
    """
    column = np.asarray(values)
    if column.shape != (samples,):
        raise ConfigurationError(
            f"partition=('column', ...): has shape {column.shape}; must be one value a sample, ({samples},)"
        )
    groups = [np.flatnonzero(column == value) for value in np.unique(column)]
    while len(groups) < peers:
        largest = max(range(len(groups)), key=lambda index: len(groups[index]))
        groups[largest : largest + 1] = np.array_split(groups[largest], 2)
    parts: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(peers)]
    held = [0] * peers
    for group in sorted(groups, key=len, reverse=True):
        least = held.index(min(held))
        parts[least].append(group)
        held[least] += len(group)
    return [np.sort(np.concatenate(share)) for share in parts]


def _none_empty(parts: Shares) -> Shares:
    for index, share in enumerate(parts):
        if not len(share):
            largest = max(range(len(parts)), key=lambda other: len(parts[other]))
            parts[index], parts[largest] = parts[largest][:1], parts[largest][1:]
    return parts


def _classes(labels: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise ConfigurationError(
            f"partition={name!r}: needs one whole number a sample as label; the targets are {labels.dtype} {labels.shape}"
        )
    return labels


def _checked(parts: Sequence[npt.NDArray[Any]], samples: int, peers: int) -> Shares:
    if len(parts) != peers:
        raise ConfigurationError(f"partition: the function returned {len(parts)} shares for {peers} peers")
    for index, share in enumerate(parts):
        if share.ndim != 1 or not len(share) or share.dtype.kind not in "iu":
            raise ConfigurationError(f"partition: share {index} must be a list of at least one sample number")
        if share.min() < 0 or share.max() >= samples:
            raise ConfigurationError(f"partition: share {index} names samples outside [0, {samples})")
    return [share.astype(np.int64) for share in parts]


def _short(spec: Any) -> str:
    text = repr(spec)
    return text if len(text) < 80 else text[:77] + "..."
