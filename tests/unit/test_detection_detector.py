"""The detector as a whole on synthetic fleets: quiet on normal behaviour, loud on foreign, the same however batched."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tocsin.detection.call_log import ragged_rows
from tocsin.detection.detector import REFIT_GROWTH, DetectorConfig, FleetDetector, Observation
from tocsin.detection.scoring import FleetAlarms
from tocsin.errors import ConfigError, UnknownAgent
from tocsin.model.events import EventBatch

TOOLS = ("search", "open", "reply", "book", "pay", "delete")
READ, WRITE, EGRESS = 1, 2, 3
EFFECTS = np.array([READ, READ, EGRESS, WRITE, EGRESS, WRITE], np.int8)
TASKS = ((0, 1, 2), (0, 3), (1, 4), (0, 1, 1, 2))  # tools that each kind of request needs, in order
FEATURES = ("latency", "risk")


def take(batch: EventBatch, start: int, stop: int) -> EventBatch:
    """Rows start..stop of a batch."""
    rows = np.arange(start, stop)
    columns: dict[str, object] = {"offset": start}
    for name in ("agent", "t_ns", "session", "phase", "kind", "action", "effect", "group", "context", "values"):
        array = getattr(batch, name)
        columns[name] = array[rows] if array.shape[0] == len(batch) else array
    for offset, names in (
        ("arg_offset", ("arg_name", "arg_hash", "arg_type", "arg_flags", "arg_len")),
        ("prompt_offset", ("prompt_word",)),
    ):
        old = getattr(batch, offset).astype(np.int64)
        if old.shape[0] > 1:
            fresh, index = ragged_rows(old, rows)
            columns[offset] = fresh.astype(np.int32)
            columns |= {name: getattr(batch, name)[index] for name in names}
    return dataclasses.replace(batch, **columns)  # pyright: ignore[reportArgumentType]


def call_fleet(agents: int, sessions: int, hijacked: set[int], seed: int) -> EventBatch:
    """`sessions` sessions per agent, two thirds of them baseline; the last of a hijacked agent holds a foreign call."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, int, int, int, int]] = []  # agent, session, phase, tool, task, flags, value
    for s in range(sessions):
        for a in range(agents):
            task = int(rng.integers(len(TASKS)))
            phase = int(s >= sessions * 2 // 3)
            rows += [(a, s + 1, phase, tool, task, 1, int(rng.integers(1, 40))) for tool in TASKS[task]]
            if a in hijacked and s == sessions - 1:
                rows.append((a, s + 1, phase, 5 if task != 1 else 4, task, 2, 10_000 + a))
    table = np.array(rows, np.int64)
    n = len(rows)
    return EventBatch(
        offset=0, agents=tuple(f"agent-{a}" for a in range(agents)), agent=table[:, 0].astype(np.int32),
        t_ns=np.arange(n), session=table[:, 1] * 1000 + table[:, 0], phase=table[:, 2].astype(np.int8),
        kind=np.zeros(n, np.int8), actions=TOOLS, action=table[:, 3].astype(np.int32), effect=EFFECTS[table[:, 3]],
        arg_offset=np.arange(n + 1, dtype=np.int32), arg_name=np.ones(n, np.int64), arg_hash=table[:, 6],
        arg_type=np.zeros(n, np.int8), arg_flags=table[:, 5].astype(np.uint8), arg_len=np.full(n, 9, np.int32),
        prompt_offset=np.arange(0, 4 * n + 1, 4, dtype=np.int32),
        prompt_word=(table[:, 4:5] * 100 + np.arange(4)).astype(np.int32).ravel(),
    )  # fmt: skip


def metric_fleet(agents: int, events: int, seed: int, shift: dict[int, float], fleet_shift: float = 0.0) -> EventBatch:
    """Gaussian measurements, first half baseline; `shift` is added to an agent's risk in the live half."""
    rng = np.random.default_rng(seed)
    n = agents * events
    agent = np.tile(np.arange(agents, dtype=np.int32), events)
    step = np.repeat(np.arange(events), agents)
    live = step >= events // 2
    values = rng.normal(size=(n, 2)) * np.array([30.0, 0.1]) + np.array([200.0, 0.5])
    values[:, 1] += np.array([shift.get(a, 0.0) for a in range(agents)])[agent] * live + fleet_shift * live
    return EventBatch(
        offset=0, agents=tuple(f"m{a}" for a in range(agents)), agent=agent, t_ns=np.arange(n),
        session=np.zeros(n, np.int64), phase=live.astype(np.int8), kind=np.full(n, 3, np.int8), actions=(),
        action=np.full(n, -1, np.int32), effect=np.zeros(n, np.int8), feature_names=FEATURES, values=values,
    )  # fmt: skip


def alarmed(batch: EventBatch, seen: Observation) -> set[int]:
    fleet = FleetAlarms(0.01, len(batch.agents))
    alarms = fleet.update(seen.agent_index, seen.log_e)
    return set(seen.agent_index[alarms].tolist())


def test_foreign_calls_alarm_and_nothing_else_does() -> None:
    hijacked = {3, 17, 31, 44, 52}
    batch = call_fleet(60, 60, hijacked, seed=1)
    seen = FleetDetector().observe(batch)
    assert alarmed(batch, seen) == hijacked


def test_a_fleet_that_goes_on_as_before_is_left_alone() -> None:
    for seed in range(3):
        batch = call_fleet(60, 30, set(), seed)
        assert not alarmed(batch, FleetDetector().observe(batch))


def test_shifted_measurements_alarm_and_a_shift_of_the_whole_fleet_does_not() -> None:
    batch = metric_fleet(40, 400, seed=2, shift={5: 0.12, 9: -0.3})
    assert alarmed(batch, FleetDetector().observe(batch)) == {5, 9}
    common = metric_fleet(40, 400, seed=3, shift={}, fleet_shift=0.2)
    assert not alarmed(common, FleetDetector().observe(common))


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("kind", ["calls", "metrics"])
def test_batching_changes_nothing(kind: str, size: int) -> None:
    batch = call_fleet(12, 15, {2}, seed=4) if kind == "calls" else metric_fleet(12, 60, 5, {1: 0.3})
    staggered = batch.phase * (batch.agent % 3 < 2) | (np.arange(len(batch)) > 0.9 * len(batch))  # sealed again later
    batch = dataclasses.replace(batch, phase=staggered.astype(np.int8))
    whole = FleetDetector().observe(batch)
    detector = FleetDetector()
    parts = [detector.observe(take(batch, i, min(i + size, len(batch)))) for i in range(0, len(batch), size)]
    for name in ("agent_index", "seq", "log_e", "log_bf", "log_odds"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name), err_msg=name)


