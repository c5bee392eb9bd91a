"""OTLP over HTTP, through a real server on a loopback port, from the real exporter and from ruder clients."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import random
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
import uvicorn
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tocsin.errors import Overloaded, StorageError, TooLarge
from tocsin.ingest import otlp_http
from tocsin.ingest.admission import Admission, AdmissionConfig
from tocsin.ingest.bodies import MAX_COMPRESSED_BYTES, MAX_INFLATED_BYTES, MAX_MEMBERS, Bodies, TooSlow, inflate
from tocsin.ingest.decoder import Decoder
from tocsin.ingest.otlp_http import Receiver, build_app
from tocsin.model.events import Admitted, EventBatch
from tocsin.runtime.ingest_log import Held

T0 = 1_700_000_000_000_000_000
PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json; charset=utf-8"}
GZIP = {"content-encoding": "gzip"}


class LogInMemory:
    """A sink: admission and a list. `refuse` is raised instead of accepting, `waiting` of `limit` rows wait already."""

    def __init__(self) -> None:
        self.admission = Admission(AdmissionConfig(late_seconds=100))
        self.batches: list[EventBatch] = []
        self.held: list[Held] = []
        self.refuse: Exception | None = None
        self.limit, self.waiting = 1_000, 0
        self.failed: list[Exception] = []

    def room(self) -> tuple[int, int]:
        return self.limit, self.waiting

    def fail(self, error: Exception) -> None:
        self.failed.append(error)

    def accept(self, batch: EventBatch, held: Held) -> Future[Admitted]:
        done: Future[Admitted] = Future()
        if self.refuse is not None:
            done.set_exception(self.refuse)
            return done
        rows, account = self.admission.admit(batch)
        self.batches.append(rows)
        self.held.append(held)
        done.set_result(account)
        return done

    def events(self) -> list[tuple[str, str]]:
        return [
            (batch.agents[agent], batch.actions[action])
            for batch in self.batches
            for agent, action in zip(batch.agent, batch.action, strict=True)
        ]


class Server:
    def __init__(self, sink: LogInMemory, port: int, counters: Any, decoder: Decoder) -> None:
        self.sink = sink
        self.port = port
        self.counters = counters
        self.decoder = decoder

    def ask(
        self, body: Any, headers: dict[str, str], path: str = "/v1/traces", method: str = "POST"
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()


@contextmanager
def running(sink: LogInMemory) -> Iterator[Server]:
    decoder = Decoder()
    decoder.begin(b"", (), T0)
    app = build_app(sink, decoder, [Route("/healthz", lambda _: PlainTextResponse("ok"))], now_ns=lambda: T0)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    ready = threading.Event()
    startup = server.startup

    async def announced(*args: Any, **kwargs: Any) -> None:
        await startup(*args, **kwargs)
        ready.set()

    server.startup = announced
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(20)
        yield Server(sink, server.servers[0].sockets[0].getsockname()[1], app.state.receiver.counters, decoder)
    finally:
        server.should_exit = True
        thread.join(20)
        decoder.close()
    assert not thread.is_alive()


@pytest.fixture
def server() -> Iterator[Server]:
    with running(LogInMemory()) as it:
        yield it


def request(*numbers: int, agent: str = "a", seconds: int = 0) -> ExportTraceServiceRequest:
    """Tool spans `numbers` of trace 1."""
    message = ExportTraceServiceRequest()
    spans = message.resource_spans.add().scope_spans.add().spans
    for number in numbers:
        span = spans.add(trace_id=b"t" * 16, span_id=number.to_bytes(8, "big"), name=f"execute_tool t{number}")
        span.end_time_unix_nano = T0 + seconds * 1_000_000_000
        span.attributes.add(key="tocsin.agent.id").value.string_value = agent
    return message


def json_request(number: int) -> bytes:
    span = {
        "traceId": "0a" * 16,
        "spanId": f"{number:016x}",
        "name": "execute_tool j",
        "endTimeUnixNano": str(T0),
        "attributes": [{"key": "tocsin.agent.id", "value": {"stringValue": "j"}}],
    }
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_the_real_exporter_delivers_a_trace_children_first(server: Server, compression: Compression) -> None:
    exporter = OTLPSpanExporter(f"http://127.0.0.1:{server.port}/v1/traces", compression=compression)
    provider = TracerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "clerk"}
    with tracer.start_as_current_span("invoke_agent clerk", attributes=agent):
        with tracer.start_as_current_span("execute_tool search", attributes={"gen_ai.tool.name": "search"}):
            pass
        with tracer.start_as_current_span("POST /", attributes={"http.request.method": "POST"}):
            pass
    provider.shutdown()
    assert server.sink.events() == [("shop/clerk", "search"), ("shop/clerk", "_final")]
    assert server.counters()["not_behaviour"] == 1
    assert server.counters()["requests"] == 3


def test_json_and_gzip_and_several_gzip_members(server: Server) -> None:
    two = gzip.compress(json_request(1)[:50]) + gzip.compress(json_request(1)[50:])
    for body, headers in [(json_request(2), JSON), (gzip.compress(json_request(3)), JSON | GZIP), (two, JSON | GZIP)]:
        status, reply, answered = server.ask(body, headers)
        assert (status, reply, answered["content-type"]) == (200, b"{}", "application/json")
    assert server.sink.events() == [("j", "j")] * 3


def test_what_is_left_out_is_said_in_the_requests_own_encoding(server: Server) -> None:
    server.ask(request(1).SerializeToString(), PROTOBUF)
    message = request(1, 2)
    message.MergeFrom(request(3, seconds=-200))
    message.resource_spans[0].scope_spans[0].spans.add(name="no ids")
    status, reply, _ = server.ask(message.SerializeToString(), PROTOBUF)
    partial = ExportTraceServiceResponse.FromString(reply).partial_success
    assert (status, partial.rejected_spans) == (200, 2)  # the repeated span is a retransmission, not a loss
    assert partial.error_message == "invalid_id: 1, late: 1"
    body = b'{"resourceSpans":[{"scopeSpans":[{"spans":[{}]}]}]}'
    assert json.loads(server.ask(body, JSON)[1]) == {
        "partialSuccess": {"rejectedSpans": "1", "errorMessage": "invalid_id: 1"}
    }


def test_logs_and_metrics_are_counted_and_honestly_refused(server: Server) -> None:
    logs = ExportLogsServiceRequest()
    logs.resource_logs.add().scope_logs.add().log_records.add()
    logs_reply = ExportLogsServiceResponse.FromString(server.ask(logs.SerializeToString(), PROTOBUF, "/v1/logs")[1])
    assert logs_reply.partial_success.rejected_log_records == 1
    assert "does not analyse log records" in logs_reply.partial_success.error_message
    metrics = ExportMetricsServiceRequest()
    metrics.resource_metrics.add().scope_metrics.add().metrics.add().gauge.data_points.add()
    reply = server.ask(gzip.compress(metrics.SerializeToString()), PROTOBUF | GZIP, "/v1/metrics")[1]
    assert ExportMetricsServiceResponse.FromString(reply).partial_success.rejected_data_points == 1
    body = b'{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"sum":{"dataPoints":[{},{}]}}]}]}]}'
    assert json.loads(server.ask(body, JSON, "/v1/metrics")[1])["partialSuccess"]["rejectedDataPoints"] == "2"
    body = b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{},{},{}]}]}]}'
    assert json.loads(server.ask(body, JSON, "/v1/logs")[1])["partialSuccess"]["rejectedLogRecords"] == "3"
    assert server.ask(b"", PROTOBUF, "/v1/logs")[1] == b""
    assert server.counters()["log_records"] == 4
    assert server.counters()["data_points"] == 3


@pytest.mark.parametrize(
    ("body", "headers", "method", "expected"),
    [
        (b"\xff\xff", PROTOBUF, "POST", 400),
        (b"{", JSON, "POST", 400),
        (b"not gzip", PROTOBUF | GZIP, "POST", 400),
        (gzip.compress(b"x" * 1000, mtime=0)[:-9], PROTOBUF | GZIP, "POST", 400),
        (b"", PROTOBUF, "GET", 405),
        (b"", {"content-type": "text/plain"}, "POST", 415),
        (b"", {}, "POST", 415),
        (b"", JSON | {"content-encoding": "br"}, "POST", 415),
        (gzip.compress(b"\0" * (MAX_INFLATED_BYTES + 1), 9, mtime=0), PROTOBUF | GZIP, "POST", 413),
    ],
)
def test_errors_have_a_status_body_in_the_requests_encoding(
    server: Server, body: bytes, headers: dict[str, str], method: str, expected: int
) -> None:
    status, reply, answered = server.ask(body, headers, method=method)
    assert status == expected
    if answered["content-type"] == "application/x-protobuf":
        error = Status.FromString(reply)
        assert error.code
        assert error.message
    else:
        assert set(json.loads(reply)) == {"code", "message"}
    assert (answered["content-type"] == "application/x-protobuf") == (
        (headers == PROTOBUF and method == "POST") or headers == PROTOBUF | GZIP
    )
    assert server.counters()[f"http_{expected}"] == 1
    assert server.sink.batches == []


def test_a_body_over_the_limit_is_refused_by_its_length_and_without_one(server: Server) -> None:
    declared = {"content-length": str(MAX_COMPRESSED_BYTES + 1)}
    assert server.ask(None, PROTOBUF | GZIP | declared)[0] == 413
    endless = (b"\0" * (1 << 20) for _ in range(17))
    try:
        status = server.ask(endless, PROTOBUF | GZIP)[0]
    except (BrokenPipeError, ConnectionResetError):  # the server hung up before everything was sent
        status = 413
    assert status == 413
    assert server.counters()["http_413"] == 2


def test_overload_says_when_to_come_back_and_loses_nothing(server: Server) -> None:
    server.sink.waiting = 999
    body = request(1, 2).SerializeToString()
    status, reply, headers = server.ask(body, PROTOBUF)
    assert (status, headers["retry-after"]) == (503, "1")
    assert "999 events are waiting" in Status.FromString(reply).message
    assert server.ask(request(8, 9).SerializeToString(), PROTOBUF)[0] == 503
    server.sink.waiting = 0
    assert server.ask(body, PROTOBUF)[:2] == (200, b"")
    assert server.sink.events() == [("a", "t1"), ("a", "t2")]


def test_a_refused_request_keeps_what_it_released_of_earlier_ones(server: Server) -> None:
    child = ExportTraceServiceRequest()
    child.resource_spans.add().scope_spans.add().spans.add(
        trace_id=b"t" * 16, span_id=b"c" * 8, parent_span_id=b"r" * 8, name="execute_tool x", end_time_unix_nano=T0
    )
    assert server.ask(child.SerializeToString(), PROTOBUF)[0] == 200
    assert server.counters()["waiting"] == 1
    root = ExportTraceServiceRequest()
    span = (
        root.resource_spans.add()
        .scope_spans.add()
        .spans.add(trace_id=b"t" * 16, span_id=b"r" * 8, name="invoke_agent a", end_time_unix_nano=T0)
    )
    span.attributes.add(key="tocsin.agent.id").value.string_value = "a"
    server.sink.waiting = 1_000
    assert server.ask(root.SerializeToString(), PROTOBUF)[0] == 503
    server.sink.waiting = 0
    assert server.ask(root.SerializeToString(), PROTOBUF)[0] == 200
    assert sorted(server.sink.events()) == [("a", "_final"), ("a", "x")]


def test_a_storage_failure_is_not_acknowledged(server: Server) -> None:
    server.sink.refuse = StorageError("disk is full")
    assert server.ask(request(1).SerializeToString(), PROTOBUF)[0] == 503


def children() -> bytes:
    """A call that waits for span 'r' of its trace, and another trace's that says nothing of an agent either."""
    message = ExportTraceServiceRequest()
    spans = message.resource_spans.add().scope_spans.add().spans
    for trace in (b"t" * 16, b"u" * 16):
        spans.add(
            trace_id=trace, span_id=b"c" * 8, parent_span_id=b"r" * 8, name="execute_tool x", end_time_unix_nano=T0
        )
    return message.SerializeToString()


