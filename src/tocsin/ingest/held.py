"""What the receiver must still know of requests it has answered, as records for the ingest log.

A record is one step of one trace (links, rows that wait, rows that went out), or the prompt words of one session; those
of a trace, in the order written, rebuild it. Nothing here is raw text: rows are digested before they can wait.

    version u8 | BLAKE2b-128 of the rest and the version | msgpack
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import msgspec

from tocsin.errors import WireError
from tocsin.ingest.rows import Int64, Row, Text
from tocsin.ingest.traces import Link

VERSION: Final = b"\x01"
CHECKSUM_BYTES: Final = 16

SpanId = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
TraceId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Word = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class TraceStep(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="trace"):
    """What one request changed in a trace."""

    trace_id: TraceId
    now_ns: Int64  # when it arrived, by the receiver's clock
    begun_unnamed: bool  # as `tocsin.ingest.traces.Trace`, from here on
    links: list[tuple[SpanId, Link]]
    rows: list[tuple[SpanId, Row]]  # begin to wait
    released: list[SpanId]  # wait no longer


class SessionWords(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="words"):
    """The words of a session's request; the latest record of a key counts."""

    conversation: Text  # its name; '' where the session is a trace's own
    trace_id: Annotated[bytes, msgspec.Meta(max_length=16)]
    words: tuple[Word, ...]

    @property
    def key(self) -> bytes | str:
        """What `tocsin.ingest.sessions` knows the session by."""
        return self.conversation or self.trace_id


Record = TraceStep | SessionWords


def session_words(key: bytes | str, words: tuple[int, ...]) -> SessionWords:
    """The record of a session's words."""
    return SessionWords("", key, words) if isinstance(key, bytes) else SessionWords(key, b"", words)


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Record)


def encode_record(record: Record) -> bytes:
    """The stored form of a record. Raises WireError for one that `decode_record` would refuse."""
    try:
        payload = _encoder.encode(record)
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise WireError(f"held record does not encode: {error}") from error
    # Decoded at once: what is found damaged only at the next start would stop it.
    _decode(payload)
    return VERSION + _checksum(payload) + payload


def decode_record(data: bytes) -> Record:
    """The record in `data`. Raises WireError for anything else."""
    if data[:1] != VERSION:
        raise WireError(f"held record of version {data[:1].hex() or 'none'}, not {VERSION.hex()}")
    payload = data[1 + CHECKSUM_BYTES :]
    if data[1 : 1 + CHECKSUM_BYTES] != _checksum(payload):
        raise WireError("held record whose checksum does not hold")
    return _decode(payload)


def _decode(payload: bytes) -> Record:
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"held record does not decode: {error}") from error


def trace_scope(trace_id: bytes) -> bytes:
    """What the records of a trace are filed, and dropped, under."""
    return b"t" + trace_id


def session_scope(key: bytes | str) -> bytes:
    """What the words of a session are filed under."""
    return b"i" + key if isinstance(key, bytes) else b"c" + key.encode("utf-8", "replace")


def _checksum(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=CHECKSUM_BYTES, person=b"tocsin-held" + VERSION).digest()
