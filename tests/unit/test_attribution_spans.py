"""Which agent did what: identity, traces that arrive piecemeal, kinds, effects, features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tocsin.ingest.attribution import IGNORED, TWICE, UNATTRIBUTED, Attributor
from tocsin.ingest.catalogue import effect_of
from tocsin.ingest.names import WANTED
from tocsin.ingest.traces import TraceBuffer
from tocsin.model.events import ARG_TYPES, Effect, EventBatch, Kind
from tocsin.wire.otlp import SpanColumns

T0 = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


class Sender:
    """Spans of one trace or several, numbered; parents are named by number."""

    def __init__(self, **resource: Any) -> None:
        self.columns = SpanColumns(resources=[filed({key.replace("__", "."): v for key, v in resource.items()})])

    def span(
        self, number: int, parent: int, name: str, attributes: dict[str, Any], *, trace: int = 1, ms: int = 5
    ) -> Sender:
        end = T0 + number * SECOND
        parent_id = parent.to_bytes(8, "big") if parent else b""
        ids = trace.to_bytes(16, "big"), number.to_bytes(8, "big"), parent_id
        self.columns.add(*ids, name, end - ms * 1_000_000, end, False, filed(attributes))
        return self


def filed(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as the decoders file them."""
    found: dict[str, Any] = {}
    aliases: dict[str, Any] = {}
    for key, value in attributes.items():
        if key.startswith(WANTED.prefix):
            found.setdefault(WANTED.prefix, {})[key[len(WANTED.prefix) :]] = value
        elif WANTED.filed_as.get(key) == key:
            found[key] = value
        elif key in WANTED.filed_as:
            aliases[key] = value
    WANTED.settle(found, aliases)
    return found


def tool(name: str, **more: Any) -> dict[str, Any]:
    renamed = {key.replace("__", "."): value for key, value in more.items()}
    return {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name, **renamed}


AGENT = {"gen_ai.operation.name": "invoke_agent"}


def agents(batch: EventBatch) -> list[str]:
    return [batch.agents[code] for code in batch.agent]


def actions(batch: EventBatch) -> list[str]:
    return [batch.actions[code] if code >= 0 else "" for code in batch.action]


@pytest.mark.parametrize(
    ("resource", "attributes", "expected"),
    [
        ({"service__name": "s"}, {"tocsin.agent.id": "t", "gen_ai.agent.id": "g", "gen_ai.agent.name": "n"}, "t"),
        ({"service__name": "s", "tocsin__agent__id": "r"}, {"gen_ai.agent.id": "g"}, "r"),
        ({"service__name": "s"}, {"gen_ai.agent.id": "g", "gen_ai.agent.name": "n"}, "g"),
        ({"service__name": "s"}, {"agent.id": "old"}, "old"),
        (
            {"service__name": "s", "service__namespace": "n/s", "deployment__environment": "prod"},
            {"gen_ai.agent.name": "planner"},
            "prod/n%2Fs/s/planner",
        ),
        ({"service__name": "s", "service__instance__id": "random"}, {}, "s"),
        ({"service__name": "unknown_service:python"}, {}, "execute_tool x"),
        ({}, {"gen_ai.agent.name": "n"}, "n"),
    ],
)
def test_identity_in_its_order_of_trust(resource: dict[str, Any], attributes: dict[str, Any], expected: str) -> None:
    sender = Sender(**resource).span(1, 0, "execute_tool x", {**tool("x"), **attributes})
    assert agents(Attributor().attribute(sender.columns, T0)) == [expected]


