"""A columnar batch of agent events: the one form in which behaviour enters tocsin.

Ingest decodes spans or table rows into columns once; everything downstream is vectorised over them.
Strings appear once per batch, in tables; columns hold codes into those tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


class Phase(IntEnum):
    """Decided by the receiver (admission), never by the agent's own telemetry."""

    BASELINE = 0
    LIVE = 1


class Kind(IntEnum):
    """What sort of event a row is."""

    CALL = 0  # a tool was called
    FINAL = 1  # the agent answered its user; the session's task ends here
    CHAT = 2  # a model was called
    METRIC = 3  # a bare measurement: numeric columns only


class Effect(IntEnum):
    """A tool's side-effect class."""

    UNKNOWN = 0
    READ = 1
    WRITE = 2
    EGRESS = 3
    FINAL = 4


class ArgFlag(IntFlag):
    """Where an argument's value was seen before the call."""

    IN_PROMPT = 1  # literally in the user's request
    IN_OUTPUT = 2  # literally in an earlier tool output of the same session


# Types of an argument's value, coarse on purpose. Code = index.
ARG_TYPES = ("short", "mid", "long", "num", "bool", "email", "url", "iban", "date", "path", "list", "other")


@dataclass(frozen=True, slots=True)
class EventBatch:
    """`n` events in order of arrival, plus the string tables their codes point into.

    Shapes are given per column. Rows of one agent are in the agent's own order. Ragged columns
    (`arg_*`, `prompt_word`) are flat arrays with `n + 1` offsets.
    """

    offset: int  # position of the first row in the ingest log; rows are contiguous
    agents: tuple[str, ...]
    agent: I32  # (n,) index into agents
    t_ns: I64  # (n,) event time, Unix epoch, nanoseconds (or a logical clock where the source has none)
    session: I64  # (n,) hash of the conversation/trace; equal = same task
    phase: I8  # (n,) Phase
    kind: I8  # (n,) Kind
    actions: tuple[str, ...]
    action: I32  # (n,) index into actions; -1 where the event has none
    effect: I8  # (n,) Effect
    groups: tuple[str, ...] = ("",)
    group: I32 = field(default_factory=lambda: np.zeros(0, np.int32))  # (n,) index into groups: role, service, tenant
    contexts: tuple[str, ...] = ("",)
    context: I32 = field(default_factory=lambda: np.zeros(0, np.int32))  # (n,) what numeric columns are conditional on
    feature_names: tuple[str, ...] = ()
    values: F64 = field(default_factory=lambda: np.zeros((0, 0)))  # (n, d) NaN = missing
    arg_offset: I32 = field(default_factory=lambda: np.zeros(1, np.int32))  # (n+1,)
    arg_name: I64 = field(default_factory=lambda: np.zeros(0, np.int64))  # (m,) hash of the argument's name
    arg_hash: I64 = field(default_factory=lambda: np.zeros(0, np.int64))  # (m,) salted hash of the value
    arg_type: I8 = field(default_factory=lambda: np.zeros(0, np.int8))  # (m,) index into ARG_TYPES
    arg_flags: U8 = field(default_factory=lambda: np.zeros(0, np.uint8))  # (m,) ArgFlag
    arg_len: I32 = field(default_factory=lambda: np.zeros(0, np.int32))  # (m,) characters
    prompt_offset: I32 = field(default_factory=lambda: np.zeros(1, np.int32))  # (n+1,)
    prompt_word: I32 = field(default_factory=lambda: np.zeros(0, np.int32))  # (k,) hashed words of the user's request
    # (n,) hash of where the event came from (trace and span id); a repeat is a retransmission. 0 = none known.
    event_id: I64 = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return int(self.agent.shape[0])


@dataclass(frozen=True, slots=True)
class Admitted:
    """What admission returns to a sender: rows accepted, rows refused and why (reason -> count)."""

    accepted: int
    refused: dict[str, int]
    detail: dict[str, Any] = field(default_factory=dict[str, Any])
