"""The running e-BH set against its definition."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tocsin.detection.scoring import FleetAlarms

ALPHA = 0.05


def rejected(log_e: list[float], alpha: float) -> set[int]:
    """e-BH from its definition: the k largest, k the largest with e_(k) >= n / (alpha k)."""
    n = len(log_e)
    order = sorted(range(n), key=lambda i: -log_e[i])
    size = max((k for k in range(1, n + 1) if log_e[order[k - 1]] >= math.log(n / (alpha * k)) - 1e-9), default=0)
    if not size:
        return set()
    return {i for i in range(n) if log_e[i] >= math.log(n / (alpha * size)) - 1e-9}


@given(st.lists(st.tuples(st.integers(0, 7), st.floats(-5.0, 8.0)), min_size=1, max_size=40), st.integers(1, 5))
def test_follows_the_definition_after_every_event(events: list[tuple[int, float]], batch: int) -> None:
    fleet, latest = FleetAlarms(ALPHA, 8), [0.0] * 8
    for start in range(0, len(events), batch):
        part = events[start : start + batch]
        alarms = fleet.update(np.array([a for a, _ in part], np.int32), np.array([e for _, e in part]))
        for (agent, log_e), alarm in zip(part, alarms, strict=True):
            latest[agent] = log_e
            assert bool(alarm) == (agent in rejected(latest, ALPHA))
    assert set(fleet.rejected().tolist()) == rejected(latest, ALPHA)


def test_many_suspects_lower_the_bar_for_each() -> None:
    log_e = np.full(10, math.log(10 / (ALPHA * 10)) + 0.01)
    together = FleetAlarms(ALPHA, 10)
    together.update(np.arange(10, dtype=np.int32), log_e)
    assert together.rejected().tolist() == list(range(10))
    alone = FleetAlarms(ALPHA, 10)
    assert not alone.update(np.zeros(1, np.int32), log_e[:1]).any()
