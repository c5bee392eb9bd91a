"""The decoder's process: what it is asked, what becomes of it, and of what depends on it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tocsin.errors import InternalError, Overloaded, StorageError, TocsinError, TooLarge, WireError
from tocsin.ingest import intake
from tocsin.ingest.decoder import Decoder
from tocsin.ingest.exchange import LENGTHS, Answer, Failed, Room, Sweep, Taken, Traces, answer, failed, frame
from tocsin.ingest.otlp_http import Receiver
from tocsin.model.events import Admitted, Effect, EventBatch
from tocsin.runtime.ingest_log import Held
from tocsin.wire.events import decode_batch

T0 = 1_700_000_000_000_000_000
PATIENCE_SECONDS = 20
PLENTY = Room(1_000_000, 0)


def body(number: int) -> bytes:
    """A request of one tool span that names its agent."""
    message = ExportTraceServiceRequest()
    span = message.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = b"t" * 16, number.to_bytes(8, "big"), f"execute_tool t{number}"
    span.end_time_unix_nano = T0
    span.attributes.add(key="tocsin.agent.id").value.string_value = "a"
    return message.SerializeToString()


def taken(reply: Answer, rows: memoryview) -> tuple[Answer, EventBatch]:
    return reply, decode_batch(rows)


def begun() -> Decoder:
    decoder = Decoder()
    decoder.begin(b"salt", (), T0)
    return decoder


@pytest.mark.parametrize(
    "error",
    [WireError("cut short", remedy="again"), TooLarge("big"), Overloaded("busy", retry_after_seconds=4), KeyError("x")],
)
def test_an_error_arrives_as_what_it_was(error: Exception) -> None:
    arrived = failed(error).error()
    expected = type(error) if isinstance(error, TocsinError) else InternalError
    assert type(arrived) is expected
    assert str(error).strip("'") in arrived.cause or arrived.cause in str(error)
    assert isinstance(error, TocsinError) is (arrived.remedy == getattr(error, "remedy", None))


@given(limit=st.integers(0, 100), handed=st.integers(0, 200), finished=st.integers(0, 200), rows=st.integers(0, 150))
def test_there_is_room_up_to_the_limit_and_for_anything_alone(
    limit: int, handed: int, finished: int, rows: int
) -> None:
    waiting = max(0, handed - finished)
    fits = waiting + rows <= limit or waiting == 0
    try:
        Room(limit, min(finished, handed)).check(handed, rows)
    except Overloaded:
        assert not fits
    else:
        assert fits


def test_answers_come_in_order_however_many_are_asked_at_once() -> None:
    decoder = begun()

    async def ask() -> list[str]:
        await decoder.connect()
        reading = asyncio.create_task(decoder.read())
        asked = [decoder.ask(Traces(False, False, T0, PLENTY), body(number), taken) for number in range(1, 51)]
        batches = [batch for _, batch in await asyncio.gather(*asked)]
        reading.cancel()
        await decoder.disconnect()
        return [action for batch in batches for action in batch.actions]

    assert asyncio.run(ask()) == [f"t{number}" for number in range(1, 51)]
    decoder.close()


def test_what_the_operator_says_of_tools_reaches_the_process() -> None:
    decoder = Decoder()
    decoder.begin(b"", (), T0, {"t*": "egress"})

    async def ask() -> list[int]:
        await decoder.connect()
        reading = asyncio.create_task(decoder.read())
        _, batch = await decoder.ask(Traces(False, False, T0, PLENTY), body(1), taken)
        reading.cancel()
        await decoder.disconnect()
        return batch.effect.tolist()

    assert asyncio.run(ask()) == [Effect.EGRESS]
    decoder.close()


def test_what_was_handed_over_counts_against_the_room() -> None:
    it = intake.Intake()
    room = Room(limit=2, finished=0)
    for number in (1, 2):
        assert len(decode_batch(it.answer(Traces(False, False, T0, room), body(number))[1])) == 1
    with pytest.raises(Overloaded, match="2 events are waiting"):
        it.answer(Traces(False, False, T0, room), body(3))
    assert len(decode_batch(it.answer(Traces(False, False, T0, Room(limit=2, finished=1)), body(3))[1])) == 1


class Sink:
    """Takes everything; `broken` is set when it is told that there will be no more."""

    def __init__(self) -> None:
        self.broken = threading.Event()
        self.error: Exception | None = None

    def room(self) -> tuple[int, int]:
        return 1_000, 0

    def accept(self, batch: EventBatch, held: Held) -> Future[Admitted]:
        done: Future[Admitted] = Future()
        done.set_result(Admitted(len(batch), {}))
        return done

    def fail(self, error: Exception) -> None:
        self.error = error
        self.broken.set()


def test_a_killed_decoder_fails_what_was_asked_and_tells_the_sink() -> None:
    decoder, sink = begun(), Sink()
    receiver = Receiver(sink, decoder, lambda: T0)

    async def kill() -> None:
        async with receiver.receiving():
            assert (await receiver.traces("application/x-protobuf", body(1), False)).status_code == 200
            os.kill(decoder.process_id, signal.SIGSTOP)  # so that the question is asked and not answered
            asking = asyncio.create_task(receiver.traces("application/x-protobuf", body(2), False))
            await asyncio.sleep(0)
            os.kill(decoder.process_id, signal.SIGKILL)
            with pytest.raises(StorageError, match="ended by signal 9: was the machine out of memory"):
                await asyncio.wait_for(asking, PATIENCE_SECONDS)
            assert await asyncio.to_thread(sink.broken.wait, PATIENCE_SECONDS)
            for late in (receiver.traces, receiver.logs, receiver.metrics):
                with pytest.raises(StorageError, match="ended by signal 9"):
                    await asyncio.wait_for(late("application/x-protobuf", b"", False), PATIENCE_SECONDS)

    asyncio.run(kill())
    decoder.close()
    assert isinstance(sink.error, StorageError)


@pytest.mark.parametrize("error", [MemoryError("planted"), OSError("planted"), ValueError("planted")])
def test_an_answer_that_cannot_be_taken_ends_it_for_everybody(error: Exception) -> None:
    class Full(Sink):
        def accept(self, batch: EventBatch, held: Held) -> Future[Admitted]:
            raise error

    decoder, sink = begun(), Full()
    receiver = Receiver(sink, decoder, lambda: T0)

    async def ask() -> None:
        async with receiver.receiving():
            first, second = (
                asyncio.create_task(receiver.traces("application/x-protobuf", body(number), False)) for number in (1, 2)
            )
            with pytest.raises(InternalError, match=f"{type(error).__name__}: planted"):
                await asyncio.wait_for(first, PATIENCE_SECONDS)
            with pytest.raises(StorageError, match="no longer read"):
                await asyncio.wait_for(second, PATIENCE_SECONDS)
            with pytest.raises(StorageError, match="no longer read"):
                await asyncio.wait_for(receiver.logs("application/x-protobuf", b"", False), PATIENCE_SECONDS)

    asyncio.run(ask())
    decoder.close()
    assert sink.broken.is_set()
    assert f"not taken: {type(error).__name__}: planted" in str(sink.error)


def test_a_decoder_that_does_not_start_is_said_so() -> None:
    decoder = Decoder()
    os.kill(decoder.process_id, signal.SIGKILL)
    with pytest.raises(StorageError, match="decoder process has ended"):
        decoder.begin(b"", (), T0)
    decoder.close()


def test_a_damaged_record_of_an_earlier_decoder_is_said_so() -> None:
    decoder = Decoder()
    with pytest.raises(WireError, match="held record"):
        decoder.begin(b"", [b"\x01damaged"], T0)
    decoder.close()


def test_signals_meant_for_the_receiver_do_not_end_it() -> None:
    decoder = begun()
    os.kill(decoder.process_id, signal.SIGINT)
    os.kill(decoder.process_id, signal.SIGTERM)

    async def ask() -> EventBatch:
        await decoder.connect()
        reading = asyncio.create_task(decoder.read())
        _, batch = await decoder.ask(Traces(False, False, T0, PLENTY), body(1), taken)
        reading.cancel()
        await decoder.disconnect()
        return batch

    assert asyncio.run(ask()).actions == ("t1",)
    decoder.close()


@pytest.mark.parametrize("cut", [1, 8, 12])
def test_it_ends_quietly_where_the_receiver_went_half_way_through_a_question(
    cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = socket.socketpair()
    serving = threading.Thread(target=intake.serve, args=(theirs,))
    serving.start()
    ours.sendall(frame(Sweep(T0, PLENTY), 0)[:cut])
    ours.close()
    serving.join(PATIENCE_SECONDS)
    assert not serving.is_alive()
    assert capsys.readouterr().err == ""


def test_it_ends_quietly_where_the_receiver_was_killed_with_answers_unread() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"an answer")
    ours.close()  # with something unread: a reset instead of an end
    intake.serve(theirs)
    assert theirs.fileno() == -1


def test_a_fault_of_our_own_fails_one_request_and_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("planted")

    ours, theirs = socket.socketpair()
    monkeypatch.setattr(intake.otlp, "decode_traces", broken)
    serving = threading.Thread(target=intake.serve, args=(theirs,))
    serving.start()
    replies = ours.makefile("rb")
    for asked in (Traces(False, False, T0, PLENTY), Sweep(T0, PLENTY)):
        ours.sendall(frame(asked, 0))
    ours.shutdown(socket.SHUT_WR)
    answers: list[Answer] = []
    while lengths := replies.read(LENGTHS.size):
        header_bytes, body_bytes = LENGTHS.unpack(lengths)
        answers.append(answer(replies.read(header_bytes)))
        replies.read(body_bytes)
    serving.join(PATIENCE_SECONDS)
    replies.close()
    ours.close()
    assert answers == [Failed("internal", "RuntimeError: planted"), Taken()]
    assert "planted" in capsys.readouterr().err
