"""How odd a session is: its oddest call, and the oddest call of each other tool; won by the e-process once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.detection.session_load import NEVER, adds, loads
from tocsin.detection.sessions import SHOWN, _raise  # pyright: ignore[reportPrivateUsage]

ODD = 1.0
CALLS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(-5, 20)), min_size=1, max_size=30)


def load_of(calls: list[tuple[int, float]]) -> float:
    """From its definition, of the (tool, score) of a session's calls."""
    oddest = {tool: max(score for other, score in calls if other == tool) for tool, _ in calls}
    beyond = [score - ODD for score in oddest.values() if score > ODD]
    return ODD + sum(beyond) if beyond else max(oddest.values())


@given(CALLS)
def test_follows_the_definition_at_once_and_call_by_call(calls: list[tuple[int, int, int]]) -> None:
    calls = sorted(calls, key=lambda call: call[0])
    _, session = np.unique([s for s, _, _ in calls], return_inverse=True)
    tool, score = np.array([t for _, t, _ in calls], np.int32), np.array([float(x) for *_, x in calls])
    found = loads(score, session, tool, ODD)
    for s in range(int(session.max()) + 1):
        mine = [(int(tool[i]), float(score[i])) for i in np.flatnonzero(session == s)]
        assert found[s] == pytest.approx(load_of(mine))
        best, beyond, slots = np.full(1, -np.inf), np.zeros(16), np.full(16, -1, np.int32)
        before = -math.inf
        for n, (t, x) in enumerate(mine):
            slots[list(dict.fromkeys(u for u, _ in mine)).index(t)] = t
            rises = adds(x, ODD, t, slots, best, beyond, 0)
            now = max(best[0], ODD + beyond.sum()) if best[0] > ODD else best[0]
            assert now == pytest.approx(load_of(mine[: n + 1]))
            assert rises == (now > before)
            before = now


def test_a_session_without_a_judged_call_has_the_lowest_load() -> None:
    assert loads(np.array([NEVER, NEVER, 0.5]), np.array([0, 0, 1]), np.array([1, 2, 1], np.int32), ODD)[0] == NEVER


def test_several_odd_tools_count_together_and_repeats_do_not() -> None:
    session = np.array([0, 0, 0, 1, 1, 1])
    tool = np.array([1, 2, 3, 1, 1, 1], np.int32)
    assert loads(np.full(6, 5.0), session, tool, ODD).tolist() == [13.0, 5.0]


@given(st.permutations([0, 1, 2]), st.permutations([0, 1, 2]), st.integers(1, 3))
def test_what_odd_tools_won_they_do_not_win_again(first: list[int], then: list[int], repeats: int) -> None:
    shown, won, wealth = np.full(SHOWN, -1), np.zeros(SHOWN), np.zeros(2)
    gained: list[float] = []
    for order in [first] + [then] * repeats:
        bets, tools, beyond = np.full(2, math.log(0.9)), np.full(16, -1, np.int32), np.zeros(16)
        before = wealth[0]
        wealth[0] += bets[0]  # as at a session's opening
        for tool in order:
            tools[tool], beyond[tool] = tool, 3.0 + tool
            _raise(-4.0 - beyond.sum(), 0.0, tools, beyond, 7, shown, won, bets, wealth)
        gained.append(wealth[0] - before)
    assert gained[0] > 5.0
    assert gained[1:] == pytest.approx([0.0] * repeats)


def test_repeating_what_was_odd_is_no_calm_session() -> None:
    shown, won, wealth = np.full(SHOWN, -1), np.zeros(SHOWN), np.zeros(2)
    tools, beyond = np.array([4], np.int32), np.array([9.0])
    after: list[float] = []
    for _ in range(5):
        bets = np.full(2, math.log(0.9))
        wealth[0] += bets[0]  # as at a session's opening
        _raise(-12.0, 0.0, tools, beyond, 7, shown, won, bets, wealth)
        after.append(wealth[0])
    assert after[0] > 5.0
    assert after == pytest.approx([after[0]] * 5)
