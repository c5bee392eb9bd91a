"""R6.1: what wanders, what is volatile, and groups of which too little is known are not taken for shifts."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.nulls import LAWS, measurements, others_flagged
from tocsin.detection.detector import DetectorConfig, FleetDetector
from tocsin.detection.numeric_bets import BETS, _step  # pyright: ignore[reportPrivateUsage]
from tocsin.detection.scoring import FleetAlarms
from tocsin.detection.wandering import BATCHES, MIN_FREEDOM, wandering


def _autoregression(rows: int, phi: float, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    shock, out = np.random.default_rng(seed).normal(size=rows), np.zeros(rows)
    for t in range(1, rows):
        out[t] = phi * out[t - 1] + shock[t]
    return out


def _dumb(scores: list[float]) -> float:
    """The same for one agent, number by number."""
    mean = sum(scores) / len(scores)
    variance = sum((x - mean) ** 2 for x in scores) / (len(scores) - 1)
    largest = 1.0
    for length in BATCHES:
        sums = [sum(scores[k : k + length]) - length * mean for k in range(0, len(scores) - length + 1, length)]
        if len(sums) - 1 >= MIN_FREEDOM:
            centre = sum(sums) / len(sums)
            spread = sum((x - centre) ** 2 for x in sums) / (len(sums) - 1)
            largest = max(largest, spread / length / variance)
    return largest


def test_long_run_variance_is_that_of_a_dumb_twin() -> None:
    for seed, phi in ((0, 0.0), (1, 0.5), (2, 0.9)):
        scores = _autoregression(1003, phi, seed)
        found = wandering(np.zeros(1003, np.int32), scores[:, None], np.ones(1, np.bool_))
        assert math.isclose(float(found[0, 0]), _dumb(scores.tolist()), rel_tol=1e-9)


def test_long_run_variance_of_noise_is_about_one_and_of_memory_what_theory_says() -> None:
    rows = 40_000
    agent, rich = np.repeat(np.arange(2, dtype=np.int32), rows), np.ones(2, np.bool_)
    scores = np.r_[_autoregression(rows, 0.0, 3), _autoregression(rows, 0.6, 4)][:, None]
    noise, memory = wandering(agent, scores, rich)[:, 0].tolist()
    assert 1.0 <= noise < 1.5
    assert 3.0 < memory < 6.0, "(1 + .6) / (1 - .6) is 4"


@given(st.floats(0.0, 6.0), st.floats(0.01, 1.0))
def test_a_bet_on_a_sign_wins_nothing_on_average_whatever_the_size(size: float, temper: float) -> None:
    total = np.zeros(BETS.shape[0])
    for g in (size, -size):
        wealth = np.zeros((BETS.shape[0], 4))
        wealth[:, 1] = 1.0
        _step(wealth, g, g, 0.0, 0.0, 0.0, temper)
        total += wealth[:, 1] / 2.0
    kept = 1.0 - 1.0 / 500.0  # what stops betting is not lost: it waits
    assert (total <= kept * (1.0 + 1e-12)).all()


def test_groups_beyond_the_limit_are_not_bet_on() -> None:
    batch = measurements(LAWS["regions drift"], 100, 5)
    batch.values[(batch.group == 3) & (batch.phase == 1), 0] += 8.0  # a region that is one too many
    detector = FleetDetector(DetectorConfig(max_groups=3))
    seen = detector.observe(batch)
    alarms = FleetAlarms(0.01, 100).update(seen.agent_index, seen.log_e)
    assert not alarms.any()
    unknown = batch.group >= 2
    assert seen.log_e[unknown].max() == 0.0
    assert seen.log_e[~unknown].max() > 0.0


def test_takeovers_of_a_fifth_of_a_region_are_found_and_nobody_else() -> None:
    for seed in range(3):
        found, others, taken = others_flagged(seed, 2.0)
        assert (found, others) == (taken, 0)
