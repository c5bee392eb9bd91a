"""Spans to rows of behaviour: which agent did what, in which session.

An agent is, first that is there: `tocsin.agent.id`; `gen_ai.agent.id`; environment, namespace, service and agent name;
the name of the trace's root span. `service.instance.id` never counts: it is new with every start. A span without a name
of its own belongs to the nearest agent above it, and waits until that one is known. `take_held` tells what a restart
needs to know of that, for the ingest log to keep; a trace whose spans all name their agents costs nothing there.
What a restart forgets: of such traces, all that spans still to come might have taken from earlier ones (agent,
conversation); and which words the raw text of a session had held (`tocsin.ingest.digest`), for calls still to come.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, cast

import numpy as np

from tocsin.errors import WireError
from tocsin.ingest import names
from tocsin.ingest.held import (
    Record,
    TraceStep,
    decode_record,
    encode_record,
    session_scope,
    session_words,
    trace_scope,
)
from tocsin.ingest.ragged import text_hash
from tocsin.ingest.rows import Argument, BatchBuilder, Row, bounded, number, why_no_number
from tocsin.ingest.sessions import Sessions, output_length, plain_text, structure
from tocsin.ingest.tool_effects import ToolEffects
from tocsin.ingest.traces import Link, Trace, TraceBuffer, Unsaved
from tocsin.model.events import Effect, EventBatch, Kind
from tocsin.runtime.ingest_log import Held
from tocsin.wire.otlp import SpanColumns

IGNORED = "not_behaviour"  # spans of HTTP calls, chains, retrievers: nothing an agent did by itself
UNATTRIBUTED = "unattributed"
NOT_HELD = "not_held"  # records that the store could not give back: what they tell of is lost at a restart
TWICE = "told_twice"  # an MCP call that an outer tool span has told already
MAX_METRIC_NAME = 64
MAX_METRICS_PER_SPAN = 64
FINAL_ACTION = "_final"
_NAN = float("nan")
# Plain numbers: members of an enumeration are looked up and stored several times slower.
CALL, FINAL, CHAT, METRIC = int(Kind.CALL), int(Kind.FINAL), int(Kind.CHAT), int(Kind.METRIC)
UNKNOWN_EFFECT, FINAL_EFFECT = int(Effect.UNKNOWN), int(Effect.FINAL)
_KINDS = {"execute_tool": CALL, "chat": CHAT, "invoke_agent": FINAL}


class _Resource:
    """What a resource says about all its spans."""

    __slots__ = ("agent", "context", "group", "service")

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self.agent = bounded(names.text(attributes, names.AGENT_EXPLICIT) or names.text(attributes, names.AGENT_ID))
        service = names.text(attributes, names.SERVICE)
        namespace = names.text(attributes, names.NAMESPACE)
        environment = names.text(attributes, names.ENVIRONMENT)
        # SDKs fill in 'unknown_service...' where nobody said: that is no name.
        known = bool(service) and not service.startswith("unknown_service")
        self.service = _joined(environment, namespace, service) if known else ""
        role = names.text(attributes, names.ROLE)
        self.group = bounded(role or (_joined(namespace, service) if known else namespace))
        self.context = bounded(names.text(attributes, names.CONTEXT))


class Attributor:
    """Stateful over requests; one caller at a time. `counts` says what became no row, or no number, by reason."""

    def __init__(
        self, salt: bytes = b"", buffer: TraceBuffer | None = None, effects: ToolEffects | None = None
    ) -> None:
        self._buffer = buffer if buffer is not None else TraceBuffer()
        self._effects = effects if effects is not None else ToolEffects()
        self._sessions = Sessions(salt)
        self._builder = BatchBuilder()
        self._changed: dict[bytes, Trace] = {}  # traces with something to write down
        self._ended: list[bytes] = []  # traces of which everything written down can go
        self._now_ns = 0
        self.counts: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """Rows that wait for the spans above them."""
        return self._buffer.waiting

    def restore(self, records: Iterable[bytes], now_ns: int) -> None:
        """Go on where an earlier receiver ended, before anything else is taken in. `records` as `take_held` gave them.

        Ageing goes on from the latest record: while nobody listened, no trace could be completed.

        Raises:
            WireError: a record is damaged.
        """
        found = [decode_record(record) for record in records]
        away_ns = now_ns - max((step.now_ns for step in found if isinstance(step, TraceStep)), default=now_ns)
        for record in found:
            if isinstance(record, TraceStep):
                at_ns = record.now_ns + away_ns
                trace = self._buffer.restore(record.trace_id, at_ns, record.links, record.rows, record.released)
                trace.begun_unnamed = record.begun_unnamed
            else:
                self._sessions.restore(record.key, record.words)

    def take_held(self) -> Held:
        """What a restart needs to know and was not told yet: to be made durable with the rows given out last."""
        steps = [_step(trace, self._now_ns) for trace in self._changed.values()]
        forgotten, words = self._sessions.take_unsaved()
        drop = [trace_scope(trace_id) for trace_id in self._ended]
        drop += [session_scope(key) for key in (*forgotten, *words)]
        put: list[tuple[bytes, bytes]] = []
        for step in steps:
            self._put(put, trace_scope(step.trace_id), step)
        for key, found in words.items():
            self._put(put, session_scope(key), session_words(key, found))
        self._changed, self._ended = {}, []
        return Held(drop, put)

    def _put(self, put: list[tuple[bytes, bytes]], scope: bytes, record: Record) -> None:
        try:
            put.append((scope, encode_record(record)))
        except WireError:
            self.counts[NOT_HELD] += 1

    def attribute(self, spans: SpanColumns, now_ns: int) -> EventBatch:
        """Rows that are ready: of these spans, and of earlier ones that waited for them, by time of their end.

        `now_ns` is the receiver's clock; offsets and phases are admission's to set.
        """
        self._now_ns = now_ns
        resources = [_Resource(attributes) for attributes in spans.resources]
        event_ids = _event_ids(spans)
        ready: list[Row] = []
        touched: dict[int, Trace] = {}
        for i in range(len(spans)):
            attributes = spans.attributes[i]
            trace_id, span_id = spans.trace_id[i], spans.span_id[i]
            resource = resources[spans.resource[i]]
            operation = names.operation(attributes, spans.name[i])
            link = _link(attributes, resource, operation, spans.parent_id[i], spans.name[i])
            trace = self._buffer.add(trace_id, span_id, link, now_ns)
            if link.agent or link.tool or not link.parent:
                touched[id(trace)] = trace
            if trace.unsaved is not None:
                self._changed[trace_id] = trace
            elif not link.agent:
                self._buffer.keep(trace)
                self._changed[trace_id] = trace
            row = self._row(spans, i, resource, operation, trace, link.tool, event_ids[i])
            if row is None:
                self.counts[IGNORED] += 1
            elif link.agent and not row.mcp:
                ready.append(self._settled(row, link.agent, trace, span_id))
            else:
                row.agent = link.agent
                self._buffer.wait(trace, span_id, row)
                self._changed[trace_id] = touched[id(trace)] = trace
        for trace in touched.values():
            for span_id, row in self._buffer.resolved(trace, _known):
                self._release(row, trace, span_id, ready)
        self._expire(now_ns, ready)
        ready.sort(key=lambda row: row.t_ns)
        return self._builder.build(ready)

    def sweep(self, now_ns: int) -> EventBatch:
        """Rows that have waited too long; to be called now and then, as a silent fleet brings no requests."""
        self._now_ns = now_ns
        ready: list[Row] = []
        self._expire(now_ns, ready)
        ready.sort(key=lambda row: row.t_ns)
        return self._builder.build(ready)

    def _expire(self, now_ns: int, ready: list[Row]) -> None:
        for trace in self._buffer.expired(now_ns):
            self._changed.pop(trace.trace_id, None)
            if trace.unsaved is not None and trace.unsaved.written:
                self._ended.append(trace.trace_id)
            for span_id, row in trace.waiting.items():
                self._release(row, trace, span_id, ready)

    def _release(self, row: Row, trace: Trace, span_id: bytes, ready: list[Row]) -> None:
        agent = row.agent or trace.agent(span_id) or row.fallback
        if row.mcp and trace.told(span_id, row.action):
            self.counts[TWICE] += 1
        elif not agent:
            self.counts[UNATTRIBUTED] += 1
        else:
            ready.append(self._settled(row, agent, trace, span_id))

    def _settled(self, row: Row, agent: str, trace: Trace, span_id: bytes) -> Row:
        """The row with its agent, its session and the words of the session's request."""
        conversation = trace.session(span_id)
        if not conversation:
            trace.begun_unnamed = True
        row.agent = agent
        row.session = session_hash(conversation) if conversation else _number(trace.trace_id[:8])
        row.words = self._sessions.words(conversation or trace.trace_id)
        return row

    def _row(
        self, spans: SpanColumns, i: int, resource: _Resource, operation: str, trace: Trace, tool: str, event_id: int
    ) -> Row | None:
        attributes = spans.attributes[i]
        metrics = self._metrics(attributes)
        kind = _KINDS.get(operation, METRIC)
        key = trace.conversation or spans.trace_id[i]
        signature = attributes.get("tocsin.prompt.signature")
        if isinstance(signature, str):
            self._sessions.signature(key, signature)
        elif names.RAW_INPUT[0] in attributes:
            self._sessions.messages(key, attributes[names.RAW_INPUT[0]])
        if kind == METRIC and metrics is None:
            return None
        error = spans.error[i] or _failed(attributes)
        duration_ms = max(0, spans.end_ns[i] - spans.start_ns[i]) / 1e6
        values = [duration_ms, _NAN, _NAN, 1.0 if error else 0.0, _NAN, _NAN, _NAN]
        action, effect = "", UNKNOWN_EFFECT
        arguments: tuple[Argument, ...] = ()
        if kind == CALL:
            action = tool
            effect = self._effects.of(attributes, tool)
            arguments = self._arguments(attributes, key, tool, values)
        elif kind == CHAT:
            # Only here: an agent span repeats the sum of its model calls.
            values[1] = self._measured(names.first(attributes, names.INPUT_TOKENS))
            values[2] = self._measured(names.first(attributes, names.OUTPUT_TOKENS))
        elif kind == FINAL:
            action, effect = FINAL_ACTION, FINAL_EFFECT
        if kind in (CHAT, FINAL) and (length := output_length(attributes)) is not None:
            values[5] = length
        return Row(
            event_id=event_id,
            t_ns=spans.end_ns[i],
            kind=kind,
            action=action,
            effect=effect,
            group=_own(attributes, names.ROLE, resource.group),
            context=_own(attributes, names.CONTEXT, resource.context),
            values=values,
            metrics=metrics,
            arguments=arguments,
            fallback=resource.service,
            mcp=kind == CALL and names.is_mcp_call(attributes, spans.name[i]),
        )

    def _measured(self, value: Any) -> float:
        """A number that was sent; NaN where none was, and counted where what was sent is none."""
        measured = number(value)
        if value is not None and math.isnan(measured):
            self.counts[why_no_number(value)] += 1
        return measured

    def _metrics(self, attributes: Mapping[str, Any]) -> dict[str, float] | None:
        sent = attributes.get(names.METRIC_PREFIX)
        if sent is None:
            return None
        found: dict[str, float] = {}
        for name, value in islice(sent.items(), MAX_METRICS_PER_SPAN):
            measured = self._measured(value)
            if 0 < len(name) <= MAX_METRIC_NAME and not math.isnan(measured):
                found[name] = measured
        return found or None

    def _arguments(
        self, attributes: Mapping[str, Any], key: bytes | str, tool: str, values: list[float]
    ) -> tuple[Argument, ...]:
        """A call's arguments, of the sender's own digest or of raw text digested here; fills in n_args and out_len."""
        digest = attributes.get("tocsin.tool.args")
        if not isinstance(digest, str):
            raw = structure(names.first(attributes, names.RAW_ARGUMENTS))
            result = names.first(attributes, names.RAW_RESULT)
            digest = ""
            if raw is not None:
                named = isinstance(raw, Mapping)
                arguments = cast(Mapping[str, Any], raw) if named else {"input": raw}
                digest = self._sessions.digest(key).call(tool, arguments)
                values[4] = len(arguments)
            if result is not None:
                text = plain_text(structure(result))
                self._sessions.digest(key).output(text)
                values[6] = len(text)
        else:
            values[4] = digest.count("|") + 1 if digest else 0
        return self._builder.arguments(digest) if digest else ()


