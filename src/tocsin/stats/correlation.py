"""Correlation of two series that nobody holds side by side: how wrong an estimate can be, how surprising a value is.

Certificate. Let r = z - V'f be an agent's residual and r^ = r + e what it stated with subtractive dither of step D
(`stats.dither`). For a pair, <r^_i, r^_j> - <r_i, r_j> = <r^_i, e_j> + <e_i, r_j>. Given everything but e_j the first
term is a sum of independent variables that are uniform on an interval of D_j |r^_i,t| (on a lattice in it: the uniform
variable is the lattice variable plus an independent centred one, so by Jensen its moment generating function is the
larger one). A uniform variable of width w has E exp(s U) <= exp(s^2 w^2 / 24), hence P(|<r^_i, e_j>| > L |r^_i| D_j /
sqrt 12) <= 2 exp(-L^2 / 2). Two terms for each of n (n - 1) / 2 pairs: with L = sqrt(2 ln(2 n^2 / delta)) *all* bounds
hold at once with probability at least 1 - delta. Nothing is assumed about the series; they may be adversarial as long
as they were fixed before the dither was known. Fewer bits for arbitrary series are impossible (Alon & Klartag 2017).

Surprise. If given r_j the direction of r_i is uniform in d dimensions (white, no heavy tails: see `innovations`), then
P(<u_i, u_j> >= x) = I(1 - x^2; (d - 1) / 2, 1 / 2) / 2 <= (1 - x^2)^((d - 1) / 2) / 2, because I(y; a, 1/2) / y^a
increases to 1. Serial dependence that is left makes d smaller: given r_j, the variance of the
product is the sum over lags of r_i's autocorrelation times r_j's (Bartlett 1935), which divides d.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.stats.factors import unit_rows

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def simultaneous_deviations(agents: int, delta: float) -> float:
    """L: how many standard errors cover every pair of `agents` at once with probability 1 - `delta`."""
    return math.sqrt(2.0 * math.log(2.0 * agents * agents / delta))


def noise_floor(agents: int, lags: int, dimensions: float, delta: float) -> float:
    """The correlation that no pair of independent agents exceeds at any of `lags` lags, with probability 1 - `delta`.

    Solves (agents**2 / 2) * lags * log_p_value = delta; below sqrt(2 ln(agents**2 lags / (2 delta)) / dimensions), the
    Gaussian form, because a correlation cannot exceed one.
    """
    tests = 0.25 * agents * agents * lags
    return math.sqrt(-math.expm1(min(0.0, 2.0 * math.log(delta / tests) / max(dimensions - 1.0, 1.0))))


@njit(cache=True, nogil=True)
def log_p_value(rho: float, dimensions: float) -> float:
    """ln of an upper bound of P(correlation >= rho) between directions that are independent in `dimensions`."""
    if rho <= 0.0:
        return 0.0
    return math.log(0.5) + 0.5 * max(dimensions - 1.0, 0.0) * math.log1p(-min(rho * rho, 1.0 - 1e-15))


@njit(cache=True, nogil=True)
def lagged_correlation(a: F64, b: F64, lag: int) -> float:
    """Cosine of a[t] and b[t + lag] over the samples both have; positive `lag`: b follows a. 0 where one is zero."""
    length = a.shape[0] - abs(lag)
    at, bt = max(-lag, 0), max(lag, 0)
    ab = 0.0
    aa = 0.0
    bb = 0.0
    for t in range(length):
        x, y = a[at + t], b[bt + t]
        ab += x * y
        aa += x * x
        bb += y * y
    return ab / math.sqrt(aa * bb) if aa > 0.0 and bb > 0.0 else 0.0


@njit(cache=True, nogil=True)
def autocorrelations(rows: F64, lags: int) -> F64:
    """(n, lags): correlation of each row with itself 1..lags samples later, the biased (positive definite) estimate."""
    out = np.zeros((rows.shape[0], lags))
    for i in range(rows.shape[0]):
        x = rows[i]
        energy = 0.0
        for t in range(x.shape[0]):
            energy += x[t] * x[t]
        if energy <= 0.0:
            continue
        for k in range(1, lags + 1):
            total = 0.0
            for t in range(x.shape[0] - k):
                total += x[t] * x[t + k]
            out[i, k - 1] = total / energy
    return out


def innovations(series: F64) -> F64:
    """`series` (n, T) wrapped, `whitened` and wrapped again, of norm 1: what to screen instead of the series.

    Independent series that drift, or spike at the same moment, correlate by accident; these do not. Raises InputError
    as `unit_rows` does.
    """
    return unit_rows(whitened(unit_rows(series, heavy_tails=True)), heavy_tails=True)


def whitened(rows: F64, order: int = 4) -> F64:
    """What each row (n, T) does not predict of itself, by an autoregression fitted with Yule & Walker (Haugh 1976)."""
    auto = np.concatenate([np.ones((rows.shape[0], 1)), autocorrelations(rows, order)], axis=1)
    apart = np.abs(np.subtract.outer(np.arange(order), np.arange(order)))
    weights = np.linalg.solve(auto[:, apart], auto[:, 1:, None])[:, :, 0]
    out = rows.copy()
    for k in range(1, order + 1):
        out[:, k:] -= weights[:, k - 1 : k] * rows[:, :-k]
    return out


@njit(cache=True, nogil=True)
def best_lags(rows: F64, auto: F64, left: I64, right: I64, max_lag: int, removed: I64) -> tuple[F64, I64, F64]:
    """Per pair (left[k], right[k]) of `rows`: the correlation, lag in -max_lag..max_lag and ln p of the least p.

    `auto` (n, lags) are the rows' autocorrelations; `removed` (n,) is how many directions were taken out of each.
    """
    count = left.shape[0]
    rho = np.zeros(count)
    lag = np.zeros(count, np.int64)
    log_p = np.zeros(count)
    for k in range(count):
        i, j = left[k], right[k]
        inflation = 1.0
        for m in range(auto.shape[1]):
            inflation += 2.0 * auto[i, m] * auto[j, m]
        inflation = max(inflation, 1.0)
        for shift in range(-max_lag, max_lag + 1):
            r = lagged_correlation(rows[i], rows[j], shift)
            p = log_p_value(r, (rows.shape[1] - max(removed[i], removed[j]) - abs(shift)) / inflation)
            if p < log_p[k]:
                rho[k], lag[k], log_p[k] = r, shift, p
    return rho, lag, log_p
