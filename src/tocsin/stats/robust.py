"""Estimates that lying agents cannot move far: location and spread of what many agents say, one vote each.

Two families. Histograms of votes are sums, so they merge over any tree and are read at its root: the median of a whole
fleet, where a median of the regions' medians would already break at a quarter of liars, placed well. Vectors are
filtered at a zone or at the root, where all of them can be seen at once.

The breakdown point is the share of liars from which on they can put the estimate wherever they want (Donoho & Huber
1983). Every figure here is one the tests reach from both sides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import InputError
from tocsin.stats.histogram import BIN_EDGES, BINS, accumulate_histograms

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

CONSISTENT = 1.4826022185056018  # MAD of a normal distribution, times this, is its standard deviation
BALL = 2.0  # radius around the coordinatewise median within which vectors are looked at, in 99.9 % radii of a normal
EXCESS = 1.1  # variance along a direction, against what honest vectors have, that is put down to liars
ROUNDS = 60
CHI_SQUARE_999 = (
    10.828, 13.816, 16.266, 18.467, 20.515, 22.458, 24.322, 26.124,
    27.877, 29.588, 31.264, 32.909, 34.528, 36.123, 37.697, 39.252,
)  # 99.9 % points at 1..16 degrees of freedom  # fmt: skip


def votes(q: I32) -> I64:
    """One vote an agent and feature: `q` (n, d) grid coordinates, clipped by the grid; returns counts (d, BINS)."""
    n, d = q.shape
    cells, together = np.zeros((1, d * BINS), np.int32), np.zeros(n, np.int64)
    accumulate_histograms(q, together, cells)
    return cells.reshape(d, BINS).astype(np.int64)


def median_and_mad(cells: I64) -> tuple[F64, F64]:
    """Median and median absolute deviation of each histogram (d, BINS), in grid coordinates; NaN where it is empty.

    Breakdown point 1/2, for the median and for the deviation in both directions: with fewer liars than honest votes the
    median lies between honest votes, and the deviation neither leaves their range nor vanishes while they differ by
    more than a bin. Both are within the width of a bin of the votes' own (Hampel 1974).
    """
    medians, deviations = np.full(cells.shape[0], np.nan), np.full(cells.shape[0], np.nan)
    at = np.append(BIN_EDGES[:, 0], BIN_EDGES[-1, 1])
    for a in range(cells.shape[0]):
        one = cells[a]
        total = int(one.sum())
        if total <= 0:
            continue
        below: F64 = np.concatenate([[0], np.cumsum(one)]) / total
        medians[a] = middle = _crossing(below, at)
        # distance d -> share within d of the median; piecewise linear, with corners at the bins' edges
        reach = np.sort(np.abs(at - middle))
        upper, lower = np.interp(middle + reach, at, below), np.interp(middle - reach, at, below)
        deviations[a] = np.interp(0.5, np.subtract(upper, lower), reach)
    return medians, deviations


def _crossing(below: F64, at: F64) -> float:
    """Where the distribution passes 1/2; the middle where it rests there."""
    first, last = int(np.searchsorted(below, 0.5, "left")), int(np.searchsorted(below, 0.5, "right"))
    if first < last:
        return float((at[first] + at[last - 1]) / 2)
    low, high = below[first - 1], below[first]
    return float(at[first - 1] + (0.5 - low) / (high - low) * (at[first] - at[first - 1]))


def filtered_location(x: F64, covariance: F64) -> F64:
    """Centre (d,) of vectors `x` (n, d), with the covariance (d, d) that they had while everybody was honest.

    Directions in which the vectors vary more than honest ones do are found by their eigenvalues, and the vectors far
    out along them lose weight (Diakonikolas, Kamath, Kane, Li, Moitra & Stewart 2017), starting from a ball around the
    coordinatewise median. Breakdown point 1/2: the ball goes with the median. Below it the error does not grow with
    the dimension as the median's does: at a third of liars within .4 deviations a coordinate under the tested attacks.

    Raises `InputError` for no vectors, other dimensions than 1 to 16, or a covariance that is not positive definite.
    """
    n, d = x.shape
    if n == 0 or not 1 <= d <= len(CHI_SQUARE_999) or covariance.shape != (d, d):
        raise InputError("a centre needs vectors of 1 to 16 dimensions, and their covariance")
    if not (np.isfinite(x).all() and np.isfinite(covariance).all()):
        raise InputError("a centre needs finite numbers", remedy="drop what is missing first")
    try:
        root = np.asarray(np.linalg.cholesky(covariance), np.float64)
    except np.linalg.LinAlgError:
        raise InputError("the covariance is not positive definite", remedy="leave constant features out") from None
    white = np.asarray(np.linalg.solve(root, x.T).T, np.float64)
    start = np.asarray(np.median(white, axis=0), np.float64)
    z = np.subtract(white, start)
    weight = np.asarray(np.linalg.norm(z, axis=1) <= BALL * CHI_SQUARE_999[d - 1] ** 0.5, np.float64)
    for _ in range(ROUNDS):
        if weight.sum() < n / 2:
            break
        centred = np.subtract(z, _mean(z, weight))
        values, directions = np.linalg.eigh((weight[:, None] * centred).T @ centred / weight.sum())
        if values[-1] < EXCESS:
            break
        score = np.square(centred @ directions[:, -1])
        weight = np.maximum(weight * (1 - score / max(float(score[weight > 0].max()), 1e-300)), 0.0)
    return root @ (start + _mean(z, weight))


def _mean(z: F64, weight: F64) -> F64:
    """Weighted mean (d,) of rows; zero where no weight is left."""
    total = float(weight.sum())
    return np.asarray(weight @ z / total if total > 0 else np.zeros(z.shape[1]), np.float64)