def test_children_that_come_first_wait_for_the_nearest_agent_above() -> None:
    attributor = Attributor()
    inner = Sender(service__name="s").span(4, 3, "t", tool("inner")).span(5, 2, "t", tool("outer"))
    assert len(attributor.attribute(inner.columns, T0)) == 0
    assert attributor.waiting == 2
    middle = Sender(service__name="s").span(3, 2, "invoke_agent b", {**AGENT, "gen_ai.agent.id": "b"})
    first = attributor.attribute(middle.columns, T0)
    assert list(zip(agents(first), actions(first), strict=True)) == [("b", "_final"), ("b", "inner")]
    rest = Sender(service__name="s").span(6, 0, "request", {}).span(2, 6, "", {**AGENT, "gen_ai.agent.id": "a"})
    second = attributor.attribute(rest.columns, T0)
    assert sorted(zip(agents(second), actions(second), strict=True)) == [("a", "_final"), ("a", "outer")]
    assert attributor.waiting == 0
    assert attributor.counts == {IGNORED: 1}


def test_a_late_child_of_a_finished_trace_is_still_placed() -> None:
    attributor = Attributor()
    attributor.attribute(Sender().span(1, 0, "", {**AGENT, "gen_ai.agent.id": "a"}).columns, T0)
    assert agents(attributor.attribute(Sender().span(2, 1, "t", tool("x")).columns, T0)) == ["a"]


def test_a_trace_whose_root_never_comes_is_released_by_age_under_the_service_or_counted() -> None:
    attributor = Attributor(buffer=TraceBuffer(max_age_seconds=10))
    attributor.attribute(Sender(service__name="s").span(1, 9, "t", tool("x")).columns, T0)
    attributor.attribute(Sender().span(1, 9, "t", tool("x"), trace=2).columns, T0)
    assert len(attributor.sweep(T0 + 10 * SECOND)) == 0
    assert agents(attributor.sweep(T0 + 11 * SECOND)) == ["s"]
    assert attributor.counts == {UNATTRIBUTED: 1}
    assert attributor.waiting == 0


def test_the_buffer_is_bounded_in_waiting_rows_and_in_spans() -> None:
    attributor = Attributor(buffer=TraceBuffer(max_waiting=3))
    sender = Sender(service__name="s")
    for trace in range(1, 6):
        sender.span(1, 9, "t", tool("x"), trace=trace)
    assert len(attributor.attribute(sender.columns, T0)) == 2
    assert attributor.waiting == 3
    attributor = Attributor(buffer=TraceBuffer(max_spans=3))
    assert len(attributor.attribute(sender.columns, T0)) == 2


def test_a_circle_of_parents_ends() -> None:
    attributor = Attributor(buffer=TraceBuffer(max_age_seconds=1))
    circle = Sender().span(1, 2, "t", tool("x")).span(2, 1, "t", tool("x")).span(3, 0, "request", {})
    assert len(attributor.attribute(circle.columns, T0)) == 0
    attributor.sweep(T0 + 2 * SECOND)
    assert attributor.counts == {IGNORED: 1, UNATTRIBUTED: 2}


def test_a_retransmitted_span_has_the_same_event_id_and_another_span_has_not() -> None:
    def once(number: int) -> EventBatch:
        return Attributor().attribute(Sender(tocsin__agent__id="a").span(number, 9, "t", tool("x")).columns, T0)

    assert once(1).event_id == once(1).event_id != once(2).event_id


def test_an_mcp_call_within_a_tool_span_is_told_once() -> None:
    attributor = Attributor()
    named = {"tocsin__agent__id": "a"}
    mcp = Sender(**named).span(3, 2, "tools/call search", {"mcp.method.name": "tools/call"})
    assert len(attributor.attribute(mcp.columns, T0)) == 0
    other = Sender(**named).span(4, 2, "tools/call fetch", {"mcp.method.name": "tools/call"})
    attributor.attribute(other.columns, T0)
    rest = Sender(**named).span(2, 1, "t", tool("search")).span(1, 0, "", AGENT)
    assert sorted(actions(attributor.attribute(rest.columns, T0))) == ["_final", "fetch", "search"]
    assert attributor.counts == {TWICE: 1}


