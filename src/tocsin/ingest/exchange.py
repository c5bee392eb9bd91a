"""What a receiver and its decoder say to each other, over a socket between two processes of one machine.

    header bytes u32 | body bytes u32 | header (msgpack) | body

A body is the sender's request one way and a batch of rows (`tocsin.wire.events`) the other. Answers come in the order
of the questions. Both ends are the same tocsin, started together: nothing here is versioned or kept.
"""

from __future__ import annotations

import struct

import msgspec

from tocsin.errors import InternalError, Overloaded, TocsinError, TooLarge, WireError

LENGTHS = struct.Struct("<II")


class Room(msgspec.Struct, frozen=True, array_like=True):
    """How far the sink has come, so that the decoder can say whether there is room for more."""

    limit: int  # rows that may wait
    finished: int  # of all rows handed over so far, those that wait no longer

    def check(self, handed: int, rows: int) -> None:
        """Raises Overloaded when `rows` more beside the `handed` ones would be too many; any number fits alone."""
        waiting = handed - self.finished
        if waiting + rows > max(self.limit, rows):
            raise Overloaded(f"{waiting} events are waiting to be analysed", remedy="send again later")


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Go on where an earlier decoder ended: asked once, before anything else."""

    salt: bytes
    held: list[bytes]
    now_ns: int
    effects: dict[str, str] = {}  # what the operator says of tools


class Traces(msgspec.Struct, frozen=True, tag="traces"):
    """The body is a trace request."""

    json: bool
    gzipped: bool
    now_ns: int  # by the receiver's clock
    room: Room


class Sweep(msgspec.Struct, frozen=True, tag="sweep"):
    """Let go of rows that have waited for their trace too long."""

    now_ns: int
    room: Room


class Count(msgspec.Struct, frozen=True, tag="count"):
    """The body is a request of another signal, `logs` or `metrics`: count what it holds."""

    signal: str
    json: bool
    gzipped: bool


Question = Begin | Traces | Sweep | Count


class Taken(msgspec.Struct, frozen=True, tag="taken"):
    """The body is the rows that are ready; the rest is what became of the request's spans, and of all so far."""

    spans: int = 0
    refused: dict[str, int] = {}
    cut: dict[str, int] = {}
    drop: list[bytes] = []  # as `tocsin.runtime.ingest_log.Held`
    put: list[tuple[bytes, bytes]] = []
    counts: dict[str, int] = {}  # since the decoder began
    waiting: int = 0


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    """How many records or points there were."""

    count: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Nothing was taken in, and why."""

    kind: str
    cause: str
    remedy: str = ""
    retry_after_seconds: int = 1

    def error(self) -> TocsinError:
        """The error that `failed` was made from."""
        if self.kind == "overloaded":
            return Overloaded(self.cause, remedy=self.remedy, retry_after_seconds=self.retry_after_seconds)
        return _ERRORS.get(self.kind, InternalError)(self.cause, remedy=self.remedy)


Answer = Taken | Counted | Failed

_ERRORS: dict[str, type[TocsinError]] = {"too_large": TooLarge, "wire": WireError}
_encoder = msgspec.msgpack.Encoder()
_questions = msgspec.msgpack.Decoder(Question)
_answers = msgspec.msgpack.Decoder(Answer)


def failed(error: Exception) -> Failed:
    """`error` as an answer."""
    if isinstance(error, Overloaded):
        return Failed("overloaded", error.cause, error.remedy, error.retry_after_seconds)
    if isinstance(error, WireError):
        return Failed("too_large" if isinstance(error, TooLarge) else "wire", error.cause, error.remedy)
    return Failed("internal", f"{type(error).__name__}: {error}")


def frame(header: Question | Answer, body_bytes: int) -> bytes:
    """What goes before the body."""
    data = _encoder.encode(header)
    return LENGTHS.pack(len(data), body_bytes) + data


def question(data: bytes) -> Question:
    """A question's header."""
    return _questions.decode(data)


def answer(data: bytes | memoryview) -> Answer:
    """An answer's header."""
    return _answers.decode(data)
