"""An agent against nobody but itself: sessions in which it does what it never did.

For agents without peers, whose sessions nobody else's can be compared with. `novelty_fit` says what is counted and with
which probability; here live sessions are followed, call by call. A session's bets grow while it goes on; what it did
for the first time is known from then on (exchangeable sessions), so that a new habit is new once. Three e-processes,
averaged with SHARES, each a mixture over starting sessions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.detection.call_log import Calls, PerAgent, slot_of
from tocsin.detection.counts import look
from tocsin.detection.first_effects import FirstEffects, without_effects
from tocsin.detection.novelty_fit import (
    LEVELS,
    MIN_SESSIONS,
    NoveltyModel,
    argument_key,
    arrivals,
    fit_novelty,
    is_marked,
    judged_calls,
    tool_key,
)
from tocsin.stats.eprocess import log_e_of, open_bet

F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
Flags = NDArray[np.bool_]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

SHARES = np.array([0.5, 0.3, 0.2])  # of the bets on new tools, new arguments, rare tools
SLOTS = 4  # sessions an agent can have open at once
REMEMBERED = 64  # things first done in life that an agent's memory holds, per kind
MAX_TOOL_NAME = 64  # characters of it in a reason
MAX_REPEATS, MAX_MARKS, RARE_BET = 3, 2, 2  # as in novelty_fit: kernels own their numbers
NAMES = ("tools never used before", "argument origins never seen before", "tool hardly ever used before")
FIRST_EFFECT = "first side effect in life"
LEAST_SHARE, FEW_PEERS = 0.03, 10.0


def share_of(peers: F64) -> F64:
    """This channel's share of its and the calls' part of the mean over channels, by the sessions of peers."""
    return LEAST_SHARE + (1.0 - LEAST_SHARE) / (1.0 + peers / FEW_PEERS)


class NoveltyChannel:
    """Per agent: wealth of three e-processes and beliefs, open sessions, what it did for the first time in life."""

    def __init__(self) -> None:
        self._model: NoveltyModel | None = None
        self._state = _State(0)
        self._first = FirstEffects()

    def establish(self, calls: Calls | None) -> None:
        """Fit on the baseline calls so far, in order of arrival."""
        if calls is not None and len(calls):
            self._model = fit_novelty(calls, arrivals(calls))
            self._first.establish(calls, without_effects(calls, self._model.sessions, MIN_SESSIONS))

    def shares(self, agents: int) -> F64:
        """Of the mean over channels `(agents,)`, fixed by the baseline; none for agents that are not judged here."""
        out = np.zeros(agents)
        if self._model is not None:
            known = min(agents, self._model.peers.shape[0])
            enough = self._model.sessions[:known] >= MIN_SESSIONS
            out[:known] = np.where(enough, share_of(self._model.peers[:known]), 0.0)
        return out

    def judge(self, calls: Calls, live: Flags, seq: I64, agents: int, log_e: F64, belief: F64) -> None:
        """Fill `log_e` and `belief` `(n,)` for live calls, NaN for agents with too short a baseline."""
        log_e[:], belief[:] = math.nan, math.nan
        if self._model is None:
            return
        model, state = self._model, self._state.grown(agents)
        self._state = state
        _judge(
            calls.agent,
            calls.session,
            calls.tool,
            calls.effect,
            judged_calls(calls),
            live,
            seq,
            calls.arg_offset,
            calls.arg_name,
            calls.arg_hash,
            calls.arg_type,
            calls.arg_flags,
            model.table.keys,
            model.table.counts,
            model.sessions >= MIN_SESSIONS,
            model.bets,
            SHARES,
            state.key,
            state.used,
            state.number,
            state.seen,
            state.bets,
            state.wealth,
            state.sessions,
            state.memory,
            state.uses,
            state.top,
            log_e,
            belief,
        )
        self._first.judge(calls, live, seq, agents, log_e, belief)

    def contributions(self, agent: int, tools: Sequence[str]) -> list[tuple[str, float, str]]:
        """(feature, nats, detail) of the agent's most novel session."""
        model, state = self._model, self._state
        if model is None or agent >= min(state.top.shape[0], model.sessions.shape[0]):
            return []
        out: list[tuple[str, float, str]] = []
        acted, tool, seq = self._first.first(agent)
        if acted:
            none = f"none of its own {model.sessions[agent]} baseline sessions had a side effect, {acted} since have"
            nats = math.log(float(model.sessions[agent]) + 1.0)
            out.append((FIRST_EFFECT, nats, f"called {tools[tool][:MAX_TOOL_NAME]} at event {seq}; {none}"))
        for c, name in enumerate(NAMES):
            level, tool, seq = (int(value) for value in state.top[agent, c])
            if level > 0 and tool >= 0:
                nats = -float(model.log_p[agent, c, level])
                count = int(model.sessions[agent])
                detail = f"called {tools[tool][:MAX_TOOL_NAME]} at event {seq}; {_among(c, level, count)}"
                out.append((name, nats, detail))
        return out


