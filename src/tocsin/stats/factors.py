"""Common factors of many series: unit rows, the leading rows of a block, and where noise ends.

A block of p unit-norm series of length T is summarised by its leading weighted right singular vectors: rows `s_k v_k`.
Stacking such rows of several blocks and taking the leading rows again loses only what each block had cut off, so the
summaries climb a tree (Golub & Van Loan 2013, section 8.6; Liang, Balcan & Kanchanapally 2014, distributed PCA).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import InputError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MIN_LENGTH, MAX_LENGTH = 16, 1024
WRAP_FROM, WRAP_TO = 1.5, 4.0  # the published constants of the wrapping function for these two corners
WRAP_HEIGHT, WRAP_SLOPE = 1.540793, 0.8622731
DEPENDENT = 1e-8  # a squared singular value below this share of the largest is rounding


def wrapped(series: F64) -> F64:
    """Rows with their outliers pulled to the centre: what is beyond 4 robust deviations counts as nothing.

    Raymaekers & Rousseeuw 2021, Fast robust correlation for high-dimensional data. Rows without spread become zero.
    """
    centred = series - np.median(series, axis=1, keepdims=True)
    spread = 1.4826 * np.median(np.abs(centred), axis=1, keepdims=True)
    z = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    size = np.abs(z)
    bent = WRAP_HEIGHT * np.tanh(WRAP_SLOPE * np.maximum(WRAP_TO - size, 0.0)) * np.sign(z)
    return np.where(size < WRAP_FROM, z, bent)


def unit_rows(series: F64, *, heavy_tails: bool = False) -> F64:
    """Each row of `series` (n, T) centred and scaled to norm 1, wrapped first where `heavy_tails`.

    Products of two rows are then Pearson correlations (of the wrapped series). A row without variation becomes zero:
    its correlation with anything counts as 0. Raises InputError for values that are not finite or a T out of range.
    """
    if series.ndim != 2 or not MIN_LENGTH <= series.shape[1] <= MAX_LENGTH:
        raise InputError(
            f"series of shape {series.shape} cannot be correlated",
            remedy=f"give rows of {MIN_LENGTH} to {MAX_LENGTH} samples",
        )
    if not np.isfinite(series).all():
        raise InputError("series hold a value that is not finite", remedy="fill or drop the missing samples first")
    x = np.ascontiguousarray(series, np.float64)
    largest = np.abs(x).max(axis=1, keepdims=True)
    x = x / np.where(largest > 0, largest, 1.0)  # squares neither overflow nor vanish
    x = wrapped(x) if heavy_tails else x
    x = x - x.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    constant = norm <= 1e-12 * math.sqrt(x.shape[1])
    return np.where(constant, 0.0, x / np.where(constant, 1.0, norm))


@lru_cache(maxsize=256)
def marchenko_pastur_median(aspect: float) -> float:
    """Median eigenvalue of X X' / T for white noise of variance 1 with p / T = `aspect` <= 1.

    By summing the density of Marchenko & Pastur 1967 on a grid; within 1e-3 of the true median.
    """
    low, high = (1.0 - math.sqrt(aspect)) ** 2, (1.0 + math.sqrt(aspect)) ** 2
    angle: F64 = (np.arange(4096, dtype=np.float64) + 0.5) * (math.pi / 4096)
    x: F64 = (high + low) / 2 - (high - low) / 2 * np.cos(angle)  # dense where the density has its roots
    weight = np.sin(angle) ** 2 / x
    mass: F64 = np.cumsum(weight)
    return float(x[int((mass < mass[-1] / 2).sum())])


def noise_edge(eigenvalues: F64, rows: int, length: int) -> float:
    """The largest squared singular value that noise alone would give a (rows, length) block with these others.

    The noise level is read off the median eigenvalue (Gavish & Donoho 2014), so factors do not inflate it as long as
    they are fewer than half of the rows.
    """
    short, long = min(rows, length), max(rows, length)
    aspect = short / long
    level = float(np.median(eigenvalues[:short])) / marchenko_pastur_median(aspect)
    return 1.02 * level * (1.0 + math.sqrt(aspect)) ** 2  # 2 %: fluctuation of the largest one at p of some tens


def leading_rows(rows: F64, limit: int, *, above_noise: bool = False) -> F64:
    """At most `limit` weighted right singular vectors of `rows` (p, T), strongest first: (k, T), mutually orthogonal.

    `above_noise` drops those below the edge of Marchenko & Pastur. Signs are chosen so that the largest entry of each
    is positive.
    """
    p, length = rows.shape
    if p == 0:
        return np.zeros((0, length))
    gram = rows @ rows.T if p <= length else rows.T @ rows
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    least = max(noise_edge(values, p, length) if above_noise else 0.0, DEPENDENT * float(values[0]))
    k = min(limit, int((values > least).sum()))
    out = vectors[:, :k].T @ rows if p <= length else np.sqrt(values[:k])[:, None] * vectors[:, :k].T
    largest = np.abs(out).argmax(axis=1)
    return out * np.where(out[np.arange(k), largest] < 0, -1.0, 1.0)[:, None]


def without(rows: F64, basis: F64) -> F64:
    """`rows` (p, T) minus their part in the span of the orthonormal `basis` (k, T)."""
    return rows - (rows @ basis.T) @ basis


def without_shared(rows: F64, basis: F64) -> tuple[F64, I64]:
    """`rows` (p, T) minus their part in those directions of the orthonormal `basis` (k, T) that they share.

    Also returns how many directions were taken out of each row, (p,).

    A fleet's basis has many directions that a region has nothing to do with; to take those out as well would cost each
    row its share k / T, and a late row twice. Shared are the directions on which the rows' loadings are above their
    noise. A row whose other loadings are more than chance (once in 10,000) has all of its part in the basis taken out.
    """
    k, length = basis.shape
    if k == 0 or rows.shape[0] == 0:
        return rows, np.zeros(rows.shape[0], np.int64)
    loadings = rows @ basis.T
    shared = orthonormal_rows(leading_rows(loadings, k, above_noise=True), k)
    common = (loadings @ shared.T) @ shared
    own = np.maximum((rows * rows).sum(axis=1) - (loadings * loadings).sum(axis=1), 0.0) / max(length - k, 1)
    rest = ((loadings - common) ** 2).sum(axis=1)
    alone: NDArray[np.bool_] = rest > own * _chi_square_bound(k - shared.shape[0])
    taken = np.zeros(rows.shape[0], np.int64)
    taken[:] = shared.shape[0]
    taken[alone] = k
    return rows - np.where(alone[:, None], loadings, common) @ basis, taken


def _chi_square_bound(freedom: int) -> float:
    """What a chi-square variable exceeds once in 10,000 (Wilson & Hilferty 1931)."""
    if freedom == 0:
        return math.inf
    spread = 2.0 / (9.0 * freedom)
    return freedom * (1.0 - spread + 3.719 * math.sqrt(spread)) ** 3


def orthonormal_rows(rows: F64, limit: int) -> F64:
    """An orthonormal basis (k, T) of the strongest `limit` directions of `rows`."""
    lead = leading_rows(rows, limit)
    q, _ = np.linalg.qr(lead.T)  # once more: the Gram matrix squares the condition number
    return np.ascontiguousarray(q.T)
