"""The demonstration's OTLP bytes, against the official message classes and against the project's own receiver."""

from __future__ import annotations

import gzip
from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tocsin.demo.spans import (
    encode_session,
    integer_attribute,
    request_body,
    requests_of,
    text_attribute,
    varint,
)
from tocsin.ingest.attribution import Attributor
from tocsin.ingest.names import WANTED
from tocsin.model.events import Effect, Kind
from tocsin.sim.fleet import FLEET_EPOCH_NS, FleetSession, Step
from tocsin.sim.synthetic import SyntheticFleet
from tocsin.wire.otlp import decode_traces

SECRET = "correct horse battery staple"
SESSION = FleetSession(
    agent_id="banking-007",
    role="banking",
    number=3,
    live=True,
    start_ns=FLEET_EPOCH_NS,
    prompt=f"send {SECRET} to my accountant",
    steps=(
        Step(
            tool="read_file",
            effect=Effect.READ,
            args={"path": "bill.txt"},
            output=f"x {SECRET}",
            start_ns=0,
            duration_ns=9,
        ),
        Step(
            tool="send_money",
            effect=Effect.EGRESS,
            args={"to": SECRET, "amount": 3},
            error="ValueError",
            start_ns=10,
            duration_ns=20,
            input_tokens=7,
        ),
        Step(tool="", effect=Effect.FINAL, output=f"sent {SECRET}", start_ns=30, duration_ns=5, output_tokens=300),
    ),
    model="some-model",
)


def attributes(span: Span) -> dict[str, str | int]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


def decoded(session: FleetSession) -> list[Span]:
    body = request_body(span.field for span in encode_session(session, b"salt"))
    request = ExportTraceServiceRequest.FromString(body)
    return list(request.resource_spans[0].scope_spans[0].spans)


def test_a_session_is_one_agent_span_over_its_calls() -> None:
    first, second, root = decoded(SESSION)
    assert [span.name for span in (first, second, root)] == [
        "execute_tool read_file",
        "execute_tool send_money",
        "invoke_agent banking-007",
    ]
    assert first.parent_span_id == second.parent_span_id == root.span_id
    assert root.parent_span_id == b""
    assert len({span.trace_id for span in (first, second, root)}) == 1
    assert len({span.span_id for span in (first, second, root)}) == 3
    assert (second.start_time_unix_nano, second.end_time_unix_nano) == (FLEET_EPOCH_NS + 10, FLEET_EPOCH_NS + 30)
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (FLEET_EPOCH_NS, FLEET_EPOCH_NS + 35)


def test_spans_carry_the_conventions_names() -> None:
    first, second, root = map(attributes, decoded(SESSION))
    assert first["gen_ai.operation.name"] == "execute_tool"
    assert first["gen_ai.tool.name"] == "read_file"
    assert root["gen_ai.operation.name"] == "invoke_agent"
    assert second["error.type"] == "ValueError"
    assert second["gen_ai.usage.input_tokens"] == 7
    assert root["gen_ai.usage.output_tokens"] == 300
    assert second["tocsin.tool.effect"] == "egress"
    for span in (first, second, root):
        assert span["gen_ai.agent.id"] == "banking-007"
        assert span["gen_ai.conversation.id"] == "banking-007/3"
        assert span["tocsin.agent.role"] == "banking"
    assert [span.status.code for span in decoded(SESSION)] == [0, 2, 0]


def test_no_text_of_prompt_arguments_or_outputs_leaves() -> None:
    body = request_body(span.field for span in encode_session(SESSION, b"salt"))
    for word in (SECRET, *SECRET.split(), "bill.txt", "accountant"):
        assert word.encode() not in body


def test_equal_sessions_give_equal_bytes_and_another_salt_other_digests() -> None:
    assert encode_session(SESSION, b"a") == encode_session(SESSION, b"a")
    assert encode_session(SESSION, b"a") != encode_session(SESSION, b"b")


@given(st.integers(0, 2**64 - 1))
def test_varint_is_the_official_one(value: int) -> None:
    expected = AnyValue(int_value=value - (value >> 63 << 64)).SerializeToString()
    assert b"\x18" + varint(value) == expected


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=40), st.integers(0, 2**62))
def test_attributes_are_those_of_the_official_encoder(text: str, key: str, number: int) -> None:
    text, key = (s.encode("utf-8", "replace").decode() for s in (text, key))
    span = Span(attributes=[KeyValue(key=key), KeyValue(key=key)])
    span.attributes[0].value.string_value = text
    span.attributes[1].value.int_value = number
    assert text_attribute(key, text) + integer_attribute(key, number) == span.SerializeToString(deterministic=True)


@given(st.integers(0, 200), st.integers(1, 80))
def test_requests_hold_every_span_once_in_order(count: int, per_request: int) -> None:
    spans = encode_session(SESSION, b"salt") * (count // 3 + 1)
    spans = spans[:count]
    requests = list(requests_of(spans, per_request))
    bodies = [ExportTraceServiceRequest.FromString(gzip.decompress(request.body)) for request in requests]
    got = [span.name for body in bodies for r in body.resource_spans for s in r.scope_spans for span in s.spans]
    expected = [span.name for span in chain.from_iterable([decoded(SESSION)] * (count // 3 + 1))][:count]
    assert got == expected
    assert all(request.spans <= per_request for request in requests)
    assert sum(request.spans for request in requests) == count


def test_the_receiver_makes_one_event_of_each_step_in_order() -> None:
    sessions = [SyntheticFleet(size=8, seed=3).session(index, 25) for index in range(8)]
    spans = sorted(chain.from_iterable(encode_session(s, b"salt") for s in sessions), key=lambda span: span.end_ns)
    columns = decode_traces(request_body(span.field for span in spans), WANTED)
    batch = Attributor(b"receiver").attribute(columns, now_ns=2**62)
    for session in sessions:
        rows = np.flatnonzero(batch.agent == batch.agents.index(session.agent_id))
        assert [batch.actions[batch.action[r]] for r in rows[:-1]] == [step.tool for step in session.steps[:-1]]
        assert batch.kind[rows].tolist() == [Kind.CALL] * (len(session.steps) - 1) + [Kind.FINAL]
        assert batch.effect[rows].tolist() == [step.effect for step in session.steps]
        out_len = batch.values[rows[:-1], batch.feature_names.index("out_len")]
        assert out_len.tolist() == [len(step.output) for step in session.steps[:-1]]
        assert {batch.groups[g] for g in batch.group[rows]} == {session.role}
        assert len(set(batch.session[rows].tolist())) == 1
