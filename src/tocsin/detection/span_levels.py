"""Durations and sizes that come with spans: whole sessions of an agent against its own baseline sessions.

Rows of a session move together and depend on tool and task, so a session is one observation: the mean over its rows of
log(1 + value), less what the fleet's *other tasks* show for the same tool. Its rank among baseline sessions, each
scored against its agent's other sessions and the fleet's other tasks, gives a normal score (Blom 1958) without
extrapolation. Bets exp(b g - b^2 v / 2) on a lasting shift run through a switching mixture (Herbster & Warmuth 1998),
one step a session. What the whole fleet shares of a tool (the running median, Robbins & Monro 1951) is no evidence.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.detection.bisection import first_at_least
from tocsin.detection.call_log import Calls, joined, slot_of
from tocsin.detection.span_fit import MIN_ROWS, Levels, fit_levels
from tocsin.detection.tasks import Tasks
from tocsin.model.events import Kind

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

MEASURES = ("duration_ms", "input_tokens", "output_tokens", "msg_len", "out_len")
PLAIN = ("duration", "input tokens", "output tokens", "length of answers", "length of tool outputs")
SLOTS = 4  # sessions an agent can have open at once
BETS = np.array([0.5, -0.5, 1.0, -1.0])
START, STOP = 1.0 / 20.0, 1.0 / 100.0  # chance per session that a shift begins, or ends
FORGET = 1.0 / 10.0  # the same end for the belief, which is about now
TOLERANCE = 0.3  # of a standard deviation: the agent's own level is an estimate
SPREAD = 1.3  # variance allowed to a score: neighbouring sessions are alike
COMMON = 0.1  # nats: a smaller shift of the fleet's median may be the compromised agents' own doing
RECENT = 0.25  # weight of the newest session in what is called now
MIN_FLEET = 20  # agents from which a common shift is subtracted
LEAST_SPREAD = 0.01  # nats between the tenth and the last tenth of baseline sessions
MOST_TIES = 0.2  # share of baseline sessions with one and the same score
CAP = 1e120


class SpanChannel:
    """Baseline rows until `establish`, then per agent the switching wealth of every measure and bet."""

    def __init__(self, max_baseline_rows: int) -> None:
        self.max_baseline_rows = max_baseline_rows
        self.dropped = 0
        self._log: list[tuple[Calls, F64]] = []
        self._kept = 0
        self._levels: Levels | None = None
        self._key = np.zeros((0, SLOTS), np.int64)
        self._used = np.zeros((0, SLOTS), np.int64)
        self._task = np.zeros((0, SLOTS), np.int64)
        self._open = np.zeros((0, SLOTS, len(MEASURES), 2))  # rows and total of open sessions
        self._wealth = np.zeros((0, len(MEASURES), BETS.shape[0], 4))
        self._now = np.zeros((0, len(MEASURES)))  # recent level above the baseline, nats
        self._common = np.zeros((0, len(MEASURES)))

    def learn(self, calls: Calls, values: F64) -> None:
        """Keep baseline rows with `values` `(n, len(MEASURES))`; beyond the limit they are dropped and counted."""
        seen = np.flatnonzero(np.isfinite(values).any(axis=1))
        if self._kept + seen.shape[0] > self.max_baseline_rows:
            self.dropped += int(seen.shape[0])
        elif seen.size:
            self._log.append((calls.take(seen), values[seen]))
            self._kept += int(seen.shape[0])

    def establish(self, tools: int) -> None:
        """Fit on the baseline rows so far; `tools` are the tools known."""
        if not self._log:
            return
        self._log = [(joined([part[0] for part in self._log]), np.concatenate([part[1] for part in self._log]))]
        calls, values = self._log[0]
        agent = calls.agent.astype(np.int64)
        _, first, session = np.unique(np.stack((agent, calls.session)), axis=1, return_index=True, return_inverse=True)
        requests = calls.take(first)
        tasks = Tasks()
        tasks.fit(requests.word_offset, requests.word)
        task = tasks.look_up(requests.word_offset, requests.word).astype(np.int64)
        session = session.reshape(-1)
        self._levels = fit_levels(
            tasks, agent, session, task[session], calls.tool.astype(np.int64) + 1, values, tools + 1
        )
        _mute(self._levels)
        have = self._common.shape[0]
        self._common = np.concatenate((self._common, np.zeros((max(tools + 1 - have, 0), len(MEASURES)))))

    def judge(self, calls: Calls, values: F64, seq: I64, agents: int, log_e: F64, belief: F64) -> None:
        """Fill `log_e` and `belief` `(n,)` for live rows with `values` `(n, len(MEASURES))`."""
        levels = self._levels
        if levels is None:
            return
        self._grow(agents)
        _judge(
            calls.agent, calls.session, levels.tasks.look_up(calls.word_offset, calls.word), calls.tool + np.int32(1),
            calls.kind == Kind.FINAL, seq, values, levels.rows, levels.total, levels.pair, levels.pair_rows,
            levels.pair_total, MIN_ROWS, levels.offset, levels.scores, levels.count, levels.normal, self._common,
            1.0 / agents if agents >= MIN_FLEET else 0.0, self._key, self._used, self._task, self._open, self._wealth,
            self._now, log_e, belief,
        )  # fmt: skip

    def contributions(self, agent: int) -> list[tuple[str, float, str]]:
        """(measure, nats of its strongest bet now, baseline against now) of one agent."""
        levels = self._levels
        if levels is None or agent >= min(self._wealth.shape[0], levels.offset.shape[0]):
            return []
        found: list[tuple[str, float, str]] = []
        for j, name in enumerate(PLAIN):
            nats = math.log(max(float(self._wealth[agent, j, :, 3].max()), 1e-300))
            ratio, sessions = math.exp(float(self._now[agent, j])), int(levels.sessions[agent, j])
            found.append((name, nats, f"now {ratio:.2g} times what its {sessions} baseline sessions had, tool by tool"))
        return found

    def _grow(self, agents: int) -> None:
        have = self._key.shape[0]
        if agents <= have:
            return
        extra = max(agents, 2 * have, 64) - have
        wealth = np.zeros((extra, len(MEASURES), BETS.shape[0], 4))
        wealth[:, :, :, 0] = 1.0
        for name, fresh in (
            ("_key", np.zeros((extra, SLOTS), np.int64)),
            ("_used", np.zeros((extra, SLOTS), np.int64)),
            ("_task", np.zeros((extra, SLOTS), np.int64)),
            ("_open", np.zeros((extra, SLOTS, len(MEASURES), 2))),
            ("_wealth", wealth),
            ("_now", np.zeros((extra, len(MEASURES)))),
        ):
            setattr(self, name, np.concatenate((getattr(self, name), fresh)))


def _mute(levels: Levels) -> None:
    """A measure that hardly varies from session to session has no ranks to speak of: it is not judged."""
    for j in range(len(MEASURES)):
        scores = np.round(levels.scores[j, : levels.count[j]], 6)
        if scores.shape[0] == 0:
            continue
        low, high = np.quantile(scores, [0.1, 0.9])
        _, ties = np.unique(scores, return_counts=True)
        if high - low < LEAST_SPREAD or int(ties.max()) > MOST_TIES * scores.shape[0]:
            levels.count[j] = 0


@njit(cache=True, nogil=True)
def _close(opened: F64, offset: F64, scores: F64, count: I64, normal: F64, wealth: F64, now: F64) -> None:
    """End an open session `(j, 2)`: one bet per measure, for one agent."""
    for j in range(opened.shape[0]):
        rows, total = opened[j, 0], opened[j, 1]
        opened[j, 0], opened[j, 1] = 0.0, 0.0
        if rows <= 0.0 or count[j] == 0 or math.isnan(offset[j]):
            continue
        score = total / rows - offset[j]
        now[j] += RECENT * (score - now[j])
        g = normal[j, first_at_least(scores[j, : count[j]], score)]
        for k in range(BETS.shape[0]):
            b = BETS[k]
            w = wealth[j, k]
            gain = math.exp(b * g - abs(b) * TOLERANCE - 0.5 * b * b * SPREAD)
            wait, bet = w[0], w[1]
            w[0] = min(wait * (1.0 - START) + bet * STOP, CAP)
            w[1] = min((bet * (1.0 - STOP) + wait * START) * gain, CAP)
            held = w[3]  # of the belief, in units of what waits
            w[3] = min((held * (1.0 - FORGET) + START) * gain / (1.0 - START + held * FORGET), CAP)


@njit(cache=True, nogil=True)
def _add(
    opened: F64,
    task: int,
    tool: int,
    values: F64,
    rows: F64,
    total: F64,
    pair: I64,
    pair_rows: F64,
    pair_total: F64,
    min_rows: float,
    offset: F64,
    common: F64,
    rate: float,
) -> None:
    """Add a row to its open session `(j, 2)`: logs of its values less the tool's level in other tasks."""
    if tool >= rows.shape[0]:
        return
    wanted = task * rows.shape[0] + tool
    p = first_at_least(pair, wanted)
    known = task >= 0 and p < pair.shape[0] and pair[p] == wanted
    for j in range(values.shape[0]):
        seen = rows[tool, j] - (pair_rows[p, j] if known else 0.0)
        if not values[j] > 0.0 or seen < min_rows:
            continue
        residual = math.log1p(values[j]) - (total[tool, j] - (pair_total[p, j] if known else 0.0)) / seen
        if rate > 0.0 and not math.isnan(offset[j]):
            common[tool, j] += rate if residual - offset[j] > common[tool, j] else -rate
            if abs(common[tool, j]) > COMMON:
                residual -= common[tool, j]
        opened[j, 0] += 1.0
        opened[j, 1] += residual


