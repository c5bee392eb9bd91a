"""An agent against itself: what is new in a session is counted right, bet on fairly, and known from then on."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.detection.call_log import Calls, calls_of
from tocsin.detection.detector import FleetDetector
from tocsin.detection.novelty import REMEMBERED, share_of
from tocsin.detection.novelty_fit import (
    ARGUMENTS,
    LEVELS,
    MAX_MARKS,
    MAX_REPEATS,
    RARE,
    TOOLS,
    arrivals,
    fit_novelty,
    loads,
    things_of,
)
from tocsin.detection.scoring import FleetAlarms
from tocsin.sim.loners import ATTACKS, lone_fleet
from tocsin.wire.records import batch_from_records

PROMPT, OUTPUT = 1, 2
Call = tuple[int, int, int, int, int]  # agent, session, tool, flags of its one argument, value of it
CALL = st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 5), st.integers(0, 3), st.integers(0, 3))


def calls(rows: list[Call]) -> Calls:
    """Egress calls, each with an address as its only argument."""
    table = np.array(rows, np.int64).reshape(-1, 5)
    n = len(rows)
    return Calls(
        table[:, 0].astype(np.int32), table[:, 1], np.zeros(n, np.int32), table[:, 2].astype(np.int32),
        np.full(n, 3, np.int8), np.zeros(n, np.int8), np.arange(n + 1), np.ones(n, np.int64), table[:, 4],
        np.full(n, 5, np.int8), table[:, 3].astype(np.uint8), np.full(n, 9, np.int32), np.zeros(n + 1, np.int64),
        np.zeros(0, np.int32),
    )  # fmt: skip


def plain_loads(rows: list[Call]) -> dict[tuple[int, int], tuple[int, int]]:
    """Leave-one-out loads of each (agent, session), by sets."""
    tools: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    arguments: dict[tuple[int, int], set[object]] = defaultdict(set)
    for agent, session, tool, flags, value in rows:
        tools[agent, session].append((tool, flags))
        if not flags & PROMPT:
            arguments[agent, session].add(("value", value))
            if flags & OUTPUT:
                arguments[agent, session].add(("origin", tool))
    out: dict[tuple[int, int], tuple[int, int]] = {}
    for (agent, session), mine in tools.items():
        others = [key for key in tools if key[0] == agent and key[1] != session]
        used = {tool for key in others for tool, _ in tools[key]}
        known = {thing for key in others for thing in arguments[key]}
        new = [(tool, flags) for tool, flags in mine if tool not in used]
        first: dict[int, int] = {}
        for tool, flags in new:
            first.setdefault(tool, flags)
        marks = sum(flags == OUTPUT for flags in first.values())
        load = 2 * len(first) + min(len(new) - len(first), MAX_REPEATS) + min(marks, MAX_MARKS)
        out[agent, session] = min(load, LEVELS - 1), min(len(arguments[agent, session] - known), LEVELS - 1)
    return out


@given(st.lists(CALL, min_size=1, max_size=40))
def test_loads_are_those_of_sets(rows: list[Call]) -> None:
    log = calls(rows)
    session, things = arrivals(log), things_of(log)
    in_sessions = Counter(key for _, key in set(zip(session[things.row].tolist(), things.key.tolist(), strict=True)))
    novel = np.array([in_sessions[key] == 1 for key in things.key.tolist()], np.bool_)
    found = loads(things, session[things.row], novel, int(session.max()) + 1)
    plain = plain_loads(rows)
    for i, (agent, where, *_) in enumerate(rows):
        assert tuple(found[:, session[i]].tolist()) == plain[agent, where]


@given(st.lists(CALL, min_size=1, max_size=60))
def test_no_bet_expects_to_win_where_the_fitted_law_holds(rows: list[Call]) -> None:
    """The mean of each bet's factor over the law it was made from is at most one; higher levels pay more."""
    log = calls(rows)
    model = fit_novelty(log, arrivals(log))
    p = np.exp(model.log_p)
    assert np.all(np.diff(p, axis=2) <= 1e-12)
    here = p - np.concatenate((p[:, :, 1:], np.zeros((*p.shape[:2], 1))), axis=2)  # P(level is exactly this)
    factor = np.exp(model.bets[:, :, :, 0])
    assert np.all(np.sum(here * factor, axis=2) <= 1.0 + 1e-9)
    assert np.all(np.diff(factor, axis=2) >= -1e-12)


