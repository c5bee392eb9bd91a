"""Replies of an OTLP/HTTP receiver, in the request's own encoding: export results and `google.rpc.Status` errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from starlette.responses import Response

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
MAX_MESSAGE_CHARS = 512

_RESPONSES: dict[str, Any] = {
    "spans": ExportTraceServiceResponse,
    "log_records": ExportLogsServiceResponse,
    "data_points": ExportMetricsServiceResponse,
}
_JSON_NAMES = {"spans": "rejectedSpans", "log_records": "rejectedLogRecords", "data_points": "rejectedDataPoints"}

# HTTP status -> google.rpc.Code.
_RPC_CODES = {400: 3, 405: 12, 408: 4, 411: 3, 413: 8, 415: 3, 429: 8, 503: 14}


def exported(encoding: str, noun: str, rejected: int, message: str) -> Response:
    """200 with an `Export*ServiceResponse`; `noun` is 'spans', 'log_records' or 'data_points'."""
    message = message[:MAX_MESSAGE_CHARS]
    partial = bool(rejected or message)
    if encoding == JSON:
        result = {_JSON_NAMES[noun]: str(rejected), "errorMessage": message}
        return Response(msgspec.json.encode({"partialSuccess": result} if partial else {}), media_type=JSON)
    response = _RESPONSES[noun]()
    if partial:
        setattr(response.partial_success, f"rejected_{noun}", rejected)
        response.partial_success.error_message = message
    return Response(response.SerializeToString(), media_type=PROTOBUF)


def failed(encoding: str, status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error with a `google.rpc.Status` body."""
    message = message[:MAX_MESSAGE_CHARS]
    code = _RPC_CODES.get(status, 2)
    if encoding == JSON:
        body = msgspec.json.encode({"code": code, "message": message})
    else:
        # Two fields: code = 1 (varint), message = 2 (string). Not worth a dependency on their definitions.
        text = message.encode("utf-8", "replace")
        body = bytes((0x08, code, 0x12)) + _varint(len(text)) + text
    return Response(body, status, headers, media_type=encoding)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
