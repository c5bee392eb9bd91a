"""Only what rows share of a basis is taken out of them; who loads on it alone loses all of it."""

from __future__ import annotations

import numpy as np

from tocsin.stats.factors import orthonormal_rows, unit_rows, without, without_shared

P, T, K = 40, 256, 12


def basis(rng: np.random.Generator) -> np.ndarray:
    return orthonormal_rows(rng.normal(size=(K, T)), K)


def test_shared_directions_go_and_the_others_stay():
    rng = np.random.default_rng(0)
    v = basis(rng)
    mixed = 0.6 * v[0] + 0.8 * v[7]  # one direction, oblique to the basis
    noise = unit_rows(rng.normal(size=(P, T)))
    rows = 0.8 * noise + 0.6 * rng.choice([-1, 1], (P, 1)) * mixed
    left, taken = without_shared(rows, v)
    assert (taken == 1).sum() >= P - 1
    assert np.abs(left @ mixed).max() < 0.1 < np.abs(rows @ mixed).min()
    kept = 1.0 - ((left - rows) ** 2).sum(axis=1) / (rows**2).sum(axis=1)
    whole = 1.0 - ((without(rows, v) - rows) ** 2).sum(axis=1) / (rows**2).sum(axis=1)
    assert (kept >= whole - 1e-12).all()
    assert kept.mean() > whole.mean() + 0.01


def test_one_row_that_loads_alone_loses_all_of_its_part():
    rng = np.random.default_rng(1)
    v = basis(rng)
    rows = unit_rows(rng.normal(size=(P, T)))
    rows[3] += 0.42 * v[5]  # too little among 40 rows to be a direction they share
    left, taken = without_shared(rows, v)
    assert taken[3] == K
    assert np.median(taken) < K
    assert np.abs(left[3] @ v.T).max() < 1e-9


def test_rows_that_share_nothing_lose_nothing():
    rng = np.random.default_rng(2)
    touched = 0
    for _ in range(20):
        rows = unit_rows(rng.normal(size=(P, T)))
        left, taken = without_shared(rows, basis(rng))
        touched += int((taken == K).sum())
        assert np.median(taken) <= 3  # the edge of noise is that of large matrices, this one is small
        same = taken == 0
        assert (left[same] == rows[same]).all()
    assert touched <= 5  # of 800 at once in 10,000


def test_nothing_to_take_out():
    rows = np.ones((2, T))
    left, taken = without_shared(rows, np.zeros((0, T)))
    assert left is rows
    assert taken.tolist() == [0, 0]
    assert without_shared(np.zeros((0, T)), np.eye(T)[:2])[1].shape == (0,)