def test_the_share_of_sessions_is_never_below_its_rank() -> None:
    rows = [(0, s, s % 3, PROMPT, 0) for s in range(29)] + [(0, 29, 9, PROMPT, 0)]
    model = fit_novelty(calls(rows), arrivals(calls(rows)))
    assert np.exp(model.log_p[0, TOOLS, 2]) == pytest.approx(max(2 / 31, (1 + 5 * 2 / 31) / 35))
    assert np.exp(model.log_p[0, ARGUMENTS, 1]) == pytest.approx(1 / 31)  # no argument ever came from elsewhere
    assert np.exp(model.log_p[0, RARE, LEVELS - 1]) == pytest.approx(2 / 31)


def flagged(size: int, seed: int, **attack: object) -> tuple[set[int], list[int], FleetDetector]:
    """Agents flagged before or within the first hijacked session, who was hijacked, and the detector."""
    fleet = lone_fleet(size, seed=seed, **attack)  # pyright: ignore[reportArgumentType]
    detector = FleetDetector()
    seen = detector.observe(fleet.batch)
    alarms = FleetAlarms(0.01, size).update(seen.agent_index, seen.log_e)
    second = [starts[1] if starts else np.iinfo(np.int64).max for starts in fleet.hijacked_sessions]
    alarms &= seen.seq < np.array(second)[seen.agent_index]
    return set(seen.agent_index[alarms].tolist()), [a for a in range(size) if fleet.onset[a] >= 0], detector


def test_one_session_of_foreign_calls_is_enough_without_peers() -> None:
    """Over ten seeds each; some temperaments explore so much that nothing is foreign to them."""
    for size, enough in ((1, 8), (3, 7)):
        found = [flagged(size, seed, hijacked=1, attack=ATTACKS[0], calls=6) for seed in range(10)]
        assert sum(who == set(hijacked) for who, hijacked, _ in found) >= enough
        assert not any(who - set(hijacked) for who, hijacked, _ in found)


def test_why_names_a_tool_it_never_had() -> None:
    who, _, detector = flagged(1, 3, hijacked=1, calls=6)
    assert who == {0}
    reason = detector.reasons(0)[0]
    assert reason.feature == "tools never used before"
    assert reason.detail.startswith("called tool-100")
    assert reason.detail.endswith("baseline sessions has the like")


@pytest.mark.parametrize("size", [1, 3, 10])
def test_honest_loners_are_left_alone(size: int) -> None:
    for seed in range(100, 100 + 20 // size):
        assert flagged(size, seed)[0] == set()


def daily(tools: list[list[str]], sessions: int) -> float:
    """The last log e-value of an agent that did `a` and `b` in 40 sessions, then `tools` in turn."""
    rows: list[tuple[str, dict[str, object]]] = []
    phases: list[int] = []
    for s in range(40 + sessions):
        for action in ["a", "b", *(tools[s % len(tools)] if s >= 40 else [])]:
            rows.append(("one", {"action": action, "effect": "write", "session": str(s)}))
            phases.append(int(s >= 40))
    return float(FleetDetector().observe(batch_from_records(rows, offset=0, phases=phases)).log_e[-1])


def test_a_new_habit_is_new_once() -> None:
    assert daily([["c"]], 30) < 2.0
    assert daily([[f"new-{s}"] for s in range(30)], 30) > 20.0


def test_the_memory_of_new_things_is_bounded_and_forgets_the_oldest() -> None:
    many = [[f"new-{s}"] for s in range(REMEMBERED + 40)]
    assert daily(many, 2 * len(many)) > daily(many, len(many)) > 20.0


def test_short_baselines_are_not_judged() -> None:
    rows = [("one", {"action": "a", "effect": "write", "session": str(s)}) for s in range(9)]
    rows += [("one", {"action": f"b{i}", "effect": "egress", "session": "x"}) for i in range(9)]
    batch = batch_from_records(rows, offset=0, phases=[0] * 9 + [1] * 9)
    assert not FleetDetector().observe(batch).log_e.any()


def test_peers_take_the_share_over() -> None:
    share = share_of(np.array([0.0, 10.0, 5000.0]))
    assert share[0] == 1.0
    assert share[1] == pytest.approx(0.515)
    assert share[2] < 0.05
    log = calls([(a, s, a % 2, PROMPT, 0) for a in range(4) for s in range(10)])
    assert fit_novelty(log, arrivals(log)).peers.tolist() == [10.0] * 4


def test_arrival_order_numbers_sessions() -> None:
    fleet = lone_fleet(2, seed=1)
    batch = dataclasses.replace(fleet.batch, session=-fleet.batch.session)  # later sessions have smaller hashes
    rows = np.arange(len(batch))
    log = calls_of(batch, rows, batch.agent, batch.session, batch.group, batch.action)
    numbers = arrivals(log)
    _, first = np.unique(numbers, return_index=True)
    assert np.all(np.diff(first) > 0)
