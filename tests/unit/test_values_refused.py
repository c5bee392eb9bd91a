"""A number that is missing is counted as missing; one that was sent and is none is refused and counted by reason."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.dashboard.metrics import ALARMS, COUNTERS, GAUGES, metrics_text
from tocsin.errors import InputError
from tocsin.ingest.attribution import Attributor
from tocsin.ingest.names import WANTED
from tocsin.ingest.rows import number, why_no_number
from tocsin.ingest.tables import decode_table, load_table
from tocsin.model.events import EventBatch
from tocsin.wire.otlp import SpanColumns
from tocsin.wire.records import batch_from_records

SENT = [
    (math.nan, "value_nan"), ("NaN", "value_nan"), (math.inf, "value_infinite"), ("-inf", "value_infinite"),
    (10**400, "value_infinite"), ("fast", "value_no_number"), ("9" * 33, "value_no_number"), ([1.0], "value_no_number"),
]  # fmt: skip


def chat(attributor: Attributor, attributes: dict[str, Any], metrics: dict[str, Any] | None = None) -> EventBatch:
    columns = SpanColumns(resources=[{"tocsin.agent.id": "ada"}])
    told = {"gen_ai.operation.name": "chat", **attributes}
    if metrics is not None:
        told[WANTED.prefix] = metrics
    columns.add(b"t" * 16, b"s" * 8, b"", "chat", 0, 5_000_000, False, told)
    return attributor.attribute(columns, 0)


@pytest.mark.parametrize(("value", "reason"), SENT)
def test_what_a_span_sends_and_is_no_number_is_counted(value: Any, reason: str) -> None:
    assert math.isnan(number(value))
    assert why_no_number(value) == reason
    attributor = Attributor()
    batch = chat(attributor, {"gen_ai.usage.input_tokens": value}, {"accuracy": value, "loss": 0.5})
    assert dict(attributor.counts) == {reason: 2}
    assert batch.feature_names[-1] == "loss"
    assert np.isnan(batch.values[0, batch.feature_names.index("input_tokens")])


def test_what_a_span_does_not_send_is_missing_and_not_refused() -> None:
    attributor = Attributor()
    batch = chat(attributor, {"gen_ai.usage.input_tokens": 3})
    assert not attributor.counts
    hierarchy = Hierarchy()
    hierarchy.observe(batch)
    missing = len(batch.feature_names) - 3  # duration, input tokens and whether it failed are there
    assert (hierarchy.state()["missing"], hierarchy.state()["refused"]) == (missing, {})
    status = dict.fromkeys([*COUNTERS, *GAUGES], 0) | {"tree": hierarchy.state(), "received": {}}
    text = metrics_text(status, dict.fromkeys(ALARMS)).decode()
    assert f"tocsin_values_missing_total {float(missing)}" in text


def test_a_table_tells_nan_from_what_is_missing(tmp_path: Path) -> None:
    values = pa.array([1.0, math.nan, None, math.inf, math.nan], from_pandas=False)
    table = pa.table({"agent_id": ["a"] * 5, "seq": range(5), "latency": values, "calls": [1, 2, None, 4, 5]})
    parquet.write_table(table, tmp_path / "t.parquet")
    decoded = decode_table(load_table(tmp_path / "t.parquet"), None, 0.3, "t")
    assert decoded.refused == {"nan": 2, "infinite": 1}
    assert decoded.notes == (
        "latency: 2 values are nan: refused, not counted",
        "latency: 1 values are infinite: refused, not counted",
    )
    hierarchy = Hierarchy()
    hierarchy.observe(decoded.batch(0, 5))
    assert hierarchy.state()["missing"] == 5


def test_the_library_refuses_nan_aloud() -> None:
    with pytest.raises(InputError, match="finite"):
        batch_from_records([("ada", {"latency": math.nan})], offset=0, phases=[0])
    batch = batch_from_records([("ada", {"latency": None}), ("ada", {"latency": 1.0})], offset=0, phases=[0, 0])
    assert np.isnan(batch.values[0, 0])