def _among(bet: int, level: int, sessions: int) -> str:
    if bet < 2 or level == LEVELS - 1:
        return f"none of its own {sessions} baseline sessions has the like"
    return f"few of its own {sessions} baseline sessions have the like"


class _State(PerAgent):
    """Arrays per agent. `seen` counts in an open session: tools, repeats, marks, arguments, the three levels."""

    def __init__(self, agents: int) -> None:
        self.key = np.zeros((agents, SLOTS), np.int64)
        self.used = np.zeros((agents, SLOTS), np.int64)
        self.number = np.zeros((agents, SLOTS), np.int64)
        self.seen = np.zeros((agents, SLOTS, 7), np.int64)
        self.bets = np.zeros((agents, SLOTS, 3, 2))
        self.wealth = np.full((agents, 3, 2), -1e6)
        self.sessions = np.zeros(agents, np.int64)
        self.memory = np.zeros((agents, 2, REMEMBERED), np.int64)  # keys, by kind; the oldest is forgotten
        self.uses = np.zeros((agents, 2, REMEMBERED + 1, 2), np.int64)  # sessions, the latest of them; and entries
        self.top = np.full((agents, 3, 3), -1, np.int64)  # highest level, its tool and event number


@njit(cache=True, nogil=True)
def _recall(memory: I64, uses: I64, key: int, session: int) -> int:
    """Earlier live sessions that had `key`, which is remembered; -1 if this session was the first to have it."""
    room = memory.shape[0]
    for i in range(min(uses[room, 0], room)):
        if memory[i] == key:
            if uses[i, 1] != session:
                uses[i, 0] += 1
                uses[i, 1] = session
            return uses[i, 0] - 1 if uses[i, 0] > 1 else -1
    i = uses[room, 0] % room
    memory[i] = key
    uses[i, 0], uses[i, 1] = 1, session
    uses[room, 0] += 1
    return 0


@njit(cache=True, nogil=True)
def _open(seen: I64, table: F64, bets: F64, wealth: F64, t: int) -> None:
    """Begin a session, the agent's `t`-th in life: it has reached no level yet."""
    seen[:] = 0
    for c in range(wealth.shape[0]):
        for k in range(2):
            bets[c, k] = table[c, 0, k]
            wealth[c, k] = open_bet(wealth[c, k], t) + bets[c, k]


@njit(cache=True, nogil=True)
def _raise(levels: I64, reached: I64, table: F64, bets: F64, wealth: F64, top: I64, tool: int, seq: int) -> None:
    """Replace a session's bets by those of the higher levels that a call took it to."""
    for c in range(3):
        if reached[c] <= levels[c]:
            continue
        levels[c] = reached[c]
        for k in range(2):
            wealth[c, k] += table[c, reached[c], k] - bets[c, k]
            bets[c, k] = table[c, reached[c], k]
        if reached[c] > top[c, 0]:
            top[c, 0], top[c, 1], top[c, 2] = reached[c], tool, seq


