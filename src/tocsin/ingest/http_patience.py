"""Connections that bring no request are not kept: uvicorn waits for ever for headers that never end, this does not.

A connection has `HEADER_SECONDS` to bring the headers of its next request, counted from its opening or from the answer
before. Where there are more than `most_connections()`, the one that has waited longest for a request makes room: who
sends one finds a place beside any number of idle ones. Bodies have limits of their own (`ingest/bodies.py`).
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS = 10.0
LEAST_CONNECTIONS, MOST_CONNECTIONS = 64, 4096


class _Patient(HttpToolsProtocol):
    counts: ClassVar[Counter[str]]
    header_seconds: ClassVar[float]
    limit: ClassVar[int]
    waits: ClassVar[Iterator[int]]
    _due: asyncio.TimerHandle | None = None
    _place = 0  # in the order of those that wait; clocks are too coarse to tell

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_headers()
        if len(self.connections) > self.limit:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():  # no request is waiting behind this one
            self._wait_for_headers()

    def _wait_for_headers(self) -> None:
        self._stop_waiting()
        self._place = next(self.waits)
        self._due = self.loop.call_later(self.header_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_up(self) -> None:
        self._stop_waiting()
        self.counts["connections_without_request"] += 1
        self.transport.abort()

    def _make_room(self) -> None:
        ours = cast("set[_Patient]", self.connections)
        idle = [one for one in ours if one._due is not None]
        min(idle, key=lambda one: one._place)._give_up()  # this one waits too


def patient(
    counts: Counter[str], *, header_seconds: float = HEADER_SECONDS, limit: int | None = None
) -> type[asyncio.Protocol]:
    """For `uvicorn.Config(http=...)`. Connections given up are counted under `connections_without_request`."""
    body: dict[str, Any] = {
        "counts": counts,
        "header_seconds": header_seconds,
        "limit": most_connections() if limit is None else limit,
        "waits": count(),
    }
    return type("Patient", (_Patient,), body)


def most_connections() -> int:
    """Half of the files that this process may have open, within reason: the other half is for its own."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MOST_CONNECTIONS if files == resource.RLIM_INFINITY else files // 2
    return max(LEAST_CONNECTIONS, min(MOST_CONNECTIONS, allowed))
