"""OTLP over HTTP: /v1/traces analysed; /v1/logs and /v1/metrics counted. Protobuf and JSON, plain and gzip.

200 means durable: events, and what is held of spans that wait for their trace. Whether there is room is asked after a
request was decoded and before it changes anything: a refusal (503 with Retry-After) leaves nothing behind, and what was
taken in is handed over even when its sender has gone. Decoding happens in a process of its own (`ingest/decoder.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from tocsin.errors import InternalError, Overloaded, TocsinError, TooLarge, WireError
from tocsin.ingest.admission import DUPLICATE
from tocsin.ingest.bodies import MAX_COMPRESSED_BYTES, MAX_INFLATED_BYTES, Bodies, TooSlow
from tocsin.ingest.decoder import Decoder
from tocsin.ingest.exchange import Answer, Count, Counted, Room, Sweep, Taken, Traces
from tocsin.ingest.replies import JSON, PROTOBUF, exported, failed
from tocsin.model.events import Admitted, EventBatch
from tocsin.runtime.ingest_log import Held
from tocsin.wire.events import decode_batch

MAX_IN_FLIGHT = 64  # requests whose body has arrived; further ones are told to come back
MAX_RETRY_AFTER_SECONDS = 5
SWEEP_SECONDS = 5.0


class Sink(Protocol):
    """Where rows go. Called on the event loop: neither may take long."""

    def room(self) -> tuple[int, int]:
        """How many rows may wait and how many do. Raises StorageError where nothing will ever be taken again."""
        ...

    def accept(self, batch: EventBatch, held: Held) -> Future[Admitted]:
        """Done once rows and what is held are durable, as one, after everything handed over before."""
        ...

    def fail(self, error: Exception) -> None:
        """Take nothing more: what feeds this has broken."""
        ...


class Receiver:
    """What the three endpoints share, on one event loop. The decoder answers in order of arrival."""

    def __init__(self, sink: Sink, decoder: Decoder, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._sink = sink
        self._decoder = decoder
        self._now_ns = now_ns
        self._in_flight = 0
        self._handed = 0  # rows, ever
        self._attributed: Mapping[str, int] = {}
        self.bodies = Bodies()
        self.counts: Counter[str] = Counter()  # requests, spans and what was left out, by reason

    def counters(self) -> dict[str, int]:
        """Everything counted since the start, by reason."""
        return {**self.counts, "waiting": 0, **self._attributed}

    async def traces(self, encoding: str, body: bytes, gzipped: bool) -> Response:
        """Take in a trace request."""
        asked = Traces(encoding == JSON, gzipped, self._now_ns(), self._room())
        taken, accepted = await self._decoder.ask(asked, body, self._hand_over)
        admitted: Admitted = await asyncio.wrap_future(accepted)
        left_out: Counter[str] = Counter(taken.refused)
        left_out.update({reason: count for reason, count in admitted.refused.items() if reason != DUPLICATE})
        self.counts.update(spans=taken.spans)
        self.counts.update(taken.refused)
        self.counts.update(taken.cut)
        notes = {**left_out, **{f"{reason} cut": count for reason, count in taken.cut.items()}}
        return exported(encoding, "spans", sum(left_out.values()), _sentence(notes))

    async def logs(self, encoding: str, body: bytes, gzipped: bool) -> Response:
        """Count log records; none is analysed, and the reply says so."""
        records = await self._decoder.ask(Count("logs", encoding == JSON, gzipped), body, _counted)
        self.counts.update(log_records=records)
        return exported(encoding, "log_records", records, _UNUSED.format("log records") if records else "")

    async def metrics(self, encoding: str, body: bytes, gzipped: bool) -> Response:
        """Count metric data points; none is analysed, and the reply says so."""
        points = await self._decoder.ask(Count("metrics", encoding == JSON, gzipped), body, _counted)
        self.counts.update(data_points=points)
        return exported(encoding, "data_points", points, _UNUSED.format("metrics") if points else "")

    async def sweep(self) -> None:
        """Pass on rows that have waited for their trace too long; later, where there is no room for them now."""
        with contextlib.suppress(TocsinError):
            asked = Sweep(self._now_ns(), self._room())
            _, accepted = await self._decoder.ask(asked, b"", self._hand_over)
            await asyncio.wrap_future(accepted)

    @contextlib.asynccontextmanager
    async def receiving(self) -> AsyncGenerator[None]:
        """While this lasts, answers are read and what has waited too long is swept up now and then."""
        await self._decoder.connect()
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._sweep_forever())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._decoder.disconnect()

    @contextlib.contextmanager
    def admitted(self) -> Any:
        """A place among the requests in flight. Raises Overloaded when there is none."""
        if self._in_flight >= MAX_IN_FLIGHT:
            raise Overloaded(f"{self._in_flight} requests are in flight", remedy="send again later")
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    def _room(self) -> Room:
        limit, waiting = self._sink.room()
        return Room(limit, self._handed - waiting)

    async def _read(self) -> None:
        try:
            await self._decoder.read()
        except Exception as error:  # noqa: BLE001 - whatever ended it: who goes on sending must hear of it
            self._sink.fail(error)

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.sweep()

    def _hand_over(self, answer: Answer, rows: memoryview) -> tuple[Taken, Future[Admitted]]:
        """Whoever stops waiting for an answer does not keep what it brings from the sink."""
        assert isinstance(answer, Taken)
        self._attributed = {**answer.counts, "waiting": answer.waiting}
        batch = decode_batch(rows)
        self._handed += len(batch)
        # Even where there is nothing new: a repeated request must not be answered before what it repeats is durable.
        return answer, self._sink.accept(batch, Held(answer.drop, answer.put))


def _counted(answer: Answer, _: memoryview) -> int:
    assert isinstance(answer, Counted)
    return answer.count


class _Endpoint:
    """One path as an ASGI application: checks the request, maps errors to replies."""

    def __init__(self, receiver: Receiver, handle: Callable[[str, bytes, bool], Any]) -> None:
        self._receiver = receiver
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self._receiver.counts["requests"] += 1
        try:
            response = await self._respond(request)
        except ClientDisconnect:
            return
        if response.status_code != 200:
            self._receiver.counts[f"http_{response.status_code}"] += 1
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        encoding = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if request.method != "POST":
            return failed(JSON, 405, f"{request.method} is not POST", {"allow": "POST"})
        if encoding not in (PROTOBUF, JSON):
            return failed(JSON, 415, f"content type {encoding[:80]!r} is neither {PROTOBUF} nor {JSON}")
        if coding not in ("identity", "gzip"):
            return failed(encoding, 415, f"content encoding {coding[:80]!r} is not gzip", {"accept-encoding": "gzip"})
        gzipped = coding == "gzip"
        limit = MAX_COMPRESSED_BYTES if gzipped else MAX_INFLATED_BYTES
        try:
            length = request.headers.get("content-length", "")
            if length.isdecimal() and int(length[:20]) > limit:
                raise TooLarge(f"request body is over {limit} bytes", remedy="export smaller batches")
            # A place is for who has something to be worked on: senders that stall take none.
            async with self._receiver.bodies.read(request.stream(), limit) as body:
                with self._receiver.admitted():
                    return await self._handle(encoding, body, gzipped)
        except TooSlow as error:
            return failed(encoding, 408, str(error), {"connection": "close"})
        except TooLarge as error:
            return failed(encoding, 413, str(error))
        except WireError as error:
            return failed(encoding, 400, str(error))
        except Overloaded as error:
            seconds = min(max(1, error.retry_after_seconds), MAX_RETRY_AFTER_SECONDS)
            return failed(encoding, 503, str(error), {"retry-after": str(seconds)})
        except InternalError as error:
            return failed(encoding, 500, str(error))  # not 503: sent again, it would fail again
        except TocsinError as error:
            return failed(encoding, 503, str(error), {"retry-after": str(MAX_RETRY_AFTER_SECONDS)})


def otlp_routes(receiver: Receiver) -> list[BaseRoute]:
    """The three OTLP paths."""
    return [
        Route("/v1/traces", _Endpoint(receiver, receiver.traces)),
        Route("/v1/logs", _Endpoint(receiver, receiver.logs)),
        Route("/v1/metrics", _Endpoint(receiver, receiver.metrics)),
    ]


def build_app(
    sink: Sink,
    decoder: Decoder,
    api_routes: Sequence[BaseRoute] = (),
    *,
    now_ns: Callable[[], int] = time.time_ns,
    lifespan: Callable[[Starlette], contextlib.AbstractAsyncContextManager[None]] | None = None,
) -> Starlette:
    """An ASGI application: OTLP in, and `api_routes` beside it. `app.state.receiver.counters()` tells what came.

    `decoder` has begun, and is closed by whoever began it, after the application has ended; `lifespan` runs around the
    application's own.
    """
    receiver = Receiver(sink, decoder, now_ns)

    @contextlib.asynccontextmanager
    async def living(app: Starlette) -> AsyncGenerator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if lifespan is not None:
                await stack.enter_async_context(lifespan(app))
            await stack.enter_async_context(receiver.receiving())
            yield

    app = Starlette(routes=[*otlp_routes(receiver), *api_routes], lifespan=living)
    app.state.receiver = receiver
    return app


_UNUSED = "tocsin does not analyse {} yet: they were counted and dropped"


def _sentence(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))
