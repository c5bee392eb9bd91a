"""What waits for its trace outlives a crash, at any moment, and is counted exactly once."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.errors import WireError
from tocsin.ingest import held
from tocsin.ingest.admission import Admission, AdmissionConfig
from tocsin.ingest.attribution import Attributor
from tocsin.ingest.sessions import MAX_SESSIONS, Sessions
from tocsin.ingest.traces import Link, TraceBuffer
from tocsin.model.events import EventBatch
from tocsin.monitor.inputs import Observed
from tocsin.runtime.ingest_log import Held, IngestLog
from tocsin.wire.otlp import SpanColumns

T0 = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
Event = tuple[int, str, int, str, tuple[int, ...], tuple[int, ...]]


def columns(spans: list[tuple[int, int, int, dict[str, Any]]]) -> SpanColumns:
    """Spans as (trace, number, parent, attributes) of one service."""
    out = SpanColumns(resources=[{"service.name": "office"}])
    for trace, number, parent, attributes in spans:
        ids = (trace << 40).to_bytes(16, "big"), number.to_bytes(8, "big"), parent.to_bytes(8, "big") if parent else b""
        out.add(*ids, "span", T0, T0 + number, False, attributes)
    return out


def call(tool: str, **more: Any) -> dict[str, Any]:
    return {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool, **more}


def agent(name: str) -> dict[str, Any]:
    return {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.id": name}


def events(batch: EventBatch) -> list[Event]:
    return [
        (
            int(batch.event_id[i]),
            batch.agents[batch.agent[i]],
            int(batch.session[i]),
            batch.actions[batch.action[i]] if batch.action[i] >= 0 else "",
            tuple(batch.prompt_word[batch.prompt_offset[i] : batch.prompt_offset[i + 1]].tolist()),
            tuple(batch.arg_hash[batch.arg_offset[i] : batch.arg_offset[i + 1]].tolist()),
        )
        for i in range(len(batch))
    ]


class Receiver:
    """Attribution, admission and the log, as the service joins them, without its threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now_ns = T0
        self._open()

    def _open(self) -> None:
        self.log = IngestLog(self._path)
        self._admission = Admission(AdmissionConfig())
        for entry in self.log.replay():
            self._admission.restore(entry)
        self.attributor = Attributor(buffer=TraceBuffer(max_age_seconds=60))
        self.attributor.restore(self.log.held(), self._now_ns)

    def crash(self) -> None:
        """Whatever is not in the file is gone."""
        self.log.close()
        self._open()

    def take_in(self, spans: SpanColumns, *, crash: str = "") -> None:
        """One request; a crash 'before' it is durable, 'after' that, or none. The sender repeats what had no answer."""
        batch = self.attributor.attribute(spans, self._now_ns)
        if crash == "before":
            self.attributor.take_held()
            self.crash()
            return self.take_in(spans)
        self._commit(batch)
        if crash == "after":
            self.crash()
            return self.take_in(spans)
        return None

    def sweep(self, seconds: int) -> None:
        self._now_ns += seconds * SECOND
        self._commit(self.attributor.sweep(self._now_ns))

    def _commit(self, batch: EventBatch) -> None:
        rows, _ = self._admission.admit(batch)
        self.log.append([Observed(rows)] if len(rows) else [], [self.attributor.take_held()])

    def events(self) -> list[Event]:
        return sorted(
            event for entry in self.log.replay() if isinstance(entry, Observed) for event in events(entry.batch)
        )


SPANS = st.lists(
    st.tuples(
        st.integers(1, 3),  # trace
        st.sampled_from(
            [
                call("read", **{"tocsin.tool.args": "to:email:ab12:0:1:14"}),
                call("send"),
                call("search", **{"mcp.method.name": "tools/call"}),
                call("search"),
                agent("a"),
                {**agent("b"), "gen_ai.conversation.id": "c"},
                {},
                {"tocsin.prompt.signature": "17 4"},
                {"gen_ai.operation.name": "chat", "tocsin.prompt.signature": "8", "tocsin.metric.": {"lag": 1.0}},
            ]
        ),
    ),
    min_size=3,
    max_size=14,
)
CRASHES = st.lists(st.sampled_from(["", "before", "after"]), min_size=14, max_size=14)


