"""OTLP/protobuf trace requests to columns of spans (OpenTelemetry Protocol 1.x, `ExportTraceServiceRequest`).

Only attributes the caller asks for are read; everything else a span carries is left undecoded. Sizes are bounded
before and while decoding: whatever the bytes, the result is `SpanColumns` or a WireError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.internal import api_implementation
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tocsin.errors import TooLarge, WireError

MAX_SPANS = 100_000  # per request; as many resources, scopes, log records or metrics
MAX_ATTRIBUTES = 1_024  # per span or resource; more are left unread
MAX_ATTRIBUTE_CHARS = 65_536  # of one string; the rest is cut off
MAX_ITEMS = 4_096  # of one list or map value
MAX_ITEMS_TOGETHER = 500_000  # of all list and map values that are read; later ones are left unread
MAX_DEPTH = 16  # of lists and maps within a value
MAX_INT64 = (1 << 63) - 1
MAX_TIME_NS = MAX_INT64
STATUS_ERROR = 2
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)

# The pure-Python decoder is some thirty times slower and recurses on hostile input.
DECODER = api_implementation.Type()


class Wanted:
    """Attributes to read: names of one concept each, most trusted first, and every name that starts with `prefix`.

    An attribute is filed under the first name of its concept; of several, the most trusted non-empty one counts.
    Those with the prefix are filed together, as a dict without it, under the prefix.
    """

    def __init__(self, concepts: Sequence[Sequence[str]], prefix: str) -> None:
        self.filed_as = {name: concept[0] for concept in concepts for name in concept}
        self.rank = {name: rank for concept in concepts for rank, name in enumerate(concept)}
        self.prefix = prefix

    def settle(self, found: dict[str, Any], aliases: dict[str, Any]) -> None:
        """File attributes that came under other names than their concept's first."""
        for name in sorted(aliases, key=self.rank.__getitem__):
            if found.get(self.filed_as[name], "") == "":
                found[self.filed_as[name]] = aliases[name]


