"""One score from many oddities: a logistic additive model whose parts can only rise with an oddity.

It learns to tell baseline calls from foreign calls spliced into baseline sessions; it never sees an attack or a label.
Monotone parts keep it from unlearning, outside its training data, that odd is odd.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.detection.calls import FREE_FEATURES, IDLE_FEATURES, N_FEATURES, REASSURING_FEATURES

F64 = NDArray[np.float64]
KNOTS = np.array([0.0, 3.0])  # more of them fit what single clumsy sessions did: worse on other models
LEAST_SCALE = 0.1  # what hardly varies in the fit says little, and must not say much of an agent where it differs
STEPS = 200
RIDGE = 3e-4
RATE = 0.05
FOREIGN_WEIGHT = 0.85  # share of the loss that foreign calls carry: a miss costs more than a second look


def expand(features: F64) -> F64:
    """Hinges max(x - knot, 0) of each feature, shape `(n, N_FEATURES * knots)`."""
    return np.maximum(features[:, :, None] - KNOTS, 0.0).reshape(features.shape[0], features.shape[1] * KNOTS.shape[0])


def bounds() -> tuple[F64, F64]:
    """Lower and upper bound of each weight: oddities >= 0, reassurance <= 0 and linear, free ones linear."""
    low, high = np.zeros((N_FEATURES, KNOTS.shape[0])), np.full((N_FEATURES, KNOTS.shape[0]), np.inf)
    for j in (*REASSURING_FEATURES, *FREE_FEATURES):
        high[j, 1:] = 0.0
        low[j, 0] = -np.inf
    for j in REASSURING_FEATURES:
        high[j, 0] = 0.0
    for j in IDLE_FEATURES:
        high[j, :] = 0.0
    return low.ravel(), high.ravel()


def fit(features: F64, foreign: F64) -> F64:
    """Weights `(N_FEATURES * knots + 1,)`, intercept last, for features `(n, N_FEATURES)` and labels 0/1 `(n,)`.

    Projected Adam (Kingma & Ba 2015) on the ridge-penalised logistic loss. Deterministic.
    """
    design = expand(features)
    scale = np.maximum(design.std(axis=0), LEAST_SCALE)
    design = (design / scale).astype(np.float32)  # the fit is bound by memory traffic
    low, high = bounds()
    share = float(foreign.mean())
    weight = np.where(foreign > 0, FOREIGN_WEIGHT / share, (1.0 - FOREIGN_WEIGHT) / (1.0 - share)) / foreign.shape[0]
    w, first, second = np.zeros(design.shape[1] + 1), np.zeros(design.shape[1] + 1), np.zeros(design.shape[1] + 1)
    gradient = np.empty(design.shape[1] + 1)
    for step in range(1, STEPS + 1):
        _slope(design, w.astype(np.float32), weight, foreign, gradient)
        gradient[:-1] += RIDGE * w[:-1]
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient * gradient
        rate = RATE * (1.0 - 0.9 * step / STEPS)
        w -= rate * (first / (1.0 - 0.9**step)) / (np.sqrt(second / (1.0 - 0.99**step)) + 1e-9)
        w[:-1] = np.clip(w[:-1], low, high)
    return np.append(w[:-1] / scale, w[-1])


# Not a matrix product: one thread and one order of additions, so that fits repeat and monitors do not fight for cores.
@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _slope(design: NDArray[np.float32], w: NDArray[np.float32], weight: F64, foreign: F64, out: F64) -> None:
    """Gradient of the weighted logistic loss, intercept last."""
    n, d = design.shape
    total = np.zeros(d, np.float32)
    intercept = 0.0
    for i in range(n):
        margin = np.float32(0.0)
        for k in range(d):
            margin += design[i, k] * w[k]
        margin = min(max(margin + w[d], np.float32(-30.0)), np.float32(30.0))
        error = weight[i] * (1.0 / (1.0 + np.exp(-np.float64(margin))) - foreign[i])
        intercept += error
        part = np.float32(error)
        for k in range(d):
            total[k] += part * design[i, k]
    for k in range(d):
        out[k] = total[k]
    out[d] = intercept


@njit(cache=True, nogil=True)
def parts(features: F64, weights: F64, out: F64) -> float:
    """Fill `out` `(N_FEATURES,)` with each feature's part of the score; return the score."""
    total = weights[-1]
    for j in range(features.shape[0]):
        out[j] = 0.0
        for k in range(KNOTS.shape[0]):
            if features[j] > KNOTS[k]:
                out[j] += weights[j * KNOTS.shape[0] + k] * (features[j] - KNOTS[k])
        total += out[j]
    return total


def scores(features: F64, weights: F64) -> F64:
    """Score of each row, shape `(n,)`."""
    return expand(features) @ weights[:-1] + weights[-1]
