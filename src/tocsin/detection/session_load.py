"""How odd a session of tool calls is, at once for baselines and call by call in life; and what odd tools won before.

A session's *load* is its oddest call's score, plus what the oddest call of each of its other tools has beyond an odd
call's: an errand of somebody else's takes several tools, while a clumsy agent repeats one.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

ODD = 0.0  # scores are shifted so that baseline calls of this score on are odd
NEVER = -1e9  # score of a session without a call that has a side effect


def loads(score: F64, session: I64, tool: I32, odd: float) -> F64:
    """Load of each session `(sessions,)` from its calls' `score` and `tool` `(n,)`; calls from `odd` on are odd."""
    _, use = np.unique(session * (int(tool.max()) + 2) + tool, return_inverse=True)  # tools from -1
    oddest = np.full(int(use.max()) + 1, NEVER)
    np.maximum.at(oddest, use, score)
    owner = np.empty(oddest.shape[0], np.int64)
    owner[use] = session
    best = np.full(int(session.max()) + 1, NEVER)
    np.maximum.at(best, owner, oddest)
    beyond = np.bincount(owner, np.maximum(oddest - odd, 0.0), best.shape[0])
    return np.where(best > odd, odd + beyond, best)


@njit(cache=True, nogil=True)
def adds(score: float, odd: float, tool: int, tools: I32, best: F64, beyond: F64, k: int) -> bool:
    """Take a call into its session `k`; whether the session's load rises (as in `loads`)."""
    rises = score > best[k]
    if rises:
        best[k] = score
    for j in range(tools.shape[0]):
        if tools[j] == tool and score - odd > beyond[j]:
            beyond[j] = score - odd
            return True
    return rises


@njit(cache=True, nogil=True)
def won_before(shown: I64, won: F64, tools: I32, beyond: F64, task: int) -> float:
    """The most that an odd call of a session's odd tools won for this kind of task so far."""
    most = 0.0
    for j in range(tools.shape[0]):
        if beyond[j] > 0.0:
            for i in range(shown.shape[0]):
                if shown[i] == (np.int64(tools[j]) << 32) + task:
                    most = max(most, won[i])
    return most


@njit(cache=True, nogil=True)
def win(shown: I64, won: F64, tools: I32, beyond: F64, task: int, log_bet: float) -> None:
    """Remember what a session's odd tools won; the tool that won least is forgotten."""
    for j in range(tools.shape[0]):
        if beyond[j] <= 0.0:
            continue
        tool = (np.int64(tools[j]) << 32) + task
        place = 0
        for i in range(shown.shape[0]):
            if shown[i] == tool:
                place = i
                break
            if won[i] < won[place]:
                place = i
        if log_bet > won[place]:
            shown[place], won[place] = tool, log_bet
