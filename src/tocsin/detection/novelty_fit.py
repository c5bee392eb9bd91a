"""What an agent's own baseline sessions say about how often something new turns up in a session.

No peer is needed: the null is that the agent's sessions are exchangeable. Two *loads* of a session are counted against
all its other sessions, and a third figure ranks what is not new but rare:

* tools: calls with a side effect of a (tool, effect) that no other session has. The first call of each counts 2, one
  more if its values come from tool output and none from the request, repeats 1 (at most MAX_REPEATS a session).
* arguments: distinct (tool, argument) filled from tool output for the first time, and recipients never used before.
* rare: in how many other sessions the rarest of the session's tools was used.

P(load >= least) is the rank of leave-one-out loads, a conformal p-value (Vovk, Gammerman & Shafer 2005), shrunk upwards
to the fleet's share: agents that keep finding new tools have a large one. How much further a load goes is
Beta-geometric, prior FURTHER, learned from the fleet and then the agent: an assumption, since ranks alone cannot say
more than one in the number of sessions.
A load becomes an e-value by a fixed average of all-or-nothing bets on its levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.detection.call_log import Calls
from tocsin.detection.calls import READ
from tocsin.detection.counts import CountTable, add, mix
from tocsin.model.events import Kind

F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

TOOLS, ARGUMENTS, RARE = 0, 1, 2  # the three bets
LEVELS = 16  # loads from 0; of the rare bet, level LEVELS - 1 - m stands for m other sessions
FIRST = (2, 1)  # least load of a session with something new
FURTHER = ((4.0, 16.0), (8.0, 12.0))  # Beta prior of "and one more": .2 and .4, worth 20 observations
MAX_REPEATS, MAX_MARKS = 3, 2
MIN_SESSIONS = 10  # of an agent's baseline, below which it is not judged
FLEET_SESSIONS = 5.0  # the fleet's share of novel sessions counts as that many of the agent's own
BET = (0.1, 0.1, 0.5)  # share of the wealth on a session; a rarely used tool that is taken up is seen again and again
SHOWS = 0.25  # chance that a session of a compromised agent shows it
# Weights of the bets on "load >= level", level 0..15. Loads near the middle decide: below, nobody could be flagged by
# one session; beyond, the load before was enough.
WEIGHTS = (
    np.array([0, 0, 0.02, 0.02, 0.06, 0.06, 0.12, 0.14, 0.16, 0.14, 0.1, 0.08, 0.04, 0.03, 0.02, 0.01]),
    np.array([0, 0.15, 0.15, 0.15, 0.15, 0.15, 0.1, 0.1, 0.05, 0, 0, 0, 0, 0, 0, 0]),
)
RARE_SHARES = np.array([1 / 4, 1 / 8, 1 / 16, 1 / 32])
TEMPERS = np.array([1.0, 0.75, 0.5, 0.25, 0.0])
HELD_BACK_NATS = 3.0  # what bets may win on the held-back half of a baseline: 1 in 20 by chance (Ville 1939)

_TOOL, _ORIGIN, _VALUE = 41, 42, 43
_IN_PROMPT, _IN_OUTPUT = 1, 2


@dataclass(frozen=True, slots=True)
class Things:
    """`n` sightings of something an agent may do for the first time, in order of the calls."""

    row: I64  # the call
    key: I64  # agent and what it is
    kind: I8  # TOOLS or ARGUMENTS
    marked: NDArray[np.bool_]  # a call whose values come from tool output, none from the request


@dataclass(slots=True)
class NoveltyModel:
    """`table` counts sessions per key; `bets` `(agents, 3, LEVELS, 2)` holds log factors of wealth and belief."""

    table: CountTable
    bets: F64
    log_p: F64  # (agents, 3, LEVELS)
    sessions: I64  # (agents,) of the baseline
    peers: F64  # (agents,) sessions of other agents that use an agent's tools, on average over its uses


@njit(cache=True, nogil=True)
def tool_key(agent: int, tool: int, effect: int) -> int:
    """Key of an agent's use of a tool with a side effect."""
    return mix(mix(_TOOL, agent), mix(tool, effect))


