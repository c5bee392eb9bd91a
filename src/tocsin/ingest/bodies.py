"""Request bodies, bounded as they arrive and as they inflate."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

from tocsin.errors import TooLarge, WireError

MAX_COMPRESSED_BYTES = 16 << 20
MAX_INFLATED_BYTES = 64 << 20
_GZIP = 31  # zlib's window bits for a gzip stream
_CHUNK_BYTES = 1 << 20


async def read_bounded(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    """All of a body. Raises TooLarge once it is longer than `limit`, without reading on."""
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"request body is over {limit} bytes", remedy="export smaller batches")
        parts.append(chunk)
    return b"".join(parts)


def inflate(body: bytes, limit: int = MAX_INFLATED_BYTES) -> bytes:
    """A gzip body (one member or several). Raises WireError, or TooLarge before more than `limit` bytes are made."""
    parts: list[bytes] = []
    size = 0
    while body:
        member = zlib.decompressobj(_GZIP)
        while not member.eof:
            try:
                part = member.decompress(body, _CHUNK_BYTES)
            except zlib.error as error:
                raise WireError(f"request body is not gzip: {error}") from error
            size += len(part)
            if size > limit:
                raise TooLarge(f"request body inflates to over {limit} bytes", remedy="export smaller batches")
            body = member.unconsumed_tail
            if not part and not body and not member.eof:
                raise WireError("gzip request body is cut short")
            parts.append(part)
        body = member.unused_data
    return b"".join(parts)
