"""One TCP connection between two nodes, from the handshake to the end. `tcp_bus` says what the connection is for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from tocsin.errors import VerificationError, WireError
from tocsin.wire.limits import MAX_MESSAGE_BYTES
from tocsin.wire.link import MAX_HANDSHAKE_BYTES, Frames, Handshake


@dataclass(frozen=True, slots=True)
class Events:
    """What a link tells its bus."""

    connected: Callable[[Link], None]
    proven: Callable[[Link, int], None]  # the other end has shown to be this node
    received: Callable[[int, int, bytes], None]  # node, kind, body; may raise WireError
    writable: Callable[[int], None]
    lost: Callable[[Link], None]
    refused: Callable[[str], None]


class Link(asyncio.Protocol):
    """`dialled`: whether this end opened it. `peer` is None until the handshake is done, and again when replaced."""

    def __init__(self, events: Events, handshake: Handshake, dialled: bool, handshake_seconds: float) -> None:
        self.dialled = dialled
        self.peer: int | None = None
        self.paused = False
        self.transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._events = events
        self._handshake = handshake
        self._frames = Frames(MAX_HANDSHAKE_BYTES)
        self._patience = loop.call_later(handshake_seconds, self._too_slow)

    def write(self, data: bytes) -> None:
        """Hand over to the kernel's side; nothing happens where the connection has just ended."""
        if self.transport is not None:
            self.transport.write(data)

    def refuse(self, reason: str) -> None:
        """Count and close."""
        self._events.refused(reason)
        self.abort()

    def abort(self) -> None:
        """Close without waiting for what is unsent."""
        if self.transport is not None:
            self.transport.abort()

    def _too_slow(self) -> None:
        self.refuse("handshake took too long")

    def _greet(self, kind: int, body: bytes) -> None:
        self.write(self._handshake.receive(kind, body))
        if self._handshake.peer is not None:
            self._patience.cancel()
            self._frames.limit = MAX_MESSAGE_BYTES
            self._events.proven(self, self._handshake.peer)

    # --- what asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._events.connected(self)
        self.write(self._handshake.opening())

    def data_received(self, data: bytes) -> None:
        try:
            for kind, body in self._frames.feed(data):
                if self.transport is None or self.transport.is_closing():
                    return
                if self.peer is None:
                    self._greet(kind, body)
                else:
                    self._events.received(self.peer, kind, body)
        except VerificationError:
            self.refuse("identity not proven")
        except WireError:
            self.refuse("malformed handshake" if self.peer is None else "malformed frame")

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.peer is not None:
            self._events.writable(self.peer)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter
        self._patience.cancel()
        self.transport = None
        self._events.lost(self)
        self.closed.set_result(None)
