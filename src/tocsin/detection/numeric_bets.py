"""The bets of numeric features, row by row: see `numeric` for what they are about."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.detection.numeric_fit import normal_score

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
I8 = NDArray[np.int8]

BETS = np.array([0.5, -0.5, 1.5, -1.5])
N_BETS = BETS.shape[0]
START, STOP = 1.0 / 200.0, 1.0 / 500.0  # chance per event that a shift begins, or ends
FORGET = 1.0 / 20.0  # the same end for the belief, which is about now
TOLERANCE = 1.5
CONTRAST_TOLERANCE = 0.15
LEVEL_RATE = 1.0 / 16.0
CONTRAST_VARIANCE = 1.0 + LEVEL_RATE / (2.0 - LEVEL_RATE)  # the level is itself estimated
VOLATILITY_RATE = 1.0 / 16.0
CALM = 0.5  # of a scale: steadier scores than that count as if they were as wild
COMMON = 0.3  # of a scale: a smaller shift of the fleet's median may be the compromised agents' own doing
DOUBT = 2.0  # standard errors of the fleet's median that are not sure
CAP = 1e120


@njit(cache=True, nogil=True)
def _step(w: F64, up: float, down: float, tolerance: float, doubt: float, scale: float, temper: float) -> None:
    """One event of one scope: `w` `(bets, 4)` = waiting and betting mass of the e-process and of the belief.

    Bets on a rise see the score `up`, bets on a fall `down`. With `scale` > 0 a bet's gain is exp(b g - b^2 scale / 2),
    whose expectation is at most one where g varies by no more than `scale`. Else it is exp(b g) / cosh(b g), the
    likelihood ratio of the sign given the size: its expectation is one for every symmetric g, however wild or volatile
    (de la Pena 1999, self-normalised sums). The e-process alone pays for the `doubt` about the location.
    """
    for k in range(BETS.shape[0]):
        b = abs(BETS[k])
        excess = (up if BETS[k] > 0.0 else -down) - tolerance
        plain = b * excess - 0.5 * b * b * (scale if scale > 0.0 else 1.0)
        careful = plain
        if scale <= 0.0:
            y = b * (excess - doubt)
            careful = y - math.log(math.cosh(max(abs(y), CALM * b)))
        gain = math.exp(temper * careful)
        wait, bet = w[k, 0], w[k, 1]
        w[k, 0] = min(wait * (1.0 - START) + bet * STOP, CAP)
        w[k, 1] = min((bet * (1.0 - STOP) + wait * START) * gain, CAP)
        gain = math.exp(temper * plain)
        wait, bet = w[k, 2], w[k, 3]
        fresh, held = wait * (1.0 - START) + bet * FORGET, (bet * (1.0 - FORGET) + wait * START) * gain
        total = max(fresh, 1e-30)
        w[k, 2] = 1.0
        w[k, 3] = min(held / total, CAP)


@njit(cache=True, nogil=True)
def _wildness(g: float, memory: F64, last: int) -> float:
    """How wild the scores before `g` were, by squared differences: a lasting shift is not wild. At least one.

    `memory[2]` holds the variance less one, `memory[last]` the score before.
    """
    wild = math.sqrt(max(1.0 + memory[2], 1.0))
    memory[2] += VOLATILITY_RATE * (min(0.5 * (g - memory[last]) ** 2, 9.0) - 1.0 - memory[2])
    memory[last] = g
    return wild


@njit(cache=True, nogil=True)
def _score(z: float, own: F64, fleet: F64, levels: F64) -> float:
    """The less remarkable of the scores among agents like this one and among the whole fleet."""
    g, h = normal_score(z, own, levels), normal_score(z, fleet, levels)
    return g if abs(g) < abs(h) else h


@njit(cache=True, nogil=True)
def _common(fleet: F64, row: int, j: int, residual: float, rate: float, scale: float) -> float:
    """Follow the fleet's median residual (Robbins & Monro 1951) and return what of it, where large, is no evidence.

    In a small fleet the median is noisy, and a few agents that were taken over move it, which must not count against
    everybody else: between what is sure of it and all of it, a residual is taken for shared.
    """
    fleet[row, j] += rate * scale * (1.0 if residual > fleet[row, j] else -1.0)
    median = fleet[row, j]
    if abs(median) <= COMMON * scale:
        return 0.0
    noise = math.sqrt(rate / 1.6) * scale  # of the followed median of normal residuals
    sure = math.copysign(max(abs(median) - DOUBT * noise, 0.0), median)
    return min(max(residual, min(median, sure)), max(median, sure))


@njit(cache=True, nogil=True)
def held_out(
    agent: I32,
    context: I32,
    values: F64,
    location: F64,
    phi: F64,
    scale: F64,
    knots: F64,
    own: I32,
    shared: I32,
    tolerance: F64,
    levels: F64,
    power: float,
    split: bool,
    worst: F64,
    scores: F64,
) -> None:
    """Fill `worst` `(a, j)` with the highest log wealth, bets averaged, that held-back baseline rows reach.

    `scores` `(n, j)` is filled with what is bet on.
    """
    agents, d = worst.shape
    wealth, last = np.zeros((agents, d, BETS.shape[0], 4)), np.zeros((agents, d, 4))
    wealth[:, :, :, 0] = 1.0
    wealth[:, :, :, 2] = 1.0
    worst[:] = -1e9
    for i in range(agent.shape[0]):
        a, c = agent[i], context[i]
        for j in range(d):
            if math.isnan(values[i, j]):
                continue
            residual = values[i, j] - location[a, c, j]
            z = (residual - phi[a, j] * last[a, j, 0] * last[a, j, 1]) / scale[a, j]
            last[a, j, 0], last[a, j, 1] = residual, 1.0
            g = _score(z, knots[own[a, c, j]], knots[shared[j]], levels)
            if split:  # as contexts are judged: relative to the agent's own recent level
                y = g - last[a, j, 2]
                _step(wealth[a, j], y, y, CONTRAST_TOLERANCE, 0.0, CONTRAST_VARIANCE, power)
                last[a, j, 2] += LEVEL_RATE * (min(max(g, -3.0), 3.0) - last[a, j, 2])
            else:
                y = g / _wildness(g, last[a, j], 3)
                _step(wealth[a, j], y, y, 0.0, float(tolerance[a]), 0.0, power)
            scores[i, j] = y
            mean = wealth[a, j, :, :2].sum() / BETS.shape[0]
            worst[a, j] = max(worst[a, j], math.log(mean))


@njit(cache=True, nogil=True)
def judge(
    agent: I32,
    phase: I8,
    context: I32,
    coarse: I64,
    fine: I64,
    values: F64,
    location: F64,
    phi: F64,
    scale: F64,
    knots: F64,
    own: I32,
    shared: I32,
    temper: F64,
    tolerance: F64,
    typical: F64,
    levels: F64,
    fleet: F64,
    rate: float,
    group: I32,
    group_rate: F64,
    n_coarse: int,
    n_fine: int,
    wealth: F64,
    memory: F64,
    log_e: F64,
    belief: F64,
) -> None:
    """Fill `log_e` and `belief` `(n,)` of live rows of `values` `(n, d)`; the rest as `NumericChannel` keeps it."""
    d = values.shape[1]
    split = n_fine > 1
    for i in range(agent.shape[0]):
        if phase[i] == 0:
            continue
        a = agent[i]
        if a < location.shape[0]:
            c = context[i]
            for j in range(d):
                if math.isnan(values[i, j]):
                    continue
                residual = values[i, j] - location[a, c, j]
                group_shift, follow = 0.0, float(group_rate[group[i]])
                if follow < 0.0:  # a group that nothing is known of: whether it moves together cannot be told
                    continue
                if rate > 0.0 and follow == 0.0:  # a group's own median holds what the fleet shares
                    residual -= _common(fleet, fleet.shape[0] - 1, j, residual, rate, scale[a, j])
                    residual -= _common(fleet, c, j, residual, rate, scale[a, j])
                if follow > 0.0:
                    row = fleet.shape[0] - 1 - group_rate.shape[0] + group[i]
                    group_shift = _common(fleet, row, j, residual, follow, scale[a, j])
                before = phi[a, j] * memory[a, j, 1]
                alone = (residual - before * memory[a, j, 5]) / scale[a, j]
                memory[a, j, 5] = residual
                residual -= group_shift
                z = (residual - before * memory[a, j, 0]) / scale[a, j]
                memory[a, j, 0], memory[a, j, 1] = residual, 1.0
                memory[a, j, 3] += LEVEL_RATE * (residual - memory[a, j, 3])
                mine, everyone = knots[own[a, c, j]], knots[shared[j]]
                g = _score(z, mine, everyone, levels)
                # Some of a group may have been taken over and moved its median: with the group or alone, an agent is
                # above its baseline only if it is both ways.
                h = _score(alone, mine, everyone, levels) if follow > 0.0 else g
                low, high = min(g, h), max(g, h)
                if not split:
                    wild = _wildness(g, memory[a, j], 4)
                    _step(wealth[a, j, 0], low / wild, high / wild, 0.0, float(tolerance[a]), 0.0, temper[a, j])
                else:
                    wide = TOLERANCE * max(1.0, typical[j] / scale[a, j])
                    _step(wealth[a, j, 0], low, high, wide, 0.0, 1.0, temper[a, j])
                    level = memory[a, j, 2]
                    for scope in (coarse[i], fine[i]):
                        _step(
                            wealth[a, j, scope], low - level, high - level, CONTRAST_TOLERANCE, 0.0, CONTRAST_VARIANCE,
                            temper[a, j],
                        )  # fmt: skip
                    memory[a, j, 2] += LEVEL_RATE * (min(max(g, -3.0), 3.0) - memory[a, j, 2])
            log_e[i], belief[i] = _merged(wealth[a], n_coarse, n_fine)


@njit(cache=True, nogil=True)
def _merged(wealth: F64, n_coarse: int, n_fine: int) -> tuple[float, float]:
    """log of the weighted mean wealth over features, scopes and bets: a third each to all, coarse and fine contexts."""
    d = wealth.shape[0]
    e, now = 0.0, 0.0
    for j in range(d):
        for s in range(1 + n_coarse + n_fine if n_fine > 1 else 1):
            if n_fine <= 1:
                share = 1.0
            elif s == 0:
                share = 1.0 / 3.0
            elif s <= n_coarse:
                share = 1.0 / (3.0 * n_coarse)
            else:
                share = 1.0 / (3.0 * n_fine)
            for k in range(wealth.shape[2]):
                e += share * (wealth[j, s, k, 0] + wealth[j, s, k, 1])
                now += share * (1.0 + wealth[j, s, k, 3])
    count = d * wealth.shape[2]
    return math.log(e / count), math.log(now / count)