@dataclass(slots=True)
class SpanColumns:
    """Spans in the order sent, one list per field. `refused` and `cut` count what was left out, by reason."""

    trace_id: list[bytes] = field(default_factory=list[bytes])  # 16 bytes each
    span_id: list[bytes] = field(default_factory=list[bytes])  # 8 bytes each
    parent_id: list[bytes] = field(default_factory=list[bytes])  # 8 bytes, or none for a root
    name: list[str] = field(default_factory=list[str])
    start_ns: list[int] = field(default_factory=list[int])
    end_ns: list[int] = field(default_factory=list[int])
    error: list[bool] = field(default_factory=list[bool])
    attributes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    resource: list[int] = field(default_factory=list[int])  # index into resources
    resources: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    refused: dict[str, int] = field(default_factory=dict[str, int])  # spans
    items: int = 0  # of list and map values
    cut: dict[str, int] = field(default_factory=dict[str, int])  # attribute values shortened or left unread

    def __len__(self) -> int:
        return len(self.span_id)

    def refuse(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def shorten(self, reason: str) -> None:
        self.cut[reason] = self.cut.get(reason, 0) + 1

    def readable(self, items: int) -> int:
        """How many of a value's `items` may be read, which count as read; the rest is counted as cut."""
        allowed = min(items, MAX_ITEMS, MAX_ITEMS_TOGETHER - self.items)
        self.items += allowed
        if allowed < items:
            self.shorten("attribute_items")
        return allowed

    def add(
        self,
        trace_id: bytes,
        span_id: bytes,
        parent_id: bytes,
        name: str,
        start_ns: int,
        end_ns: int,
        error: bool,
        attributes: dict[str, Any],
    ) -> None:
        """Append a span of the latest resource, or count why not."""
        if len(trace_id) != 16 or len(span_id) != 8 or trace_id == _NO_TRACE or span_id == _NO_SPAN:
            self.refuse("invalid_id")
            return
        if len(parent_id) != 8 and parent_id:
            self.refuse("invalid_id")
            return
        if not 0 <= start_ns <= MAX_TIME_NS or not 0 < end_ns <= MAX_TIME_NS:
            self.refuse("invalid_time")
            return
        self.trace_id.append(trace_id)
        self.span_id.append(span_id)
        # Some senders write an absent parent as eight zeros.
        self.parent_id.append(parent_id if parent_id != _NO_SPAN else b"")
        self.name.append(name[:MAX_ATTRIBUTE_CHARS])
        self.start_ns.append(start_ns)
        self.end_ns.append(end_ns)
        self.error.append(error)
        self.attributes.append(attributes)
        self.resource.append(len(self.resources) - 1)


def decode_traces(body: bytes, wanted: Wanted) -> SpanColumns:
    """The spans of an `ExportTraceServiceRequest`. Raises WireError where malformed, TooLarge over a limit."""
    request = ExportTraceServiceRequest()
    _parse(request, body)
    columns = SpanColumns()
    add = columns.add
    for resource_spans in request.resource_spans:
        columns.resources.append(_attributes(resource_spans.resource.attributes, wanted, columns))
        for scope_spans in resource_spans.scope_spans:
            if len(columns) + len(scope_spans.spans) > MAX_SPANS:
                raise TooLarge(f"request carries more than {MAX_SPANS} spans", remedy="export smaller batches")
            for span in scope_spans.spans:
                add(
                    span.trace_id,
                    span.span_id,
                    span.parent_span_id,
                    span.name,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.HasField("status") and span.status.code == STATUS_ERROR,
                    _attributes(span.attributes, wanted, columns),
                )
    return columns


def count_logs(body: bytes) -> int:
    """Number of log records in an `ExportLogsServiceRequest`. Raises WireError."""
    request = ExportLogsServiceRequest()
    _parse(request, body)
    return sum(len(scope.log_records) for resource in request.resource_logs for scope in resource.scope_logs)


def count_metrics(body: bytes) -> int:
    """Number of metric data points in an `ExportMetricsServiceRequest`. Raises WireError."""
    request = ExportMetricsServiceRequest()
    _parse(request, body)
    return sum(
        len(getattr(metric, kind).data_points)
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if (kind := metric.WhichOneof("data")) is not None
    )


def _parse(message: Any, body: bytes) -> None:
    # Two bytes are the least that anything takes: of a shorter body no limit can be broken.
    if len(body) > 2 * MAX_SPANS:
        # Imported late: those who only send do without the compiler.
        from tocsin.wire.otlp_scan import check_counts

        check_counts(body, message, MAX_SPANS)
    try:
        message.ParseFromString(body)
    except (DecodeError, RecursionError) as error:
        raise WireError(f"not an OTLP {message.DESCRIPTOR.name}: {error}") from error


def _attributes(pairs: Any, wanted: Wanted, columns: SpanColumns) -> dict[str, Any]:
    if len(pairs) > MAX_ATTRIBUTES:
        columns.shorten("attributes")
        pairs = pairs[:MAX_ATTRIBUTES]
    filed_as, prefix = wanted.filed_as, wanted.prefix
    found: dict[str, Any] = {}
    aliases: dict[str, Any] | None = None
    for pair in pairs:
        key = pair.key
        name = filed_as.get(key)
        if name is not None:
            value = pair.value.string_value
            if not value or len(value) > MAX_ATTRIBUTE_CHARS:
                value = _plain(pair.value, columns, 0)
            if name == key:
                found[key] = value
            else:
                aliases = aliases or {}
                aliases[key] = value
        elif key.startswith(prefix):
            found.setdefault(prefix, {})[key[len(prefix) :]] = _plain(pair.value, columns, 0)
    if aliases:
        wanted.settle(found, aliases)
    return found


def _plain(value: Any, columns: SpanColumns, depth: int) -> Any:
    """An `AnyValue` as Python values; what is too deep, too long or binary is None or cut, and counted."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        text: str = value.string_value
        if len(text) > MAX_ATTRIBUTE_CHARS:
            columns.shorten("attribute_length")
        return text[:MAX_ATTRIBUTE_CHARS]
    if kind in ("int_value", "bool_value", "double_value"):
        return getattr(value, kind)
    if kind is None:
        return None
    if kind not in ("array_value", "kvlist_value") or depth >= MAX_DEPTH:
        columns.shorten("attribute_kind")
        return None
    items = getattr(value, kind).values
    items = items[: columns.readable(len(items))]
    if kind == "array_value":
        return [_plain(item, columns, depth + 1) for item in items]
    return {item.key: _plain(item.value, columns, depth + 1) for item in items}