@njit(cache=True, nogil=True)
def _judge(
    agent: I32,
    session: I64,
    row_task: I32,
    tool: I32,
    ends: NDArray[np.bool_],
    seq: I64,
    values: F64,
    rows: F64,
    total: F64,
    pair: I64,
    pair_rows: F64,
    pair_total: F64,
    min_rows: float,
    offset: F64,
    scores: F64,
    count: I64,
    normal: F64,
    common: F64,
    rate: float,
    key: I64,
    used: I64,
    task: I64,
    opened: F64,
    wealth: F64,
    now: F64,
    log_e: F64,
    belief: F64,
) -> None:
    for i in range(agent.shape[0]):
        a = agent[i]
        if a < offset.shape[0]:
            k, fresh = slot_of(key, used, a, session[i], seq[i] + 1)
            if fresh:
                _close(opened[a, k], offset[a], scores, count, normal, wealth[a], now[a])
                task[a, k] = -1
            if task[a, k] < 0:
                task[a, k] = row_task[i]
            _add(
                opened[a, k], task[a, k], tool[i], values[i], rows, total, pair, pair_rows, pair_total, min_rows,
                offset[a], common, rate,
            )  # fmt: skip
            if ends[i]:
                _close(opened[a, k], offset[a], scores, count, normal, wealth[a], now[a])
        log_e[i], belief[i] = _merged(wealth[a], count)


@njit(cache=True, nogil=True)
def _merged(wealth: F64, count: I64) -> tuple[float, float]:
    """log of the mean wealth of the e-process and of the belief over bets, on measures that have a baseline."""
    e, held, cells = 0.0, 0.0, 0
    for j in range(wealth.shape[0]):
        if count[j]:
            cells += wealth.shape[1]
            for k in range(wealth.shape[1]):
                e += wealth[j, k, 0] + wealth[j, k, 1]
                held += 1.0 + wealth[j, k, 3]
    return (math.log(e / cells), math.log(held / cells)) if cells else (0.0, 0.0)