@njit(cache=True, nogil=True)
def argument_key(agent: int, tool: int, name: int, value: int, kind: int, flags: int, part: int) -> int:
    """Key of an argument's origin (`part` 0) or recipient (`part` 1), 0 where there is nothing to remember."""
    if flags & _IN_PROMPT:
        return 0
    if part == 0:
        return mix(mix(_ORIGIN, agent), mix(tool, name)) if flags & _IN_OUTPUT else 0
    return mix(mix(_VALUE, agent), value) if 5 <= kind <= 7 else 0


@njit(cache=True, nogil=True)
def is_marked(flags: U8, first: int, stop: int) -> bool:
    """Whether some value comes from tool output and none from the request."""
    foreign = False
    for j in range(first, stop):
        if flags[j] & _IN_PROMPT:
            return False
        foreign |= flags[j] & _IN_OUTPUT != 0
    return foreign


@njit(cache=True, nogil=True)
def _things(
    agent: I32,
    tool: I32,
    effect: I8,
    judged: NDArray[np.bool_],
    arg_offset: I64,
    arg_name: I64,
    arg_hash: I64,
    arg_type: I8,
    arg_flags: U8,
    row: I64,
    key: I64,
    kind: I8,
    marked: NDArray[np.bool_],
) -> int:
    n = 0
    for i in range(agent.shape[0]):
        if not judged[i]:
            continue
        first, stop = arg_offset[i], arg_offset[i + 1]
        row[n], key[n], kind[n] = i, tool_key(agent[i], tool[i], effect[i]), 0
        marked[n] = is_marked(arg_flags, first, stop)
        n += 1
        for j in range(first, stop):
            for part in range(2):
                found = argument_key(agent[i], tool[i], arg_name[j], arg_hash[j], arg_type[j], arg_flags[j], part)
                if found != 0:
                    row[n], key[n], kind[n], marked[n] = i, found, 1, False
                    n += 1
    return n


@njit(cache=True, nogil=True)
def _count(key: I64, session: I64, keys: I64, counts: I32, last: I32, used: I64) -> None:
    for i in range(key.shape[0]):
        add(keys, counts, last, used, key[i], session[i])


def judged_calls(calls: Calls) -> NDArray[np.bool_]:
    """Calls that may have a side effect `(n,)`."""
    return (calls.kind == Kind.CALL) & (calls.effect != READ) & (calls.tool >= 0)


def things_of(calls: Calls) -> Things:
    """Everything in `calls` that could be new."""
    room = len(calls) + 2 * calls.arg_name.shape[0]
    row, key = np.empty(room, np.int64), np.empty(room, np.int64)
    kind, marked = np.empty(room, np.int8), np.empty(room, np.bool_)
    n = _things(
        calls.agent, calls.tool, calls.effect, judged_calls(calls), calls.arg_offset, calls.arg_name, calls.arg_hash,
        calls.arg_type, calls.arg_flags, row, key, kind, marked,
    )  # fmt: skip
    return Things(row[:n], key[:n], kind[:n], marked[:n])


def loads(things: Things, session: I64, novel: NDArray[np.bool_], sessions: int) -> I64:
    """Loads `(2, sessions)` of dense sessions; `session` and `novel` `(n,)`: of each thing, and whether it is new."""
    new: I64 = np.flatnonzero(novel)
    pairs, at, calls = np.unique(
        np.stack((session[new], things.key[new])), axis=1, return_index=True, return_counts=True
    )
    kind, where = things.kind[new][at], pairs[0]
    tools = kind == TOOLS
    distinct = np.bincount(where[tools], minlength=sessions)
    repeats = np.bincount(where[tools], calls[tools] - 1, sessions)
    marks = np.bincount(where[tools & things.marked[new][at]], minlength=sessions)
    load = 2 * distinct + np.minimum(repeats, MAX_REPEATS) + np.minimum(marks, MAX_MARKS)
    arguments = np.bincount(where[~tools], minlength=sessions)
    return np.minimum(np.stack((load.astype(np.int64), arguments)), LEVELS - 1)


