"""R6.1: fleets in which nothing happens but sessions come in runs, rows in wild stretches, or regions move together.

Each case was flagged before its cause was dealt with.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.nulls import LAWS, flagged, measurements
from tocsin.sim.loners import lone_fleet


@pytest.mark.parametrize(("agents", "jobs", "seed"), [(40, 2, 8)])
def test_runs_of_odd_sessions_win_once(agents: int, jobs: int, seed: int) -> None:
    assert flagged(lone_fleet(agents, seed=seed, jobs=jobs).batch) == 0


@pytest.mark.parametrize(
    "law", ["counts", "volatile", "regions drift", "memories differ", "random walk", "slow and noisy", "scales differ"]
)
def test_laws_that_looked_like_shifts(law: str) -> None:
    for seed in range(4):
        assert flagged(measurements(LAWS[law], 50, seed)) == 0


@pytest.mark.parametrize(
    ("law", "deviations"),
    [("normal", 2.0), ("counts", 2.0), ("volatile", 2.0), ("autocorrelated .9", 4.0), ("regions drift", 2.0)],
)
def test_one_agent_that_shifts_is_still_seen(law: str, deviations: float) -> None:
    batch = measurements(LAWS[law], 50, 1)
    column = batch.values[:, 0]
    moved = (batch.agent == 7) & (batch.phase == 1)
    column[moved] += deviations * float(np.std(column[batch.phase == 0]))
    assert flagged(batch) == 1