def test_baselines_that_end_later_are_learnt_too() -> None:
    batch = call_fleet(30, 60, set(), seed=11)
    late = dataclasses.replace(batch, phase=batch.phase * (batch.agent < 15) | (batch.session // 1000 > 55))
    detector = FleetDetector()
    seen = detector.observe(late)
    baseline = int(np.sum(late.phase == 0))
    assert baseline / REFIT_GROWTH <= detector._sealed_at <= baseline  # pyright: ignore[reportPrivateUsage]
    assert not alarmed(late, seen)


def test_columns_mean_what_they_say() -> None:
    batch = metric_fleet(10, 100, 6, {0: 0.4})
    detector = FleetDetector()
    seen = detector.observe(batch)
    base = batch.phase == 0
    assert not seen.log_e[base].any()
    assert not seen.log_bf[base].any()
    for a in range(10):
        mine = seen.agent_index == a
        assert seen.seq[mine].tolist() == list(range(100))
        np.testing.assert_allclose(
            detector.prior_log_odds + np.clip(np.cumsum(seen.log_bf[mine]), -64, 64), seen.log_odds[mine], atol=1e-9
        )
    assert detector.fleet_size == 10


@pytest.mark.parametrize("seed", [12, 13])
def test_wandering_levels_are_tempered(seed: int) -> None:
    """Bets assume that innovations after the baseline are like those in it; levels that jump for good are not."""
    batch = metric_fleet(60, 160, seed, {})
    level = np.exp(0.6 * np.random.default_rng(seed).normal(size=(20, 60)))  # each agent's own jumps every 8th event
    step = np.arange(len(batch)) // 60
    values = batch.values * level[step // 8, batch.agent][:, None]
    assert not alarmed(batch, FleetDetector().observe(dataclasses.replace(batch, values=values)))


def test_missing_and_infinite_values_are_no_evidence() -> None:
    batch = metric_fleet(25, 100, 7, {})
    holes = np.array(batch.values)
    holes[np.random.default_rng(0).random(holes.shape) < 0.1] = np.nan
    holes[-60:, 0] = np.inf
    broken = dataclasses.replace(batch, values=holes)
    seen = FleetDetector().observe(broken)
    assert np.isfinite(seen.log_e).all()
    assert np.isfinite(seen.log_odds).all()
    assert not alarmed(broken, seen)


def test_endless_new_names_fill_no_memory() -> None:
    detector = FleetDetector(DetectorConfig(max_actions=50, max_contexts=4))
    batch = call_fleet(10, 20, set(), 8)
    n = len(batch)
    many = dataclasses.replace(batch, actions=tuple(f"t{i}" for i in range(n)), action=np.arange(n, dtype=np.int32))
    detector.observe(many)
    assert len(detector._tools) == 50  # pyright: ignore[reportPrivateUsage]
    assert detector._tools.overflowed == n - 50  # pyright: ignore[reportPrivateUsage]


def test_an_agent_without_baseline_is_judged_by_its_fleet() -> None:
    batch = call_fleet(40, 60, {39}, seed=9)
    newcomer = batch.agent == 39
    seen = FleetDetector().observe(dataclasses.replace(batch, phase=np.where(newcomer, np.int8(1), batch.phase)))
    assert np.isfinite(seen.log_e).all()
    assert seen.log_odds[newcomer].max() > seen.log_odds[~newcomer].max()


def test_a_reason_counts_what_the_baseline_holds() -> None:
    """The sessions that a reason speaks of are those that a plain loop over the baseline finds."""
    batch = call_fleet(60, 60, {3}, seed=10)
    detector = FleetDetector()
    detector.observe(batch)
    detail = detector.explain("agent-3").reasons[0].detail
    task = int(batch.prompt_word[4 * np.flatnonzero(batch.agent == 3)[-1]]) // 100
    tool = TOOLS.index(detail.split()[1])
    base = (batch.phase == 0) & (batch.agent != 3)
    such = base & (batch.prompt_word[::4] // 100 == task)
    sessions = np.unique(batch.session[such]).size
    using = np.unique(batch.session[such & (batch.action == tool)]).size
    used = f"{using} used it" if using else "none used it"
    assert f"of {sessions} baseline sessions of other agents for such requests {used}" in detail


def test_why_of_measurements() -> None:
    batch = metric_fleet(40, 400, seed=2, shift={5: 0.16})
    detector = FleetDetector()
    detector.observe(batch)
    told = detector.explain("m5")
    assert told.why.startswith("Its risk: values above the baseline; recently +0.1")
    assert "from a baseline of 0.5" in told.why
    assert told.peers == "0 of 39 other agents stand out now."


def test_why() -> None:
    batch = call_fleet(60, 60, {3}, seed=10)
    detector = FleetDetector()
    detector.observe(batch)
    why = detector.explain("agent-3")
    assert why.probability > 0.5
    assert why.reasons
    tool = "delete" if "delete" in why.reasons[0].detail else "pay"
    assert f"called {tool} at event" in why.reasons[0].detail
    assert "baseline sessions of other agents" in why.why
    assert why.reasons[0].feature in why.why
    assert f"of 59 peers of its role used {tool} in their baselines" in why.peers
    assert "instead of" in why.would_change
    assert "Nothing" in detector.explain("agent-4").why
    with pytest.raises(UnknownAgent):
        detector.explain("nobody")
    with pytest.raises(UnknownAgent):
        detector.establish(["nobody"])


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 1.0}, {"prior": -1.0}])
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        DetectorConfig(**wrong)  # pyright: ignore[reportArgumentType]
