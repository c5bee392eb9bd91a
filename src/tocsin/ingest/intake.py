"""The decoder: from a request's bytes to rows of behaviour, in a process of its own, one request after the other.

Decoding is as much work as all the analysis behind it, and one interpreter runs one thread at a time. What must survive
a crash is given back with the rows (`held`); a decoder that is lost takes nothing with it that was acknowledged.
"""

from __future__ import annotations

import gc
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import BinaryIO

from tocsin.ingest.attribution import Attributor
from tocsin.ingest.bodies import inflate
from tocsin.ingest.exchange import (
    LENGTHS,
    Answer,
    Count,
    Counted,
    Question,
    Sweep,
    Taken,
    Traces,
    failed,
    frame,
    question,
)
from tocsin.ingest.names import WANTED
from tocsin.ingest.tool_effects import ToolEffects
from tocsin.model.events import EventBatch
from tocsin.wire import otlp, otlp_json
from tocsin.wire.events import encode_batch
from tocsin.wire.otlp import SpanColumns

COLLECT = (50_000, 50, 50)  # allocations before a collection: decoding makes many objects and few cycles
_COUNTERS: dict[tuple[str, bool], Callable[[bytes], int]] = {
    ("logs", False): otlp.count_logs,
    ("logs", True): otlp_json.count_logs,
    ("metrics", False): otlp.count_metrics,
    ("metrics", True): otlp_json.count_metrics,
}


class Intake:
    """Answers questions. A question that fails has changed nothing."""

    def __init__(self) -> None:
        self._attributor = Attributor()
        self._handed = 0  # rows, ever

    def answer(self, asked: Question, body: bytes) -> tuple[Answer, bytes]:
        """The answer and its body. Raises WireError, TooLarge, Overloaded."""
        if isinstance(asked, Traces):
            decode = otlp_json.decode_traces if asked.json else otlp.decode_traces
            columns = decode(inflate(body) if asked.gzipped else body, WANTED)
            asked.room.check(self._handed, len(columns))
            return self._taken(columns, self._attributor.attribute(columns, asked.now_ns))
        if isinstance(asked, Sweep):
            asked.room.check(self._handed, 1)
            return self._taken(SpanColumns(), self._attributor.sweep(asked.now_ns))
        if isinstance(asked, Count):
            return Counted(_COUNTERS[asked.signal, asked.json](inflate(body) if asked.gzipped else body)), b""
        self._attributor = Attributor(asked.salt, effects=ToolEffects(asked.effects))
        self._attributor.restore(asked.held, asked.now_ns)
        return Taken(), b""

    def _taken(self, columns: SpanColumns, batch: EventBatch) -> tuple[Taken, bytes]:
        held = self._attributor.take_held()
        self._handed += len(batch)
        taken = Taken(
            spans=len(columns),
            refused=columns.refused,
            cut=columns.cut,
            drop=list(held.drop),
            put=list(held.put),
            counts=dict(self._attributor.counts),
            waiting=self._attributor.waiting,
        )
        return taken, encode_batch(batch, compress=False)


def serve(connection: socket.socket) -> None:
    """Answer until the other end closes."""
    intake = Intake()
    with connection, connection.makefile("rb") as incoming:
        while (asked := _read(incoming)) is not None:
            try:
                answer, rows = intake.answer(*asked)
            except Exception as error:  # noqa: BLE001 - one request's failure is that request's
                answer, rows = failed(error), b""
                if answer.kind == "internal":
                    traceback.print_exc()
            try:
                connection.sendall(frame(answer, len(rows)))
                connection.sendall(rows)
            except OSError:
                return


def _read(incoming: BinaryIO) -> tuple[Question, bytes] | None:
    """The next question with its body; None where the other end has gone, be it half way through one."""
    try:
        lengths = incoming.read(LENGTHS.size)
        if len(lengths) < LENGTHS.size:
            return None
        header_bytes, body_bytes = LENGTHS.unpack(lengths)
        data = incoming.read(header_bytes + body_bytes)
    except OSError:
        return None  # killed with our answers unread: a reset instead of an end
    if len(data) < header_bytes + body_bytes:
        return None
    return question(data[:header_bytes]), data[header_bytes:]


def main() -> None:
    """Serve on the inherited socket that the command line names. Ends when the receiver does, and only then."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # whoever stops the receiver by them still waits for our answers
    gc.freeze()
    gc.set_threshold(*COLLECT)
    serve(socket.socket(fileno=int(sys.argv[1])))
