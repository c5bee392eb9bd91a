"""Rows of behaviour, one per span that tells of any, and how they become the columns of a batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tocsin.ingest.ragged import MAX_ARGUMENTS, MAX_LENGTH, OTHER, TYPE_CODES, text_hash
from tocsin.model.events import ARG_TYPES, Effect, EventBatch, Kind
from tocsin.wire.records import MAX_MEASUREMENT

CORE: Final = ("duration_ms", "input_tokens", "output_tokens", "error", "n_args", "msg_len", "out_len")
MAX_METRICS: Final = 64  # further names of `tocsin.metric.*` in one batch are dropped and counted
MAX_ID_BYTES: Final = 256
MAX_KNOWN: Final = 65_536
_NAN: Final = float("nan")

Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_ID_BYTES)]
Argument = tuple[  # name, value, type, flags, length
    Int64,
    Int64,
    Annotated[int, msgspec.Meta(ge=0, lt=len(ARG_TYPES))],
    Annotated[int, msgspec.Meta(ge=0, le=3)],
    Annotated[int, msgspec.Meta(ge=0, le=MAX_LENGTH)],
]


class Row(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One event. `agent`, `session` and `words` are set once the span's place in its trace is known.

    The order and bounds of its fields are part of the form in which waiting rows are stored.
    """

    event_id: Int64
    t_ns: Int64
    kind: Annotated[int, msgspec.Meta(ge=0, lt=len(Kind))]
    action: Text  # '' where the event has none
    effect: Annotated[int, msgspec.Meta(ge=0, lt=len(Effect))]
    group: Text
    context: Text
    values: Annotated[list[float], msgspec.Meta(min_length=len(CORE), max_length=len(CORE))]  # as CORE
    metrics: dict[Text, float] | None
    arguments: tuple[Argument, ...]
    fallback: Text  # agent where the trace never tells, '' for unattributed
    mcp: bool  # an MCP call, which an outer span may already have told
    agent: Text = ""
    session: Int64 = 0
    words: tuple[int, ...] = ()