def test_a_refused_request_leaves_nothing_behind(server: Server) -> None:
    server.sink.waiting = 1_000
    assert server.ask(children(), PROTOBUF)[0] == 503
    assert server.ask(request(1).SerializeToString(), PROTOBUF)[0] == 503
    assert server.counters()["waiting"] == 0
    server.sink.waiting = 0
    assert server.ask(request(2).SerializeToString(), PROTOBUF)[0] == 200
    assert server.sink.events() == [("a", "t2")]
    assert not any(server.sink.held)


def test_what_waits_is_handed_over_with_the_answer_and_dropped_when_it_goes_out(server: Server) -> None:
    assert server.ask(children(), PROTOBUF)[0] == 200
    assert [len(held.put) for held in server.sink.held] == [2]
    assert server.ask(children(), PROTOBUF)[0] == 200  # repeated: nothing new, but answered only after the first
    assert len(server.sink.held) == 2
    assert server.counters()["waiting"] == 2


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_sender_that_hangs_up_is_counted_once_when_it_comes_again(server: Server, share: float) -> None:
    body = request(1, 2).SerializeToString()
    lines = (
        "POST /v1/traces HTTP/1.1",
        "Host: x",
        "Content-Type: application/x-protobuf",
        f"Content-Length: {len(body)}",
    )
    head = "\r\n".join((*lines, "", ""))
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head.encode() + body[: int(len(body) * share)])
    assert server.ask(body, PROTOBUF)[0] == 200
    assert sorted(server.sink.events()) == [("a", "t1"), ("a", "t2")]