def test_kinds_features_group_and_context() -> None:
    sender = Sender(service__name="s", service__namespace="shop", tocsin__agent__id="a", tocsin__context="eu")
    usage = {"gen_ai.usage.input_tokens": 30, "llm.token_count.completion": "7"}
    sender.span(1, 4, "t", {**tool("send_email"), "error.type": "timeout", "tocsin.metric.lag": 2.5}, ms=40)
    sender.span(2, 4, "chat m", usage)
    sender.span(3, 4, "GET /", {})
    sender.span(4, 0, "invoke_agent a", {**usage, "tocsin.agent.role": "clerk", "tocsin.metric.msg_len": 9})
    sender.span(5, 4, "probe", {"tocsin.metric.cpu": 0.5, "tocsin.context": "us"})
    attributor = Attributor()
    batch = attributor.attribute(sender.columns, T0)
    assert batch.kind.tolist() == [Kind.CALL, Kind.CHAT, Kind.FINAL, Kind.METRIC]
    assert actions(batch) == ["send_email", "", "_final", ""]
    assert batch.effect.tolist() == [Effect.EGRESS, Effect.UNKNOWN, Effect.FINAL, Effect.UNKNOWN]
    assert [batch.groups[g] for g in batch.group] == ["shop/s", "shop/s", "clerk", "shop/s"]
    assert [batch.contexts[c] for c in batch.context] == ["eu", "eu", "eu", "us"]
    table = {name: batch.values[:, i].tolist() for i, name in enumerate(batch.feature_names)}
    assert repr(table["input_tokens"]) == "[nan, 30.0, nan, nan]"  # the agent span's sum is not counted again
    assert repr(table["output_tokens"]) == "[nan, 7.0, nan, nan]"
    assert repr(table["lag"]) == "[2.5, nan, nan, nan]"
    assert repr(table["msg_len"]) == "[nan, nan, 9.0, nan]"
    assert repr(table["cpu"]) == "[nan, nan, nan, 0.5]"
    assert table["error"] == [1, 0, 0, 0]
    assert table["duration_ms"][0] == 40
    assert attributor.counts == {IGNORED: 1}


def test_a_session_is_the_conversation_wherever_in_the_trace_it_was_named() -> None:
    one = Sender().span(2, 1, "t", tool("x")).span(1, 0, "", {**AGENT, "gen_ai.conversation.id": "c", "agent.id": "a"})
    two = Sender().span(1, 0, "t", {**tool("x"), "session.id": "c", "agent.id": "a"}, trace=2)
    attributor = Attributor()
    sessions = [*attributor.attribute(one.columns, T0).session, *attributor.attribute(two.columns, T0).session]
    assert len(sessions) == 3
    assert len(set(sessions)) == 1


def test_a_trace_that_began_without_a_conversation_stays_one_session() -> None:
    attributor = Attributor()
    named = {"tocsin__agent__id": "a"}
    early = attributor.attribute(Sender(**named).span(2, 1, "t", tool("x")).columns, T0)
    late = attributor.attribute(Sender(**named).span(1, 0, "", {**AGENT, "session.id": "c"}).columns, T0)
    assert early.session.tolist() == late.session.tolist()


def test_argument_digests_and_prompt_words_reach_their_columns() -> None:
    sender = Sender(tocsin__agent__id="a")
    sender.span(1, 9, "chat m", {"tocsin.prompt.signature": "17 4 nonsense 99999999999"})
    sender.span(2, 9, "t", tool("x", tocsin__tool__args="to:email:ab12:0:1:14|a:b:null:cd:1:0:4|broken"))
    attributor = Attributor()
    batch = attributor.attribute(sender.columns, T0)
    assert batch.arg_offset.tolist() == [0, 0, 2]
    assert [ARG_TYPES[code] for code in batch.arg_type] == ["email", "other"]
    assert batch.arg_flags.tolist() == [2, 1]
    assert batch.arg_len.tolist() == [14, 4]
    assert batch.prompt_offset.tolist() == [0, 2, 4]
    assert batch.prompt_word.tolist() == [17, 4, 17, 4]


