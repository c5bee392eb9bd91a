"""What peers are given in `benchmarks.detection_peers`, against the obvious way to compute it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks._peer_features import (
    PRIOR_WEIGHT,
    Fleet,
    _largest_so_far,
    _own_scale,
    _previous,
    _running,
    _surprise,
    _trailing_mean,
)
from benchmarks._peers import PEERS, z_rule


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_running_numbers_and_previous_tools(rng: np.random.Generator) -> None:
    agent, session, tool = rng.integers(0, 4, 200), rng.integers(0, 3, 200), rng.integers(0, 5, 200)
    seen: dict[int, int] = {}
    last: dict[tuple[int, int], int] = {}
    for i, (a, s) in enumerate(zip(agent.tolist(), session.tolist(), strict=True)):
        assert _running(agent)[i] == seen.get(a, 0)
        assert _previous(tool, session, agent)[i] == last.get((a, s), -1)
        seen[a], last[a, s] = seen.get(a, 0) + 1, int(tool[i])


def test_trailing_means_are_of_the_agents_own_latest_events(rng: np.random.Generator) -> None:
    agent, x = rng.integers(0, 3, 150), rng.standard_normal(150)
    found = _trailing_mean(x, agent, 10)
    for i in range(150):
        mine = x[: i + 1][agent[: i + 1] == agent[i]][-10:]
        assert found[i] == pytest.approx(mine.mean())


def test_the_largest_so_far_is_of_the_same_session_of_the_same_agent(rng: np.random.Generator) -> None:
    agent, session, x = rng.integers(0, 3, 120), rng.integers(0, 3, 120), rng.standard_normal((120, 2))
    found = _largest_so_far(x, session, agent)
    for i in range(120):
        same = (agent[: i + 1] == agent[i]) & (session[: i + 1] == session[i])
        assert np.array_equal(found[i], x[: i + 1][same].max(axis=0))


def test_own_scales_and_surprises_come_from_the_baseline_alone(rng: np.random.Generator) -> None:
    agent, x = rng.integers(0, 3, 300), rng.standard_normal((300, 2)) + 5.0
    baseline = np.arange(300) < 200
    given, what = rng.integers(0, 2, 300), rng.integers(0, 4, 300)
    own, surprise = _own_scale(x, agent, baseline), _surprise(given, what, baseline, 6)
    changed, moved = x.copy(), what.copy()
    changed[~baseline] += 100.0
    moved[~baseline] = (what[~baseline] + 1) % 4
    assert np.array_equal(_own_scale(changed, agent, baseline)[baseline], own[baseline])
    assert np.array_equal(_surprise(given, moved, baseline, 6)[baseline], surprise[baseline])
    mine = baseline & (agent == 1)
    mean = (x[mine, 0].sum() + PRIOR_WEIGHT * x[baseline, 0].mean()) / (mine.sum() + PRIOR_WEIGHT)
    square = ((x[mine, 0] - mean) ** 2).sum() + PRIOR_WEIGHT * (x[baseline, 0].var() + 1e-9)
    assert own[mine, 0] == pytest.approx((x[mine, 0] - mean) / np.sqrt(square / (mine.sum() + PRIOR_WEIGHT)))
    used = (baseline & (given == 1) & (what == 2)).sum()
    asked = (baseline & (given == 1)).sum()
    assert surprise[(given == 1) & (what == 2)] == pytest.approx(-np.log((used + 0.5) / (asked + 0.5 * 6)))


def test_the_naive_rule_alarms_once_the_odds_pass_one() -> None:
    rows = 12
    own = np.zeros((rows, 1))
    own[6:8] = 3.0  # two events beyond 2: 2 ln(.5 / .0455) is more than ln(99)
    live = np.arange(rows) >= 4
    zero = np.zeros(rows, np.int64)
    fleet = Fleet("one", "machines", ("a",), zero, np.arange(rows), live, zero, (), zero, zero, own, own)
    score, alarm = z_rule(fleet)
    assert np.flatnonzero(alarm).tolist() == [7]
    assert score[7] == pytest.approx(2 * np.log(0.5 / 0.0455) - np.log(99))


def test_every_peer_has_a_name_of_its_own() -> None:
    assert len({peer.name for peer in PEERS}) == len(PEERS)
