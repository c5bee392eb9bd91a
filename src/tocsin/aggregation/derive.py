"""From an exact summary to the baseline that people and detectors read."""

from __future__ import annotations

from tocsin.aggregation.summary import Summary
from tocsin.model.baseline import DistributedBaseline, FeatureBaseline
from tocsin.stats.histogram import BINS, quantile
from tocsin.stats.moments import Grid, MomentLayout, Moments

ESTABLISHED_EVENTS = 64  # events per agent after which its baseline counts as fully established


def confidence(events: int, agents: int) -> float:
    """Share of the `ESTABLISHED_EVENTS` per agent that has been seen, 0..1."""
    return min(1.0, events / (agents * ESTABLISHED_EVENTS)) if agents else 0.0


def derive(
    summary: Summary,
    grid: Grid,
    *,
    level: int,
    scope: str,
    agents: int,
    staleness_seconds: float,
    parts: tuple[DistributedBaseline, ...] = (),
) -> DistributedBaseline:
    """Means and correlations are correctly rounded from integers; quantiles interpolate in an integer histogram."""
    moments = Moments(grid, summary.counts)
    cells = summary.counts[MomentLayout(summary.d).size :].reshape(summary.d, BINS)
    features: list[FeatureBaseline] = []
    for a, name in enumerate(grid.features):
        m = moments.feature(a)
        p05, p50, p95 = (grid.value(a, quantile(cells[a], p)) if m.count else 0.0 for p in (0.05, 0.5, 0.95))
        features.append(
            FeatureBaseline(
                name=name, count=m.count, mean=m.mean, std=m.variance**0.5,
                p05=p05, p50=p50, p95=p95, saturated=m.saturated,
            )
        )  # fmt: skip
    return DistributedBaseline(
        level=level, scope=scope, agents=agents, samples=summary.events, epoch=summary.epoch, features=tuple(features),
        correlation=moments.correlation(), actions=dict(sorted(summary.actions.items())),
        confidence=confidence(summary.events, agents), staleness_seconds=staleness_seconds,
        summary_hash=summary.digest(), parts=parts,
    )  # fmt: skip
