"""Connections that bring no request, against a real server: they end, and keep nobody out."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tocsin.ingest import http_patience
from tocsin.ingest.http_patience import LEAST_CONNECTIONS, MOST_CONNECTIONS, most_connections, patient

GET = b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n"


async def quick(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def slow(_: Request) -> PlainTextResponse:
    await asyncio.sleep(0.6)  # longer than headers may take: what is tested is that this is not cut
    return PlainTextResponse("late")


@contextmanager
def serving(**options: float) -> Iterator[tuple[Callable[[bytes], socket.socket], Counter[str]]]:
    """A server, as (opens a connection and sends on it, what it counted)."""
    counts: Counter[str] = Counter()
    app = Starlette(routes=[Route("/quick", quick), Route("/slow", slow)])
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=patient(counts, **options), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    opened: list[socket.socket] = []

    def connect(data: bytes) -> socket.socket:
        opened.append(socket.create_connection(listening.getsockname(), timeout=20))
        opened[-1].sendall(data)
        return opened[-1]

    try:
        yield connect, counts
    finally:
        for one in opened:
            one.close()
        server.should_exit = True
        thread.join(20)
        listening.close()


def until_end(connection: socket.socket) -> bytes:
    received = b""
    try:
        while data := connection.recv(4096):
            received += data
    except ConnectionResetError:
        pass  # given up is given up
    return received


@pytest.mark.parametrize(
    "said", [b"", b"GET /quick HTTP/1.1\r\nHost: x\r\n", b"\r\n", b"GET /quick HTTP/1.1\r\nA: " + b"a" * 500]
)
def test_headers_that_never_end(said: bytes) -> None:
    with serving(header_seconds=0.2) as (connect, counts):
        assert until_end(connect(said)) == b""
    assert counts == {"connections_without_request": 1}


def test_a_second_request_that_never_ends() -> None:
    with serving(header_seconds=0.3) as (connect, counts):
        assert until_end(connect(GET + GET[:-2])).count(b"200 OK") == 1
    assert counts == {"connections_without_request": 1}


def test_an_answer_may_take_longer_than_headers() -> None:
    with serving(header_seconds=0.3) as (connect, counts):
        connection = connect(GET.replace(b"quick", b"slow"))
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        assert not counts


def test_what_drips_on_after_the_answer_is_cut() -> None:
    with serving(header_seconds=0.3) as (connect, counts):
        refused = connect(b"POST /quick HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.05):
                try:
                    refused.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert until_end(refused).startswith(b"HTTP/1.1 405")
        finally:
            stop.set()
            thread.join()
    assert counts == {"connections_without_request": 1}


def test_among_idle_connections_there_is_room_for_one_with_a_request() -> None:
    with serving(limit=3) as (connect, counts):
        first, *others = [connect(b"GET ") for _ in range(3)]
        assert connect(GET).recv(4096).startswith(b"HTTP/1.1 200")
        assert until_end(first) == b""
        assert counts == {"connections_without_request": 1}
        for one in others:
            one.sendall(GET[4:])
            assert one.recv(4096).startswith(b"HTTP/1.1 200")


def test_the_limit_leaves_files_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, expected in [(1024, 512), (64, LEAST_CONNECTIONS), (1 << 20, MOST_CONNECTIONS), (-1, MOST_CONNECTIONS)]:
        monkeypatch.setattr(http_patience.resource, "getrlimit", lambda _, files=files: (files, files))
        assert most_connections() == expected