@settings(max_examples=25)
@given(SPANS, st.integers(0, 2**32), CRASHES)
def test_a_receiver_that_crashes_tells_the_same_as_one_that_does_not(
    drawn: list[tuple[int, dict[str, Any]]], seed: int, crashes: list[str]
) -> None:
    draw = random.Random(seed)
    numbers: dict[int, list[int]] = {1: [1], 2: [1], 3: [1]}
    spans = [(trace, 1, 0, {}) for trace in numbers]
    for trace, attributes in drawn:
        parent = draw.choice(numbers[trace])
        numbers[trace].append(len(numbers[trace]) + 1)
        spans.append((trace, numbers[trace][-1], parent, attributes))
    draw.shuffle(spans)
    # A trace begins with a span that names no agent: of one whose spans all do, nothing is kept.
    spans = [(trace, 99, draw.choice(numbers[trace]), call("first")) for trace in numbers] + spans
    requests = [columns(spans[:3])]
    rest = spans[3:]
    while rest:
        size = draw.randint(1, 4)
        requests.append(columns(rest[:size]))
        rest = rest[size:]
    with TemporaryDirectory() as directory:
        crashing, steady = Receiver(Path(directory) / "crashing.db"), Receiver(Path(directory) / "steady.db")
        for i, request in enumerate(requests):
            crashing.take_in(request, crash=crashes[i % len(crashes)])
            steady.take_in(request)
            assert crashing.attributor.waiting == steady.attributor.waiting
        for receiver in (crashing, steady):
            receiver.sweep(61)
            assert receiver.attributor.waiting == 0
        assert crashing.events() == steady.events()
        words = [record for record in crashing.log.held() if isinstance(held.decode_record(record), held.SessionWords)]
        assert crashing.log.held() == words, "an ended trace leaves nothing behind"


def test_spans_that_name_their_agents_cost_nothing(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "log.db")
    batch = receiver.attributor.attribute(columns([(1, 2, 1, {**call("x"), "gen_ai.agent.id": "a"})]), T0)
    assert len(batch) == 1
    assert not receiver.attributor.take_held()


def test_ageing_goes_on_where_it_stopped_and_not_while_nobody_listened(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "log.db")
    receiver.take_in(columns([(1, 2, 1, call("old"))]))
    receiver.sweep(40)
    receiver.take_in(columns([(2, 2, 1, call("young"))]))
    receiver._now_ns += 3600 * SECOND
    receiver.crash()
    receiver.sweep(19)
    assert receiver.attributor.waiting == 2
    receiver.sweep(2)
    assert [event[3] for event in receiver.events()] == ["old"]
    receiver.sweep(40)
    assert sorted(event[3] for event in receiver.events()) == ["old", "young"]


def test_a_trace_pushed_out_by_a_bound_is_dropped_from_the_store(tmp_path: Path) -> None:
    attributor = Attributor(buffer=TraceBuffer(max_waiting=1))
    attributor.attribute(columns([(1, 2, 1, call("x"))]), T0)
    first = attributor.take_held()
    assert len(attributor.attribute(columns([(2, 2, 1, call("x"))]), T0)) == 1
    second = attributor.take_held()
    assert [scope for scope, _ in first.put] == list(second.drop) == [held.trace_scope((1 << 40).to_bytes(16, "big"))]


def test_prompt_words_are_written_once_and_dropped_with_their_session() -> None:
    sessions = Sessions(b"salt")
    sessions.signature("c", "17 4")
    assert sessions.take_unsaved() == ([], {"c": (17, 4)})
    sessions.signature("c", "17 4")
    assert sessions.take_unsaved() == ([], {})
    for i in range(MAX_SESSIONS):
        sessions.signature(f"c{i}", "1")
    forgotten, unsaved = sessions.take_unsaved()
    assert forgotten == ["c"]
    assert len(unsaved) == MAX_SESSIONS


def record() -> bytes:
    attributor = Attributor()
    attributor.attribute(columns([(1, 2, 1, call("x", **{"tocsin.tool.args": "to:email:ab12:0:1:14"}))]), T0)
    ((_, found),) = attributor.take_held().put
    return found


def test_a_record_comes_back_as_written() -> None:
    again = held.encode_record(held.decode_record(record()))
    assert held.encode_record(held.decode_record(again)) == again
    receiver = Attributor()
    receiver.restore([again], T0)
    original = Attributor()
    original.restore([record()], T0)
    told = [events(one.sweep(T0 + 61 * SECOND)) for one in (receiver, original)]
    assert told[0] == told[1]
    assert told[0][0][5]  # with its arguments
    words = held.session_words("é", (1, 2))
    assert held.decode_record(held.encode_record(words)) == words


