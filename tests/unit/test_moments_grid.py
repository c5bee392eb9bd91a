"""Exact moments against a twin in rational arithmetic, and against numpy in floating point."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import InputError
from tocsin.stats.moments import (
    BLOCK_ROWS,
    MISSING,
    Q_MAX,
    Grid,
    MomentLayout,
    Moments,
    accumulate_moments,
    fit_axis,
    fit_grid,
    quantise,
)

GRID = Grid(("a", "b", "c"), (100, 0, -7), (-8, 0, 3))
samples = st.lists(
    st.lists(st.one_of(st.just(MISSING), st.integers(-Q_MAX, Q_MAX)), min_size=3, max_size=3), min_size=1, max_size=30
)


def vector(rows: list[list[int]]) -> np.ndarray:
    return one_agent(np.array(rows, np.int32))


def one_agent(q: np.ndarray) -> np.ndarray:
    layout = MomentLayout(q.shape[1])
    out = np.zeros((2, layout.open_size), np.int64)
    accumulate_moments(q, np.ones(q.shape[0], np.int64), out)
    assert not out[0].any()
    return layout.closed(out)[1]


@given(samples)
def test_every_number_of_the_vector_is_what_its_name_says(rows: list[list[int]]) -> None:
    at, v = MomentLayout(3), vector(rows)
    assert v[0] == len(rows)
    for a in range(3):
        assert v[1 + a] == sum(abs(r[a]) == Q_MAX for r in rows)
        for b in range(3):
            both = [(r[a], r[b]) for r in rows if r[a] != MISSING and r[b] != MISSING]
            assert v[at.counts + at.pair(a, b)] == len(both)
            assert v[at.sums + a * 3 + b] == sum(x for x, _ in both)
            assert v[at.products + at.pair(a, b)] == sum(x * y for x, y in both)


@pytest.mark.parametrize("extreme", [True, False])
@pytest.mark.parametrize("d", [1, 3, 16])
def test_blocks_of_one_agents_rows_add_up_to_the_same_as_single_rows(d: int, extreme: bool) -> None:
    rng = np.random.default_rng(d)
    n = 3 * BLOCK_ROWS + 5
    q = rng.choice([-Q_MAX, Q_MAX], (n, d)) if extreme else rng.integers(-Q_MAX, Q_MAX + 1, (n, d))
    q = q.astype(np.int32)
    q[n // 2, d - 1] = MISSING  # one block falls back to rows
    row = np.repeat([2, 0, 1], [n - 300, 297, 3])
    in_runs, scattered = (np.zeros((3, MomentLayout(d).open_size), np.int64) for _ in range(2))
    accumulate_moments(q, row, in_runs)
    for i in rng.permutation(n):
        accumulate_moments(q[i : i + 1], row[i : i + 1], scattered)
    assert np.array_equal(in_runs, scattered)
    part = q[row == 0].astype(object)
    at, v = MomentLayout(d), MomentLayout(d).closed(in_runs)[0]
    assert v[at.products + at.pair(0, d - 1)] == (part[:, 0] * part[:, d - 1]).sum()
    assert v[at.sums + d - 1] == part[:, 0].sum()


@given(samples)
def test_mean_and_variance_are_the_rational_ones_rounded(rows: list[list[int]]) -> None:
    moments = Moments(GRID, vector(rows)[None, :])
    for a in range(3):
        step = Fraction(2) ** GRID.exponent[a]
        x = [(r[a] + GRID.origin[a]) * step for r in rows if r[a] != MISSING]
        assert moments.count[0, a] == len(x)
        if x:
            mean = sum(x) / len(x)
            assert moments.mean[0, a] == float(mean)
        if len(x) > 1:
            truth = float(sum((v - mean) ** 2 for v in x) / (len(x) - 1))
            assert moments.variance[0, a] == pytest.approx(truth, rel=4e-16)


def test_correlation_agrees_with_numpy_where_nothing_is_missing() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4000, 3)) @ rng.normal(size=(3, 3)) + 5
    grid = fit_grid(("a", "b", "c"), x)
    v = one_agent(quantise(grid, x, np.arange(3)))
    moments = Moments(grid, v[None, :])
    assert np.abs(moments.correlation()[0] - np.corrcoef(x.T)).max() < 1e-4
    assert np.abs(moments.mean[0] - x.mean(0)).max() < 1e-3


def test_sums_beyond_64_bits_give_the_same_covariance() -> None:
    v = vector([[Q_MAX, 1, MISSING], [-Q_MAX, 2, 5], [Q_MAX - 7, 4, 9], [12, -1, 0]] * 8)
    times = 1 << 27  # n * sum q*q is near 2**66, and every sum itself still below 2**62
    assert 32 * times * int(v.max()) * times > 1 << 90
    exact = Fraction(times * 31, 32 * times - 1)  # by how much a repeated sample's unbiased variance is smaller
    once, often = (Moments(GRID, one[None, :]).covariance_q[0, :2, :2] for one in (v, v * times))
    assert often == pytest.approx(once * float(exact), rel=1e-15)


def test_correlation_with_missing_values_uses_the_rows_that_have_both() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(20_000, 2))
    x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
    truth = np.corrcoef(x.T)[0, 1]
    x[rng.random(20_000) < 0.3, 0] = np.nan
    x[rng.random(20_000) < 0.3, 1] = np.nan
    grid = fit_grid(("a", "b"), x)
    v = one_agent(quantise(grid, x, np.arange(2)))
    assert abs(Moments(grid, v[None, :]).correlation()[0, 0, 1] - truth) < 0.02


@given(st.floats(allow_nan=True, allow_infinity=True), st.integers(-(1 << 52), 1 << 52), st.integers(-60, 60))
def test_quantise_rounds_to_the_nearest_step_or_saturates(x: float, origin: int, exponent: int) -> None:
    q = int(quantise(Grid(("a",), (origin,), (exponent,)), np.array([[x]]), np.array([0]))[0, 0])
    if np.isnan(x):
        assert q == MISSING
    elif np.isinf(x):
        assert q == (Q_MAX if x > 0 else -Q_MAX)
    else:
        assert q == max(-Q_MAX, min(Q_MAX, round(Fraction(x) / Fraction(2) ** exponent) - origin))


def test_an_absent_column_is_missing() -> None:
    assert quantise(GRID, np.ones((2, 1)), np.array([-1, 0, -1])).tolist() == [[MISSING, 1, MISSING]] * 2


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=64), max_size=50))
def test_any_samples_give_a_grid_that_accepts_them(x: list[float]) -> None:
    origin, exponent = fit_axis(np.array(x, np.float64))
    grid = Grid(("a",), (origin,), (exponent,))
    finite = [v for v in x if np.isfinite(v) and abs(v) < 1e150]
    if finite and len(finite) == len(x):
        assert abs(int(quantise(grid, np.array([[np.median(finite)]]), np.array([0]))[0, 0])) <= 1


def test_a_tail_widens_the_grid_by_a_bounded_factor() -> None:
    rng = np.random.default_rng(0)
    centre = rng.normal(size=10_000)
    tail = np.where(rng.random(10_000) < 0.01, 1e6, centre)
    assert fit_axis(tail)[1] - fit_axis(centre)[1] == 2


def test_an_unfit_grid_is_refused() -> None:
    with pytest.raises(InputError):
        Grid(("a",), (1 << 53,), (0,))
    with pytest.raises(InputError):
        Grid(tuple("abcdefghijklmnopq"), (0,) * 17, (0,) * 17)
    with pytest.raises(InputError):
        Moments(GRID, np.zeros((1, 3), np.int64))
