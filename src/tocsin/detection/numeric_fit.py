"""What numeric features normally are: location by context, memory, scale and shape, from baseline rows.

Locations are shrunk, agent towards fleet, by empirical Bayes (Efron & Morris 1973), m = mu + n / (n + s2 / t2)
(mean - mu), so that a short baseline is not mistaken for knowledge. Innovations of a first-order autoregression are
ranked against baseline innovations and turned into normal scores (Blom 1958): what follows is free of shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.detection.bisection import first_at_least

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

OWN_SHAPE_ROWS = 1000  # baseline rows from which an agent's own quantiles replace the fleet's
SCALE_CLASSES = 4  # of agents, by how much they vary, where contexts have shapes of their own
MAX_SCORE = 6.0
UNSURE = 2.0  # standard errors; of a memory's innovations they are 1 / sqrt(rows) whatever the memory
# Probabilities of the quantile knots: dense in the tails, symmetric.
TAIL = np.array([1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.06, 0.1, 0.16, 0.23, 0.31, 0.4])
LEVELS = np.r_[TAIL, 0.5, 1.0 - TAIL[::-1]]


def normal_quantile(p: F64) -> F64:
    """Standard normal quantile, absolute error below 4.5e-4 (Abramowitz & Stegun 1964, 26.2.23)."""
    tail = np.minimum(p, 1.0 - p)
    t = np.sqrt(-2.0 * np.log(tail))
    x = t - (2.515517 + 0.802853 * t + 0.010328 * t * t) / (
        1.0 + 1.432788 * t + 0.189269 * t * t + 0.001308 * t * t * t
    )
    return np.where(p < 0.5, -x, x)


SCORES = normal_quantile(LEVELS)
SCORES[LEVELS.shape[0] // 2] = 0.0


@dataclass(slots=True)
class Shape:
    """Per agent a, context c, feature j: `location` (a, c, j); `phi`, `scale` (a, j); `knots` (k, q).

    `own` (a, c, j) and `fleet` (j,) say which knots apply: an agent's own, or those of agents like it in that context,
    and those of the whole fleet; of two scores the less remarkable one counts. `temper` (a, j) in [0, 1]: bets are
    raised to this power; less than 1 where held-back baseline behaved worse than the model.
    """

    location: F64
    phi: F64
    scale: F64
    knots: F64
    own: I32
    fleet: I32
    temper: F64
    tolerance: F64  # (a,) of innovations' scales: the location may be off by so much


def fit_shape(agent: I32, context: I32, values: F64, agents: int, contexts: int) -> Shape:
    """Fit all features of baseline rows `(n, d)`, rows of one agent in its order."""
    d = values.shape[1]
    location, phi, scale = np.zeros((agents, contexts, d)), np.zeros((agents, d)), np.ones((agents, d))
    rows = np.bincount(agent, minlength=agents)
    rich = np.flatnonzero(rows >= OWN_SHAPE_ROWS)
    own, fleet = np.zeros((agents, contexts, d), np.int32), np.zeros(d, np.int32)
    knots: list[F64] = [np.zeros(LEVELS.shape[0])]
    order = np.argsort(agent, kind="stable")
    agent, context, values = agent[order], context[order], values[order]
    for j in range(d):
        good = np.isfinite(values[:, j])
        if not good.any():
            continue
        a, c, x = agent[good], context[good], values[good, j]
        location[:, :, j] = _locations(a, c, x, agents, contexts)
        residual = x - location[a, c, j]
        phi[:, j] = _memory(a, residual, agents)
        innovation = residual.copy()
        same = a[1:] == a[:-1]
        innovation[1:] -= np.where(same, phi[a[1:], j] * residual[:-1], 0.0)
        scale[:, j] = _scales(a, innovation, agents, float(np.ptp(x)))
        standard = innovation / scale[a, j]
        fleet[j] = own[:, :, j] = len(knots)
        knots.append(np.asarray(np.quantile(standard, LEVELS), np.float64))
        if contexts > 1:
            _classes(a, c, standard, scale[:, j], own[:, :, j], knots)
        for agent_rich in rich:
            own[agent_rich, :, j] = len(knots)
            knots.append(np.asarray(np.quantile(standard[a == agent_rich], LEVELS), np.float64))
    unsure = UNSURE / np.sqrt(np.maximum(rows, 1.0))
    return Shape(location, phi, scale, np.stack(knots), own, fleet, np.ones((agents, d)), unsure)


def _classes(a: I32, c: I32, x: F64, scale: F64, own: I32, knots: list[F64]) -> None:
    """Knots of agents that vary about as much, in one context, appended to `knots`; `own` `(a, c)` is set to them.

    Near a bound what varies widely is lopsided, which looks like a shift to whoever knows only the fleet's shape.
    """
    agents, contexts = own.shape
    seen = np.bincount(a, minlength=agents) > 0
    edges = np.quantile(scale[seen], np.arange(1, SCALE_CLASSES) / SCALE_CLASSES)
    kind = np.searchsorted(edges, scale)
    for context in range(contexts):
        for k in range(SCALE_CLASSES):
            rows = (c == context) & (kind[a] == k)
            if np.count_nonzero(rows) >= OWN_SHAPE_ROWS:
                own[kind == k, context] = len(knots)
                knots.append(np.asarray(np.quantile(x[rows], LEVELS), np.float64))


def _locations(a: I32, c: I32, x: F64, agents: int, contexts: int) -> F64:
    fleet = _means(c, x, contexts, float(x.mean()))
    offset = _shrunk(a, x - fleet[c], agents)
    cell = a.astype(np.int64) * contexts + c
    rest = _shrunk(cell, x - fleet[c] - offset[a], agents * contexts)
    return fleet + offset[:, None] + rest.reshape(agents, contexts)


def _means(code: NDArray[np.integer], x: F64, size: int, default: float) -> F64:
    count = np.bincount(code, minlength=size)
    return np.where(count > 0, np.bincount(code, x, size) / np.maximum(count, 1), default)


def _shrunk(code: NDArray[np.integer], x: F64, size: int) -> F64:
    """Means by code, shrunk to zero by their reliability n / (n + s2 / t2)."""
    count = np.bincount(code, minlength=size)
    mean = _means(code, x, size, 0.0)
    known = count > 1
    if not known.any():
        return np.zeros(size)
    within = float(np.sum((x - mean[code]) ** 2) / max(x.shape[0] - int(np.sum(count > 0)), 1))
    between = float(np.mean(mean[known] ** 2 - within / count[known]))
    if between <= 1e-4 * within:
        return np.zeros(size) if within > 0.0 else mean
    return mean * count / (count + within / between)


def _memory(a: I32, residual: F64, agents: int) -> F64:
    """Lag-one autocorrelation of each agent, shrunk to the fleet's by reliability, in [0, 1], on the safe side.

    An estimate from n rows about an estimated mean is too low by (1 + 3 phi) / n (Marriott & Pope 1954), at a unit
    root by 5.3 / n with a standard deviation of 3.2 / n (Dickey & Fuller 1979). Memory taken too small lets wandering
    pass for a shift; taken too large it only costs power. Agents differ only where that is beyond two standard errors.
    """
    same = a[1:] == a[:-1]
    pair, square = residual[1:] * residual[:-1] * same, residual[:-1] ** 2 * same
    top, bottom = np.bincount(a[1:], pair, agents), np.bincount(a[1:], square, agents)
    rows = np.bincount(a[1:], same, agents)
    known = (rows >= 3) & (bottom > 0.0)
    if not known.any():
        return np.zeros(agents)
    own = np.clip(top / np.maximum(bottom, 1e-300), -1.0, 1.0)
    own += (1.0 + 4.3 * own) / np.maximum(rows, 3)
    fleet = float((own * rows)[known].sum() / rows[known].sum())
    sampling = (max(1.0 - fleet**2, 0.0) + 10.0 / np.maximum(rows, 1)) / np.maximum(rows, 1)
    excess = (own[known] - fleet) ** 2 - sampling[known]
    between = max(float(excess.mean() - 2.0 * excess.std() / math.sqrt(excess.shape[0])), 0.0)
    weight = np.where(known, between / (between + sampling), 0.0)
    return np.clip(fleet + weight * (own - fleet) + np.sqrt(weight * sampling), 0.0, 1.0)


def _scales(a: I32, x: F64, agents: int, spread: float) -> F64:
    """Standard deviation of each agent, shrunk to the fleet's by reliability, one posterior deviation on the safe side.

    A scale taken too small turns every event into evidence; where agents do not differ the shrinkage is complete.
    """
    rows = np.bincount(a, minlength=agents)
    fleet = float(x @ x / x.shape[0])
    own = np.where(rows > 1, np.bincount(a, x * x, agents) / np.maximum(rows, 1), fleet)
    kurtosis = float(np.mean(np.minimum(x * x / max(fleet, 1e-300), 50.0) ** 2))
    sampling = own**2 * max(kurtosis - 1.0, 0.5) / np.maximum(rows, 1)
    known = rows > 1
    between = max(float(np.mean((own[known] - fleet) ** 2 - sampling[known])), 0.0) if known.any() else 0.0
    weight = between / (between + sampling + 1e-300)
    variance = fleet + weight * (own - fleet) + np.sqrt(weight * sampling)
    return np.maximum(np.sqrt(variance), 1e-3 * spread + 1e-12)


@njit(cache=True, nogil=True)
def normal_score(z: float, knots: F64, levels: F64) -> float:
    """Normal score of a standardised innovation: interpolated between knots, one score unit per scale beyond them."""
    last = knots.shape[0] - 1
    if z < knots[0]:
        return max(float(levels[0] - (knots[0] - z)), -MAX_SCORE)
    if z > knots[last]:
        return min(float(levels[last] + (z - knots[last])), MAX_SCORE)
    k = first_at_least(knots, z)
    if knots[k] == z:
        # A value that many baseline rows share spans several levels; the least remarkable of them is its score, so
        # that a constant scores nothing however often it is seen.
        end = k
        while end < last and knots[end + 1] == z:
            end += 1
        if levels[k] >= 0.0:
            return float(levels[k])
        return min(float(levels[end]), 0.0)
    share = (z - knots[k - 1]) / (knots[k] - knots[k - 1])
    return levels[k - 1] + share * (levels[k] - levels[k - 1])
