"""What merely comes with a span is not bet on; measurements are."""

from __future__ import annotations

import dataclasses

import numpy as np

from tocsin.detection.detector import FleetDetector
from tocsin.detection.measures import SPAN_MEASURES, measurements
from tocsin.ingest.rows import CORE
from tocsin.model.events import EventBatch, Kind

NAN = float("nan")


def test_span_measures_are_those_that_ingest_takes_from_spans() -> None:
    assert frozenset(CORE) == SPAN_MEASURES


def test_span_measures_count_on_rows_of_measurements_only() -> None:
    values = np.arange(8.0).reshape(4, 2)
    kind = np.array([Kind.CALL, Kind.FINAL, Kind.CHAT, Kind.METRIC], np.int8)
    kept = measurements(values, ("error", "risk"), kind)
    np.testing.assert_array_equal(kept, [[NAN, 1.0], [NAN, 3.0], [NAN, 5.0], [6.0, 7.0]])
    np.testing.assert_array_equal(values, np.arange(8.0).reshape(4, 2))


def slow_fleet(kind: Kind, name: str) -> EventBatch:
    """Twenty agents, 200 rows each, second half live; in it agent 0 has become slow."""
    rng = np.random.default_rng(0)
    agent = np.tile(np.arange(20, dtype=np.int32), 200)
    live = np.repeat(np.arange(200), 20) >= 100
    values = rng.normal(size=(4000, 1)) + 9.0 * (live & (agent == 0))[:, None]
    return EventBatch(
        offset=0, agents=tuple(f"a{i}" for i in range(20)), agent=agent, t_ns=np.arange(4000),
        session=np.zeros(4000, np.int64), phase=live.astype(np.int8), kind=np.full(4000, kind, np.int8),
        actions=(), action=np.full(4000, -1, np.int32), effect=np.zeros(4000, np.int8),
        feature_names=(name,), values=values,
    )  # fmt: skip


def test_a_slow_tool_is_no_evidence_but_a_measurement_is() -> None:
    quiet = FleetDetector().observe(slow_fleet(Kind.CALL, "duration_ms"))
    assert not quiet.log_e.any()
    assert not quiet.log_bf.any()
    for batch in (slow_fleet(Kind.METRIC, "duration_ms"), slow_fleet(Kind.CALL, "queue_depth")):
        seen = FleetDetector().observe(batch)
        assert seen.log_e[-20:].argmax() == 0
        assert seen.log_e[-20:].max() > 10.0


def test_a_measurement_first_told_later_in_the_baseline_is_learnt_too() -> None:
    batch = slow_fleet(Kind.METRIC, "queue_depth")
    detector = FleetDetector()
    other = dataclasses.replace(batch, phase=np.zeros(4000, np.int8), feature_names=("load",))
    detector.observe(other)
    seen = detector.observe(batch)
    assert seen.log_e[-20:].argmax() == 0
    assert seen.log_e[-20:].max() > 10.0
