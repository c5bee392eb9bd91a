"""OTLP requests to columns of spans: protobuf and JSON alike, and within limits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tocsin.errors import TooLarge, WireError
from tocsin.wire import otlp, otlp_json
from tocsin.wire.otlp import MAX_ATTRIBUTE_CHARS, MAX_ATTRIBUTES, MAX_ITEMS, MAX_SPANS, SpanColumns, Wanted
from tocsin.wire.otlp_scan import MAX_FIELDS, MAX_INNER_FACTOR

WANTED = Wanted((("agent", "agent.old", "agent.older"), ("raw",), ("tokens",)), "metric.")
TRACE, SPAN, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"


def span(attributes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A span as OTLP/JSON has it; attribute values are OTLP AnyValues."""
    return {
        "traceId": TRACE,
        "spanId": SPAN,
        "parentSpanId": PARENT,
        "name": "execute_tool x",
        "startTimeUnixNano": "1700000000000000000",
        "endTimeUnixNano": "1700000000500000000",
        "attributes": [{"key": key, "value": value} for key, value in attributes.items()],
        "status": {"code": 2},
        **fields,
    }


def request(*spans: dict[str, Any]) -> dict[str, Any]:
    resource = {"attributes": [{"key": "agent", "value": {"stringValue": "r"}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": list(spans)}]}]}


def fill(value: dict[str, Any], message: Any) -> None:
    ((kind, content),) = value.items()
    if kind == "stringValue":
        message.string_value = content
    elif kind == "intValue":
        message.int_value = int(content)
    elif kind == "doubleValue":
        message.double_value = content
    elif kind == "boolValue":
        message.bool_value = content
    elif kind == "arrayValue":
        message.array_value.SetInParent()
        for item in content["values"]:
            fill(item, message.array_value.values.add())
    else:
        message.kvlist_value.SetInParent()
        for item in content["values"]:
            pair = message.kvlist_value.values.add(key=item["key"])
            fill(item["value"], pair.value)


def protobuf(request: dict[str, Any]) -> bytes:
    """The same request as protobuf, written field by field."""
    message = ExportTraceServiceRequest()
    for resource_spans in request["resourceSpans"]:
        out = message.resource_spans.add()
        for pair in resource_spans["resource"]["attributes"]:
            fill(pair["value"], out.resource.attributes.add(key=pair["key"]).value)
        for scope in resource_spans["scopeSpans"]:
            scope_out = out.scope_spans.add()
            for one in scope["spans"]:
                it = scope_out.spans.add(
                    trace_id=bytes.fromhex(one["traceId"]),
                    span_id=bytes.fromhex(one["spanId"]),
                    parent_span_id=bytes.fromhex(one["parentSpanId"]),
                    name=one["name"],
                    start_time_unix_nano=int(one["startTimeUnixNano"]),
                    end_time_unix_nano=int(one["endTimeUnixNano"]),
                )
                it.status.code = one["status"]["code"]
                for pair in one["attributes"]:
                    fill(pair["value"], it.attributes.add(key=pair["key"]).value)
    return message.SerializeToString()


def both(*spans: dict[str, Any]) -> SpanColumns:
    """Decode as protobuf and as JSON; they must agree."""
    sent = request(*spans)
    columns = otlp.decode_traces(protobuf(sent), WANTED)
    assert columns == otlp_json.decode_traces(json.dumps(sent).encode(), WANTED)
    return columns


def test_the_fast_decoder_is_in_use() -> None:
    assert otlp.DECODER == "upb"


def test_both_encodings_give_the_same_columns() -> None:
    nested = {"kvlistValue": {"values": [{"key": "k", "value": {"arrayValue": {"values": [{"intValue": "7"}]}}}]}}
    columns = both(
        span({"agent": {"stringValue": "a"}, "raw": nested, "not.wanted": {"stringValue": "x"}}),
        span({"metric.lag": {"doubleValue": 1.5}, "tokens": {"intValue": "12"}, "metric.ok": {"boolValue": True}}),
    )
    assert columns.attributes == [
        {"agent": "a", "raw": {"k": [7]}},
        {"tokens": 12, "metric.": {"lag": 1.5, "ok": True}},
    ]
    assert columns.resources == [{"agent": "r"}]
    assert columns.trace_id[0].hex() == TRACE
    assert columns.parent_id[0].hex() == PARENT
    assert columns.end_ns[0] - columns.start_ns[0] == 500_000_000
    assert columns.error == [True, True]


def test_the_most_trusted_name_counts_whatever_the_order() -> None:
    old, older, new = ({"stringValue": name} for name in ("old", "older", "new"))
    columns = both(
        span({"agent.older": older, "agent.old": old}),
        span({"agent.old": old, "agent": new}),
        span({"agent": {"stringValue": ""}, "agent.older": older}),
    )
    assert [attributes["agent"] for attributes in columns.attributes] == ["old", "new", "older"]


def test_a_parent_of_zeros_is_no_parent() -> None:
    assert both(span({}, parentSpanId="0" * 16)).parent_id == [b""]


def test_spans_without_valid_ids_or_times_are_refused_and_counted() -> None:
    columns = both(
        span({}, traceId="00" * 16),
        span({}, spanId="ab"),
        span({}, parentSpanId="ab"),
        span({}, endTimeUnixNano="0"),
        span({}, endTimeUnixNano=str(2**63)),
        span({}),
    )
    assert len(columns) == 1
    assert columns.refused == {"invalid_id": 3, "invalid_time": 2}


def test_what_json_alone_can_get_wrong_is_refused_and_counted() -> None:
    sent = request(span({}, traceId="zz" * 16), span({}, startTimeUnixNano="soon"), span({}, startTimeUnixNano=5))
    columns = otlp_json.decode_traces(json.dumps(sent).encode(), WANTED)
    assert columns.refused == {"invalid_id": 1, "invalid_time": 1}
    assert columns.start_ns == [5]


def test_a_ten_megabyte_attribute_is_cut_and_counted() -> None:
    columns = both(span({"raw": {"stringValue": "x" * 10_000_000}}))
    assert columns.attributes[0]["raw"] == "x" * MAX_ATTRIBUTE_CHARS
    assert columns.cut == {"attribute_length": 1}


def test_attributes_beyond_the_limit_are_not_read() -> None:
    many: dict[str, Any] = {f"k{i}": {"intValue": "1"} for i in range(MAX_ATTRIBUTES)}
    columns = both(span({**many, "agent": {"stringValue": "late"}}))
    assert columns.attributes == [{}]
    assert columns.cut == {"attributes": 1}


def test_a_value_nested_too_deep_is_cut() -> None:
    value: dict[str, Any] = {"stringValue": "x"}
    for _ in range(20):
        value = {"arrayValue": {"values": [value]}}
    assert both(span({"raw": value})).cut == {"attribute_kind": 1}


def test_items_of_lists_are_bounded_in_each_and_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "MAX_ITEMS_TOGETHER", MAX_ITEMS + 3)
    long, short = ({"arrayValue": {"values": [{"intValue": "1"}] * size}} for size in (MAX_ITEMS + 1, 2))
    columns = both(span({"raw": long}), span({"raw": short}), span({"raw": short}), span({"raw": short}))
    assert [len(one["raw"]) for one in columns.attributes] == [MAX_ITEMS, 2, 1, 0]
    assert columns.cut == {"attribute_items": 3}


def test_too_many_spans_are_refused_before_they_are_parsed() -> None:
    spans = b"\x12\x00" * (MAX_SPANS + 1)
    scope = b"\x12" + varint(len(spans)) + spans
    body = b"\x0a" + varint(len(scope)) + scope
    with pytest.raises(TooLarge, match="spans"):
        otlp.decode_traces(body + b"\xff", WANTED)  # the parser would refuse the last byte as malformed
    with pytest.raises(WireError, match="not an OTLP"):
        otlp.decode_traces(body[:-2000] + b"\xff" * 2000, WANTED)
    with pytest.raises(TooLarge, match="spans"):
        otlp_json.decode_traces(json.dumps(request(*[{}] * (MAX_SPANS + 1))).encode(), WANTED)


def field(number: int, content: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + varint(len(content)) + content


def test_too_many_messages_of_any_kind_are_refused_before_they_are_parsed() -> None:
    many, inner = MAX_SPANS + 1, MAX_INNER_FACTOR * MAX_SPANS + 1
    one_span = {"event": 11, "link": 13}
    bodies = {
        "resource": field(1, b"") * many,
        "scope": field(1, field(2, b"") * many),
        "scope spread over resources": field(1, field(2, b"") * 3) * (MAX_SPANS // 3 + 1),
        **{noun: field(1, field(2, field(2, field(n, b"") * inner))) for noun, n in one_span.items()},
        "fields": field(1, field(2, field(2, field(9, b"") * (MAX_FIELDS + 1)))),
        "more than 6000000 fields": b"\x10\x00" * (MAX_FIELDS + 1),
    }
    for noun, body in bodies.items():
        with pytest.raises(TooLarge, match=noun.partition(" spread")[0]):
            otlp.decode_traces(body + b"\xff", WANTED)  # the parser would refuse the last byte as malformed
    for count in (otlp.count_logs, otlp.count_metrics):
        for body in (bodies["resource"], bodies["scope"], field(1, field(2, field(2, b"") * many))):
            with pytest.raises(TooLarge):
                count(body + b"\xff")
    points = field(1, field(2, field(2, field(5, field(1, b"") * inner))))
    with pytest.raises(TooLarge, match="number data points"):
        otlp.count_metrics(points + b"\xff")


def test_as_many_messages_as_the_limits_allow_are_taken() -> None:
    assert otlp.count_logs(field(1, field(2, field(2, b"") * MAX_SPANS + b"\x1a\x01x"))) == MAX_SPANS
    body = field(1, field(2, field(2, b"") * MAX_SPANS))
    assert otlp.decode_traces(body, WANTED).refused == {"invalid_id": MAX_SPANS}


def test_empty_json_objects_are_bounded_like_spans() -> None:
    for kind, count in (("Spans", decode_json), ("Logs", otlp_json.count_logs), ("Metrics", otlp_json.count_metrics)):
        empty = b"{}," * MAX_SPANS
        with pytest.raises(TooLarge, match="resources"):
            count(f'{{"resource{kind}":['.encode() + empty + b"{}]}")
        with pytest.raises(TooLarge, match="scopes"):
            count(f'{{"resource{kind}":[{{"scope{kind}":['.encode() + empty + b"{}]}]}")


def decode_json(body: bytes) -> SpanColumns:
    return otlp_json.decode_traces(body, WANTED)


def test_what_is_counted_in_json_must_be_objects() -> None:
    for records in (b"1", b"[]", b'"x"'):
        with pytest.raises(WireError):
            otlp_json.count_logs(b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{},' + records + b"]}]}]}")


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes((value & 127 | 128,))
        value >>= 7
    return out + bytes((value,))


def test_too_many_json_objects_are_refused_before_they_are_parsed() -> None:
    with pytest.raises(TooLarge, match="objects"):
        otlp_json.decode_traces(b"[" + b"{}," * otlp_json.MAX_OBJECTS + b"{}]", WANTED)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"resourceSpans": 3}', b"\xff", b'{"resourceSpans":' + b"[" * 100_000]
)
def test_malformed_json_is_a_wire_error(body: bytes) -> None:
    with pytest.raises(WireError):
        otlp_json.decode_traces(body, WANTED)


def test_a_value_nested_without_end_is_a_wire_error() -> None:
    start = b'{"resourceSpans":[{"resource":{"attributes":[{"key":"agent","value":'
    with pytest.raises(WireError, match="recursion"):
        otlp_json.decode_traces(start + b'{"arrayValue":{"values":[' * 50_000, WANTED)
    with pytest.raises(WireError):
        otlp_json.decode_traces(b'{"unknown":' + b"[" * 100_000, WANTED)


@pytest.mark.parametrize("body", [b"\x0a", b"\x0a\xff", b"\xff" * 20, b"\x0a\x02\x12\x05"])
def test_malformed_protobuf_is_a_wire_error(body: bytes) -> None:
    with pytest.raises(WireError):
        otlp.decode_traces(body, WANTED)


def test_numbers_json_writes_as_text_are_numbers() -> None:
    values: list[dict[str, Any]] = [{"doubleValue": "NaN"}, {"doubleValue": 3}, {"intValue": "x"}]
    spans = [span({"tokens": value}) for value in values]
    columns = otlp_json.decode_traces(json.dumps(request(*spans)).encode(), WANTED)
    assert repr([one.get("tokens") for one in columns.attributes]) == "[nan, 3.0, None]"


@pytest.mark.parametrize("beyond", [2**63, -(2**63) - 1, int("9" * 400)])
def test_an_integer_beyond_64_bits_is_no_value_and_counted(beyond: int) -> None:
    values: list[int | str] = [beyond, str(beyond), 2**63 - 1, str(-(2**63))]
    spans = [span({"agent": {"intValue": value}}) for value in values]
    columns = otlp_json.decode_traces(json.dumps(request(*spans)).encode(), WANTED)
    assert [one["agent"] for one in columns.attributes] == [None, None, 2**63 - 1, -(2**63)]
    assert columns.cut == {"attribute_number": 2}
