"""E-values and e-processes: calibrators from p-values, and the change-point mixture that runs them forward.

An e-value is a nonnegative variable with expectation at most one under the null; an e-process keeps that at any
stopping time (Vovk & Wang 2021, E-values: calibration, combination and applications; Ramdas et al. 2023).
Everything is in nats (natural logarithms).
"""

from __future__ import annotations

import math

from numba import njit

LOG_CAP = 300.0  # nats: far beyond any decision, far below overflow
STEPS = 11  # levels of the stepwise calibrator: p = 10**-2, 10**-2.5, ... 10**-7
HALF_DECADE = math.log(10.0) / 2.0


@njit(cache=True, nogil=True)
def step_calibrator(log_p: float) -> float:
    """E-value of a p-value: the average over levels a_j of the all-or-nothing bets 1{p <= a_j} / a_j.

    Each bet has expectation P(p <= a_j) / a_j <= 1, so the average has too. Any p-value calibrator is decreasing and
    integrates to at most one (Vovk & Wang 2021, section 2); this one is largest at small p, where agents stand out.
    """
    total = 0.0
    for j in range(STEPS):
        level = -(4 + j) * HALF_DECADE
        if log_p <= level:
            total += math.exp(-level)
    return total / STEPS


@njit(cache=True, nogil=True)
def mixture_calibrator(log_p: float) -> float:
    """log of the integral of k p**(k - 1) over k in (0, 1), (1 - p + p ln p) / (p ln(p)**2).

    A calibrator without a parameter, from 1/2 at p = 1 to 1 / (p ln(p)**2) at small p (Vovk & Wang 2021, section 2).
    """
    if log_p > -1e-3:
        return math.log(0.5)
    p = math.exp(log_p)
    return math.log(1.0 - p + p * log_p) - log_p - 2.0 * math.log(-log_p)


@njit(cache=True, nogil=True)
def log_mix(share: float, log_value: float) -> float:
    """log(1 - share + share * exp(log_value)): a bet of a share of the wealth."""
    if log_value > LOG_CAP:
        log_value = LOG_CAP
    return math.log(1.0 - share + share * math.exp(log_value))


@njit(cache=True, nogil=True)
def log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    high, low = (a, b) if a > b else (b, a)
    return high + math.log1p(math.exp(low - high)) if low > -LOG_CAP * 3 else high


@njit(cache=True, nogil=True)
def open_bet(log_wealth: float, t: int) -> float:
    """Wealth after step t = 1, 2, ... joins the change-point mixture: M <- M + 1 / (t (t + 1)).

    The mixture over unknown starts j with weights 1 / (j (j + 1)) is an e-process if its factors are e-values
    (Shafer et al. 2011; Shin, Ramdas & Rinaldo 2024, E-detectors). `log_wealth` starts at -inf (any value below -900).
    """
    return log_add(log_wealth, -math.log(t * (t + 1.0)))


@njit(cache=True, nogil=True)
def log_e_of(log_wealth: float, t: int) -> float:
    """The e-process after t steps: wealth already betting plus the share 1 / (t + 1) that has not started."""
    value = log_add(log_wealth, -math.log(t + 1.0))
    return min(value, LOG_CAP)
