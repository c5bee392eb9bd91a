"""Sessions of tool calls: the oddest call of each session against the oddest calls of baseline sessions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.detection.calibration import log_survival
from tocsin.detection.call_log import TOOLS_PER_SESSION, Calls, PerAgent, by_session, joined, slot_of, use_of
from tocsin.detection.calls import (
    FEATURES,
    N_FEATURES,
    ORIGINS,
    ROLE,
    TASK,
    agents_using,
    call_features,
    sessions_using,
)
from tocsin.detection.counts import Counts, Keys
from tocsin.detection.oddity import parts
from tocsin.detection.session_fit import Model, judged, train
from tocsin.detection.session_load import ODD, adds, win, won_before
from tocsin.stats.eprocess import log_e_of, log_mix, mixture_calibrator, open_bet, step_calibrator

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
Flags = NDArray[np.bool_]

BET = 0.1  # share of the wealth that is bet on each session
SHOWS = 0.25  # chance that a session of a compromised agent shows it
SLOTS = 4  # sessions an agent can have open at once
MAX_TOOL_NAME = 64  # characters of it in a reason
MIN_SESSIONS = 20  # baseline sessions below which nothing is judged
LOG_P_FLOOR = -27.0
BEYOND = 3.0  # p >= 1 / m^BEYOND: m scores tell 1 / m; a fleet of few agents reaches no alarm without a tail's word
SHOWN = 16  # tools that are remembered for the bets they won


class SessionChannel:
    """Per agent: wealth of the e-process and of the belief, open sessions, the oddest call so far."""

    def __init__(self, seed: int, max_baseline_calls: int) -> None:
        self.seed = seed
        self.max_baseline_calls = max_baseline_calls
        self.dropped = 0
        self.baseline_calls = 0
        self._log: list[Calls] = []
        self._model: Model | None = None
        self._state = _State(0)

    def learn(self, calls: Calls) -> None:
        """Keep baseline calls; beyond the limit they are dropped and counted."""
        if self.baseline_calls + len(calls) > self.max_baseline_calls:
            self.dropped += len(calls)
        elif len(calls):
            self._log.append(calls)
            self.baseline_calls += len(calls)

    @property
    def baseline(self) -> Calls | None:
        """Baseline calls in order of arrival, as of the last `establish`."""
        return self._log[0] if self._log else None

    def establish(self) -> None:
        """Fit and calibrate on the baseline calls so far."""
        if not self._log:
            return
        self._log = [joined(self._log)]
        calls, session = by_session(self._log[0])
        if int(session[-1]) + 1 >= MIN_SESSIONS:
            self._model = train(calls, session, self.seed)

    def judge(self, calls: Calls, live: Flags, seq: I64, agents: int, log_e: F64, belief: F64) -> None:
        """Fill `log_e` and `belief` `(n,)` for live calls. Baselines end inside sessions: their calls are followed."""
        model, state = self._model, self._state.grown(agents)
        self._state = state
        if model is None:
            _follow(
                calls.agent, calls.session, calls.tool, seq, state.key, state.used, state.task, state.previous,
                state.tools, state.uses, state.best, state.beyond, state.opened,
            )  # fmt: skip
            return
        task = model.tasks.look_up(calls.word_offset, calls.word)
        _judge(
            calls.agent,
            calls.session,
            calls.group,
            task,
            calls.tool,
            calls.effect,
            judged(calls),
            live,
            seq,
            *calls.arguments(),
            model.table.keys,
            model.table.counts,
            model.weights,
            ODD,
            model.calibration.scores,
            model.calibration.tail,
            state.key,
            state.used,
            state.task,
            state.previous,
            state.tools,
            state.uses,
            state.best,
            state.beyond,
            state.opened,
            state.bets,
            state.wealth,
            state.top,
            state.top_call,
            state.shown,
            state.shown_best,
            log_e,
            belief,
        )

    def contributions(self, agent: int, tools: Sequence[str]) -> list[tuple[str, float, str]]:
        """(feature, nats of the oddest call's score, detail) of one agent."""
        state = self._state
        if agent >= state.top.shape[0] or state.top_call[agent, 0] < 0:
            return []
        tool, seq = int(state.top_call[agent, 0]), int(state.top_call[agent, 1])
        call = f"called {tools[tool][:MAX_TOOL_NAME]} at event {seq}"
        usual = self._usual(agent)
        return [
            (name, float(state.top[agent, j]), f"{call}{ORIGINS.get(j, '')}; {usual}")
            for j, name in enumerate(FEATURES)
        ]

    def peers(self, agent: int, tools: Sequence[str]) -> tuple[int, int, str]:
        """Agents of the group of an agent's oddest call, how many of them used its tool in their baselines, the tool.

        The agent itself does not count; (0, 0, '') where it made no call with a side effect.
        """
        state, model = self._state, self._model
        if model is None or agent >= state.top.shape[0] or state.top_call[agent, 0] < 0:
            return 0, 0, ""
        tool, group = int(state.top_call[agent, 0]), int(state.top_call[agent, 3])
        members = np.flatnonzero(model.group == group)
        members = members[members != agent].astype(np.int32)
        return members.shape[0], agents_using(members, tool, model.table.keys, model.table.counts), tools[tool]

    def alike(self, agent: int) -> NDArray[np.int64]:
        """Agents whose oddest call is of the same tool, without `agent`."""
        top = self._state.top_call[:, 0]
        if agent >= top.shape[0] or top[agent] < 0:
            return np.zeros(0, np.int64)
        same = np.flatnonzero(top == top[agent])
        return same[same != agent]

    def _usual(self, agent: int) -> str:
        """How often the tool of the agent's oddest call was used for such requests, or by its role, in baselines."""
        model = self._model
        assert model is not None
        tool, _, task, group = (int(value) for value in self._state.top_call[agent])
        for kind, place, where in ((TASK, task, "for such requests"), (ROLE, group, "of its role")):
            sessions, used = sessions_using(agent, tool, kind, place, model.table.keys, model.table.counts)
            if place >= 0 and sessions:
                often = f"{used} used it" if used else "none used it"
                return f"of {sessions} baseline sessions of other agents {where} {often}"
        return "no other agent's baseline has a session like it"


class _State(PerAgent):
    """Arrays per agent; `key` 0 marks a free slot, `bets` are the log factors now in the wealth."""

    def __init__(self, agents: int) -> None:
        self.key = np.zeros((agents, SLOTS), np.int64)
        self.used = np.zeros((agents, SLOTS), np.int64)
        self.task = np.full((agents, SLOTS), -1, np.int32)
        self.previous = np.full((agents, SLOTS), -1, np.int32)
        self.tools = np.full((agents, SLOTS, TOOLS_PER_SESSION), -1, np.int32)
        self.uses = np.zeros((agents, SLOTS, TOOLS_PER_SESSION), np.int32)
        self.best = np.full((agents, SLOTS), -np.inf)  # score of the session's oddest call
        self.beyond = np.zeros((agents, SLOTS, TOOLS_PER_SESSION))  # what each of its tools has beyond an odd call's
        self.opened = np.zeros((agents, SLOTS), np.bool_)  # whether the session's bets are on
        self.bets = np.zeros((agents, SLOTS, 2))
        self.wealth = np.zeros((agents, 3))  # log e-wealth, log belief wealth, sessions so far
        self.wealth[:, :2] = -1e6
        self.top = np.zeros((agents, N_FEATURES + 1))  # parts of the oddest call, and its score
        self.top[:, N_FEATURES] = -np.inf
        self.shown = np.full((agents, SHOWN), -1, np.int64)  # tools whose odd calls won a bet
        self.shown_best = np.zeros((agents, SHOWN))  # the highest that each won, log factor
        self.top_call = np.full((agents, 4), -1, np.int64)  # its tool, event number, task and group


@njit(cache=True, nogil=True)
def _slot(
    a: int, session: int, now: int, key: I64, used: I64, task: I32, previous: I32, tools: I32, best: F64, beyond: F64,
    opened: Flags,
) -> int:  # fmt: skip
    """Slot of a session, emptied where it is new."""
    k, fresh = slot_of(key, used, a, session, now)
    if fresh:
        task[a, k] = -1
        previous[a, k] = -1
        tools[a, k, :] = -1
        best[a, k] = -np.inf
        beyond[a, k, :] = 0.0
        opened[a, k] = False
    return k


@njit(cache=True, nogil=True)
def _follow(
    agent: I32,
    session: I64,
    tool: I32,
    seq: I64,
    key: I64,
    used: I64,
    task: I32,
    previous: I32,
    tools: I32,
    uses: I32,
    best: F64,
    beyond: F64,
    opened: Flags,
) -> None:
    for i in range(agent.shape[0]):
        a = agent[i]
        k = _slot(a, session[i], seq[i] + 1, key, used, task, previous, tools, best, beyond, opened)
        if tool[i] >= 0:
            use_of(tools[a, k], uses[a, k], tool[i])
            previous[a, k] = tool[i]


@njit(cache=True, nogil=True)
def _judge(
    agent: I32,
    session: I64,
    group: I32,
    row_task: I32,
    tool: I32,
    effect: I8,
    counts_here: Flags,
    live: Flags,
    seq: I64,
    arg_offset: I64,
    arg_name: I64,
    arg_hash: I64,
    arg_type: I8,
    arg_flags: U8,
    arg_len: I32,
    keys: Keys,
    counts: Counts,
    weights: F64,
    odd: float,
    reference: F64,
    tail: F64,
    key: I64,
    used: I64,
    task: I32,
    previous: I32,
    tools: I32,
    uses: I32,
    best: F64,
    beyond: F64,
    opened: Flags,
    bets: F64,
    wealth: F64,
    top: F64,
    top_call: I64,
    shown: I64,
    shown_best: F64,
    log_e: F64,
    belief: F64,
) -> None:
    width = top.shape[1] - 1
    features, part = np.empty(width), np.empty(width)
    floor = -BEYOND * math.log(reference.shape[0] + 1.0)
    for i in range(agent.shape[0]):
        a = agent[i]
        k = _slot(a, session[i], seq[i] + 1, key, used, task, previous, tools, best, beyond, opened)
        if live[i] and not opened[a, k]:
            opened[a, k] = True
            wealth[a, 2] += 1.0
            bets[a, k, 0] = log_mix(BET, -1e6)
            bets[a, k, 1] = log_mix(SHOWS, mixture_calibrator(0.0))
            for c in range(2):
                wealth[a, c] = open_bet(wealth[a, c], wealth[a, 2]) + bets[a, k, c]
        if task[a, k] < 0:
            task[a, k] = row_task[i]
        if tool[i] >= 0:
            repeat = use_of(tools[a, k], uses[a, k], tool[i])
            if counts_here[i] and live[i]:
                call_features(
                    a,
                    group[i],
                    task[a, k],
                    tool[i],
                    previous[a, k],
                    repeat,
                    effect[i],
                    0.0,
                    arg_offset[i],
                    arg_offset[i + 1],
                    arg_name,
                    arg_hash,
                    arg_type,
                    arg_flags,
                    arg_len,
                    keys,
                    counts,
                    features,
                )
                score = parts(features, weights[a % 2], part)
                if adds(score, odd, tool[i], tools[a, k], best[a], beyond[a, k], k):
                    load = max(best[a, k], odd + beyond[a, k].sum()) if best[a, k] > odd else best[a, k]
                    log_p = max(log_survival(load, reference, tail), floor)
                    _raise(
                        log_p,
                        tail[3],
                        tools[a, k],
                        beyond[a, k],
                        int(task[a, k]),
                        shown[a],
                        shown_best[a],
                        bets[a, k],
                        wealth[a],
                    )
                if score > top[a, width]:
                    top[a, :width] = part
                    top[a, width] = score
                    top_call[a, 0] = tool[i]
                    top_call[a, 1] = seq[i]
                    top_call[a, 2] = task[a, k]
                    top_call[a, 3] = group[i]
            previous[a, k] = tool[i]
        log_e[i] = log_e_of(wealth[a, 0], wealth[a, 2])
        belief[i] = log_e_of(wealth[a, 1], wealth[a, 2])


@njit(cache=True, nogil=True)
def _raise(
    log_p: float, log_safety: float, tools: I32, beyond: F64, task: int, shown: I64, won: F64, bets: F64, wealth: F64
) -> None:
    """Replace a session's bets by those of its present load.

    Odd sessions come in runs, an agent that takes to a tool goes on using it: of all sessions odd by the same tool
    together the e-process wins what the oddest wins, once.
    """
    log_p = max(log_p, LOG_P_FLOOR)
    e = step_calibrator(min(log_p + log_safety, 0.0))
    fresh = log_mix(BET, math.log(e) if e > 0.0 else -1e6)
    if fresh > 0.0:
        if bets[0] < 0.0:  # whoever repeats what was odd is not calm: the bet was won before, and costs nothing
            wealth[0] -= bets[0]
            bets[0] = 0.0
        gain = fresh - max(won_before(shown, won, tools, beyond, task), bets[0])
        if gain > 0.0:
            wealth[0] += gain
            bets[0] = fresh
            win(shown, won, tools, beyond, task, fresh)
    fresh = log_mix(SHOWS, mixture_calibrator(log_p))
    wealth[1] += fresh - bets[1]
    bets[1] = fresh