def _step(trace: Trace, now_ns: int) -> TraceStep:
    """What happened to `trace` since it was last asked; rows that came and went between leave no mark."""
    unsaved = trace.unsaved or Unsaved()
    came = {span_id for span_id, _ in unsaved.rows}
    went = set(unsaved.released)
    trace.unsaved = Unsaved(written=True)
    return TraceStep(
        trace_id=trace.trace_id,
        now_ns=now_ns,
        begun_unnamed=trace.begun_unnamed,
        links=unsaved.links,
        rows=[(span_id, row) for span_id, row in unsaved.rows if span_id not in went],
        released=[span_id for span_id in unsaved.released if span_id not in came],
    )


def _known(trace: Trace, span_id: bytes, row: Row) -> bool:
    """Whether the agent of a waiting row is known, and for an MCP call also whether it was told already."""
    if row.mcp and trace.told(span_id, row.action) is None:
        return False
    return bool(row.agent) or trace.agent(span_id) is not None


def _link(attributes: Mapping[str, Any], resource: _Resource, operation: str, parent: bytes, span_name: str) -> Link:
    tool = _tool(attributes, span_name) if operation == "execute_tool" else ""
    agent = resource.agent
    # Most spans name no agent: look before formatting anything.
    if names.AGENT_EXPLICIT[0] in attributes:
        agent = bounded(names.text(attributes, names.AGENT_EXPLICIT)) or agent
    if not agent and names.AGENT_ID[0] in attributes:
        agent = bounded(names.text(attributes, names.AGENT_ID))
    if not agent:
        name = names.text(attributes, names.AGENT_NAME)
        if not name and operation == "invoke_agent":
            # 'invoke_agent {name}', the conventions' name of an agent span.
            name = span_name.removeprefix("invoke_agent ")
        if name:
            agent = bounded(f"{resource.service}/{_escaped(name)}" if resource.service else _escaped(name))
    fallback = resource.service or bounded(span_name) if not parent else ""
    return Link(parent, agent, names.text(attributes, names.CONVERSATION), tool, fallback, operation == "invoke_agent")


