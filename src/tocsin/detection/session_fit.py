"""What baseline sessions teach: counts, kinds of task, weights of oddities, and how odd a session's oddest call is.

Weights come from two fits, each on half of the agents and used for the other half, so that the baseline sessions that
calibrate were not trained on (cross-conformal prediction, Vovk 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.detection.calibration import Calibration
from tocsin.detection.call_log import Calls, places
from tocsin.detection.calls import N_FEATURES, READ, call_features, count_calls
from tocsin.detection.counts import Counts, CountTable, Keys
from tocsin.detection.oddity import KNOTS, fit, scores
from tocsin.detection.session_load import NEVER, ODD, loads
from tocsin.detection.splice import splice
from tocsin.detection.tasks import Tasks
from tocsin.model.events import Kind

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]

ODD_SHARE = 0.02  # of baseline calls that count as odd
# A load adds up surprises, weighted by about two; the tail of a surprise is exponential, of scale one nat.
PRIOR_SCALE = 2.0
MIN_SPLICES = 200
SPLICES_PER_CALL = 2
MAX_SPLICES = 16_000
DEFAULT_FEATURES = (0, 6, 9)  # added up where there is too little to learn weights from


@dataclass(slots=True)
class Model:
    """What the baseline taught: counts, tasks, weights per fold `(2, w)`, calibration."""

    table: CountTable
    tasks: Tasks
    weights: F64
    calibration: Calibration
    group: I32  # (agents,) each agent's last in the baseline, -1 where it has none


def judged(calls: Calls) -> NDArray[np.bool_]:
    """Which calls are judged `(n,)`: those that may have a side effect."""
    return (calls.kind == Kind.CALL) & (calls.effect != READ)


def train(calls: Calls, session: I64, seed: int) -> Model:
    """Counts, tasks, weights and calibration from baseline calls sorted by session."""
    first = np.flatnonzero(np.r_[True, np.diff(session) != 0])
    requests = calls.take(first)
    tasks = Tasks()
    tasks.fit(requests.word_offset, requests.word)
    task = tasks.look_up(requests.word_offset, requests.word)[session]
    previous, repeat = np.empty(len(calls), np.int32), np.empty(len(calls), np.int32)
    places(session, calls.tool, previous, repeat)
    table = CountTable(_table_bits(len(calls), calls.arg_name.shape[0]))
    count_calls(
        calls.agent,
        session,
        calls.group,
        task,
        calls.tool,
        previous,
        repeat,
        *calls.arguments(),
        table.keys,
        table.counts,
        table.last,
        table.used,
    )
    features = np.zeros((len(calls), N_FEATURES))
    inside = np.ones(len(calls))
    _features(
        calls.agent,
        calls.group,
        task,
        calls.tool,
        previous,
        repeat,
        calls.effect,
        inside,
        *calls.arguments(),
        table.keys,
        table.counts,
        features,
    )
    weights = _weights(calls, session, task, table, features, seed)
    seen = judged(calls)
    score = np.zeros(len(calls))
    for half in (0, 1):
        mine = calls.agent % 2 == half
        score[mine] = scores(features[mine], weights[half])
        if (mine & seen).any():  # the halves' scores are told on one scale, on which calls from ODD on are odd
            shift = ODD - float(np.quantile(score[mine & seen], 1.0 - ODD_SHARE))
            weights[half, -1] += shift
            score[mine] += shift
    load = loads(np.where(seen, score, NEVER), session, calls.tool, ODD)
    own_group = np.full(int(calls.agent.max()) + 1, -1, np.int32)
    own_group[calls.agent] = calls.group
    return Model(table, tasks, weights, Calibration(load, PRIOR_SCALE), own_group)


def _weights(calls: Calls, session: I64, task: I32, table: CountTable, features: F64, seed: int) -> F64:
    """Weights for even and odd agents, each learned on the other half."""
    knots = KNOTS.shape[0]
    default = np.zeros((2, N_FEATURES * knots + 1))
    default[:, [j * knots for j in DEFAULT_FEATURES]] = 1.0
    spliced = splice(calls, session, task, min(SPLICES_PER_CALL * len(calls), MAX_SPLICES), seed)
    if spliced is None or spliced.host.shape[0] < MIN_SPLICES:
        return default
    host, donor = spliced.host, spliced.calls
    foreign = np.zeros((host.shape[0], N_FEATURES))
    _features(
        calls.agent[host],
        calls.group[host],
        task[host],
        donor.tool,
        calls.tool[host],
        spliced.repeat,
        donor.effect,
        spliced.own_session,
        *donor.arguments(),
        table.keys,
        table.counts,
        foreign,
    )
    for half in (0, 1):
        own = features[judged(calls) & (calls.agent % 2 != half)]
        other = foreign[calls.agent[host] % 2 != half]
        if min(own.shape[0], other.shape[0]) >= MIN_SPLICES:
            label = np.r_[np.zeros(own.shape[0]), np.ones(other.shape[0])]
            default[half] = fit(np.concatenate((own, other)), label)
    return default


def _table_bits(calls: int, arguments: int) -> int:
    """Room for every key that so many calls can make, between 2**12 and 2**24 slots."""
    return min(max(int(math.log2(18.0 * calls + 16.0 * arguments + 1.0)) + 1, 12), 24)


@njit(cache=True, nogil=True)
def _features(
    agent: I32,
    group: I32,
    task: I32,
    tool: I32,
    previous: I32,
    repeat: I32,
    effect: I8,
    own_session: F64,
    arg_offset: I64,
    arg_name: I64,
    arg_hash: I64,
    arg_type: I8,
    arg_flags: U8,
    arg_len: I32,
    keys: Keys,
    counts: Counts,
    out: F64,
) -> None:
    for i in range(agent.shape[0]):
        call_features(
            agent[i],
            group[i],
            task[i],
            tool[i],
            previous[i],
            repeat[i],
            effect[i],
            own_session[i],
            arg_offset[i],
            arg_offset[i + 1],
            arg_name,
            arg_hash,
            arg_type,
            arg_flags,
            arg_len,
            keys,
            counts,
            out[i],
        )
