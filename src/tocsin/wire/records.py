"""Plain dictionaries -> `EventBatch`: how a program states behaviour without telemetry.

A record's keys:

| key | meaning |
|---|---|
| `action` | name of the tool or operation (text, optional) |
| `effect` | `read`, `write`, `egress`, `final` (optional) |
| `kind` | `call`, `final`, `chat`, `metric`; by default `call` where there is an action, else `metric` |
| `session` | text or integer naming the task the event belongs to (optional) |
| `t` | event time in seconds (optional; default: order of arrival) |
| `group`, `context` | the agent's role; what numeric values are conditional on (text, optional) |
| anything else | a number: a feature of that name. `True`/`False` count as 1/0, `None` as missing; clipped at 1e50 |
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from tocsin.errors import InputError
from tocsin.model.events import Effect, EventBatch, Kind
from tocsin.wire.limits import MAX_AGENT_ID_BYTES, MAX_FEATURE_BYTES

MAX_TEXT = 256  # characters; an agent's name and a feature's also keep what evidence can carry (wire/limits.py)
MAX_MEASUREMENT = 1e50  # beyond it powers and their sums would overflow; nothing that is measured comes near
MAX_SECONDS = 9e9  # the year 2255; nanoseconds still fit 64 bits
KINDS = {"call": Kind.CALL, "final": Kind.FINAL, "chat": Kind.CHAT, "metric": Kind.METRIC}
EFFECTS = {
    "": Effect.UNKNOWN,
    "read": Effect.READ,
    "write": Effect.WRITE,
    "egress": Effect.EGRESS,
    "final": Effect.FINAL,
}
RESERVED = frozenset(("action", "effect", "kind", "session", "t", "group", "context", "agent_id"))


class _Table:
    """Strings of a batch, each once."""

    def __init__(self, first: Sequence[str] = ()) -> None:
        self.codes: dict[str, int] = {text: i for i, text in enumerate(first)}

    def code(self, text: str) -> int:
        return self.codes.setdefault(text, len(self.codes))

    @property
    def strings(self) -> tuple[str, ...]:
        return tuple(self.codes)


def hash64(text: str) -> int:
    """A signed 64-bit hash of a string, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def batch_from_records(
    records: Sequence[tuple[str, Mapping[str, Any]]], *, offset: int, phases: Sequence[int]
) -> EventBatch:
    """Columns from (agent_id, record) pairs, in order; `phases` gives each row's `Phase`.

    Raises:
        InputError: a record is no mapping, a name is empty, too long or not Unicode text, a value is neither number
            nor known key, a number is infinite.
    """
    n = len(records)
    agents, actions = _Table(), _Table()
    groups, contexts, features = _Table([""]), _Table([""]), _Table()
    for _, record in records:
        for key in _mapping(record):
            if key not in RESERVED:
                features.code(_feature_name(key))
    values = np.full((n, len(features.codes)), np.nan)
    ints = np.zeros((9, n), np.int64)
    for row, (agent_id, record) in enumerate(records):
        action = record.get("action")
        kind = record.get("kind", "metric" if action is None else "call")
        ints[0, row] = agents.code(_text("agent_id", agent_id, MAX_AGENT_ID_BYTES))
        ints[1, row] = _nanoseconds(record.get("t", offset + row))
        ints[2, row] = hash64(f"session {_label('session', record.get('session', agent_id))}")
        ints[3, row] = _choice("kind", kind, KINDS)
        ints[4, row] = -1 if action is None else actions.code(_text("action", action))
        ints[5, row] = _choice("effect", record.get("effect") or "", EFFECTS)
        ints[6, row] = groups.code(_label("group", record.get("group"))[:MAX_TEXT])
        ints[7, row] = contexts.code(_label("context", record.get("context"))[:MAX_TEXT])
        for key, value in record.items():
            if key not in RESERVED and value is not None:
                values[row, features.codes[key]] = _number(key, value)
    zeros = np.zeros(n + 1, np.int32)
    return EventBatch(
        offset=offset,
        agents=agents.strings,
        agent=ints[0].astype(np.int32),
        t_ns=ints[1].copy(),
        session=ints[2].copy(),
        phase=np.array(phases, np.int8),
        kind=ints[3].astype(np.int8),
        actions=actions.strings,
        action=ints[4].astype(np.int32),
        effect=ints[5].astype(np.int8),
        groups=groups.strings,
        group=ints[6].astype(np.int32),
        contexts=contexts.strings,
        context=ints[7].astype(np.int32),
        feature_names=features.strings,
        values=values,
        arg_offset=zeros,
        prompt_offset=zeros.copy(),
    )


def _mapping(record: Any) -> Mapping[Any, Any]:
    if not isinstance(record, Mapping):
        raise InputError(f"an event must be a mapping, not {_shown(record)}", remedy="give a dictionary of its values")
    return cast("Mapping[Any, Any]", record)


def _text(what: str, value: Any, max_bytes: int = 4 * MAX_TEXT) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT or len(_utf8(what, value)) > max_bytes:
        raise InputError(
            f"{what} must be text of 1 to {MAX_TEXT} characters, not {_shown(value)}",
            remedy=f"give text of at most {max_bytes} bytes in UTF-8",
        )
    return value


def _feature_name(key: Any) -> str:
    if key == "t_ns":
        raise InputError("an event has no key 't_ns'", remedy="give its time as 't', in seconds")
    return _text("feature name", key, MAX_FEATURE_BYTES)


def _label(what: str, value: Any) -> str:
    """A name that may be a number or missing ('')."""
    if value is not None and not isinstance(value, (str, int, float)):
        raise InputError(f"{what} must be text or a number, not {_shown(value)}", remedy="give it a name")
    label = "" if value is None or value == "" else value if isinstance(value, str) else _shown(value)
    _utf8(what, label)
    return label


def _utf8(what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} {_shown(text)} is not Unicode text: {error.reason}", remedy="decode bytes with errors='replace'"
        ) from None


def _shown(value: Any) -> str:
    """At most 80 characters of a value of any kind, for a message."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # an integer of too many digits
        return f"something of type {type(value).__name__}"


def _choice(what: str, value: Any, known: Mapping[str, int]) -> int:
    if not isinstance(value, str) or value not in known:
        raise InputError(
            f"{what} {_shown(value)} is not known", remedy="use one of: " + ", ".join(k for k in known if k)
        )
    return known[value]


def _nanoseconds(seconds: Any) -> int:
    if abs(value := _number("t", seconds)) > MAX_SECONDS:
        raise InputError(f"t = {value:g} seconds is not a time", remedy="give seconds since 1970")
    return round(value * 1e9)


def _number(what: str, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(
            f"{what:.80} must be a finite number, not {_shown(value)}", remedy="leave a missing value out, or give None"
        )
    return max(-MAX_MEASUREMENT, min(MAX_MEASUREMENT, number))
