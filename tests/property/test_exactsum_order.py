"""R2.3: the exact sum does not depend on order; the twin is math.fsum and rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import InputError
from tocsin.stats.exactsum import ExactSum, double_double_sum, guarded_sum, kahan_sum, naive_sum, neumaier_sum

doubles = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=40)


def exact(x: list[float]) -> ExactSum:
    out = ExactSum()
    out.add(np.array(x, np.float64))
    return out


def rounded(total: Fraction) -> float:
    try:
        return float(total)
    except OverflowError:
        return math.inf if total > 0 else -math.inf


@given(doubles)
def test_value_is_the_rational_sum_rounded_once(x: list[float]) -> None:
    assert exact(x).value() == rounded(sum(map(Fraction, x), Fraction(0)))


@given(st.lists(st.floats(-1e-307, 1e-307), min_size=1, max_size=20))
def test_subnormal_numbers_count_at_their_own_size(x: list[float]) -> None:
    assert exact(x).value() == float(sum(map(Fraction, x), Fraction(0)))
    assert exact([5e-324, 5e-324]).value() == 1e-323


@given(doubles, st.randoms(use_true_random=False), st.integers(0, 40))
def test_order_and_grouping_leave_the_same_bytes(x: list[float], order: object, cut: int) -> None:
    shuffled = list(x)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    merged = exact(shuffled[:cut])
    merged.merge(exact(shuffled[cut:]))
    assert merged.canonical() == exact(x).canonical()


@given(doubles, doubles)
def test_removing_what_was_added_leaves_no_trace(x: list[float], y: list[float]) -> None:
    total = exact(x + y)
    total.remove(np.array(y, np.float64))
    assert total.canonical() == exact(x).canonical()
    total.merge(exact(x), -1)
    assert total.canonical() == ExactSum().canonical()


def test_many_numbers_carry_correctly() -> None:
    x = np.exp(np.random.default_rng(1).uniform(-40, 40, 200_000)) * np.random.default_rng(2).choice([-1, 1], 200_000)
    total = ExactSum()
    total.add(x)
    assert total.value() == math.fsum(x)


def test_infinities_are_counted_apart_and_can_leave_again() -> None:
    total = exact([1.0, math.inf])
    assert total.value() == math.inf
    total.add(np.array([-math.inf]))
    assert math.isnan(total.value())
    total.remove(np.array([math.inf, -math.inf]))
    assert total.value() == 1.0


def test_nan_is_refused_and_changes_nothing() -> None:
    total = exact([1.0])
    with pytest.raises(InputError):
        total.add(np.array([2.0, math.nan]))
    assert total.canonical() == exact([1.0]).canonical()


def test_compensated_sums_differ_where_they_should() -> None:
    x = np.array([1.0, 1e100, 1.0, -1e100])
    assert naive_sum(x)[0] == 0.0
    assert kahan_sum(x) == 0.0
    assert neumaier_sum(x) == 2.0
    assert exact(x.tolist()).value() == 2.0


@given(st.lists(st.floats(-1e9, 1e9), max_size=60))
def test_twice_the_precision_errs_by_one_rounding_and_hardly_more(x: list[float]) -> None:
    reference = sum(map(Fraction, x), Fraction(0))
    rounding = Fraction(2) ** -53 * abs(reference)
    beyond = len(x) ** 2 * Fraction(2) ** -103 * sum(map(abs, map(Fraction, x)), Fraction(0))
    assert abs(Fraction(double_double_sum(np.array(x, np.float64))) - reference) <= rounding + beyond + Fraction(5e-324)


@given(st.lists(st.floats(-1e9, 1e9), max_size=60))
def test_the_guard_never_states_a_bound_that_does_not_hold(x: list[float]) -> None:
    got = guarded_sum(np.array(x, np.float64))
    assert abs(Fraction(got.value) - sum(map(Fraction, x), Fraction(0))) <= Fraction(got.error_bound) + Fraction(5e-324)


def test_the_guard_replays_under_cancellation_only() -> None:
    assert not guarded_sum(np.ones(1000)).replayed
    cancelling = guarded_sum(np.array([1e16] + [1.0] * 999 + [-1e16]))
    assert cancelling.replayed
    assert cancelling.value == 999.0