def fit_novelty(calls: Calls, session: I64) -> NoveltyModel:
    """From baseline calls in order of arrival; `session` `(n,)` are dense numbers in order of their first call."""
    agents, sessions = int(calls.agent.max()) + 1, int(session.max()) + 1
    owner = np.zeros(sessions, np.int64)
    owner[session] = calls.agent
    total = np.bincount(owner, minlength=agents)
    things = things_of(calls)
    seen_in: I64 = session[things.row]
    _, code = np.unique(things.key, return_inverse=True)
    first, often = _spread(code, seen_in)
    table = CountTable(max(int(np.log2(2.0 * (int(code.max(initial=0)) + 1))) + 1, 12))
    order = np.argsort(seen_in, kind="stable")
    _count(things.key[order], seen_in[order], table.keys, table.counts, table.last, table.used)
    load = loads(things, seen_in, often[code] == 1, sessions)
    rarest = _rarest(things, seen_in, often[code] - 1, sessions)
    log_p = _log_p(load, rarest, owner, total)
    temper = _tempers(things, seen_in, code, first, owner, total)
    return NoveltyModel(table, _bets(log_p, temper), log_p, total, _peers(calls, session, owner))


def arrivals(calls: Calls) -> I64:
    """Dense session numbers `(n,)` of calls in order of arrival, in the order of sessions' first calls."""
    _, first, inverse = np.unique(
        np.stack((calls.agent.astype(np.int64), calls.session)), axis=1, return_index=True, return_inverse=True
    )
    rank = np.empty(first.shape[0], np.int64)
    rank[np.argsort(first)] = np.arange(first.shape[0])
    return rank[inverse.ravel()]


def _spread(code: I64, session: I64) -> tuple[I64, I64]:
    """First session of each code, and in how many it occurs."""
    size = int(code.max(initial=-1)) + 1
    pairs = np.unique(np.stack((code, session)), axis=1)
    first = np.full(size, np.iinfo(np.int64).max)
    np.minimum.at(first, pairs[0], pairs[1])
    return first, np.bincount(pairs[0], minlength=size)


def _rarest(things: Things, session: I64, others: I64, sessions: int) -> I64:
    """Least number of other sessions that used one of a session's tools `(sessions,)`; large without tools."""
    out = np.full(sessions, LEVELS, np.int64)
    tools = things.kind == TOOLS
    np.minimum.at(out, session[tools], others[tools])
    return out


def _log_p(load: I64, rarest: I64, owner: I64, total: I64) -> F64:
    """log P(level reached) of sessions of each agent `(agents, 3, LEVELS)`; levels nobody has to reach have p = 1."""
    agents = total.shape[0]
    log_p = np.zeros((agents, 3, LEVELS))
    for c in (TOOLS, ARGUMENTS):
        novel = load[c] >= FIRST[c]
        log_p[:, c, FIRST[c]] = np.log(_shares(np.bincount(owner[novel], minlength=agents), total))
        further = np.where(novel, load[c] - FIRST[c], 0)
        a, b = FURTHER[c]
        size = a + b
        mean = (a + float(further.sum())) / (size + float(further.sum() + novel.sum()))
        more = size * mean + np.bincount(owner, further, agents)
        stops = size * (1.0 - mean) + np.bincount(owner[novel], minlength=agents)
        for level in range(FIRST[c] + 1, LEVELS):
            step = level - FIRST[c] - 1
            log_p[:, c, level] = log_p[:, c, level - 1] + np.log((more + step) / (more + stops + step))
    for others in range(LEVELS - 1):
        rare = rarest <= others
        log_p[:, RARE, LEVELS - 1 - others] = np.log(_shares(np.bincount(owner[rare], minlength=agents), total))
    return log_p


def _shares(count: I64, total: I64) -> F64:
    """Share of sessions `(agents,)`, never below its conformal p-value nor below what the fleet makes likely."""
    fleet = (float(count.sum()) + 1.0) / (float(total.sum()) + 1.0)
    shrunk = (count + FLEET_SESSIONS * fleet) / (total + FLEET_SESSIONS)
    return np.maximum((count + 1.0) / (total + 1.0), shrunk)


