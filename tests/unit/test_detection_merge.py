"""Channels of one agent, merged: the mean of what each said last."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.detection.merge import merge

SHARE = np.array([[1.0, 0.25], [0.5, 0.5], [0.0, 2.0]])
SAID = st.one_of(st.just(math.nan), st.floats(-20.0, 20.0))


@given(st.lists(st.tuples(st.integers(0, 2), SAID, SAID), min_size=1, max_size=30))
def test_mean_of_the_latest(rows: list[tuple[int, float, float]]) -> None:
    n = len(rows)
    both = np.array([[[a, a], [b, b]] for _, a, b in rows])
    log_e, belief = np.zeros(n), np.zeros(n)
    agent = np.array([row[0] for row in rows], np.int32)
    merge(agent, np.ones(n, np.int8), both, SHARE, np.full((3, 2, 2), np.nan), log_e, belief)
    latest: dict[tuple[int, int], float] = {}
    for i, (a, *said) in enumerate(rows):
        latest |= {(a, c): value for c, value in enumerate(said) if not math.isnan(value)}
        mine = {c: value for (owner, c), value in latest.items() if owner == a}
        weight = sum(SHARE[a][c] for c in mine)
        total = sum(SHARE[a][c] * math.exp(value) for c, value in mine.items())
        assert log_e[i] == pytest.approx(math.log(total / weight) if weight else 0.0, abs=1e-9)
    np.testing.assert_array_equal(log_e, belief)


def test_baseline_rows_say_nothing() -> None:
    log_e, belief = np.zeros(1), np.zeros(1)
    last = np.full((1, 2, 2), np.nan)
    merge(np.zeros(1, np.int32), np.zeros(1, np.int8), np.full((1, 2, 2), 3.0), SHARE, last, log_e, belief)
    assert not log_e.any()
    assert np.isnan(last).all()
