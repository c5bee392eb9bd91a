"""Request bodies, bounded as they arrive and as they inflate."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from tocsin.errors import Overloaded, TooLarge, WireError

MAX_COMPRESSED_BYTES = 16 << 20
MAX_INFLATED_BYTES = 64 << 20
MAX_TOGETHER_BYTES = 256 << 20  # of all bodies that are being read or worked on
MAX_SILENCE_SECONDS = 10.0  # without a byte of a body
MAX_READ_SECONDS = 60.0  # until the last byte of a body
MAX_MEMBERS = 64  # of one gzip body; what compresses in pieces uses a few
_GZIP = 31  # zlib's window bits for a gzip stream
_PIECE_BYTES = 1 << 16  # zlib copies what it leaves of its input, so it is given little at a time
_CHUNK_BYTES = 1 << 20


class TooSlow(WireError):
    """A body did not arrive in time."""


class Bodies:
    """The bodies of all requests being served. One event loop's, like the requests."""

    def __init__(self, limit: int = MAX_TOGETHER_BYTES) -> None:
        self._limit = limit
        self.held_bytes = 0

    @asynccontextmanager
    async def read(
        self,
        chunks: AsyncIterator[bytes],
        limit: int,
        *,
        silence_seconds: float = MAX_SILENCE_SECONDS,
        read_seconds: float = MAX_READ_SECONDS,
    ) -> AsyncGenerator[bytes]:
        """All of a body, which counts among those held while the context lasts.

        None may be larger than what is left for all others, so small ones find room beside any number of large ones
        (dynamic thresholds: Choudhury & Hahne 1998).

        Raises TooLarge once it is longer than `limit`, Overloaded where it takes too much of what is left, TooSlow.
        """
        parts: list[bytes] = []
        size = 0
        try:
            try:
                async with asyncio.timeout(read_seconds):
                    while True:
                        async with asyncio.timeout(silence_seconds):
                            chunk = await anext(chunks, None)
                        if chunk is None:
                            break
                        size += len(chunk)
                        self.held_bytes += len(chunk)
                        if size > limit:
                            raise TooLarge(f"request body is over {limit} bytes", remedy="export smaller batches")
                        if size > self._limit - self.held_bytes:
                            raise Overloaded("too much is being received at once", remedy="send again later")
                        parts.append(chunk)
            except TimeoutError as error:
                cause = f"request body stalled for {silence_seconds:g} s or took over {read_seconds:g} s"
                raise TooSlow(cause, remedy="export smaller batches") from error
            body = b"".join(parts)
            parts.clear()
            yield body
        finally:
            self.held_bytes -= size


def inflate(body: bytes, limit: int = MAX_INFLATED_BYTES) -> bytes:
    """A gzip body (one member or several).

    Raises WireError, or TooLarge before more than `limit` bytes or MAX_MEMBERS members are made.
    """
    view = memoryview(body)
    parts: list[bytes] = []
    size = position = members = 0
    while position < len(view):
        members += 1
        if members > MAX_MEMBERS:
            raise TooLarge(f"gzip request body has over {MAX_MEMBERS} members", remedy="compress it in one go")
        member = zlib.decompressobj(_GZIP)
        while not member.eof:
            piece = view[position : position + _PIECE_BYTES]
            try:
                part = member.decompress(piece, _CHUNK_BYTES)
            except zlib.error as error:
                raise WireError(f"request body is not gzip: {error}") from error
            position += len(piece) - len(member.unused_data if member.eof else member.unconsumed_tail)
            size += len(part)
            if size > limit:
                raise TooLarge(f"request body inflates to over {limit} bytes", remedy="export smaller batches")
            if not part and position >= len(view) and not member.eof:
                raise WireError("gzip request body is cut short")
            parts.append(part)
    return b"".join(parts)
