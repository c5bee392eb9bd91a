"""An agent that had no side effect in its whole baseline, and now has: session by session, however often one tool.

Which sessions have a side effect is exchangeable under the null. Among m sessions in life of which K have one, the
latest has one with probability K / m, so that an all-or-nothing bet on it pays m / K (a conformal e-value; Vovk,
Gammerman & Shafer 2005). It pays again when the side effect is repeated, less each time. A tenth of the wealth is bet
until the first, half of it from then on. Agents with a side effect in their baselines are not bet on; that choice
lifts the expectation above one, by less than a fifth in every case tried (the test counts all orders of sessions).

Work comes in runs: a task first met in life may bring its side effect day after day. So sessions whose request is of a
kind that the agent's baseline did not have (less than half of its words) are passed over.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.detection.call_log import Calls, PerAgent, slot_of
from tocsin.detection.counts import Counts, CountTable, Keys, add, look, mix
from tocsin.detection.novelty_fit import judged_calls
from tocsin.stats.eprocess import log_add, log_e_of, mixture_calibrator, open_bet

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Flags = NDArray[np.bool_]

SHARE = 0.6  # of the mean with an agent's other novelties
BET, BET_TURNED = 0.1, 0.5  # share of the wealth on a session, before and after the first side effect
SHOWS = 0.25  # chance that a session of a compromised agent shows it
SLOTS = 4  # sessions an agent can have open at once
MAX_BITS = 22  # of the table of words
_WORD = 51  # what is counted, as first half of a key


def without_effects(calls: Calls, sessions: I64, least: int) -> I64:
    """Baseline sessions `(agents,)` of agents that had no side effect in at least `least` of them, 0 for others."""
    acted = np.bincount(calls.agent[judged_calls(calls)], minlength=sessions.shape[0]) > 0
    return np.where(acted | (sessions < least), 0, sessions)


class FirstEffects:
    """Per agent: wealth of the e-process and belief, open sessions, sessions with a side effect so far."""

    def __init__(self) -> None:
        self._state = _State(0)
        self._idle = np.zeros(0, np.int64)
        self._words = CountTable(1)

    def establish(self, calls: Calls, idle: I64) -> None:
        """Learn the requests of the baseline `calls`; `idle` `(agents,)` as from `without_effects`."""
        self._idle = idle
        mine = calls.take(np.flatnonzero(idle[calls.agent] > 0))
        self._words = CountTable(min(max(int(math.log2(2.0 * mine.word.shape[0] + 1.0)) + 1, 4), MAX_BITS))
        table = self._words
        _learn(mine.agent, mine.word_offset, mine.word, table.keys, table.counts, table.last, table.used)

    def judge(self, calls: Calls, live: Flags, seq: I64, agents: int, log_e: F64, belief: F64) -> None:
        """Merge into `log_e` and `belief` `(n,)`."""
        state = self._state = self._state.grown(agents)
        _judge(
            calls.agent, calls.session, judged_calls(calls), calls.tool, live, seq, calls.word_offset, calls.word,
            self._words.keys, self._words.counts, self._idle, state.key, state.used, state.bets,
            state.wealth, state.sessions, state.acted, state.first, log_e, belief,
        )  # fmt: skip

    def first(self, agent: int) -> tuple[int, int, int]:
        """(sessions with a side effect, tool of the first, its event number); (0, -1, -1) where there is none."""
        if agent >= self._state.acted.shape[0]:
            return 0, -1, -1
        tool, seq = (int(value) for value in self._state.first[agent])
        return int(self._state.acted[agent]), tool, seq


class _State(PerAgent):
    def __init__(self, agents: int) -> None:
        self.key = np.zeros((agents, SLOTS), np.int64)
        self.used = np.zeros((agents, SLOTS), np.int64)
        self.bets = np.zeros(
            (agents, SLOTS, 2)
        )  # log factors now in the wealth; of e below 0 until the bet is won, 0 for none
        self.wealth = np.full((agents, 2), -1e6)
        self.sessions = np.zeros(agents, np.int64)
        self.acted = np.zeros(agents, np.int64)
        self.first = np.full((agents, 2), -1, np.int64)


@njit(cache=True, nogil=True)
def _learn(agent: I32, offset: I64, word: I32, keys: Keys, counts: Counts, last: Counts, used: Keys) -> None:
    for i in range(agent.shape[0]):
        for j in range(offset[i], offset[i + 1]):
            add(keys, counts, last, used, mix(mix(_WORD, agent[i]), word[j]), 0)


@njit(cache=True, nogil=True)
def _is_known(agent: int, words: I32, keys: Keys, counts: Counts) -> bool:
    """Whether a request is of a kind that the agent's baseline had; of one without words nothing else is known."""
    known = 0
    for word in words:
        known += look(keys, counts, mix(mix(_WORD, agent), word)) > 0
    return 2 * known >= words.shape[0]


@njit(cache=True, nogil=True)
def _judge(
    agent: I32, session: I64, judged: Flags, tool: I32, live: Flags, seq: I64, word_offset: I64, word: I32,
    keys: Keys, counts: Counts, idle: I64, key: I64, used: I64,
    bets: F64, wealth: F64, sessions: I64, acted: I64, first: I64, log_e: F64, belief: F64,
) -> None:  # fmt: skip
    for i in range(agent.shape[0]):
        a = agent[i]
        if not live[i] or a >= idle.shape[0] or idle[a] == 0:
            continue
        k, fresh = slot_of(key, used, a, session[i], seq[i] + 1)
        if fresh and not _is_known(a, word[word_offset[i] : word_offset[i + 1]], keys, counts):
            bets[a, k, 0] = 0.0
        elif fresh:
            sessions[a] += 1
            bets[a, k, 0] = math.log(1.0 - (BET_TURNED if acted[a] else BET))
            bets[a, k, 1] = math.log(1.0 - SHOWS)
            for c in range(2):
                wealth[a, c] = open_bet(wealth[a, c], int(sessions[a])) + bets[a, k, c]
        if judged[i] and bets[a, k, 0] < 0.0:
            acted[a] += 1
            if acted[a] == 1:
                first[a, 0], first[a, 1] = tool[i], seq[i]
            p = acted[a] / (idle[a] + sessions[a])
            share = 1.0 - math.exp(bets[a, k, 0])
            won = (
                math.log(1.0 - share + share / p),
                math.log(1.0 - SHOWS + SHOWS * math.exp(mixture_calibrator(math.log(p)))),
            )
            for c in range(2):
                wealth[a, c] += won[c] - bets[a, k, c]
                bets[a, k, c] = won[c]
        for c, out in ((0, log_e), (1, belief)):
            own = log_e_of(wealth[a, c], int(sessions[a]))
            out[i] = log_add(math.log(1.0 - SHARE) + out[i], math.log(SHARE) + own)
