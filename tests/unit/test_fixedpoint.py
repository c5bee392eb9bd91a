"""Integer logarithm and exponential against 60-digit decimals."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import InputError
from tocsin.model.evidence import CLIP_Q32, Q32
from tocsin.stats.fdr import e_bh_threshold_q32
from tocsin.stats.fixedpoint import exp_q, ln_q32, log_mean_exp_q32
from tocsin.stats.logodds import log_odds_of_ppm, logistic, to_q32

POSITIVE = st.integers(1, 1 << 200)
LOG = st.integers(-64 * Q32, 64 * Q32)


def exact_ln(numerator: int, denominator: int) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        return (Decimal(numerator) / Decimal(denominator)).ln() * Q32


@given(POSITIVE, POSITIVE)
def test_ln_is_within_one_unit(numerator: int, denominator: int) -> None:
    assert abs(ln_q32(numerator, denominator) - exact_ln(numerator, denominator)) <= 1


@given(st.integers(0, 1 << 40), st.integers(1, 1 << 40))
def test_ln_near_one_is_within_one_unit(difference: int, denominator: int) -> None:
    assert abs(ln_q32(denominator + difference, denominator) - exact_ln(denominator + difference, denominator)) <= 1


@given(st.integers(-50 * Q32, 0) | st.integers(-(1 << 20), 0))
def test_exp_is_within_eight_units(log: int) -> None:
    with localcontext() as context:
        context.prec = 60
        exact = (Decimal(log) / Q32).exp() * 2**62
        assert abs(exp_q(log) - exact) <= 8


@given(st.lists(LOG, min_size=1, max_size=10))
def test_log_mean_exp_is_within_one_unit(logs: list[int]) -> None:
    with localcontext() as context:
        context.prec = 80
        exact = (sum((Decimal(x) / Q32).exp() for x in logs) / len(logs)).ln() * Q32
        assert abs(log_mean_exp_q32(logs) - exact) <= 1


@given(st.lists(LOG, min_size=1, max_size=10), st.data())
def test_log_mean_exp_does_not_depend_on_the_order(logs: list[int], data: st.DataObject) -> None:
    assert log_mean_exp_q32(data.draw(st.permutations(logs))) == log_mean_exp_q32(logs)


def test_outside_the_domain() -> None:
    for numerator, denominator in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(ValueError, match="positive"):
            ln_q32(numerator, denominator)
    with pytest.raises(ValueError, match="non-positive"):
        exp_q(1)
    with pytest.raises(ValueError, match="at least one"):
        log_mean_exp_q32([])


def test_conversion_at_the_source() -> None:
    assert to_q32(1.0) == Q32
    assert to_q32(-0.5) == -Q32 // 2
    assert to_q32(float("inf")) == to_q32(1e300) == CLIP_Q32
    assert to_q32(float("-inf")) == -CLIP_Q32
    with pytest.raises(InputError):
        to_q32(float("nan"))


@given(st.integers(1, 999_999))
def test_logistic_inverts_log_odds(ppm: int) -> None:
    assert logistic(log_odds_of_ppm(ppm)) == pytest.approx(ppm / 1e6, rel=1e-8)


def test_logistic_keeps_its_range() -> None:
    assert logistic(-(1 << 60)) >= 0.0
    assert logistic(1 << 60) == 1.0


def naive_e_bh(values: list[int], fleet_size: int, alpha_ppm: int) -> int | None:
    """The dumb twin: every k, from the definition."""
    ordered = sorted(values, reverse=True)
    passing = [k for k in range(1, len(ordered) + 1) if ordered[k - 1] >= ln_q32(fleet_size * 1_000_000, alpha_ppm * k)]
    return ordered[passing[-1] - 1] if passing else None


@given(
    st.lists(st.integers(-5 * Q32, 15 * Q32), max_size=30), st.integers(0, 50), st.sampled_from([100, 10_000, 500_000])
)
def test_e_bh_is_the_definition(values: list[int], absent: int, alpha_ppm: int) -> None:
    size = max(1, len(values) + absent)
    assert e_bh_threshold_q32(values, size, alpha_ppm) == naive_e_bh(values, size, alpha_ppm)


def test_e_bh_rejects_the_most_it_can() -> None:
    """At alpha = 1 % of two, one needs ln 200 and two need ln 100 each."""
    both = [ln_q32(250), ln_q32(120)]
    assert e_bh_threshold_q32(both, 2, 10_000) == both[1]
    assert e_bh_threshold_q32([ln_q32(250), ln_q32(90)], 2, 10_000) == both[0]
    assert e_bh_threshold_q32([ln_q32(150), ln_q32(90)], 2, 10_000) is None
