"""What to expect of an agent, from its own samples and from its peers': the smallest scope that has enough of them.

A peer's word is one vote in a histogram, so that fewer than half of them, lying as they like, move what is expected of
a newcomer no further than the honest ones reach (see `stats.robust`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import InputError
from tocsin.stats.moments import MISSING, Q_MAX, Grid, Moments
from tocsin.stats.robust import CONSISTENT, median_and_mad, votes
from tocsin.stats.shrinkage import Expected, Peers, expected, spread_of_true_means

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

KNOWN_SAMPLES = 16  # of a feature, from which on an agent counts as a peer: its deviation is then known within 18 %
LEAST_PEERS = 8  # with fewer, their spread says little, and the next larger scope is asked


@dataclass(frozen=True, slots=True)
class Expectation:
    """Of an agent's next sample, per feature of the grid, and from whom it was learned."""

    features: tuple[str, ...]
    mean: tuple[float, ...]  # NaN for a feature that too few peers have
    std: tuple[float, ...]
    own_share: tuple[float, ...]  # of the mean that comes from the agent itself
    scope: str  # node whose agents were the peers
    peers: int  # that have all the features that most of them have


def peers_of(grid: Grid, vectors: I64) -> tuple[Peers, int]:
    """How the agents with these moment vectors (n, size) differ, in the features' units, and how many are known."""
    d = len(grid)
    steps = Moments(Grid(grid.features, (0,) * d, (0,) * d), vectors)  # in grid coordinates
    known = steps.count >= KNOWN_SAMPLES
    location, mad = median_and_mad(votes(_as_votes(steps.mean, known)))
    within, _ = median_and_mad(votes(_as_votes(np.sqrt(steps.variance), known)))
    samples = np.array([np.median(steps.count[known[:, a], a]) if known[:, a].any() else 1.0 for a in range(d)])
    between = np.array([
        spread_of_true_means(np.array([CONSISTENT * mad[a]]), np.array([within[a]]), float(samples[a]))[0]
        for a in range(d)
    ])  # fmt: skip
    few = known.sum(axis=0) < LEAST_PEERS
    scale = np.ldexp(1.0, np.array(grid.exponent, np.int32))
    columns = ((location + np.array(grid.origin)) * scale, between * scale, within * scale)
    found = Peers(*(np.where(few, np.nan, column) for column in columns))
    return found, int(known.any(axis=1).sum())


def _as_votes(values: F64, known: NDArray[np.bool_]) -> NDArray[np.int32]:
    clipped = np.clip(np.rint(np.where(known, values, 0.0)), -Q_MAX, Q_MAX)
    return np.where(known, clipped, MISSING).astype(np.int32)


def expect(grid: Grid, own: I64, scopes: Iterable[tuple[str, I64]]) -> Expectation:
    """From an agent's moment vector (size,) and its peers' (n, size), smallest scope first.

    Raises `InputError` if no scope has `LEAST_PEERS` agents that are known.
    """
    for scope, vectors in scopes:
        peers, count = peers_of(grid, vectors)
        if count >= LEAST_PEERS:
            moments = Moments(grid, own[None, :])
            found: Expected = expected(moments.count[0].astype(np.float64), moments.mean[0], peers)
            columns = (tuple(column.tolist()) for column in (found.mean, found.std, found.own_share))
            return Expectation(grid.features, *columns, scope=scope, peers=count)
    raise InputError(
        f"fewer than {LEAST_PEERS} agents have {KNOWN_SAMPLES} samples", remedy="wait until more agents are known"
    )