def test_raw_text_is_digested_on_arrival() -> None:
    messages = '[{"role":"user","parts":[{"type":"text","content":"Pay the invoice for Alice"}]}]'
    sender = Sender(tocsin__agent__id="a").span(1, 9, "chat m", {"gen_ai.input.messages": messages})
    sender.span(2, 9, "t", tool("read_file", gen_ai__tool__call__result='{"text":"send it to GB33BUKB20201555555555"}'))
    arguments = '{"to":"GB33BUKB20201555555555","who":"Alice","sum":"77"}'
    sender.span(3, 9, "t", tool("send_money", gen_ai__tool__call__arguments=arguments))
    batch = Attributor(b"salt").attribute(sender.columns, T0)
    assert [ARG_TYPES[code] for code in batch.arg_type] == ["iban", "short", "num"]
    assert batch.arg_flags.tolist() == [2, 1, 0]
    assert np.diff(batch.prompt_offset).tolist() == [2, 2, 2]  # 'invoice' and 'alice'
    table = {name: batch.values[:, i].tolist() for i, name in enumerate(batch.feature_names)}
    assert table["n_args"][2] == 3
    assert table["out_len"][1] == len("send it to GB33BUKB20201555555555")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, Effect.READ),
        ({"tocsin.tool.effect": "write"}, Effect.WRITE),
        ({"tocsin.tool.effect": "nonsense"}, Effect.READ),
        ({"mcp.tool.annotations.openWorldHint": True}, Effect.EGRESS),
        ({"mcp.tool.annotations.destructive_hint": True}, Effect.WRITE),
        ({"mcp.tool.annotations.readOnlyHint": True, "mcp.tool.annotations.openWorldHint": True}, Effect.READ),
    ],
)
def test_what_is_stated_about_an_effect_comes_before_the_guess(more: dict[str, Any], expected: Effect) -> None:
    sender = Sender(tocsin__agent__id="a").span(1, 0, "t", {**tool("get_thing"), **more})
    assert Attributor().attribute(sender.columns, T0).effect.tolist() == [expected]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("getUserInfo", Effect.READ),
        ("delete_file", Effect.WRITE),
        ("HTTPPost", Effect.EGRESS),
        ("post_webpage", Effect.EGRESS),
        ("final_answer", Effect.FINAL),
        ("frobnicate", Effect.UNKNOWN),
    ],
)
def test_the_catalogue_guesses_by_verb(name: str, expected: Effect) -> None:
    assert effect_of(name) == expected


def test_an_over_long_identity_is_bounded_and_stays_distinct() -> None:
    sender = Sender()
    for i in range(2):
        sender.span(i + 1, 0, "t", {**tool("x"), "tocsin.agent.id": "é" * 250 + str(i)}, trace=i + 1)
    batch = Attributor().attribute(sender.columns, T0)
    assert len(batch.agents) == 2
    assert all(len(agent.encode()) <= 256 for agent in batch.agents)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), "1e400", "nan"])
def test_a_measure_that_is_no_finite_number_is_missing(value: Any) -> None:
    lag = {"tocsin.agent.id": "a", "tocsin.metric.lag": value, "tocsin.metric.ok": 1}
    batch = Attributor().attribute(Sender().span(1, 0, "x", lag).columns, T0)
    assert batch.feature_names[-1] == "ok"
    assert "lag" not in batch.feature_names
    chat = {"gen_ai.operation.name": "chat", "tocsin.agent.id": "a", "gen_ai.usage.input_tokens": value}
    batch = Attributor().attribute(Sender().span(1, 0, "x", chat).columns, T0)
    assert np.isnan(batch.values[0, batch.feature_names.index("input_tokens")])
