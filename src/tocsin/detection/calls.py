"""How unusual a tool call is: for its task, its role, the agent's own past, and by where its arguments came from.

Every figure leaves the agent's own sessions out of the fleet's counts, and the session itself out of the agent's
counts, so that baseline sessions are scored as later ones will be.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.detection.counts import Counts, Keys, add, look, mix

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

# What is counted (first half of a key).
ROLE, ROLE_TOOL, TASK, TASK_TOOL, TASK_REPEAT = 11, 12, 13, 14, 15
STEP, STEP_TOOL, TOOL, ARG, ARG_PATTERN = 16, 17, 18, 19, 20
TASK_ARG, TASK_ARG_PATTERN, ARG_SIZE, TASK_ARG_SIZE = 21, 22, 23, 24
OWN, OWN_TOOL, OWN_VALUE, OWN_ARG = 31, 32, 33, 34

MAX_REPEAT = 8
READ, WRITE, EGRESS = 1, 2, 3
IN_PROMPT, IN_OUTPUT = 1, 2

FEATURES = (
    "tool unusual for this task",
    "tool unusual for this role",
    "tool unusual for this agent",
    "tool unusual after the previous one",
    "tool repeated more than the task needs",
    "argument taken from tool output, unusual for this tool",
    "argument taken from tool output, unusual for this task",
    "argument made up, unusual for this task",
    "argument from the request, unusual for this task",
    "value from tool output of a length never seen here",
    "made-up value of a length never seen here",
    "argument rarely given to this tool",
    "values from tool output never used before",
    "recipients never used before",
    "share of arguments from tool output",
    "share of arguments from the request",
    "sends outside",
    "unusual tool with a foreign value",
    "unusual tool with values never used before",
    "arguments from tool output, together",
    "origin of an argument new for this agent",
    "recipient from tool output of a length never seen here",
)
N_FEATURES = len(FEATURES)
REASSURING_FEATURES = (8, 15)  # what the user asked for
FREE_FEATURES = (14, 16)
IDLE_FEATURES = (7, 10)  # what the model made up itself: clumsy agents do it, an attacker cannot choose it
# How a sentence about a call goes on, by feature.
_FROM_OUTPUT = " with a value that only tool output had"
ORIGINS = dict.fromkeys((5, 6, 9, 12, 19, 20, 21), _FROM_OUTPUT) | {13: " with a recipient never seen before"}
MAX_SURPRISE = 8.0  # nats: beyond it a single oddity says nothing more


@njit(cache=True, nogil=True)
def key2(kind: int, a: int, b: int) -> int:
    """Key of a count over a pair."""
    return mix(mix(kind, a + 7), b + 13)


@njit(cache=True, nogil=True)
def _put(keys: Keys, counts: Counts, last: Counts, used: Keys, key: int, agent: int, session: int) -> None:
    add(keys, counts, last, used, key, session)
    add(keys, counts, last, used, mix(key, agent + 101), session)


@njit(cache=True, nogil=True)
def _others(keys: Keys, counts: Counts, key: int, agent: int) -> float:
    """Sessions of other agents that have `key`."""
    total = look(keys, counts, key)
    if total == 0:
        return 0.0
    return float(total - look(keys, counts, mix(key, agent + 101)))


def sessions_using(agent: int, tool: int, kind: int, place: int, keys: Keys, counts: Counts) -> tuple[int, int]:
    """Baseline sessions of other agents of a task (`kind` TASK) or role (ROLE) `place`; how many of them use `tool`."""
    using = TASK_TOOL if kind == TASK else ROLE_TOOL
    return int(_others(keys, counts, key2(kind, place, 0), agent)), int(
        _others(keys, counts, key2(using, place, tool), agent)
    )


@njit(cache=True, nogil=True)
def agents_using(agents: I32, tool: int, keys: Keys, counts: Counts) -> int:
    """How many of `agents` used `tool` in their own baselines."""
    using = 0
    for agent in agents:
        using += look(keys, counts, key2(OWN_TOOL, agent, tool)) > 0
    return using


@njit(cache=True, nogil=True)
def size_class(length: int) -> int:
    """Lengths in octaves."""
    return int(math.log2(length + 1.0))


@njit(cache=True, nogil=True)
def length_class(length: int) -> int:
    """Lengths to the character where they are short (identifiers, addresses), in octaves beyond."""
    return length + 64 if length <= 48 else int(math.log2(length + 1.0))


@njit(cache=True, nogil=True)
def count_calls(
    agent: I32,
    session: I64,
    group: I32,
    task: I32,
    tool: I32,
    previous: I32,
    repeat: I32,
    arg_offset: I64,
    arg_name: I64,
    arg_hash: I64,
    arg_type: I8,
    arg_flags: U8,
    arg_len: I32,
    keys: Keys,
    counts: Counts,
    last: Counts,
    used: Keys,
) -> None:
    """Count baseline calls, rows sorted by session; `session` are dense numbers, `previous` -1 at a session's start."""
    for i in range(agent.shape[0]):
        a, s, g, p, v = agent[i], session[i], group[i], task[i], tool[i]
        _put(keys, counts, last, used, key2(ROLE, g, 0), a, s)
        _put(keys, counts, last, used, key2(ROLE_TOOL, g, v), a, s)
        _put(keys, counts, last, used, key2(STEP, g, previous[i]), a, s)
        _put(keys, counts, last, used, mix(key2(STEP_TOOL, g, previous[i]), v), a, s)
        _put(keys, counts, last, used, key2(TOOL, v, 0), a, s)
        add(keys, counts, last, used, key2(OWN, a, 0), s)
        add(keys, counts, last, used, key2(OWN_TOOL, a, v), s)
        if p >= 0:
            _put(keys, counts, last, used, key2(TASK, p, 0), a, s)
            _put(keys, counts, last, used, key2(TASK_TOOL, p, v), a, s)
            _put(keys, counts, last, used, mix(key2(TASK_REPEAT, p, v), min(repeat[i], MAX_REPEAT)), a, s)
        for j in range(arg_offset[i], arg_offset[i + 1]):
            name = mix(arg_name[j], v)
            pattern = arg_type[j] * 4 + arg_flags[j]
            size = size_class(arg_len[j])
            _put(keys, counts, last, used, key2(ARG, name, 0), a, s)
            _put(keys, counts, last, used, key2(ARG_PATTERN, name, pattern), a, s)
            _put(keys, counts, last, used, key2(ARG_SIZE, name, size), a, s)
            add(keys, counts, last, used, mix(key2(OWN_ARG, a, name), 0), s)
            add(keys, counts, last, used, mix(key2(OWN_ARG, a, name), 1 + pattern), s)
            add(keys, counts, last, used, mix(key2(OWN_VALUE, a, arg_name[j]), arg_hash[j]), s)
            if p >= 0:
                _put(keys, counts, last, used, mix(key2(TASK_ARG, p, name), 0), a, s)
                _put(keys, counts, last, used, mix(key2(TASK_ARG_PATTERN, p, name), pattern), a, s)
                _put(keys, counts, last, used, mix(key2(TASK_ARG_SIZE, p, name), size), a, s)
                _put(keys, counts, last, used, mix(key2(TASK_ARG_SIZE, p, name), length_class(arg_len[j])), a, s)
            _put(keys, counts, last, used, key2(ARG_SIZE, name, length_class(arg_len[j])), a, s)