def test_no_raw_text_is_held() -> None:
    attributor = Attributor(b"salt")
    secret = "GB33BUKB20201555555555"
    spans = [
        (
            1,
            2,
            1,
            {"gen_ai.operation.name": "chat", "gen_ai.input.messages": f'[{{"role":"user","content":"pay {secret}"}}]'},
        ),
        (
            1,
            3,
            1,
            call("x", **{"gen_ai.tool.call.arguments": f'{{"to":"{secret}"}}', "gen_ai.tool.call.result": secret}),
        ),
    ]
    attributor.attribute(columns(spans), T0)
    records = b"".join(body for _, body in attributor.take_held().put)
    assert records
    assert secret.encode() not in records


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_bit_is_found(place: int, flip: int) -> None:
    data = bytearray(record())
    data[place % len(data)] ^= flip
    with pytest.raises(WireError):
        held.decode_record(bytes(data))


def _forged(payload: bytes) -> bytes:
    return held.VERSION + held._checksum(payload) + payload


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(_forged)))
def test_any_bytes_as_a_record(data: bytes) -> None:
    try:
        found = held.decode_record(data)
    except WireError:
        return
    assert held.decode_record(held.encode_record(found)) == found


CHANGES: list[Callable[[list[Any]], Any]] = [
    lambda step: step.__setitem__(1, b"short"),
    lambda step: step.__setitem__(2, 1 << 63),
    lambda step: step[5][0].__setitem__(0, b"short"),
    lambda step: step[5][0][1].__setitem__(2, 9),  # kind
    lambda step: step[5][0][1].__setitem__(3, "x" * 300),  # action
    lambda step: step[5][0][1].__setitem__(7, [1.0]),  # values
    lambda step: step[5][0][1][9][0].__setitem__(2, 99),  # type of an argument
    lambda step: step[4][0][1].__setitem__(1, 7),  # agent of a link
    lambda step: step.append("more"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_well_signed_record_that_says_the_impossible_is_refused(change: Callable[[list[Any]], Any]) -> None:
    step = msgspec.msgpack.decode(record()[1 + held.CHECKSUM_BYTES :])
    assert held.decode_record(_forged(msgspec.msgpack.encode(step)))
    change(step)
    with pytest.raises(WireError):
        held.decode_record(_forged(msgspec.msgpack.encode(step)))


@given(st.lists(st.sampled_from(["put", "drop"]), max_size=12), st.lists(st.sampled_from([b"x", b"y"]), min_size=12))
def test_the_store_is_a_dictionary_of_lists(does: list[str], scopes: list[bytes]) -> None:
    expected: list[tuple[bytes, bytes]] = []
    with TemporaryDirectory() as directory:
        log = IngestLog(Path(directory) / "log.db")
        for i, (what, scope) in enumerate(zip(does, scopes, strict=False)):
            body = b"%d" % i
            if what == "put":
                expected.append((scope, body))
                log.append([], [Held(put=[(scope, body)])])
            else:
                expected = [one for one in expected if one[0] != scope]
                log.append([], [Held(drop=[scope])])
        log.close()
        assert IngestLog(Path(directory) / "log.db").held() == [body for _, body in expected]


@pytest.mark.parametrize("number", [int("9" * 400), 2**64, -1.5])
def test_text_made_of_a_number_can_be_stored(tmp_path: Path, number: float) -> None:
    receiver = Receiver(tmp_path / "log")
    ids = {"gen_ai.conversation.id": number, "tocsin.prompt.signature": "1 2"}
    receiver.take_in(columns([(1, 2, 1, call("x", **ids))]), crash="after")
    assert receiver.attributor.waiting == 1
    receiver.take_in(columns([(1, 1, 0, agent("a"))]))
    assert [event[1] for event in receiver.events()] == ["a", "a"]


def test_a_record_that_could_not_be_read_again_is_not_written() -> None:
    attributor = Attributor()
    attributor.attribute(columns([(1, 2, 1, call("x"))]), 1 << 63)  # a receiver's clock beyond all bounds
    assert attributor.take_held().put == []
    assert attributor.counts["not_held"] == 1
    link = Link(b"", "", "9" * 257, "", "")
    for step in (
        held.TraceStep(b"t" * 16, T0, False, [(b"s" * 8, link)], [], []),
        held.TraceStep(b"t" * 16, 10**400, False, [], [], []),
    ):
        with pytest.raises(WireError, match="held record does not"):
            held.encode_record(step)