def _log_e(log_p: F64) -> F64:
    """log of each session's e-value by the level it reaches `(agents, 3, LEVELS)`; -inf where no bet was won."""
    e = np.zeros_like(log_p)
    for c in (TOOLS, ARGUMENTS):
        e[:, c] = np.cumsum(WEIGHTS[c] * np.exp(-log_p[:, c]), axis=1)
    for share in RARE_SHARES:
        e[:, RARE] += (np.exp(log_p[:, RARE]) <= share) / share / RARE_SHARES.shape[0]
    with np.errstate(divide="ignore"):
        return np.log(e)


def _wins(log_e: F64, temper: F64) -> F64:
    """log factor of the wealth, bets `BET` of `log_e` `(..., 3, LEVELS)` raised to `temper` `(..., 3)`."""
    share = np.array(BET)[:, None]
    raised = np.where(np.isfinite(log_e), temper[..., None] * np.maximum(log_e, -700.0), -np.inf)
    return np.log(1.0 - share + share * np.exp(raised))


def _tempers(things: Things, session: I64, code: I64, first: I64, owner: I64, total: I64) -> F64:
    """The largest power `(agents, 3)` at which bets learned on a baseline's first half do not win on the second."""
    agents, sessions = total.shape[0], owner.shape[0]
    order = np.argsort(owner, kind="stable")
    place = np.empty(sessions, np.int64)
    place[order] = np.arange(sessions) - np.repeat(np.cumsum(total) - total, total)
    early = place < total[owner] // 2
    inside: NDArray[np.bool_] = early[session]
    pairs = np.unique(np.stack((code[inside], session[inside])), axis=1)
    often = np.bincount(pairs[0], minlength=first.shape[0])
    load = loads(things, session, inside & (often[code] == 1), sessions)
    rarest = _rarest(things, session, np.where(inside, often[code] - 1, LEVELS), sessions)
    fitted = _log_p(load[:, early], rarest[early], owner[early], np.bincount(owner[early], minlength=agents))
    later: I64 = np.flatnonzero(~early)
    load = loads(things, session, first[code] == session, sessions)[:, later]
    rarest = _rarest(things, session, np.where(first[code] == session, 0, np.maximum(often[code], 1)), sessions)[later]
    reached = np.stack((load[TOOLS], load[ARGUMENTS], np.maximum(LEVELS - 1 - rarest, 0)))
    log_e = _log_e(fitted)
    temper = np.zeros((agents, 3))
    for power in TEMPERS[::-1]:
        win = _wins(log_e, np.full((agents, 3), power))
        for c in range(3):
            won = np.bincount(owner[later], win[owner[later], c, reached[c]], agents)
            temper[won <= HELD_BACK_NATS, c] = power
    return temper


def _bets(log_p: F64, temper: F64) -> F64:
    """Log factors of wealth and belief by the level a session reaches `(agents, 3, LEVELS, 2)`."""
    p = np.exp(log_p)
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.where(log_p > -1e-3, 0.5, (1.0 - p + p * log_p) / (p * log_p**2))
    return np.stack((_wins(_log_e(log_p), temper), np.log(1.0 - SHOWS + SHOWS * odds)), axis=-1)


def _peers(calls: Calls, session: I64, owner: I64) -> F64:
    """Sessions of other agents with the tool of a call of an agent's, on average over its uses of tools `(agents,)`."""
    agents = int(calls.agent.max()) + 1
    used = judged_calls(calls)
    use = np.unique(np.stack((session[used], calls.tool[used].astype(np.int64))), axis=1)
    who, tool = owner[use[0]], use[1]
    everybody = np.bincount(tool)
    pair, inverse, own = np.unique(np.stack((who, tool)), axis=1, return_inverse=True, return_counts=True)
    others = (everybody[pair[1]] - own)[inverse.ravel()]
    return np.bincount(who, others, agents) / np.maximum(np.bincount(who, minlength=agents), 1)