@njit(cache=True, nogil=True)
def _refund(bets: F64, wealth: F64) -> None:
    """A session that repeats what was new is not calm: its bets on tools are off, neither lost nor won."""
    for c in (0, RARE_BET):
        if bets[c, 0] < 0.0:
            wealth[c, 0] -= bets[c, 0]
            bets[c, 0] = 0.0


@njit(cache=True, nogil=True)
def _tool(seen: I64, others: int, before: int, marked: bool, last: int) -> int:
    """Count a call; the rare level it reaches. `others` baseline and `before` earlier live sessions had its tool."""
    if before > 0:
        return 0  # not the first time in life: sessions of one kind come in runs
    if others == 0 and before == 0:
        seen[0] += 1
        seen[2] += marked
    elif others == 0:
        seen[1] += 1
    return max(last - others, 0)


@njit(cache=True, nogil=True)
def _means(wealth: F64, shares: F64, t: int) -> tuple[float, float]:
    """log of the mean e-process and belief over the bets."""
    e, held = 0.0, 0.0
    for c in range(shares.shape[0]):
        e += shares[c] * math.exp(log_e_of(wealth[c, 0], t))
        held += shares[c] * math.exp(log_e_of(wealth[c, 1], t))
    return math.log(e), math.log(held)


@njit(cache=True, nogil=True)
def _judge(
    agent: I32,
    session: I64,
    tool: I32,
    effect: I8,
    judged: Flags,
    live: Flags,
    seq: I64,
    arg_offset: I64,
    arg_name: I64,
    arg_hash: I64,
    arg_type: I8,
    arg_flags: U8,
    keys: I64,
    counts: I32,
    known: Flags,
    table: F64,
    shares: F64,
    key: I64,
    used: I64,
    number: I64,
    seen: I64,
    bets: F64,
    wealth: F64,
    sessions: I64,
    memory: I64,
    uses: I64,
    top: I64,
    log_e: F64,
    belief: F64,
) -> None:
    last = table.shape[2] - 1
    reached = np.zeros(3, np.int64)
    for i in range(agent.shape[0]):
        a = agent[i]
        if not live[i] or a >= known.shape[0] or not known[a]:
            continue
        k, fresh = slot_of(key, used, a, session[i], seq[i] + 1)
        t = int(sessions[a])
        if fresh:
            t += 1
            sessions[a], number[a, k] = t, t
            _open(seen[a, k], table[a], bets[a, k], wealth[a], t)
        if judged[i]:
            now, here = seen[a, k], int(number[a, k])
            first, stop = arg_offset[i], arg_offset[i + 1]
            this = tool_key(a, tool[i], effect[i])
            others, before = look(keys, counts, this), 0
            if others < last:
                before = _recall(memory[a, 0], uses[a, 0], this, here)
            if others == 0 and before > 0:
                _refund(bets[a, k], wealth[a])
            reached[RARE_BET] = _tool(now, others, before, is_marked(arg_flags, first, stop), last)
            for j in range(2 * first, 2 * stop):
                m = j // 2
                found = argument_key(a, tool[i], arg_name[m], arg_hash[m], arg_type[m], arg_flags[m], j % 2)
                if found != 0 and look(keys, counts, found) == 0:
                    now[3] += _recall(memory[a, 1], uses[a, 1], found, here) == 0
            reached[0] = min(2 * now[0] + min(now[1], MAX_REPEATS) + min(now[2], MAX_MARKS), last)
            reached[1] = min(now[3], last)
            _raise(now[4:7], reached, table[a], bets[a, k], wealth[a], top[a], tool[i], seq[i])
        log_e[i], belief[i] = _means(wealth[a], shares, t)
