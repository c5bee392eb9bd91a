"""OTLP/JSON to the same columns of spans as `tocsin.wire.otlp`.

Not through protobuf's `json_format`: OTLP writes ids as hex, which that reads as base64. Integers may be text, names
are lowerCamelCase, unknown fields are ignored (OTLP 1.x, "JSON Protobuf Encoding").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tocsin.errors import TooLarge, WireError
from tocsin.wire.otlp import (
    MAX_ATTRIBUTE_CHARS,
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    MAX_INT64,
    MAX_SPANS,
    STATUS_ERROR,
    SpanColumns,
    Wanted,
)

# Each object costs a hundred bytes or so once decoded; a span with ten attributes is some twenty-five of them.
MAX_OBJECTS = 2_500_000


class _Message(msgspec.Struct, rename="camel", gc=False):
    """Fields as in the protobuf messages of the same name. Lists are by default (): an empty object costs no list."""


class _Value(_Message):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | str | None = None
    double_value: float | str | None = None
    array_value: _Array | None = None
    kvlist_value: _Pairs | None = None
    bytes_value: str | None = None


class _Pair(_Message):
    key: str = ""
    value: _Value | None = None


class _Array(_Message):
    values: Sequence[_Value] = ()


class _Pairs(_Message):
    values: Sequence[_Pair] = ()


class _Resource(_Message):
    attributes: Sequence[_Pair] = ()


class _Status(_Message):
    code: int | str = 0


class _Span(_Message):
    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str = ""
    name: str = ""
    start_time_unix_nano: int | str = 0
    end_time_unix_nano: int | str = 0
    attributes: Sequence[_Pair] = ()
    status: _Status | None = None


class _Counted(_Message):
    """Anything that is an object."""


class _DataPoints(_Message):
    data_points: Sequence[_Counted] = ()


class _Metric(_Message):
    gauge: _DataPoints | None = None
    sum: _DataPoints | None = None
    histogram: _DataPoints | None = None
    exponential_histogram: _DataPoints | None = None
    summary: _DataPoints | None = None


class _Scope(_Message):
    spans: Sequence[_Span] = ()
    log_records: Sequence[_Counted] = ()
    metrics: Sequence[_Metric] = ()


class _ResourceSpans(_Message):
    resource: _Resource | None = None
    scope_spans: Sequence[_Scope] = ()
    scope_logs: Sequence[_Scope] = ()
    scope_metrics: Sequence[_Scope] = ()


class _Request(_Message):
    resource_spans: Sequence[_ResourceSpans] = ()
    resource_logs: Sequence[_ResourceSpans] = ()
    resource_metrics: Sequence[_ResourceSpans] = ()


_request_decoder = msgspec.json.Decoder(_Request)


def decode_traces(body: bytes, wanted: Wanted) -> SpanColumns:
    """The spans of an OTLP/JSON trace request. Raises WireError where malformed, TooLarge over a limit."""
    columns = SpanColumns()
    for resource_spans in _bounded(_decode(body).resource_spans):
        resource = resource_spans.resource.attributes if resource_spans.resource is not None else ()
        columns.resources.append(_attributes(resource, wanted, columns))
        for scope in resource_spans.scope_spans:
            if len(columns) + len(scope.spans) > MAX_SPANS:
                raise TooLarge(f"request carries more than {MAX_SPANS} spans", remedy="export smaller batches")
            for span in scope.spans:
                _add(span, wanted, columns)
    return columns


def count_logs(body: bytes) -> int:
    """Number of log records in an OTLP/JSON logs request. Raises WireError."""
    resources = _bounded(_decode(body).resource_logs)
    return sum(len(scope.log_records) for resource in resources for scope in resource.scope_logs)


def count_metrics(body: bytes) -> int:
    """Number of metric data points in an OTLP/JSON metrics request. Raises WireError."""
    return sum(
        len(points.data_points)
        for resource in _bounded(_decode(body).resource_metrics)
        for scope in resource.scope_metrics
        for one in scope.metrics
        for points in (one.gauge, one.sum, one.histogram, one.exponential_histogram, one.summary)
        if points is not None
    )


def _decode(body: bytes) -> _Request:
    if body.count(b"{") > MAX_OBJECTS:
        raise TooLarge(f"request holds more than {MAX_OBJECTS} JSON objects", remedy="export smaller batches")
    try:
        return _request_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not OTLP/JSON: {error}") from error


def _bounded(resources: Sequence[_ResourceSpans]) -> Sequence[_ResourceSpans]:
    """The same, where they and their scopes are no more than so many spans could be."""
    if len(resources) > MAX_SPANS:
        raise TooLarge(f"request carries more than {MAX_SPANS} resources", remedy="export smaller batches")
    scopes = sum(len(one.scope_spans) + len(one.scope_logs) + len(one.scope_metrics) for one in resources)
    if scopes > MAX_SPANS:
        raise TooLarge(f"request carries more than {MAX_SPANS} scopes", remedy="export smaller batches")
    return resources


def _add(span: _Span, wanted: Wanted, columns: SpanColumns) -> None:
    try:
        ids = bytes.fromhex(span.trace_id), bytes.fromhex(span.span_id), bytes.fromhex(span.parent_span_id)
    except ValueError:
        columns.refuse("invalid_id")
        return
    start_ns, end_ns = _integer(span.start_time_unix_nano), _integer(span.end_time_unix_nano)
    if start_ns is None or end_ns is None:
        columns.refuse("invalid_time")
        return
    code = span.status.code if span.status is not None else 0
    error = code in (STATUS_ERROR, "STATUS_CODE_ERROR")
    columns.add(*ids, span.name, start_ns, end_ns, error, _attributes(span.attributes, wanted, columns))


def _attributes(pairs: Sequence[_Pair], wanted: Wanted, columns: SpanColumns) -> dict[str, Any]:
    if len(pairs) > MAX_ATTRIBUTES:
        columns.shorten("attributes")
        pairs = pairs[:MAX_ATTRIBUTES]
    found: dict[str, Any] = {}
    aliases: dict[str, Any] = {}
    for pair in pairs:
        name = wanted.filed_as.get(pair.key)
        if pair.value is None or (name is None and not pair.key.startswith(wanted.prefix)):
            continue
        value = _plain(pair.value, columns, 0)
        if name is None:
            found.setdefault(wanted.prefix, {})[pair.key[len(wanted.prefix) :]] = value
        elif name == pair.key:
            found[name] = value
        else:
            aliases[pair.key] = value
    wanted.settle(found, aliases)
    return found


def _plain(value: _Value, columns: SpanColumns, depth: int) -> Any:
    """An `AnyValue` as Python values; what is too deep, too long or binary is None or cut, and counted."""
    if value.string_value is not None:
        if len(value.string_value) > MAX_ATTRIBUTE_CHARS:
            columns.shorten("attribute_length")
        return value.string_value[:MAX_ATTRIBUTE_CHARS]
    if value.bool_value is not None:
        return value.bool_value
    if value.int_value is not None:
        number = _integer(value.int_value)
        if number is None:
            columns.shorten("attribute_number")
        return number
    if value.double_value is not None:
        return _double(value.double_value)
    holder = value.array_value or value.kvlist_value
    if holder is None or depth >= MAX_DEPTH:
        if holder is not None or value.bytes_value is not None:
            columns.shorten("attribute_kind")
        return None
    items = columns.readable(len(holder.values))
    if isinstance(holder, _Array):
        return [_plain(item, columns, depth + 1) for item in holder.values[:items]]
    pairs = holder.values[:items]
    return {pair.key: _plain(pair.value or _Value(), columns, depth + 1) for pair in pairs}


def _integer(value: int | str) -> int | None:
    """A signed 64-bit integer, written as a number or as text; None for anything else."""
    if isinstance(value, str):
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
            return None
        value = int(value)
    return value if -MAX_INT64 - 1 <= value <= MAX_INT64 else None


def _double(value: float | str) -> float | None:
    """A double; OTLP writes 'NaN' and 'Infinity' as text."""
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(value) if len(value) <= 32 else None
    except ValueError:
        return None