def _own(attributes: Mapping[str, Any], concept: tuple[str, ...], otherwise: str) -> str:
    """The span's own text of a concept, else its resource's."""
    return bounded(names.text(attributes, concept)) or otherwise if concept[0] in attributes else otherwise


def _tool(attributes: Mapping[str, Any], span_name: str) -> str:
    name = names.text(attributes, names.TOOL)
    if not name:
        name = span_name.removeprefix("execute_tool ").removeprefix("tools/call ")
    return bounded(name) or "unnamed"


def _failed(attributes: Mapping[str, Any]) -> bool:
    if attributes.get(names.ERROR[0]):
        return True
    return attributes.get(names.RPC_STATUS[0]) not in (None, "", 0, "0", "OK")


def _joined(*parts: str) -> str:
    return bounded("/".join(_escaped(part) for part in parts if part))


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace("/", "%2F")


@lru_cache(maxsize=16_384)
def session_hash(conversation: str) -> int:
    """The session of a conversation id, the same at every receiver."""
    return text_hash("conversation " + conversation)


def _event_ids(spans: SpanColumns) -> list[int]:
    """Of trace and span id, never 0. Ids are random by the conventions; whoever can forge the one can forge both."""
    traces = np.frombuffer(b"".join(spans.trace_id), "<i8")[1::2]
    ids = traces ^ np.frombuffer(b"".join(spans.span_id), "<i8")
    return np.where(ids == 0, 1, ids).tolist()


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)
