"""Calibrators and the change-point mixture against their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.stats.eprocess import log_add, log_e_of, log_mix, mixture_calibrator, open_bet, step_calibrator

NEVER = -1e6


def integral(calibrator: Callable[[float], float]) -> float:
    """Integral over p in (0, 1) on a logarithmic grid fine enough for jumps."""
    log_p = np.linspace(math.log(1e-12), -1e-9, 200_001)
    e = np.array([calibrator(float(value)) for value in log_p])
    p = np.exp(log_p)
    return float(np.sum(0.5 * (e[1:] + e[:-1]) * np.diff(p)))


def test_step_calibrator_never_expects_more_than_one() -> None:
    assert integral(step_calibrator) == pytest.approx(1.0, abs=2e-3)


def test_mixture_calibrator_never_expects_more_than_one() -> None:
    # 1 / (p ln(p)^2) has a slow tail: what lies below 1e-12 is 1 / ln(1e12) of the mass.
    assert integral(lambda log_p: math.exp(mixture_calibrator(log_p))) == pytest.approx(
        1 - 1 / math.log(1e12), abs=2e-3
    )


@given(st.floats(-60.0, 0.0), st.floats(-60.0, 0.0))
def test_calibrators_fall_with_p(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    assert step_calibrator(low) >= step_calibrator(high)
    assert mixture_calibrator(low) >= mixture_calibrator(high) - 1e-6


@given(st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=12))
def test_recursion_is_the_mixture_over_starts(factors: list[float]) -> None:
    log_wealth = NEVER
    for t, factor in enumerate(factors, start=1):
        log_wealth = open_bet(log_wealth, t) + factor
    steps = len(factors)
    starts = [math.exp(sum(factors[j - 1 :])) / (j * (j + 1)) for j in range(1, steps + 1)]
    assert log_e_of(log_wealth, steps) == pytest.approx(math.log(sum(starts) + 1 / (steps + 1)), abs=1e-9)


@given(st.floats(0.01, 0.99), st.floats(-50.0, 50.0))
def test_a_bet_of_a_share_keeps_the_rest(share: float, log_value: float) -> None:
    assert log_mix(share, log_value) == pytest.approx(math.log(1 - share + share * math.exp(log_value)), abs=1e-9)
    assert log_mix(share, log_value) >= math.log(1 - share) - 1e-12


@given(st.floats(-200.0, 200.0), st.floats(-200.0, 200.0))
def test_log_add(a: float, b: float) -> None:
    assert log_add(a, b) == pytest.approx(float(np.logaddexp(a, b)), abs=1e-9)
