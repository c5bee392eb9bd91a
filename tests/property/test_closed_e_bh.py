"""R6.1: closed e-BH against its definition over all subsets, against e-BH, and by its realised false alarms."""

from __future__ import annotations

from decimal import Decimal, getcontext
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.model.evidence import Q32
from tocsin.stats.fdr import closed_e_bh_threshold_q32, e_bh_threshold_q32
from tocsin.stats.fixedpoint import ln_q32

getcontext().prec = 40
levels = st.sampled_from([1_000, 10_000, 50_000, 200_000, 500_000])


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """Log e-values around 1 / alpha, where the bars of small fleets are, some of them equal; fleet size; alpha."""
    alpha_ppm = draw(levels)
    bar = ln_q32(1_000_000, alpha_ppm)
    near = st.integers(-3 * Q32, 3 * Q32).map(lambda gap: bar + gap)
    values = draw(st.lists(near, max_size=6))
    if values and draw(st.booleans()):
        values.append(values[0])
    return values, max(1, len(values)) + draw(st.integers(0, 2)), alpha_ppm


def rejected(values: list[int], threshold: int | None) -> int:
    return 0 if threshold is None else sum(value >= threshold for value in values)


def by_definition(values: list[int], size: int, alpha_ppm: int, factor: Decimal) -> int:
    """The largest set of largest e-values, times `factor`, for which every subset of the fleet has mean enough."""
    es = [(Decimal(value) / Q32).exp() * factor if value > 0 else Decimal(0) for value in values]
    es = sorted(es + [Decimal(0)] * (size - len(es)), reverse=True)
    alpha = Decimal(alpha_ppm) / 1_000_000
    subsets = [s for count in range(1, size + 1) for s in combinations(range(size), count)]
    for r in range(size, 0, -1):
        if r < size and es[r] == es[r - 1]:
            continue  # equal ones are rejected together
        if all(sum(es[i] for i in s) / len(s) >= Decimal(sum(i < r for i in s)) / (alpha * r) for s in subsets):
            return r
    return 0


@settings(max_examples=300)
@given(fleets())
def test_it_rejects_what_the_definition_over_all_subsets_rejects(case: tuple[list[int], int, int]) -> None:
    values, size, alpha_ppm = case
    found = rejected(values, closed_e_bh_threshold_q32(values, size, alpha_ppm))
    slack = Decimal("1e-9")  # logarithms are integers of 2**-32
    low, high = (by_definition(values, size, alpha_ppm, 1 + sign * slack) for sign in (-1, 1))
    assert low <= found <= high


@given(st.lists(st.integers(-Q32, 20 * Q32), max_size=60), st.integers(0, 100), levels)
def test_it_rejects_all_that_e_bh_rejects(values: list[int], silent: int, alpha_ppm: int) -> None:
    size = max(1, len(values) + silent)
    closed, plain = (rule(values, size, alpha_ppm) for rule in (closed_e_bh_threshold_q32, e_bh_threshold_q32))
    assert rejected(values, closed) >= rejected(values, plain)


@given(st.lists(st.integers(-Q32, 20 * Q32), max_size=30), st.randoms(use_true_random=False), levels)
def test_order_does_not_matter(values: list[int], order: object, alpha_ppm: int) -> None:
    shuffled = list(values)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    size = len(values) + 3
    assert closed_e_bh_threshold_q32(shuffled, size, alpha_ppm) == closed_e_bh_threshold_q32(values, size, alpha_ppm)


def test_one_strong_agent_lets_in_another_that_e_bh_leaves_out() -> None:
    values = [ln_q32(1000), ln_q32(60)]
    assert rejected(values, e_bh_threshold_q32(values, 2, 10_000)) == 1
    assert rejected(values, closed_e_bh_threshold_q32(values, 2, 10_000)) == 2


@pytest.mark.parametrize(
    ("e_values", "alpha_ppm", "expected"),
    [
        ([320.92, 59.57, 59.57], 10_000, 1),  # two of three would pass, but the third equals the second
        ([30.0, 11.58, 1.8], 200_000, 3),  # one below 1 / (2 alpha) is carried by the other two
    ],
)
def test_equal_and_carried_ones(e_values: list[float], alpha_ppm: int, expected: int) -> None:
    values = [ln_q32(round(100 * e), 100) for e in e_values]
    assert by_definition(values, 3, alpha_ppm, Decimal(1)) == expected
    assert rejected(values, closed_e_bh_threshold_q32(values, 3, alpha_ppm)) == expected


def test_more_hypotheses_than_agents_are_refused() -> None:
    with pytest.raises(ValueError, match="3 hypotheses in a fleet of 2"):
        closed_e_bh_threshold_q32([0, 0, 0], 2, 10_000)


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_the_realised_share_of_false_alarms_keeps_to_the_target(shared: float) -> None:
    # Likelihood ratios of a normal mean of 3; 24 of 30 hypotheses are null; `shared` of the noise is common to all.
    seed, trials, size, true, alpha = 20_261_123, 3000, 30, 6, 0.1
    rng = np.random.default_rng(seed)
    shares: list[float] = []
    for _ in range(trials):
        noise = shared**0.5 * rng.standard_normal() + (1 - shared) ** 0.5 * rng.standard_normal(size)
        log_e = 3.0 * (noise + np.where(np.arange(size) < true, 3.0, 0.0)) - 4.5
        values = [round(value * Q32) for value in log_e.tolist()]
        threshold = closed_e_bh_threshold_q32(values, size, round(alpha * 1_000_000))
        hits, false = rejected(values[:true], threshold), rejected(values[true:], threshold)
        shares.append(false / max(hits + false, 1))
    mean, error = float(np.mean(shares)), float(np.std(shares)) / trials**0.5
    assert mean - 1.96 * error <= alpha, f"seed {seed}: realised {mean:.4f} +- {1.96 * error:.4f}"
    assert mean > 0.0  # the rule is not idle here
