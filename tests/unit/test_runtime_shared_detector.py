"""Monitors of one process: one detector between them, and messages that travel with what is analysed next."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tocsin.detection.detector import FleetDetector
from tocsin.errors import InternalError
from tocsin.model.events import EventBatch
from tocsin.monitor.inputs import Flush, Observed, Sealed
from tocsin.runtime.clock import VirtualClock
from tocsin.runtime.engine import Engine
from tocsin.runtime.shared_detector import SharedDetector
from tocsin.trust.keyring import deterministic_signers, roster_of
from tocsin.wire.records import batch_from_records

AGENTS, BASELINE_ROUNDS, LIVE_ROUNDS, ROUNDS_PER_BATCH = 12, 90, 40, 10
SIGNERS = deterministic_signers(b"shared", 4)
ROSTER = roster_of("shared", SIGNERS)


def batches() -> list[EventBatch]:
    """Agents that search, read and tell; from the tenth live round on one of them uploads."""
    out: list[EventBatch] = []
    offset = 0
    for start in range(0, BASELINE_ROUNDS + LIVE_ROUNDS, ROUNDS_PER_BATCH):
        rows: list[tuple[str, dict[str, object]]] = []
        for i in range(start, start + ROUNDS_PER_BATCH):
            for a in range(AGENTS):
                odd = a == 5 and i >= BASELINE_ROUNDS + 10
                action = (
                    {"action": "upload", "effect": "egress"} if odd else {"action": ("search", "read", "tell")[i % 3]}
                )
                rows.append((f"agent-{a}", {**action, "session": f"{a} {i // 6}", "t": i}))
        phase = int(start >= BASELINE_ROUNDS)
        out.append(batch_from_records(rows, offset=offset, phases=[phase] * len(rows)))
        offset += len(rows)
    return out


BATCHES = batches()


def engine() -> Engine:
    it = Engine(ROSTER, SIGNERS, VirtualClock())
    it.start()
    return it


def test_every_seat_hears_what_a_detector_of_its_own_would_have_said() -> None:
    shared = SharedDetector(FleetDetector())
    seats = [shared.seat() for _ in range(4)]
    own = [FleetDetector() for _ in seats]
    for number, batch in enumerate(BATCHES):
        if number == BASELINE_ROUNDS // ROUNDS_PER_BATCH:
            for judge in (*seats, *own):
                judge.establish(("agent-1",))
        for seat, detector in zip(seats, own, strict=True):
            heard, expected = seat.observe(batch), detector.observe(batch)
            for column in ("agent_index", "seq", "log_e", "log_bf", "log_odds"):
                assert_array_equal(getattr(heard, column), getattr(expected, column))
            assert [seat.reasons(a) for a in range(AGENTS)] == [detector.reasons(a) for a in range(AGENTS)]
            assert seat.fleet_size == detector.fleet_size
            assert seat.explain("agent-5") == detector.explain("agent-5")
    assert np.any(own[0].observe(BATCHES[-1]).log_bf != 0.0)


def test_a_seat_that_is_fed_something_else_is_noticed() -> None:
    shared = SharedDetector(FleetDetector())
    first, second = shared.seat(), shared.seat()
    first.observe(BATCHES[0])
    with pytest.raises(InternalError, match="fed the same"):
        second.observe(BATCHES[1])
    with pytest.raises(InternalError, match="fed the same"):
        second.establish(None)


def test_a_seat_that_falls_behind_is_noticed() -> None:
    shared = SharedDetector(FleetDetector())
    first, second = shared.seat(), shared.seat()
    first.observe(BATCHES[0])
    with pytest.raises(InternalError, match="one input after the other"):
        first.observe(BATCHES[1])
    second.observe(BATCHES[0])
    first.observe(BATCHES[1])


def test_a_seat_is_not_taken_late() -> None:
    shared = SharedDetector(FleetDetector())
    shared.seat().observe(BATCHES[0])
    with pytest.raises(InternalError, match="before the first event"):
        shared.seat()


def test_under_load_messages_travel_with_the_next_entries_and_the_outcome_is_the_same() -> None:
    entries = [Observed(batch) for batch in BATCHES]
    entries.insert(
        BASELINE_ROUNDS // ROUNDS_PER_BATCH, Sealed(None, entries[BASELINE_ROUNDS // ROUNDS_PER_BATCH].batch.offset)
    )
    end = Flush(BATCHES[-1].offset + len(BATCHES[-1]))
    idle, busy = engine(), engine()
    for entry in entries:
        idle.feed([entry])
        idle.cluster.settle()
    before = busy.cluster.rounds
    for entry in entries:
        busy.feed([entry], more=True)
    assert busy.cluster.rounds - before == len(entries)  # one fsync an entry
    for one in (idle, busy):
        one.feed([end])
        one.cluster.settle()
    assert {v.agent_id for v in idle.verdicts.values()} == {v.agent_id for v in busy.verdicts.values()} == {"agent-5"}
    assert idle.entries == busy.entries
    assert idle.cluster.rounds > busy.cluster.rounds
