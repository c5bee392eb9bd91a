"""Who did it: the agent and session of a span, from the spans above it.

Spans are exported when they end, so children come before the agent span that names them. The spans of a trace are
remembered, by id and parent only, until the answer is known or a bound on count or age is reached.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

MAX_ANCESTORS = 64  # a longer or circular chain of parents counts as broken
NS_PER_SECOND = 1_000_000_000


Text = Annotated[str, msgspec.Meta(max_length=256)]


class Link(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """What a span tells about those below it: '' where it says nothing. The order of fields is a stored form's."""

    parent: Annotated[bytes, msgspec.Meta(max_length=8)]  # b'' for a root
    agent: Text
    conversation: Text
    tool: Text  # name of the tool where the span is a call
    root_agent: Text  # name to fall back on at a root
    is_agent: bool = False  # an agent span: calls above it are not its tools' own


@dataclass(slots=True)
class Unsaved:
    """What happened to a trace since it was last written down."""

    links: list[tuple[bytes, Link]] = field(default_factory=list[tuple[bytes, Link]])
    rows: list[tuple[bytes, Any]] = field(default_factory=list[tuple[bytes, Any]])  # began to wait
    released: list[bytes] = field(default_factory=list[bytes])  # wait no longer
    written: bool = False  # something earlier of the trace is in the store


@dataclass(slots=True)
class Trace:
    """One trace: links by span id and rows (opaque here) that wait for the chain above them to be complete."""

    trace_id: bytes
    touched_ns: int  # when its latest span arrived, by the receiver's clock
    links: dict[bytes, Link] = field(default_factory=dict[bytes, Link])
    waiting: dict[bytes, Any] = field(default_factory=dict[bytes, Any])
    conversation: str = ""  # latest seen anywhere in the trace
    begun_unnamed: bool = False  # rows left under the trace's own id: the rest of it follows them
    complete: bool = False  # something has been seen that may end a wait: a root, an agent, a call
    unsaved: Unsaved | None = None  # None while every span seen names its agent: nothing needs to outlive a restart

    def ancestors(self, span_id: bytes) -> Iterator[Link | None]:
        """Links from the span itself upwards; a last None where the chain breaks off."""
        for _ in range(MAX_ANCESTORS):
            link = self.links.get(span_id)
            yield link
            if link is None or not link.parent:
                return
            span_id = link.parent
        yield None

    def agent(self, span_id: bytes) -> str | None:
        """Nearest agent at or above the span, the root's name where there is none, None while unknown."""
        last: Link | None = None
        for link in self.ancestors(span_id):
            if link is None:
                return None
            if link.agent:
                return link.agent
            last = link
        return last.root_agent if last is not None else None

    def session(self, span_id: bytes) -> str:
        """Conversation of the span: nearest above it, else the trace's latest; '' for the trace itself."""
        if self.begun_unnamed:
            return ""
        for link in self.ancestors(span_id):
            if link is not None and link.conversation:
                return link.conversation
        return self.conversation

    def told(self, span_id: bytes, tool: str) -> bool | None:
        """Whether a span above this one, below its agent, is a call of the same tool; None while unknown."""
        chain = self.ancestors(span_id)
        link = next(chain)
        while link is not None and link.parent:
            link = next(chain)
            if link is None:
                return None
            if link.tool == tool:
                return True
            if link.is_agent:
                return False
        return None if link is None else False


class TraceBuffer:
    """The latest traces, bounded in spans, in waiting rows and in age."""

    def __init__(self, max_spans: int = 262_144, max_waiting: int = 32_768, max_age_seconds: int = 60) -> None:
        self._max_spans = max_spans
        self._max_waiting = max_waiting
        self._max_age_ns = max_age_seconds * NS_PER_SECOND
        self._traces: OrderedDict[bytes, Trace] = OrderedDict()
        self._spans = 0
        self.waiting = 0

    def add(self, trace_id: bytes, span_id: bytes, link: Link, now_ns: int) -> Trace:
        """Remember a span; the trace becomes the most recently used."""
        trace = self._traces.get(trace_id)
        if trace is None:
            trace = self._traces[trace_id] = Trace(trace_id, now_ns)
        else:
            self._traces.move_to_end(trace_id)
        if span_id not in trace.links:
            self._spans += 1
            trace.links[span_id] = link
            if trace.unsaved is not None:
                trace.unsaved.links.append((span_id, link))
            if link.conversation:
                trace.conversation = link.conversation
        if link.agent or link.tool or not link.parent:
            trace.complete = True
        trace.touched_ns = now_ns
        return trace

    def keep(self, trace: Trace) -> Unsaved:
        """From now on note what happens to `trace`, beginning with all that has."""
        if trace.unsaved is None:
            trace.unsaved = Unsaved(list(trace.links.items()))
        return trace.unsaved

    def wait(self, trace: Trace, span_id: bytes, row: Any) -> None:
        """Keep `row` until the chain above its span is known. The first telling of a span counts."""
        if span_id not in trace.waiting:
            self.waiting += 1
            trace.waiting[span_id] = row
            self.keep(trace).rows.append((span_id, row))

    def restore(
        self,
        trace_id: bytes,
        now_ns: int,
        links: Sequence[tuple[bytes, Link]],
        rows: Sequence[tuple[bytes, Any]],
        released: Sequence[bytes],
    ) -> Trace:
        """Do to a trace what was once noted of it (see `Unsaved`); steps of one trace in their order."""
        trace = self._traces.setdefault(trace_id, Trace(trace_id, now_ns))
        self._traces.move_to_end(trace_id)
        trace.touched_ns = now_ns
        for span_id, link in links:
            self.add(trace_id, span_id, link, now_ns)
        for span_id, row in rows:
            self.wait(trace, span_id, row)
        self.release(trace, [span_id for span_id in dict.fromkeys(released) if span_id in trace.waiting])
        trace.unsaved = Unsaved(written=True)
        return trace

    def release(self, trace: Trace, span_ids: Sequence[bytes]) -> None:
        """Let the rows of `span_ids` wait no longer."""
        for span_id in span_ids:
            del trace.waiting[span_id]
        self.waiting -= len(span_ids)
        self.keep(trace).released.extend(span_ids)

    def resolved(self, trace: Trace, known: Callable[[Trace, bytes, Any], bool]) -> list[tuple[bytes, Any]]:
        """Take out the waiting rows about which all that matters is `known`."""
        if not trace.complete or not trace.waiting:
            return []
        ready = [(span_id, row) for span_id, row in trace.waiting.items() if known(trace, span_id, row)]
        self.release(trace, [span_id for span_id, _ in ready])
        return ready

    def expired(self, now_ns: int) -> list[Trace]:
        """Take out traces beyond a bound, least recently used first, with whatever still waits in them.

        Age is silence by the receiver's clock: senders' clocks differ, and may lie.
        """
        out: list[Trace] = []
        while self._traces:
            trace = next(iter(self._traces.values()))
            old = trace.touched_ns < now_ns - self._max_age_ns
            if not old and self._spans <= self._max_spans and self.waiting <= self._max_waiting:
                break
            self._traces.popitem(last=False)
            self._spans -= len(trace.links)
            self.waiting -= len(trace.waiting)
            out.append(trace)
        return out
