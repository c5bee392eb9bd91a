"""Coordinated groups: found at their lags, nothing found where there is nothing."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from tocsin.aggregation.coordination import (
    Pair,
    Screening,
    candidate_pairs,
    candidates_around,
    coordinated,
    screen,
    verified,
)
from tocsin.errors import InputError
from tocsin.stats.correlation import (
    autocorrelations,
    best_lags,
    innovations,
    lagged_correlation,
    log_p_value,
    noise_floor,
    whitened,
)
from tocsin.stats.simhash import agreement_limit, close_pairs, shifted, sketch_rows

T = 256
PLANTED = {5: 0, 300: 2, 610: 3, 150: 1}  # member -> samples late


def with_group(n: int = 700, seed: int = 3, rho: float = 0.8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, source = rng.normal(size=(n, T)), rng.normal(size=T + 3)
    for member, late in PLANTED.items():
        x[member] = rho**0.5 * source[3 - late : 3 - late + T] + (1 - rho) ** 0.5 * x[member]
    return x


def found(x: np.ndarray, regions: int = 1, **how: float):
    screening = Screening(factors=1, **how)
    region = np.arange(len(x)) // regions
    return screen(sketch_rows(x, b"s"), x.shape[1], region, lambda k: x[k], screening)


@pytest.mark.parametrize("all_pairs_up_to", [50_000, 0])
def test_members_are_found_at_their_lags(all_pairs_up_to: int):
    members = found(with_group(), all_pairs_up_to=all_pairs_up_to)
    assert {m.member: m.lag for m in members} == PLANTED
    assert {m.group for m in members} == {5}
    assert all(0.6 < m.rho < 0.95 for m in members)
    assert all(m.log_e > 10 for m in members if m.lag)  # whoever follows is charged
    (first,) = (m for m in members if not m.lag)
    assert first.log_e == 0.0


def test_without_lags_late_members_are_missed():
    assert found(with_group(), max_lag=0) == []


def test_pairs_of_one_region_are_left_to_it():
    x = with_group()
    assert found(x, regions=700) == []
    assert {m.member for m in found(x, regions=200)} == set(PLANTED)


NULLS = {
    "white": lambda rng, shape: rng.normal(size=shape),
    "drift": lambda rng, shape: np.cumsum(rng.normal(size=shape), axis=1),
    "spikes": lambda rng, shape: rng.standard_cauchy(size=shape),
    "rare": lambda rng, shape: (rng.random(shape) < 0.02) * 1.0,
    "volatile": lambda rng, shape: rng.normal(size=shape) * np.exp(np.cumsum(0.15 * rng.normal(size=shape), axis=1)),
}


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("seed", [1, 2])
def test_independent_agents_give_nothing(null: str, seed: int):
    x = NULLS[null](np.random.default_rng(seed), (600, T))
    assert found(innovations(x)) == []


def test_spikes_that_coincide_look_like_bonds_unless_wrapped():
    x = NULLS["spikes"](np.random.default_rng(1), (600, T))
    assert len(found(x)) > 100


def test_a_silent_agent_is_no_candidate():
    x = with_group()
    x[20:40] = 0
    pairs = candidate_pairs(sketch_rows(x, b"s"), T, np.arange(700), Screening())
    assert not np.isin(pairs, np.arange(20, 40)).any()
    assert {m.member for m in found(x)} == set(PLANTED)


def test_close_pairs_against_counting_bits():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2**64, (40, 8), np.uint64)
    b = a ^ (rng.integers(0, 2**64, (40, 8), np.uint64) & rng.integers(0, 2**64, (40, 8), np.uint64))
    mask = rng.integers(0, 2**64, 8, np.uint64)
    for half in (False, True):
        want = [
            [i, j] for i in range(40) for j in range(40)
            if i != j and (not half or j > i)
            and sum(int(x & m ^ y & m).bit_count() for x, y, m in zip(a[i], b[j], mask, strict=True)) <= 120
        ]  # fmt: skip
        assert close_pairs(a, b, mask, 120, half=half).tolist() == want
        assert 0 < len(want) < 1560
    rows = np.array([7, 30])
    want = [p for p in close_pairs(a, b, mask, 120).tolist() if p[0] in (7, 30)]
    assert close_pairs(a, b, mask, 120, rows=rows).tolist() == want


def test_more_pairs_than_the_buffer_holds():
    same = np.zeros((300, 8), np.uint64)
    every = np.full(8, 2**64 - 1, np.uint64)
    assert len(close_pairs(same, same, every, 0)) == 300 * 299


@pytest.mark.parametrize("length", [64, 100, 256, 700])
def test_a_late_series_has_the_bits_of_the_early_one(length: int):
    rng = np.random.default_rng(length)
    x = rng.normal(size=(50, length))
    late = np.roll(x, 3, axis=1)
    moved, mask = shifted(sketch_rows(late, b"s"), 3, length)
    assert (sketch_rows(x, b"s") & mask == moved).all()
    assert sum(int(m).bit_count() for m in mask) % (min(256, 1 << (length.bit_length() - 1)) - 3) == 0


@pytest.mark.parametrize("length", [64, 256, 1024])
def test_as_many_pass_by_chance_as_were_asked_for(length: int):
    sketches = sketch_rows(np.random.default_rng(0).normal(size=(2000, length)), b"s")
    moved, mask = shifted(sketches, 2, length)
    passed = len(close_pairs(sketches, moved, mask, agreement_limit(length, 2, 4e6, 4000)))
    assert 2000 < passed < 8000


def test_candidates_around_members_are_those_of_all_pairs():
    x = with_group()
    sketches, region = sketch_rows(x, b"s"), np.arange(700)
    every = candidate_pairs(sketches, T, region, Screening())
    want = [p for p in every.tolist() if 300 in p]
    assert candidates_around(np.array([300]), sketches, T, region, Screening()).tolist() == want


def test_lagged_correlation_and_autocorrelation_against_numpy():
    x = np.random.default_rng(4).normal(size=(2, 90))
    for lag in range(-5, 6):
        a, b = (x[0, : 90 - lag], x[1, lag:]) if lag >= 0 else (x[0, -lag:], x[1, : 90 + lag])
        want = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        assert lagged_correlation(x[0], x[1], lag) == pytest.approx(want, abs=1e-12)
    auto = autocorrelations(x, 4)
    assert auto[1, 2] == pytest.approx(x[1, :-3] @ x[1, 3:] / (x[1] @ x[1]))


def test_best_lag_is_the_least_p_of_all_and_persistence_costs_certainty():
    x = with_group(seed=8)[[5, 300]]
    none = np.zeros((2, 1))
    ten = np.array([10, 4])
    rho, lag, log_p = best_lags(x, none, np.array([0]), np.array([1]), 3, ten)
    each = [log_p_value(lagged_correlation(x[0], x[1], k), T - 10 - abs(k)) for k in range(-3, 4)]
    assert (lag[0], log_p[0]) == (2, min(each))
    assert rho[0] == lagged_correlation(x[0], x[1], 2)
    persistent = best_lags(x, none + 0.7, np.array([0]), np.array([1]), 3, ten)[2]
    assert persistent[0] == pytest.approx(log_p[0] / (1 + 2 * 0.49), rel=0.1)


def test_p_values_bound_the_truth():
    for x in (0.1, 0.5, 0.9):
        assert math.exp(log_p_value(x, 3.0)) >= (1 - x) / 2  # exact on the ordinary sphere
    rng = np.random.default_rng(5)
    u = rng.normal(size=(400_000, 12))
    cosine = u[:, 0] / np.linalg.norm(u, axis=1)
    for x in (0.2, 0.5, 0.7):
        share = (cosine >= x).mean()
        assert share <= math.exp(log_p_value(x, 12.0)) < 5 * share
    assert log_p_value(-0.3, 50.0) == 0


def test_the_floor_is_where_all_tests_together_reach_delta():
    floor = noise_floor(10_000, 7, 213, 1e-3)
    assert log_p_value(floor, 213) + math.log(1e8 / 2 * 7) == pytest.approx(math.log(1e-3))
    assert 0.4 < floor < math.sqrt(2 * math.log(1e8 * 7 / 2e-3) / 213)


def test_whitening_takes_away_what_a_series_predicts_of_itself():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(30, 400))
    for t in range(1, 400):
        x[:, t] += 0.8 * x[:, t - 1]
    assert np.abs(autocorrelations(x, 1)).mean() > 0.7
    assert np.abs(autocorrelations(whitened(x), 3)).mean() < 0.05
    assert not whitened(np.zeros((2, 50))).any()


def test_groups_lags_and_evidence():
    pairs = [
        Pair(3, 9, 0.8, 2, -90.0),
        Pair(9, 20, 0.7, -3, -60.0),
        Pair(3, 20, 0.6, 1, -40.0),
        Pair(1, 2, 0.9, 0, -99.0),
    ]
    screening = Screening()
    members = coordinated(pairs, 1000, screening)
    for seed in range(5):
        assert coordinated(random.Random(seed).sample(pairs, 4), 1000, screening) == members
    told = [(m.member, m.group, m.partner, m.lag) for m in members]
    assert told == [(1, 1, 2, 0), (2, 1, 1, 0), (3, 3, 9, 1), (9, 3, 3, 3), (20, 3, 9, 0)]
    log_p = -90.0 + math.log(999 * 7)
    by_integral = [k * math.exp((k - 1) * log_p) / 100_000 for k in (np.arange(100_000) + 0.5) / 100_000]
    assert members[3].log_e == pytest.approx(math.log(0.01) + math.log(sum(by_integral)), abs=1e-3)
    assert members[2].log_e == 0.0  # both others follow it
    assert 0.0 < members[4].log_e < members[3].log_e  # follows 3, at its own certainty; 9 follows it
    assert coordinated([], 1000, screening) == []


def test_verification_keeps_only_what_is_certain():
    x = with_group()
    candidates = np.array([[5, 300], [5, 301], [150, 610]], np.int32)
    asked: list[int] = []

    def hand_out(numbers: np.ndarray) -> np.ndarray:
        asked.extend(numbers.tolist())
        return x[numbers]

    pairs = verified(candidates, 700, hand_out, Screening(factors=1))
    assert [(p.left, p.right, p.lag) for p in pairs] == [(5, 300, 2), (150, 610, 2)]
    assert asked == [5, 150, 300, 301, 610]
    assert verified(candidates, 700, hand_out, Screening(factors=1, least_rho=0.95)) == []
    assert verified(candidates, 700, hand_out, Screening(factors=1, delta=1e-300)) == []


def test_a_pair_is_certain_when_all_pairs_and_lags_together_stay_below_delta():
    x = with_group(rho=0.5)
    pair = np.array([[5, 300]], np.int32)
    log_p = verified(pair, 700, lambda k: x[k], Screening(factors=1))[0].log_p
    needed = math.exp(log_p) * 700 * 699 / 2 * 7
    assert len(verified(pair, 700, lambda k: x[k], Screening(factors=1, delta=1.01 * needed))) == 1
    assert verified(pair, 700, lambda k: x[k], Screening(factors=1, delta=0.99 * needed)) == []


def test_settings_out_of_range():
    for bad in ({"max_lag": 17}, {"max_lag": -1}, {"delta": 0.0}, {"least_rho": 1.0}, {"factors": -1}):
        with pytest.raises(InputError, match="screening settings"):
            Screening(**bad)
    with pytest.raises(InputError, match="too short"):
        sketch_rows(np.zeros((2, 63)), b"s")
