"""What baseline sessions show of durations and sizes: by tool, by agent, and how far one session strays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tocsin.detection.numeric_fit import normal_quantile
from tocsin.detection.tasks import Tasks

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MIN_ROWS = 10.0  # of a tool in other tasks' baseline sessions; fewer say nothing
MIN_OWN = 5  # baseline sessions of an agent, for a level of its own
MIN_SESSIONS = 200  # of the fleet's baseline, for ranks


@dataclass(slots=True)
class Levels:
    """Per tool t, pair p of task and tool, agent a, measure j, of natural logarithms of 1 + value.

    `rows`, `total` `(t, j)` and `pair_rows`, `pair_total` `(p, j)` by sorted key task * tools + tool `pair` `(p,)`;
    `offset` `(a, j)`, NaN where an agent is not judged, from `sessions` `(a, j)`; `scores` `(j, m)` sorted scores of
    `count` `(j,)` baseline sessions, then infinity; `normal` `(j, m + 1)` normal scores by rank.
    """

    tasks: Tasks
    rows: F64
    total: F64
    pair: I64
    pair_rows: F64
    pair_total: F64
    offset: F64
    sessions: I64
    scores: F64
    count: I64
    normal: F64


def fit_levels(tasks: Tasks, agent: I64, session: I64, task: I64, tool: I64, values: F64, tools: int) -> Levels:
    """Levels of baseline rows: `session` dense numbers, `task` of each row's session (-1 = none), `values` `(n, j)`."""
    logs = np.log1p(np.where(values > 0.0, values, np.nan))
    width, agents, sessions = int(values.shape[1]), int(agent.max()) + 1, int(session.max()) + 1
    pair, at = np.unique(task * tools + tool, return_inverse=True)
    owner = np.zeros(sessions, np.int64)
    owner[session] = agent
    levels = Levels(
        tasks, np.zeros((tools, width)), np.zeros((tools, width)), pair, np.zeros((pair.shape[0], width)),
        np.zeros((pair.shape[0], width)), np.full((agents, width), np.nan), np.zeros((agents, width), np.int64),
        np.full((width, sessions), np.inf), np.zeros(width, np.int64), np.zeros((width, sessions + 1)),
    )  # fmt: skip
    for j in range(width):
        good = np.isfinite(logs[:, j])
        known = good & (task >= 0)
        x = np.where(good, logs[:, j], 0.0)
        levels.rows[:, j] = np.bincount(tool, good, tools)
        levels.total[:, j] = np.bincount(tool, x, tools)
        levels.pair_rows[:, j] = np.bincount(at, known, pair.shape[0])
        levels.pair_total[:, j] = np.bincount(at, x * known, pair.shape[0])
        rows = levels.rows[tool, j] - levels.pair_rows[at, j]
        good &= rows >= MIN_ROWS
        residual = x - (levels.total[tool, j] - levels.pair_total[at, j]) / np.maximum(rows, 1.0)
        size = np.bincount(session, good, sessions)
        mean = np.bincount(session, residual * good, sessions) / np.maximum(size, 1.0)
        _rank(levels, j, owner[size > 0], mean[size > 0])
    return levels


def _rank(levels: Levels, j: int, owner: I64, mean: F64) -> None:
    """Agents' offsets from their sessions' means, shrunk to the fleet's (Efron & Morris 1973), and sessions' scores."""
    agents = levels.offset.shape[0]
    own = np.bincount(owner, minlength=agents)
    rich = own[owner] >= MIN_OWN
    owner, mean = owner[rich], mean[rich]
    if mean.shape[0] < MIN_SESSIONS:
        return
    fleet = float(mean.mean())
    total = np.bincount(owner, mean - fleet, agents)
    judged = own >= MIN_OWN
    centre = total / np.maximum(own, 1)
    within = float(np.sum((mean - fleet - centre[owner]) ** 2) / max(mean.shape[0] - int(judged.sum()), 1))
    between = max(float(np.mean(centre[judged] ** 2 - within / own[judged])), 1e-3 * within + 1e-12)
    others = own[owner] - 1
    score = mean - fleet - (total[owner] - (mean - fleet)) / (others + within / between)
    levels.offset[judged, j] = fleet + total[judged] / (own[judged] + within / between)
    levels.sessions[:, j] = own
    count = int(score.shape[0])
    levels.scores[j, :count] = np.sort(score)
    levels.count[j] = count
    levels.normal[j, : count + 1] = normal_quantile(np.arange(0.5, count + 1.0) / (count + 1.0))
