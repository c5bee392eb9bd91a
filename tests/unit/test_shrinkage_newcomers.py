"""What is expected of a newcomer: the textbook posterior, and how often it is wrong after two samples."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.stats.shrinkage import Peers, expected, spread_of_true_means


def test_it_is_the_normal_posterior() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        location, between, within, mean = rng.normal(size=4) * 3
        between, within, n = abs(between) + 0.1, abs(within) + 0.1, float(rng.integers(0, 9))
        peers = Peers(*(np.array([v]) for v in (location, between, within)))
        got = expected(np.array([n]), np.array([mean]), peers)
        precision = 1 / between**2 + n / within**2
        assert got.mean[0] == pytest.approx((location / between**2 + n * mean / within**2) / precision)
        assert got.std[0] == pytest.approx(np.sqrt(within**2 + 1 / precision))


def test_false_alarms_after_two_samples() -> None:
    """99 % intervals of a third sample: an agent's own two say little; with the peers they hold what they promise."""
    rng = np.random.default_rng(2)
    n = 20_000
    true = rng.normal(5, 1, n)
    x = true[:, None] + rng.normal(0, 1, (n, 3))
    own, spread = x[:, :2].mean(axis=1), x[:, :2].std(axis=1, ddof=1)
    peers = Peers(np.full(n, 5.0), np.ones(n), np.ones(n))
    got = expected(np.full(n, 2.0), own, peers)
    naive = np.mean(np.abs(x[:, 2] - own) > 2.576 * spread)
    shrunk = np.mean(np.abs(x[:, 2] - got.mean) > 2.576 * got.std)
    assert naive > 0.2
    assert shrunk == pytest.approx(0.01, abs=0.003)  # 20,000 newcomers: 95 % of draws lie within .0014


def test_own_samples_win_in_the_end_and_nothing_known_stays_unknown() -> None:
    peers = Peers(np.array([0.0, np.nan, 2.0]), np.array([1.0, np.nan, 0.0]), np.array([1.0, np.nan, 0.0]))
    got = expected(np.array([1e6, 3.0, 0.0]), np.array([9.0, 4.0, np.nan]), peers)
    assert got.mean[0] == pytest.approx(9.0, abs=1e-4)
    assert np.isnan(got.mean[1])
    assert (got.mean[2], got.std[2], got.own_share[2]) == (2.0, 0.0, 0.0)


def test_noise_of_the_peers_own_means_is_taken_out() -> None:
    rng = np.random.default_rng(3)
    means = rng.normal(0, 2, 100_000) + rng.normal(0, 3, (4, 100_000)).mean(axis=0)
    got = spread_of_true_means(np.array([means.std()]), np.array([3.0]), 4)
    assert got[0] == pytest.approx(2.0, rel=0.02)
    assert spread_of_true_means(np.array([0.0]), np.array([3.0]), 4)[0] == pytest.approx(0.003)
