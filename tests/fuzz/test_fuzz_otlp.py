"""Whatever bytes come: columns of spans and rows of behaviour, or a WireError. Nothing else escapes."""

from __future__ import annotations

import contextlib
import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tocsin.errors import WireError
from tocsin.ingest.attribution import Attributor
from tocsin.ingest.bodies import inflate
from tocsin.ingest.names import WANTED
from tocsin.wire import otlp, otlp_json
from tocsin.wire.events import decode_batch, encode_batch

KEYS = st.sampled_from([*sorted(WANTED.filed_as), "tocsin.metric.x", "tocsin.metric.", "other"])
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["tools/call x", "execute_tool", "chat", "[{", '{"a":[1]}', "a:b:c:1:1:9|x", "1 2 3", "²", "NaN"]),
)
IDS = st.sampled_from(["00" * 16, "0a" * 16, "0b" * 16, "0a" * 8, "0b" * 8, "0c" * 8, "", "zz"])
NUMBERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
INTEGERS = st.one_of(NUMBERS, st.integers().map(str), st.just("9" * 30), st.just(int("9" * 400)))
SCALARS = st.one_of(
    TEXTS.map(lambda v: {"stringValue": v}),
    INTEGERS.map(lambda v: {"intValue": v}),
    st.one_of(st.floats(allow_nan=False, allow_infinity=False), TEXTS).map(lambda v: {"doubleValue": v}),
    st.booleans().map(lambda v: {"boolValue": v}),
    st.just({}),
    st.just({"bytesValue": "AA=="}),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda v: {"arrayValue": {"values": v}}),
        st.lists(st.tuples(TEXTS, inner), max_size=3).map(
            lambda v: {"kvlistValue": {"values": [{"key": key, "value": value} for key, value in v]}}
        ),
    ),
    max_leaves=6,
)
ATTRIBUTES = st.lists(st.fixed_dictionaries({"key": KEYS, "value": VALUES}), max_size=8)
SPANS = st.fixed_dictionaries(
    {"traceId": IDS, "spanId": IDS, "parentSpanId": IDS, "endTimeUnixNano": INTEGERS, "attributes": ATTRIBUTES},
    optional={"name": TEXTS, "startTimeUnixNano": INTEGERS, "status": st.just({"code": "STATUS_CODE_ERROR"})},
)
REQUESTS = st.lists(
    st.fixed_dictionaries(
        {
            "resource": st.fixed_dictionaries({"attributes": ATTRIBUTES}),
            "scopeSpans": st.lists(st.fixed_dictionaries({"spans": st.lists(SPANS, max_size=5)}), max_size=2),
        }
    ),
    max_size=2,
).map(lambda v: {"resourceSpans": v})


def swallow(columns: otlp.SpanColumns) -> None:
    """Take spans in, let everything that waits time out, and store what came of it."""
    attributor = Attributor(b"salt")
    taken = attributor.attribute(columns, 10**18)
    waiting = attributor.waiting
    again = Attributor(b"salt")
    again.restore([record for _, record in attributor.take_held().put], 10**18)
    assert again.waiting == waiting
    for batch in (taken, attributor.sweep(2 * 10**18)):
        assert len(decode_batch(encode_batch(batch))) == len(batch)
        assert all(0 < len(agent.encode()) <= 256 for agent in batch.agents)
    assert attributor.waiting == 0


@given(REQUESTS)
def test_any_well_formed_json_request_is_swallowed(request: dict[str, Any]) -> None:
    swallow(otlp_json.decode_traces(json.dumps(request).encode(), WANTED))


@pytest.mark.parametrize("literal", ['"\\ud800"', "1e400", "9" * 400, "NaN", "-0", '"\\u0000"'])
def test_json_literals_that_break_other_decoders(literal: str) -> None:
    for kind in ("stringValue", "intValue", "doubleValue"):
        pair = f'{{"key":"gen_ai.agent.id","value":{{"{kind}":{literal}}}}}'
        ids = f'"traceId":"{"0a" * 16}","spanId":"{"0b" * 8}"'
        span = f'{{{ids},"endTimeUnixNano":9,"name":"chat x","attributes":[{pair}]}}'
        body = f'{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{span}]}}]}}]}}'.encode()
        with contextlib.suppress(WireError):
            swallow(otlp_json.decode_traces(body, WANTED))


@given(st.binary(max_size=200))
def test_any_bytes_as_protobuf(body: bytes) -> None:
    for decode in (otlp.count_logs, otlp.count_metrics):
        with contextlib.suppress(WireError):
            assert decode(body) >= 0
    with contextlib.suppress(WireError):
        swallow(otlp.decode_traces(body, WANTED))


@given(st.one_of(st.binary(max_size=200), st.text(alphabet='{}[]":,0aresourcSpn\\ud8', max_size=60).map(str.encode)))
def test_any_bytes_as_json(body: bytes) -> None:
    for decode in (otlp_json.count_logs, otlp_json.count_metrics):
        with contextlib.suppress(WireError):
            assert decode(body) >= 0
    with contextlib.suppress(WireError):
        swallow(otlp_json.decode_traces(body, WANTED))


@given(st.binary(max_size=60), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4))
def test_a_damaged_protobuf_request(value: bytes, damage: list[tuple[int, int]]) -> None:
    request = ExportTraceServiceRequest()
    span = (
        request.resource_spans.add()
        .scope_spans.add()
        .spans.add(trace_id=b"t" * 16, span_id=b"s" * 8, name="execute_tool x", end_time_unix_nano=5)
    )
    for key in ("gen_ai.agent.id", "tocsin.tool.args", "tocsin.metric.x"):
        span.attributes.add(key=key).value.string_value = value.decode("latin-1")
    body = bytearray(request.SerializeToString())
    for place, byte in damage:
        body[place % len(body)] = byte
    with contextlib.suppress(WireError):
        swallow(otlp.decode_traces(bytes(body), WANTED))


@given(st.binary(max_size=300), st.integers(0, 400), st.booleans())
def test_any_bytes_as_gzip(body: bytes, cut: int, compress: bool) -> None:
    data = gzip.compress(body)[:cut] if compress else body
    with contextlib.suppress(WireError):
        assert inflate(data) in (body, b"")


@given(st.binary(max_size=200))
def test_any_bytes_as_an_event_batch(data: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_batch(data)