class BatchBuilder:
    """Columns of rows. Arguments recur, so their hashes are remembered, up to a bound."""

    def __init__(self) -> None:
        self._known: dict[str, Argument] = {}
        self.metrics_dropped = 0
        self.arguments_malformed = 0

    def build(self, rows: Sequence[Row], offset: int = 0) -> EventBatch:
        """The batch of `rows` in that order."""
        agents, agent = _codes([row.agent for row in rows])
        actions, action = _codes([row.action for row in rows], absent="")
        groups, group = _codes([row.group for row in rows])
        contexts, context = _codes([row.context for row in rows])
        features, values = self._values(rows)
        flat = np.array([argument for row in rows for argument in row.arguments], np.int64).reshape(-1, 5)

        return EventBatch(
            offset=offset,
            agents=agents,
            agent=agent,
            t_ns=np.array([row.t_ns for row in rows], np.int64),
            session=np.array([row.session for row in rows], np.int64),
            phase=np.zeros(len(rows), np.int8),
            kind=np.array([row.kind for row in rows], np.int8),
            actions=actions,
            action=action,
            effect=np.array([row.effect for row in rows], np.int8),
            groups=groups or ("",),
            group=group,
            contexts=contexts or ("",),
            context=context,
            feature_names=features,
            values=values,
            arg_offset=_offsets([len(row.arguments) for row in rows]),
            arg_name=np.ascontiguousarray(flat[:, 0]),
            arg_hash=np.ascontiguousarray(flat[:, 1]),
            arg_type=flat[:, 2].astype(np.int8),
            arg_flags=flat[:, 3].astype(np.uint8),
            arg_len=flat[:, 4].astype(np.int32),
            prompt_offset=_offsets([len(row.words) for row in rows]),
            prompt_word=np.array([word for row in rows for word in row.words], np.int32),
            event_id=np.array([row.event_id for row in rows], np.int64),
        )

    def _values(self, rows: Sequence[Row]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        values = np.array([row.values for row in rows], np.float64).reshape(len(rows), len(CORE))
        places: dict[str, int] = {name: i for i, name in enumerate(CORE)}
        cells: list[tuple[int, int, float]] = []
        for i, row in enumerate(rows):
            for name, value in (row.metrics or {}).items():
                place = places.get(name, -1)
                if place < 0:
                    if len(places) >= len(CORE) + MAX_METRICS:
                        self.metrics_dropped += 1
                        continue
                    place = places[name] = len(places)
                cells.append((i, place, value))
        if cells:
            wide = np.full((len(rows), len(places)), np.nan)
            wide[:, : len(CORE)] = values
            for i, place, value in cells:
                wide[i, place] = value
            values = wide
        return tuple(places), values

    def arguments(self, text: str) -> tuple[Argument, ...]:
        """Arguments of one call, `name:type:hash:P:T:len|...`; what is malformed is left out and counted."""
        out: list[Argument] = []
        for part in text.split("|")[:MAX_ARGUMENTS]:
            argument = self._known.get(part)
            if argument is None:
                argument = _argument(part)
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                if argument is not None and len(part) < 128:
                    self._known[part] = argument
            if argument is None:
                self.arguments_malformed += 1
            else:
                out.append(argument)
        return tuple(out)


def _argument(part: str) -> Argument | None:
    fields = part.rsplit(":", 5)
    if len(fields) != 6:
        return None
    name, kind, value, in_prompt, in_output, length = fields
    flags = (in_prompt == "1") | (in_output == "1") << 1
    size = int(length) if length.isascii() and length.isdigit() and len(length) < 12 else 0
    return text_hash(name), text_hash(value), TYPE_CODES.get(kind, OTHER), flags, min(size, MAX_LENGTH)


def bounded(text: str) -> str:
    """`text` itself, or where it is longer than MAX_ID_BYTES its beginning and a hash of the whole."""
    if len(text) * 4 <= MAX_ID_BYTES:
        return text
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_ID_BYTES:
        return text
    digest = hashlib.blake2b(data, digest_size=8).hexdigest()
    return data[: MAX_ID_BYTES - 17].decode("utf-8", "ignore") + "~" + digest


def number(value: Any) -> float:
    """A finite number from an attribute (text of a number counts), else NaN; clipped where powers would overflow."""
    if isinstance(value, int | float):
        try:
            measured = float(value)
        except OverflowError:
            return _NAN
        return _clipped(measured)
    if isinstance(value, str) and len(value) <= 32:
        try:
            parsed = float(value)
        except ValueError:
            return _NAN
        return _clipped(parsed)
    return _NAN


def _clipped(measured: float) -> float:
    if -MAX_MEASUREMENT <= measured <= MAX_MEASUREMENT:
        return measured
    return math.copysign(MAX_MEASUREMENT, measured) if math.isfinite(measured) else _NAN


def why_no_number(value: Any) -> str:
    """Under which reason to count an attribute that is there, and of which `number` is NaN."""
    text = value if isinstance(value, str) and len(value) <= 32 else ""
    try:
        measured = float(text or value) if text or isinstance(value, int | float) else None
    except ValueError:
        measured = None
    except OverflowError:
        measured = math.inf
    return "value_no_number" if measured is None else "value_nan" if math.isnan(measured) else "value_infinite"


def _codes(texts: Sequence[str], absent: str | None = None) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Each text once, in order of first appearance, and where each of `texts` is; -1 for `absent`."""
    distinct = tuple(text for text in dict.fromkeys(texts) if text != absent)
    places = {text: place for place, text in enumerate(distinct)}
    if absent is not None:
        places[absent] = -1
    return distinct, np.array(list(map(places.__getitem__, texts)), np.int32)


def _offsets(sizes: Sequence[int]) -> NDArray[np.int32]:
    return np.array([0, *accumulate(sizes)], np.int32)
