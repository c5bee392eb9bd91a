"""Windows of what agents do: against counting by hand, and under clocks that lie, leap and lag."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tocsin.aggregation.activity import AHEAD, GRACE, SERIES, ActivityWindows, Pace
from tocsin.errors import ConfigError
from tocsin.model.events import Effect, EventBatch, Phase

PACE = Pace(window_ns=10, length=64, every=16)


def batch(rows, values=None) -> EventBatch:
    """Rows are (agent, time, effect) or (agent, time, effect, phase)."""
    names = tuple(dict.fromkeys(row[0] for row in rows))
    n = len(rows)
    return EventBatch(
        offset=0,
        agents=names,
        agent=np.array([names.index(row[0]) for row in rows], np.int32),
        t_ns=np.array([row[1] for row in rows], np.int64),
        session=np.zeros(n, np.int64),
        phase=np.array([row[3] if len(row) > 3 else Phase.LIVE for row in rows], np.int8),
        kind=np.zeros(n, np.int8),
        actions=("a",),
        action=np.zeros(n, np.int32),
        effect=np.array([row[2] for row in rows], np.int8),
        feature_names=() if values is None else ("ms",),
        values=np.zeros((n, 0)) if values is None else np.array(values, float)[:, None],
    )


def random_rows(windows: int, agents: int, seed: int, start: int = 500):
    rng = np.random.default_rng(seed)
    rows = [
        (f"a{k}", (start + w) * 10 + int(rng.integers(0, 10)), int(rng.integers(0, 4)))
        for w in range(windows) for k in range(agents) for _ in range(1 + rng.poisson(1.0))
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row[1])


def taken(windows: ActivityWindows, rows, size: int = 37):
    return [one for k in range(0, len(rows), size) for one in windows.observe(batch(rows[k : k + size]))]


def assert_counts(snapshot, rows, pace=PACE):
    events, effective = Counter(), Counter()
    for agent, t, effect in rows:
        events[agent, t // pace.window_ns] += 1
        effective[agent, t // pace.window_ns] += effect in (Effect.WRITE, Effect.EGRESS)
    for row, name in enumerate(snapshot.names):
        for at, window in enumerate(range(snapshot.end - pace.length, snapshot.end)):
            assert snapshot.series[0, row, at] == pytest.approx((events[name, window] + 0.375) ** 0.5)
            assert snapshot.series[1, row, at] == pytest.approx((effective[name, window] + 0.375) ** 0.5)


def test_rounds_hold_what_was_counted_by_hand():
    rows = random_rows(64 + 2 * 16 + GRACE + 1, 7, seed=1)
    rounds = taken(ActivityWindows(PACE), rows)
    assert [(one.number, one.end) for one in rounds] == [(1, 564), (2, 580), (3, 596)]
    for one in rounds:
        assert one.series.shape == (len(SERIES), 7, 64)
        assert_counts(one, rows)


@pytest.mark.parametrize("size", [1, 1000, 10**6])
def test_how_events_are_batched_changes_nothing(size: int):
    rows = random_rows(100, 5, seed=2)
    want, got = taken(ActivityWindows(PACE), rows), taken(ActivityWindows(PACE), rows, size)
    assert len(want) == len(got) == 3
    for a, b in zip(want, got, strict=True):
        assert a.names == b.names
        assert (a.series == b.series).all()


def test_an_agent_whose_clock_runs_ahead_moves_nobody_elses_time():
    rows = random_rows(100, 30, seed=3)
    mixed = []
    for k, (agent, t, effect) in enumerate(rows):
        mixed.append((agent, t, effect))
        if k % 50 == 0:  # mostly far ahead, now and then as far as the ring has room
            mixed.append(("liar", t + (10_000 if k % 150 else 10 * AHEAD // 2), effect))
    windows = ActivityWindows(PACE)
    rounds, alone = taken(windows, mixed), taken(ActivityWindows(PACE), rows)
    assert [one.end for one in rounds] == [one.end for one in alone]
    for a, b in zip(rounds, alone, strict=True):
        keep = [a.names.index(name) for name in b.names]
        assert (a.series[:, keep] == b.series).all()
    assert windows.ahead > 0


def test_events_of_windows_that_are_gone_are_counted_and_change_nothing():
    rows = random_rows(64 + GRACE + 1, 5, seed=4)
    windows = ActivityWindows(PACE)
    taken(windows, rows)
    assert windows.late == 0
    windows.observe(batch([("a0", 5_000, 0), ("a1", 5_159, 0), ("a1", 5_160, 0)]))
    assert windows.late == 2


def test_a_pause_is_empty_windows_and_a_long_one_begins_anew():
    rows = random_rows(30, 5, seed=5)
    pause = [(a, t + 10 * (30 + 20), e) for a, t, e in random_rows(30, 5, seed=6)]
    (one,) = taken(ActivityWindows(PACE), rows + pause)
    assert_counts(one, rows + pause)
    assert (one.series[0, :, 30:50] == np.float32(0.375**0.5)).all()
    later = [(a, t + 10 * 400, e) for a, t, e in random_rows(64 + GRACE + 1, 5, seed=7)]
    rounds = taken(ActivityWindows(PACE), rows + later)
    assert [(r.number, r.end) for r in rounds] == [(1, 500 + 400 + 64)]
    assert_counts(rounds[0], later)


def test_who_came_late_or_left_early_is_left_out():
    rows = random_rows(64 + GRACE + 1, 5, seed=8)
    late = [row for row in rows if row[0] != "a1" or row[1] >= 5_000 + 200]
    early = [row for row in late if row[0] != "a2" or row[1] < 5_000 + 300]
    assert taken(ActivityWindows(PACE), early)[0].names == ("a0", "a3", "a4")


def test_who_is_judged_and_who_is_still_learnt():
    rows = []
    for agent, t, e in random_rows(64 + GRACE + 1, 3, seed=9):
        since = {"a0": 0, "a1": 5_000 + 300, "a2": 10**9}[agent]
        rows.append((agent, t, e, Phase.LIVE if t >= since else Phase.BASELINE))
    (one,) = taken(ActivityWindows(PACE), rows)
    by_name = {name: (bool(one.judged[k]), bool(one.baseline[k])) for k, name in enumerate(one.names)}
    assert by_name == {"a0": (True, False), "a1": (False, False), "a2": (False, True)}


def test_measurements_are_distances_from_the_agents_own_usual():
    rng = np.random.default_rng(0)
    rows = random_rows(64 + GRACE + 1, 3, seed=10)
    level = {"a0": 1e6, "a1": 5.0, "a2": -3e3}
    values = [level[a] + 10 * rng.normal() + (40 if 5_400 <= t < 5_420 else 0) for a, t, _ in rows]
    windows = ActivityWindows(PACE)
    (one,) = windows.observe(batch(rows, values))
    usual = one.series[2, :, 20:39]
    assert np.abs(usual.mean(axis=1)).max() < 0.5
    assert (one.series[2, :, 40:42] > 1.5).all()


def test_hostile_measurements_leave_finite_numbers():
    rows = random_rows(64 + GRACE + 1, 3, seed=11)
    wild = [(np.nan, np.inf, -np.inf, 1e50, -1e50, 0.0)[k % 6] for k in range(len(rows))]
    (one,) = ActivityWindows(PACE).observe(batch(rows, wild))
    assert np.isfinite(one.series).all()
    assert np.abs(one.series[2]).max() <= 3.0


def test_agents_beyond_the_limit_are_counted_not_followed():
    windows = ActivityWindows(PACE, max_agents=2)
    taken(windows, [("a", 5_000, 0), ("b", 5_000, 0), ("c", 5_000, 0), ("c", 5_001, 0)], size=2)
    assert windows.unfollowed == 2


@pytest.mark.parametrize("bad", [{"length": 63}, {"length": 1025}, {"every": 0}, {"every": 257}, {"window_ns": 0}])
def test_paces_that_cannot_be_screened(bad: dict[str, int]):
    with pytest.raises(ConfigError, match="cannot be looked for"):
        Pace(**bad)
