"""The running closed e-BH set against the rule asked after every event."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tocsin.detection.scoring import CLOSED_UP_TO, FleetAlarms
from tocsin.model.evidence import Q32
from tocsin.stats.fdr import closed_e_bh_threshold_q32

ALPHA = 0.05


def rejected(log_e: list[float], alpha: float) -> set[int]:
    """Closed e-BH asked anew, from whole numbers (its own twin is in test_closed_e_bh)."""
    values = [round(value * Q32) for value in log_e]
    threshold = closed_e_bh_threshold_q32(values, len(values), round(alpha * 1e6))
    return set() if threshold is None else {i for i, value in enumerate(values) if value >= threshold}


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


def test_two_that_e_bh_leaves_are_rejected_together() -> None:
    log_e = np.log([55.0, 25.0])
    fleet = FleetAlarms(ALPHA, 3)  # e-BH asks 60, or 30 of both
    assert fleet.update(np.arange(2, dtype=np.int32), log_e).tolist() == [False, True]
    assert fleet.rejected().tolist() == [0, 1]


def test_a_very_large_fleet_goes_by_plain_e_bh() -> None:
    size = CLOSED_UP_TO
    log_e = np.log([size / ALPHA * 1.01, (size - 0.5) / (2 * ALPHA)])  # e-BH asks size / (2 alpha) of the second
    assert rejected([*log_e, *[0.0] * (size - 2)], ALPHA) == {0, 1}
    assert FleetAlarms(ALPHA, size).update(np.arange(2, dtype=np.int32), log_e).tolist() == [True, True]
    larger = np.log([(size + 1) / ALPHA * 1.01, (size + 0.5) / (2 * ALPHA)])
    assert rejected([*larger, *[0.0] * (size - 1)], ALPHA) == {0, 1}
    assert FleetAlarms(ALPHA, size + 1).update(np.arange(2, dtype=np.int32), larger).tolist() == [True, False]