def test_a_request_given_up_at_shutdown_is_made_durable_all_the_same() -> None:
    class Slow(LogInMemory):
        """Answers nothing before the end."""

        def accept(self, batch: EventBatch, held: Held) -> Future[Admitted]:
            super().accept(batch, held)
            taken.set()
            return Future()

    taken = threading.Event()
    sink = Slow()
    decoder = Decoder()
    decoder.begin(b"", (), T0)
    receiver = Receiver(sink, decoder, lambda: T0)

    async def given_up() -> None:
        async with receiver.receiving():
            body = request(1).SerializeToString()
            asking = asyncio.create_task(receiver.traces(PROTOBUF["content-type"], body, False))
            assert await asyncio.to_thread(taken.wait, 20)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(given_up())
    decoder.close()
    assert sink.events() == [("a", "t1")]


def test_requests_beyond_those_in_flight_are_told_to_come_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_http, "MAX_IN_FLIGHT", 0)
    status, _, headers = server.ask(request(1).SerializeToString(), PROTOBUF)
    assert (status, headers["retry-after"]) == (503, "1")


def test_senders_that_stall_keep_nobody_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_http, "MAX_IN_FLIGHT", 1)
    head = "POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as stalled:
        stalled.sendall((head + "Content-Length: 100\r\nExpect: 100-continue\r\n\r\n").encode())
        assert stalled.recv(100).startswith(b"HTTP/1.1 100")  # the application is waiting for the body
        stalled.sendall(b"{")
        assert server.ask(request(1).SerializeToString(), PROTOBUF)[0] == 200


