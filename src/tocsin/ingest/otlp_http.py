"""OTLP over HTTP: /v1/traces analysed; /v1/logs and /v1/metrics counted. Protobuf and JSON, plain and gzip.

200 means durable: events, and what is held of spans that wait for their trace. Whether there is room is asked after a
request was decoded and before it changes anything: a refusal (503 with Retry-After) leaves nothing behind, and what was
taken in is handed over even when its sender has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from tocsin.errors import Overloaded, TocsinError, TooLarge, WireError
from tocsin.ingest.admission import DUPLICATE
from tocsin.ingest.attribution import Attributor
from tocsin.ingest.bodies import MAX_COMPRESSED_BYTES, MAX_INFLATED_BYTES, Bodies, TooSlow, inflate
from tocsin.ingest.names import WANTED
from tocsin.ingest.replies import JSON, PROTOBUF, exported, failed
from tocsin.model.events import Admitted, EventBatch
from tocsin.runtime.ingest_log import Held
from tocsin.wire import otlp, otlp_json
from tocsin.wire.otlp import SpanColumns

MAX_IN_FLIGHT = 64  # requests whose body has arrived; further ones are told to come back
MAX_RETRY_AFTER_SECONDS = 5
SWEEP_SECONDS = 5.0


class Sink(Protocol):
    """Where rows go. Called on the receiver's one worker thread."""

    def check_room(self, rows: int) -> None:
        """Raises Overloaded where there is no room for `rows` more, StorageError where there will never be."""
        ...

    def accept(self, batch: EventBatch, held: Held) -> Future[Admitted]:
        """Done once rows and what is held are durable, as one, after everything handed over before."""
        ...


class Receiver:
    """What the three endpoints share. Decoding and attribution run on one worker thread, in order of arrival."""

    def __init__(self, sink: Sink, attributor: Attributor, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._sink = sink
        self._attributor = attributor
        self._now_ns = now_ns
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="tocsin-decode")
        self._in_flight = 0
        self.bodies = Bodies()
        self.counts: Counter[str] = Counter()  # requests, spans and what was left out, by reason

    def counters(self) -> dict[str, int]:
        """Everything counted since the start, by reason."""
        return {**self.counts, **self._attributor.counts, "waiting": self._attributor.waiting}

    async def traces(self, encoding: str, body: bytes, gzipped: bool) -> Response:
        """Take in a trace request."""
        columns, accepted = await self._work(self._take_in, encoding, body, gzipped)
        admitted: Admitted = await asyncio.wrap_future(accepted)
        left_out: Counter[str] = Counter(columns.refused)
        left_out.update({reason: count for reason, count in admitted.refused.items() if reason != DUPLICATE})
        self.counts.update(spans=len(columns))
        self.counts.update(columns.refused)
        self.counts.update(columns.cut)
        notes = {**left_out, **{f"{reason} cut": count for reason, count in columns.cut.items()}}
        return exported(encoding, "spans", sum(left_out.values()), _sentence(notes))

    async def logs(self, encoding: str, body: bytes, gzipped: bool) -> Response:
        """Count log records; none is analysed, and the reply says so."""
        count = otlp_json.count_logs if encoding == JSON else otlp.count_logs
        records = await self._work(lambda: count(inflate(body) if gzipped else body))
        self.counts.update(log_records=records)
        return exported(encoding, "log_records", records, _UNUSED.format("log records") if records else "")

    async def metrics(self, encoding: str, body: bytes, gzipped: bool) -> Response:
        """Count metric data points; none is analysed, and the reply says so."""
        count = otlp_json.count_metrics if encoding == JSON else otlp.count_metrics
        points = await self._work(lambda: count(inflate(body) if gzipped else body))
        self.counts.update(data_points=points)
        return exported(encoding, "data_points", points, _UNUSED.format("metrics") if points else "")

    async def sweep(self) -> None:
        """Pass on rows that have waited for their trace too long; later, where there is no room for them now."""
        with contextlib.suppress(TocsinError):
            await asyncio.wrap_future(await self._work(self._take_out))

    async def sweep_forever(self) -> None:
        """Sweep every few seconds until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.sweep()

    def close(self) -> None:
        """End the worker thread."""
        self._worker.shutdown()

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

    def _take_in(self, encoding: str, body: bytes, gzipped: bool) -> tuple[SpanColumns, Future[Admitted]]:
        """Everything from bytes to the sink, in one go: whoever stops waiting for it does not stop it half way."""
        decode = otlp_json.decode_traces if encoding == JSON else otlp.decode_traces
        columns = decode(inflate(body) if gzipped else body, WANTED)
        self._sink.check_room(len(columns))
        batch = self._attributor.attribute(columns, self._now_ns())
        # Even where there is nothing new: a repeated request must not be answered before what it repeats is durable.
        return columns, self._sink.accept(batch, self._attributor.take_held())

    def _take_out(self) -> Future[Admitted]:
        self._sink.check_room(1)
        return self._sink.accept(self._attributor.sweep(self._now_ns()), self._attributor.take_held())

    async def _work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)


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
    api_routes: Sequence[BaseRoute] = (),
    *,
    salt: bytes = b"",
    held: Iterable[bytes] = (),
    now_ns: Callable[[], int] = time.time_ns,
    lifespan: Callable[[Starlette], contextlib.AbstractAsyncContextManager[None]] | None = None,
) -> Starlette:
    """An ASGI application: OTLP in, and `api_routes` beside it. `app.state.receiver.counters()` tells what came.

    `salt` keys the digests of raw text that senders did not digest themselves; `held` is what the sink still holds for
    an earlier receiver; `lifespan` runs around its own. Raises WireError where a held record is damaged.
    """
    attributor = Attributor(salt)
    attributor.restore(held, now_ns())
    receiver = Receiver(sink, attributor, now_ns)

    @contextlib.asynccontextmanager
    async def living(app: Starlette) -> AsyncGenerator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if lifespan is not None:
                await stack.enter_async_context(lifespan(app))
            stack.callback(receiver.close)
            sweeping = asyncio.create_task(receiver.sweep_forever())
            try:
                yield
            finally:
                sweeping.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sweeping

    app = Starlette(routes=[*otlp_routes(receiver), *api_routes], lifespan=living)
    app.state.receiver = receiver
    return app


_UNUSED = "tocsin does not analyse {} yet: they were counted and dropped"


def _sentence(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))
