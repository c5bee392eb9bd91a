"""From an exact summary to the baseline that people and detectors read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tocsin.aggregation.summary import Summary
from tocsin.model.baseline import DistributedBaseline, FeatureBaseline
from tocsin.stats.histogram import BINS, quantiles
from tocsin.stats.moments import Grid, MomentLayout, Moments

QUANTILES = (0.05, 0.5, 0.95)
ESTABLISHED_EVENTS = 64  # events per agent after which its baseline counts as fully established


def confidence(events: int, agents: int) -> float:
    """Share of the `ESTABLISHED_EVENTS` per agent that has been seen, 0..1."""
    return min(1.0, events / (agents * ESTABLISHED_EVENTS)) if agents else 0.0


@dataclass(frozen=True, slots=True)
class Scope:
    """What a summary is about: its name, how many agents, how old its oldest contribution is, and its parts."""

    name: str
    agents: int
    staleness_seconds: float = 0.0
    parts: tuple[DistributedBaseline, ...] = ()


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
    for summary, scope, count, mean, std, level_values, saturated, correlation in rows:
        found.append(
            DistributedBaseline(
                level=level, scope=scope.name, agents=scope.agents, samples=summary.events, epoch=summary.epoch,
                features=tuple(
                    FeatureBaseline(name=n, count=c, mean=m, std=s, p05=v[0], p50=v[1], p95=v[2], saturated=z)
                    for n, c, m, s, v, z in zip(
                        grid.features, count, mean, std, level_values, saturated, strict=True
                    )
                ),
                correlation=tuple(map(tuple, correlation)), actions=dict(sorted(summary.actions.items())),
                confidence=confidence(summary.events, scope.agents), staleness_seconds=scope.staleness_seconds,
                summary_hash=summary.digest(), parts=scope.parts,
            )
        )  # fmt: skip
    return found