async def stalling(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    await asyncio.Event().wait()


async def arriving(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def dripping() -> AsyncIterator[bytes]:
    while True:
        await asyncio.sleep(0)
        yield b"x"


def test_a_body_that_does_not_arrive_in_time_is_given_up() -> None:
    held = Bodies()

    async def both() -> None:
        with pytest.raises(TooSlow):
            async with held.read(stalling(b"{"), 100, silence_seconds=0.01):
                pass
        with pytest.raises(TooSlow):
            async with held.read(dripping(), 1 << 40, read_seconds=0.01):
                pass

    asyncio.run(both())
    assert held.held_bytes == 0


def test_a_sender_too_slow_is_told_so_and_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_http, "Bodies", Hasty)
    with running(LogInMemory()) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as stalled:
            lines = ("POST /v1/traces HTTP/1.1", "Host: x", "Content-Type: application/json", "Content-Length: 100")
            stalled.sendall("\r\n".join((*lines, "", "{")).encode())
            answer = b"".join(iter(lambda: stalled.recv(4096), b""))  # to the end: the server closes
        assert answer.startswith(b"HTTP/1.1 408")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == 4
        assert server.counters()["http_408"] == 1


class Hasty(Bodies):
    """Waits a hundredth of a second for a byte."""

    def read(self, chunks: AsyncIterator[bytes], limit: int, **_: Any) -> Any:
        return super().read(chunks, limit, silence_seconds=0.01)


def test_bodies_together_are_bounded_and_small_ones_find_room_beside_large_ones() -> None:
    held = Bodies(1000)

    async def several() -> None:
        async with AsyncExitStack() as stack:
            for size in (500, 250, 125):  # each as much as is left beside it
                body = await stack.enter_async_context(held.read(arriving(b"x" * (size - 1), b"y"), 1000))
                assert len(body) == size
            with pytest.raises(Overloaded):
                await stack.enter_async_context(held.read(arriving(b"x" * 63), 1000))
            assert await stack.enter_async_context(held.read(arriving(b"small"), 1000)) == b"small"
            assert held.held_bytes == 880
        with pytest.raises(TooLarge):
            async with held.read(arriving(b"x" * 101), 100):
                pass

    asyncio.run(several())
    assert held.held_bytes == 0


def test_a_gzip_body_of_many_members_is_refused() -> None:
    member = gzip.compress(b"ab")
    assert inflate(member * MAX_MEMBERS) == b"ab" * MAX_MEMBERS
    with pytest.raises(TooLarge, match="members"):
        inflate(member * (MAX_MEMBERS + 1))


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3_000_000])
def test_inflating_gives_back_what_was_compressed_whatever_the_pieces(size: int) -> None:
    noise = random.Random(size).randbytes(size)  # as long compressed as not
    for text in (noise, b"x" * size):
        assert inflate(gzip.compress(text, 1) + gzip.compress(text[:7])) == text + text[:7]


def test_other_routes_stand_beside_the_receiver(server: Server) -> None:
    assert server.ask(None, {}, "/healthz", "GET")[:2] == (200, b"ok")


def test_inflating_stops_at_the_limit() -> None:
    assert inflate(gzip.compress(b"x" * 5000), 5000) == b"x" * 5000
    with pytest.raises(Exception, match="inflates to over 4999 bytes"):
        inflate(gzip.compress(b"x" * 5000), 4999)
