"""From an exact summary to the baseline that people and detectors read.

Beside sums of everybody's samples stands what is `typical`: one vote an agent, which liars below half of them, or one
busy agent, cannot move far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tocsin.aggregation.leaves import Members
from tocsin.aggregation.summary import Summary
from tocsin.model.baseline import DistributedBaseline, Expected, FeatureBaseline, Typical
from tocsin.stats.histogram import BINS, quantiles
from tocsin.stats.moments import MISSING, Q_MAX, Grid, MomentLayout, Moments
from tocsin.stats.robust import median_and_mad, votes

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

QUANTILES = (0.05, 0.5, 0.95)
ESTABLISHED_EVENTS = 64  # events of an agent after which its baseline counts as fully established
SCOPES_NAMED = 3
KNOWN_SAMPLES = 16  # of a feature, from which on an agent has a vote: its deviation is then known within 18 %
LEAST_VOTES = 3  # with fewer, one liar is half of them


def confidence(events: I64) -> float:
    """Mean over agents of the share of its `ESTABLISHED_EVENTS` that each has given; 0.0 for nobody.

    `events` (n,): one agent, however busy, is no more of it than any other.
    """
    return float(np.minimum(events / ESTABLISHED_EVENTS, 1.0).mean()) if events.size else 0.0


def as_votes(values: F64, known: NDArray[np.bool_]) -> I32:
    """(n, d) grid coordinates to be counted: `values`, rounded, of whoever is `known`, nobody else's."""
    clipped = np.clip(np.rint(np.where(known, values, 0.0)), -Q_MAX, Q_MAX)
    return np.where(known, clipped, MISSING).astype(np.int32)


def typical(grid: Grid, members: Members) -> tuple[Typical | None, ...]:
    """Median and MAD of the agents' means, per feature; None where fewer than `LEAST_VOTES` have a vote.

    Breakdown point 1/2 (`stats.robust.median_and_mad`).
    """
    known = members.counts >= KNOWN_SAMPLES
    median, mad = median_and_mad(votes(as_votes(members.sums / np.maximum(members.counts, 1), known)))
    voters: list[int] = known.sum(axis=0).tolist()
    return tuple(
        Typical(agents=n, median=grid.value(a, float(median[a])), mad=math.ldexp(float(mad[a]), grid.exponent[a]))
        if n >= LEAST_VOTES
        else None
        for a, n in enumerate(voters)
    )


@dataclass(frozen=True, slots=True)
class Scope:
    """What a summary is about: its name, how many agents, how long ago it was complete, and its parts."""

    name: str
    agents: int
    staleness_seconds: float = 0.0
    parts: tuple[DistributedBaseline, ...] = ()
    confidence: float = 0.0
    typical: tuple[Typical | None, ...] = ()  # per feature of the grid, or nothing
    expected: tuple[Expected | None, ...] = ()  # of a newcomer, likewise
    expected_from: str = ""
    expected_peers: int = 0


def derive(summary: Summary, grid: Grid, level: int, scope: Scope) -> DistributedBaseline:
    """The baseline of one summary, see `derive_all`."""
    return derive_all([summary], grid, level, [scope])[0]


def derive_all(
    summaries: Sequence[Summary], grid: Grid, level: int, scopes: Sequence[Scope]
) -> list[DistributedBaseline]:
    """Baselines of several summaries on one grid.

    Moments come from exact integers; quantiles interpolate in integer histograms.
    """
    d = len(grid)
    vectors = np.stack([s.counts for s in summaries])
    moments = Moments(grid, vectors)
    cells = vectors[:, MomentLayout(d).size :].reshape(-1, BINS)
    q = quantiles(cells, QUANTILES).reshape(len(summaries), d, len(QUANTILES))
    levels = np.ldexp(
        q + np.array(grid.origin, np.float64).reshape(d, 1), np.array(grid.exponent, np.int32).reshape(d, 1)
    )
    levels[moments.count == 0] = 0.0
    columns = (moments.count, moments.mean, np.sqrt(moments.variance), levels, moments.saturated, moments.correlation())
    found: list[DistributedBaseline] = []
    rows = zip(summaries, scopes, *(column.tolist() for column in columns), strict=True)
    nothing = (None,) * d
    for summary, scope, count, mean, std, level_values, saturated, correlation in rows:
        beside = scope.typical or nothing, scope.expected or nothing
        found.append(
            DistributedBaseline(
                level=level, scope=scope.name, agents=scope.agents, samples=summary.events, epoch=summary.epoch,
                features=tuple(
                    FeatureBaseline(
                        name=n, count=c, mean=m, std=s, p05=v[0], p50=v[1], p95=v[2], saturated=z, typical=t, expected=e
                    )
                    for n, c, m, s, v, z, t, e in zip(
                        grid.features, count, mean, std, level_values, saturated, *beside, strict=True
                    )
                ),
                correlation=tuple(map(tuple, correlation)), actions=dict(sorted(summary.actions.items())),
                confidence=scope.confidence, staleness_seconds=scope.staleness_seconds,
                summary_hash=summary.digest(), parts=scope.parts, expected_from=scope.expected_from,
                expected_peers=scope.expected_peers,
            )
        )  # fmt: skip
    return found


def names_of(ids: list[str]) -> str:
    """The first few of them."""
    more = len(ids) - SCOPES_NAMED
    return "+".join(ids[:SCOPES_NAMED]) + (f"+{more} more" if more > 0 else "")