@njit(cache=True, nogil=True)
def _argument_features(
    a: int,
    p: int,
    v: int,
    own_session: float,
    first: int,
    stop: int,
    arg_name: I64,
    arg_hash: I64,
    arg_type: I8,
    arg_flags: U8,
    arg_len: I32,
    keys: Keys,
    counts: Counts,
    out: F64,
) -> tuple[float, float, float]:
    """Fill the oddities of arguments; return how many there are, come from tool output, come from the request."""
    uses = _others(keys, counts, key2(TOOL, v, 0), a)
    total, foreign, requested = 0.0, 0.0, 0.0
    for j in range(first, stop):
        name = mix(arg_name[j], v)
        pattern = arg_type[j] * 4 + arg_flags[j]
        given = _others(keys, counts, key2(ARG, name, 0), a)
        out[11] = max(out[11], -math.log((given + 0.2) / (uses + 0.4)))
        by_tool = (_others(keys, counts, key2(ARG_PATTERN, name, pattern), a) + 0.2) / (given + 2.0)
        size, exact = size_class(arg_len[j]), length_class(arg_len[j])
        by_size = (_others(keys, counts, key2(ARG_SIZE, name, size), a) + 0.2) / (given + 2.0)
        by_size = (_others(keys, counts, key2(ARG_SIZE, name, exact), a) + 2.0 * by_size) / (given + 2.0)
        by_task = by_tool
        if p >= 0:
            here = _others(keys, counts, mix(key2(TASK_ARG, p, name), 0), a)
            same = _others(keys, counts, mix(key2(TASK_ARG_PATTERN, p, name), pattern), a)
            by_task = (same + 2.0 * by_tool) / (here + 2.0)
            sized = _others(keys, counts, mix(key2(TASK_ARG_SIZE, p, name), exact), a)
            by_size = (sized + 2.0 * by_size) / (here + 2.0)
        total += 1.0
        unseen = look(keys, counts, mix(key2(OWN_VALUE, a, arg_name[j]), arg_hash[j])) - own_session <= 0.0
        if arg_flags[j] & IN_PROMPT:
            requested += 1.0
            out[8] = max(out[8], -math.log(by_task))
            continue
        if unseen and 5 <= arg_type[j] <= 7:
            out[13] = min(out[13] + 1.0, 3.0)
        if arg_flags[j] & IN_OUTPUT:
            foreign += 1.0
            out[5] = max(out[5], -math.log(by_tool))
            out[6] = max(out[6], -math.log(by_task))
            out[9] = max(out[9], -math.log(by_size))
            if 5 <= arg_type[j] <= 7:
                out[21] = max(out[21], -math.log(by_size))
            mine = max(look(keys, counts, mix(key2(OWN_ARG, a, name), 1 + pattern)) - own_session, 0.0)
            times = max(look(keys, counts, mix(key2(OWN_ARG, a, name), 0)) - own_session, 0.0)
            out[20] = max(out[20], -math.log((mine + 2.0 * by_tool) / (times + 2.0)))
            out[19] = min(out[19] + max(-math.log(by_task) - 1.0, 0.0), 30.0)
            if unseen:
                out[12] = min(out[12] + 1.0, 4.0)
        else:
            out[7] = max(out[7], -math.log(by_task))
            out[10] = max(out[10], -math.log(by_size))
    return total, foreign, requested


