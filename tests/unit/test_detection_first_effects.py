"""An agent that never had a side effect: what it wins by having some, and how long an alarm about it lasts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from tocsin.detection.call_log import Calls
from tocsin.detection.detector import FleetDetector
from tocsin.detection.first_effects import SHARE, FirstEffects, without_effects
from tocsin.detection.scoring import FleetAlarms
from tocsin.sim.loners import lone_fleet
from tocsin.wire.records import batch_from_records

READ, EGRESS = 1, 3


def one_call_a_session(acts: NDArray[np.bool_]) -> Calls:
    """Agents (rows) by sessions (columns): a session is one call, egress where `acts`, read elsewhere."""
    agents, sessions = acts.shape
    n = acts.size
    effect = np.where(acts.T.ravel(), EGRESS, READ).astype(np.int8)
    return Calls(
        np.tile(np.arange(agents, dtype=np.int32), sessions), np.arange(n) // agents + 1,
        np.zeros(n, np.int32), np.zeros(n, np.int32), effect, np.zeros(n, np.int8), np.zeros(n + 1, np.int64),
        np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int8), np.zeros(0, np.uint8),
        np.zeros(0, np.int32), np.zeros(n + 1, np.int64), np.zeros(0, np.int32),
    )  # fmt: skip


@pytest.mark.parametrize("ones", [1, 2, 3])
def test_over_every_order_of_sessions_the_expectation_is_as_documented(ones: int) -> None:
    baseline, life = 10, 4
    orders = list(combinations(range(baseline + life), ones))
    acts = np.zeros((len(orders), baseline + life), np.bool_)
    for agent, at in enumerate(orders):
        acts[agent, list(at)] = True
    before = one_call_a_session(acts[:, :baseline])
    idle = without_effects(before, np.full(len(orders), baseline), least=baseline)
    assert (idle > 0).tolist() == (~acts[:, :baseline].any(axis=1)).tolist()
    calls, live = one_call_a_session(acts[:, baseline:]), np.ones(life * len(orders), np.bool_)
    log_e, belief = np.zeros(live.size), np.zeros(live.size)
    first = FirstEffects()
    first.establish(before, idle)
    first.judge(calls, live, np.arange(live.size), len(orders), log_e, belief)
    last = np.exp(log_e[-len(orders) :])
    e = np.where(idle > 0, (last - (1.0 - SHARE)) / SHARE, 1.0)
    assert e.mean() <= 1.2
    assert e.max() > 1.5  # something is won


def days(live: list[list[tuple[str, str]]], agents: int = 3) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """log e-values and alarms of the first of some readers with 40 sessions each, after each of its `live` sessions."""
    rows: list[tuple[str, dict[str, object]]] = []
    phases: list[int] = []
    for s in range(40 + len(live)):
        for a in range(agents):
            more = live[s - 40] if s >= 40 and a == 0 else []
            for action, effect in [("look", "read"), ("list", "read"), *more]:
                rows.append((f"reader-{a}", {"action": action, "effect": effect, "session": f"{a} {s}"}))
                phases.append(int(s >= 40))
    batch = batch_from_records(rows, offset=0, phases=phases)
    seen = FleetDetector().observe(batch)
    alarms = FleetAlarms(0.01, agents).update(seen.agent_index, seen.log_e)
    assert not alarms[seen.agent_index != 0].any()
    mine = np.flatnonzero((seen.agent_index == 0) & (batch.phase == 1))
    ends = np.cumsum([2 + len(more) for more in live]) - 1
    return seen.log_e[mine[ends]], alarms[mine[ends]]


SEND = [("send", "egress"), ("post", "egress")]


def test_the_same_two_sends_every_day_alarm_and_go_on_alarming() -> None:
    log_e, alarms = days([SEND] * 12)
    assert alarms[5:].all()
    assert np.all(np.diff(log_e[1:]) > 0.0)


def test_an_alarm_outlasts_calm_sessions_but_not_for_ever() -> None:
    _, alarms = days([SEND] * 10 + [[]] * 60)
    assert alarms[10:13].all()
    assert not alarms[-1]


def test_a_single_send_is_no_alarm() -> None:
    assert not days([[], SEND, [], [], []])[1].any()


def test_why_says_that_it_never_had_a_side_effect() -> None:
    rows: list[tuple[str, dict[str, object]]] = [
        ("reader", {"action": "look", "effect": "read", "session": str(s)}) for s in range(20)
    ]
    rows.append(("reader", {"action": "send", "effect": "egress", "session": "late"}))
    detector = FleetDetector()
    detector.observe(batch_from_records(rows, offset=0, phases=[0] * 20 + [1]))
    reason = next(reason for reason in detector.reasons(0) if reason.feature == "first side effect in life")
    assert reason.detail.startswith("called send at event 20; none of its own 20 baseline sessions")


def test_a_task_first_met_in_life_is_passed_over() -> None:
    """This agent's work comes in runs; a run of a task that its baseline did not have sends every day."""
    batch = lone_fleet(10, seed=2).batch
    seen = FleetDetector().observe(batch)
    assert not FleetAlarms(0.01, 10).update(seen.agent_index, seen.log_e).any()
