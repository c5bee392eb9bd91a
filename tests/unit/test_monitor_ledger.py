"""The ledger states what is material and never loses what it holds back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.monitor.ledger import Ledger

ROWS = st.lists(st.tuples(st.integers(0, 3), st.floats(-3, 3), st.floats(0, 8)), min_size=1, max_size=30)


def _add(ledger, rows, counts):
    agent = np.array([a for a, _, _ in rows], np.int32)
    seq = np.empty(len(rows), np.int64)
    for i, (a, _, _) in enumerate(rows):
        seq[i] = counts.get(a, 0)
        counts[a] = counts.get(a, 0) + 1
    return ledger.add(agent, seq, np.array([b for _, b, _ in rows]), np.array([e for _, _, e in rows]))


@given(st.lists(ROWS, max_size=8))
def test_stated_plus_drained_is_everything_and_windows_do_not_overlap(batches):
    ledger, counts = Ledger(), {}
    total: dict[int, float] = {}
    stated: dict[int, float] = {}
    windows: dict[int, list[tuple[int, int]]] = {}

    def take(agents):
        for a in agents:
            first, last, log_bf, _ = ledger.take(int(a))
            stated[int(a)] = stated.get(int(a), 0.0) + log_bf
            windows.setdefault(int(a), []).append((first, last))

    for rows in batches:
        for a, b, _ in rows:
            total[a] = total.get(a, 0.0) + b
        take(_add(ledger, rows, counts))
    take(ledger.pending())
    for a, sum_ in total.items():
        assert stated.get(a, 0.0) == pytest.approx(sum_, abs=1e-9)
    for spans in windows.values():
        for (_, last), (first, _) in itertools.pairwise(spans):
            assert first > last
    assert ledger.pending().size == 0


def test_suspicion_is_stated_at_once_and_reassurance_waits():
    ledger = Ledger()
    zero = np.zeros(1, np.int32)
    assert ledger.add(zero, np.array([0]), np.array([-1.0]), np.zeros(1)).tolist() == []
    assert ledger.add(zero, np.array([1]), np.array([1.4]), np.zeros(1)).tolist() == []
    assert ledger.add(zero, np.array([2]), np.array([0.2]), np.zeros(1)).tolist() == [0]
    assert ledger.take(0)[:2] == (0, 2)
    assert ledger.add(zero, np.array([3]), np.array([0.0]), np.array([3.0])).tolist() == [0]
