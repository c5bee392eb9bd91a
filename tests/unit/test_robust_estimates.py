"""R1.4: each estimator just below its breakdown point, where liars move it a little, and at it, where they own it."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.errors import InputError
from tocsin.stats.histogram import BIN_EDGES, BIN_OF
from tocsin.stats.moments import Q_MAX
from tocsin.stats.robust import filtered_location, median_and_mad, votes

N = 101


def honest(n: int, seed: int, d: int = 1) -> np.ndarray:
    return np.rint(np.random.default_rng(seed).normal(0, 256, (n, d))).astype(np.int32)


def width_at(q: float) -> float:
    low, high = BIN_EDGES[int(BIN_OF[round(q) + Q_MAX])]
    return float(high - low)


@pytest.mark.parametrize("n", [1, 2, 10, 50, 1001])
def test_median_and_mad_are_the_votes_own_up_to_a_bin(n: int) -> None:
    for seed in range(20):
        q = honest(n, seed)
        median, mad = median_and_mad(votes(q))
        truth = float(np.median(q))
        near = np.abs(np.sort(q[:, 0]) - truth).min()  # an even number of votes rests between two of them
        assert abs(median[0] - truth) <= width_at(truth) + near
        assert abs(mad[0] - np.median(np.abs(q - truth))) <= 2 * width_at(truth) + 2 * near + width_at(mad[0])


def test_histograms_of_votes_merge_over_any_tree() -> None:
    q = honest(500, 1, d=3)
    parts = [votes(part) for part in np.array_split(q, [3, 50, 51, 300])]
    assert np.array_equal(sum(parts[::-1], np.zeros_like(parts[0])), votes(q))


@pytest.mark.parametrize("lie", [Q_MAX, -Q_MAX])
def test_the_median_breaks_at_half_and_not_before(lie: int) -> None:
    for seed in range(20):
        q = honest(N, seed)
        span = (float(q.min()) - 32, float(q.max()) + 32)
        q[: N // 2] = lie  # 50 of 101
        (median,), (mad,) = median_and_mad(votes(q))
        assert span[0] <= median <= span[1]
        assert mad <= span[1] - span[0]
        q[N // 2] = lie  # 51 of 101
        (median,), _ = median_and_mad(votes(q))
        assert abs(median) > 0.9 * Q_MAX


def test_the_deviation_vanishes_at_half_and_not_before() -> None:
    q = honest(N, 3)
    q[:20] = 0
    assert median_and_mad(votes(q))[1][0] > 64
    q[: N // 2 + 1] = 0
    assert median_and_mad(votes(q))[1][0] < 32


def test_medians_of_medians_break_at_a_quarter_and_merged_votes_do_not() -> None:
    regions = honest(20 * 25, 4).reshape(20, 25)
    regions[:11, :13] = Q_MAX  # 143 of 500, a majority in each of a majority of regions
    assert np.median(np.median(regions, axis=1)) == Q_MAX
    (median,), _ = median_and_mad(sum((votes(r[:, None]) for r in regions), np.zeros((1, 127), np.int64)))
    assert abs(median) < 256


ATTACKS = ("far", "shift", "direction", "point", "spread")


def attacked(kind: str, n: int, liars: int, d: int, rng: np.random.Generator) -> np.ndarray:
    good = rng.standard_normal((n - liars, d))
    bad = {
        "far": np.full((liars, d), 1e6),
        "shift": 3 + 0.1 * rng.standard_normal((liars, d)),
        "direction": np.full(d, 0.9) + rng.standard_normal((liars, d)),
        "point": np.tile(np.quantile(good, 0.8, axis=0), (liars, 1)),
        "spread": 1.5 + rng.standard_normal((liars, d)),
    }[kind]
    return np.vstack([good, bad])


def error(x: np.ndarray, mix: np.ndarray) -> float:
    """Of the centre, in honest deviations a coordinate, after an affine map that the covariance undoes."""
    found = filtered_location(x @ mix.T + 7, mix @ mix.T)
    return float(np.linalg.norm(np.linalg.solve(mix, found - 7)) / np.sqrt(x.shape[1]))


@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize(("n", "d"), [(50, 8), (1000, 8), (1000, 16)])
def test_a_third_of_liars_moves_the_centre_by_less_than_half_a_deviation(kind: str, n: int, d: int) -> None:
    rng = np.random.default_rng(1)
    mix = np.eye(d) + 0.5 * rng.standard_normal((d, d))
    errors = [error(attacked(kind, n, n // 3, d, rng), mix) for _ in range(10)]
    assert np.mean(errors) < 0.4
    means = [np.linalg.norm(attacked(kind, n, n // 3, d, rng).mean(axis=0)) / np.sqrt(d) for _ in range(5)]
    if kind in ("far", "shift", "spread"):
        assert np.mean(errors) < 0.75 * np.mean(means)


def test_the_centre_breaks_at_half_and_not_before() -> None:
    rng = np.random.default_rng(2)
    below, at = attacked("far", 101, 50, 8, rng), attacked("far", 101, 51, 8, rng)
    assert error(below, np.eye(8)) < 4.0  # bounded by the ball, whatever the liars send
    assert error(at, np.eye(8)) > 1e5


def test_nothing_to_estimate_from() -> None:
    median, mad = median_and_mad(np.zeros((2, 127), np.int64))
    assert np.isnan(median).all()
    assert np.isnan(mad).all()
    for x, covariance in [
        (np.zeros((0, 2)), np.eye(2)),
        (np.zeros((3, 2)), np.eye(3)),
        (np.zeros((3, 17)), np.eye(17)),
        (np.full((3, 2), np.nan), np.eye(2)),
        (np.zeros((3, 2)), np.zeros((2, 2))),
    ]:
        with pytest.raises(InputError):
            filtered_location(x, covariance)
