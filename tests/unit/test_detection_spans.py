"""Durations and sizes beside calls: whole sessions, levels by tool, and nothing that the whole fleet shares."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from tocsin.detection.detector import FleetDetector
from tocsin.detection.span_fit import MIN_OWN, MIN_ROWS, fit_levels
from tocsin.detection.tasks import Tasks
from tocsin.model.events import EventBatch

AGENTS, SESSIONS, CALLS = 40, 40, 3


def fleet(seed: int, factor: dict[int, float], noise: float = 0.3, fleet_factor: float = 1.0) -> EventBatch:
    """Sessions of three calls and an answer, second half live. Tools, tasks and agents have levels of their own, and
    all durations of a session share a factor; from the middle on, agents are slower by `factor` and `fleet_factor`."""
    rng = np.random.default_rng(seed)
    size = CALLS + 1
    n = AGENTS * SESSIONS * size
    row = np.arange(n)
    agent = (row // size % AGENTS).astype(np.int32)
    number = row // (size * AGENTS)
    live, ends = number >= SESSIONS // 2, row % size == CALLS
    task = rng.integers(8, size=(SESSIONS, AGENTS))[number, agent]
    tool = np.where(ends, 6, (task + row % size) % 6).astype(np.int32)
    shared = rng.normal(size=(SESSIONS, AGENTS))[number, agent] * noise
    slower = np.array([np.log(factor.get(a, 1.0) * fleet_factor) for a in range(AGENTS)])[agent] * live
    own = rng.normal(size=AGENTS)[agent] * 0.4
    logs = 4.0 + tool + 0.3 * rng.normal(size=8)[task] + own + shared + rng.normal(size=n) * noise + slower
    return EventBatch(
        offset=0, agents=tuple(f"a{i}" for i in range(AGENTS)), agent=agent, t_ns=row,
        session=(number * 1000 + agent + 1).astype(np.int64), phase=live.astype(np.int8), kind=ends.astype(np.int8),
        actions=("s", "o", "r", "l", "m", "k", "_final"), action=tool, effect=np.where(ends, 4, 1).astype(np.int8),
        feature_names=("duration_ms",), values=np.exp(logs)[:, None],
        prompt_offset=np.arange(0, 4 * n + 1, 4, dtype=np.int32),
        prompt_word=(task[:, None] * 100 + np.arange(4)).astype(np.int32).ravel(),
    )  # fmt: skip


def final_log_e(batch: EventBatch) -> NDArray[np.float64]:
    seen = FleetDetector().observe(batch)
    return np.array([seen.log_e[seen.agent_index == a][-1] for a in range(AGENTS)])


def test_an_agent_that_stays_slow_stands_out_and_no_other_does() -> None:
    log_e = final_log_e(fleet(1, {7: 5.0, 12: 0.2}))
    assert set(np.argsort(log_e)[-2:].tolist()) == {7, 12}
    assert np.sort(log_e)[-2] > 6.0
    assert np.sort(log_e)[-3] < 1.0


@pytest.mark.parametrize("seed", range(4))
def test_everyday_sessions_are_no_evidence(seed: int) -> None:
    """An e-value has expectation at most one; forty agents' mean stays near it, though their sessions wander."""
    assert np.mean(np.exp(final_log_e(fleet(seed, {}, noise=0.8)))) < 2.0


def test_what_the_whole_fleet_shares_is_no_evidence() -> None:
    assert final_log_e(fleet(2, {}, fleet_factor=2.0)).max() < 3.0


def test_without_ends_of_sessions_they_are_closed_by_later_ones() -> None:
    batch = fleet(3, {7: 5.0})
    endless = dataclasses.replace(batch, kind=np.zeros(len(batch), np.int8))
    assert int(np.argmax(final_log_e(endless))) == 7


def test_reason_tells_baseline_from_now() -> None:
    detector = FleetDetector()
    detector.observe(fleet(1, {7: 5.0}))
    reason = next(reason for reason in detector.reasons(7) if reason.feature == "duration")
    assert "20 baseline sessions" in reason.detail
    assert 2.5 < float(reason.detail.split()[1]) < 10.0


def test_levels_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(5)
    n, tools = 4000, 3
    session = np.sort(rng.integers(800, size=n))
    session = np.unique(session, return_inverse=True)[1]
    agent, task = session % 30, (session * 7) % 5 - 1
    tool, values = rng.integers(tools, size=n), np.exp(rng.normal(size=(n, 1)) + session[:, None] % 30 / 10)
    levels = fit_levels(Tasks(), agent, session, task, tool, values, tools)
    means = np.zeros(int(session.max()) + 1)
    for s in range(means.size):
        residuals: list[float] = []
        for i in np.flatnonzero(session == s):
            other = (tool == tool[i]) & ((task != task[i]) | (task[i] < 0))
            assert other.sum() >= MIN_ROWS
            residuals.append(float(np.log1p(values[i, 0]) - np.log1p(values[other, 0]).mean()))
        means[s] = np.mean(residuals)
    owner = np.arange(means.size) % 30
    assert np.bincount(owner).min() >= MIN_OWN
    own = np.array([means[owner == a].mean() for a in range(30)])
    kept = (levels.offset[:, 0] - means.mean()) / (
        own - means.mean()
    )  # what shrinkage leaves, the same for equal sizes
    assert 0.9 < kept.min() <= kept.max() < 1.0
    assert np.all(np.diff(levels.scores[0, : levels.count[0]]) >= 0)
    assert levels.count[0] == means.size
