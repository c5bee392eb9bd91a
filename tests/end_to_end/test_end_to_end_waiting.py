"""Spans that wait for the one above them, in a real `tocsin up` that is killed or stopped in between."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

sys.path.insert(0, str(Path(__file__).parent))

from running import Up

from tocsin.monitor.inputs import Observed
from tocsin.runtime.ingest_log import IngestLog

PROTOBUF = {"content-type": "application/x-protobuf"}
TRACES = 5


def _request(*spans: tuple[int, int, int, dict[str, str]]) -> bytes:
    """Spans as (trace, number, parent, attributes)."""
    message = ExportTraceServiceRequest()
    resource = message.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "office"
    sent = resource.scope_spans.add().spans
    now = time.time_ns()
    for trace, number, parent, attributes in spans:
        span = sent.add(trace_id=(trace << 40).to_bytes(16, "big"), span_id=number.to_bytes(8, "big"), name="span")
        span.parent_span_id = parent.to_bytes(8, "big") if parent else b""
        span.start_time_unix_nano = span.end_time_unix_nano = now
        for key, value in attributes.items():
            span.attributes.add(key=key).value.string_value = value
    return message.SerializeToString()


def _children(trace: int) -> bytes:
    """Two calls without an agent of their own, one of them below a span that is no behaviour."""
    call = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "read"}
    return _request((trace, 4, 3, {**call, "tocsin.prompt.signature": "17 4"}), (trace, 3, 1, {}), (trace, 2, 1, call))


def _root(trace: int) -> bytes:
    return _request((trace, 1, 0, {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.id": f"clerk-{trace}"}))


@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_children_that_were_acknowledged_find_their_agent_after_a_restart_and_count_once(
    tmp_path: Path, how: str
) -> None:
    with Up(tmp_path) as up:
        for trace in range(1, TRACES + 1):
            assert up.post("/v1/traces", _children(trace), PROTOBUF)[0] == 200
        assert up.get("/api/v1/status")["ingested_events"] == 0
        getattr(up, how)()
    with Up(tmp_path) as up:
        # A sender whose first attempt was answered too late repeats it.
        assert up.post("/v1/traces", _children(1), PROTOBUF)[0] == 200
        for trace in range(1, TRACES):
            assert up.post("/v1/traces", _root(trace), PROTOBUF)[0] == 200
        assert up.get("/api/v1/status")["ingested_events"] == 3 * (TRACES - 1)
        getattr(up, how)()
    with Up(tmp_path) as up:
        for trace in range(1, TRACES + 1):
            for body in (_children(trace), _root(trace)):
                assert up.post("/v1/traces", body, PROTOBUF)[0] == 200
        assert up.get("/api/v1/status")["ingested_events"] == 3 * TRACES
        assert up.interrupt() == 0
    log = IngestLog(tmp_path / "ingest.db")
    batches = [entry.batch for entry in log.replay() if isinstance(entry, Observed)]
    log.close()
    agents = [batch.agents[code] for batch in batches for code in batch.agent]
    assert sorted(agents) == sorted(f"clerk-{trace}" for trace in range(1, TRACES + 1) for _ in range(3))
    assert len({event for batch in batches for event in batch.event_id.tolist()}) == 3 * TRACES
    words = [word for batch in batches for word in batch.prompt_word.tolist()]
    assert words == [17, 4] * 3 * TRACES, "every event has the words of its session's request"