@njit(cache=True, nogil=True)
def call_features(
    a: int,
    g: int,
    p: int,
    v: int,
    previous: int,
    repeat: int,
    effect: int,
    own_session: float,
    first: int,
    stop: int,
    arg_name: I64,
    arg_hash: I64,
    arg_type: I8,
    arg_flags: U8,
    arg_len: I32,
    keys: Keys,
    counts: Counts,
    out: F64,
) -> None:
    """Fill `out` `(N_FEATURES,)` for one call. `own_session` is 1 if its session is itself in the agent's counts."""
    out[:] = 0.0
    in_role = (_others(keys, counts, key2(ROLE_TOOL, g, v), a) + 0.25) / (
        _others(keys, counts, key2(ROLE, g, 0), a) + 5.0
    )
    in_task = in_role
    seen_task = 0.0
    if p >= 0:
        seen_task = _others(keys, counts, key2(TASK, p, 0), a)
        with_tool = _others(keys, counts, key2(TASK_TOOL, p, v), a)
        in_task = (with_tool + 2.0 * in_role) / (seen_task + 2.0)
        again = _others(keys, counts, mix(key2(TASK_REPEAT, p, v), min(repeat, MAX_REPEAT)), a)
        if repeat > 1:
            out[4] = -math.log((again + 0.5 * 0.3 + 0.05) / (with_tool + 0.5))
    out[0] = -math.log(in_task)
    out[1] = -math.log(in_role)
    own = max(look(keys, counts, key2(OWN_TOOL, a, v)) - own_session, 0.0)
    sessions = max(look(keys, counts, key2(OWN, a, 0)) - own_session, 0.0)
    out[2] = -math.log((own + 3.0 * in_role) / (sessions + 3.0))
    after = _others(keys, counts, mix(key2(STEP_TOOL, g, previous), v), a)
    out[3] = -math.log((after + 3.0 * in_role) / (_others(keys, counts, key2(STEP, g, previous), a) + 3.0))
    total, foreign, requested = _argument_features(
        a, p, v, own_session, first, stop, arg_name, arg_hash, arg_type, arg_flags, arg_len, keys, counts, out
    )
    for k in range(N_FEATURES):
        out[k] = min(out[k], MAX_SURPRISE)
    out[14] = foreign / max(total, 1.0)
    out[15] = requested / max(total, 1.0)
    out[16] = 1.0 if effect == EGRESS else 0.0
    out[17] = min(out[0], out[9])
    out[18] = min(out[0], 3.0 * out[12])
