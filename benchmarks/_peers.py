"""Other detectors behind one call: a fleet in, a score and an alarm for every event out. See `detection_peers`.

Each is used as its documentation says, on baseline events first, then on live ones in the order they came. What is not
installed is reported as absent (`requirements/peers.lock` installs all of them). Settings are the peer's defaults but
for what is said at each function; seeds are fixed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._peer_features import Fleet

F64 = NDArray[np.float64]
Told = tuple[F64, NDArray[np.bool_]]  # score and alarm of every row, baseline rows included but ignored
PRIOR_LOG_ODDS = math.log(0.01 / 0.99)
BEYOND_TWO = 0.0455  # P(|z| > 2) of a normal law
LEAST = 1e-3  # threshold below which agentnorm's score is not divided by it
QUIET_QUANTILE = 0.99  # where a peer has no threshold of its own: this quantile of its baseline scores


@dataclass(frozen=True)
class Peer:
    """`package` '' = needs none; `kinds` are the kinds of fleet it applies to."""

    name: str
    package: str
    kinds: tuple[str, ...]
    run: Callable[[Fleet], Told]


def z_rule(fleet: Fleet) -> Told:
    """|z| > 2 on every column against the agent's own baseline; naive log-odds, columns and events as if independent.

    A column beyond 2 counts as ten times as likely under compromise (one half), one within as half as likely; the sum
    never falls below the prior, else no later attack could be seen. Alarm: odds above one.
    """
    beyond = np.abs(fleet.own) > 2.0
    weight = np.where(beyond, math.log(0.5 / BEYOND_TWO), math.log(0.5 / (1.0 - BEYOND_TWO))).sum(axis=1)
    belief = np.full(len(fleet.agents), PRIOR_LOG_ODDS)
    score = np.zeros(weight.size)
    agents, lives, weights = fleet.agent.tolist(), fleet.live.tolist(), weight.tolist()
    for i, (agent, live) in enumerate(zip(agents, lives, strict=True)):
        if live:
            belief[agent] = max(PRIOR_LOG_ODDS, belief[agent] + weights[i])
            score[i] = belief[agent]
    return score, score > 0.0


def agentnorm(fleet: Fleet) -> Told:
    """A run is a session; tools and result sizes as they are, no principals. The score of a run is its largest ratio
    of a detector to its threshold; it stands at the run's last event. Alarm: flagged, at the default budget of 1 %.
    """
    package = import_module("agentnorm")
    key = np.column_stack([fleet.agent, fleet.session])
    _, code = np.unique(key, axis=0, return_inverse=True)
    rows: dict[int, list[int]] = {}
    for row, session in enumerate(code.ravel().tolist()):
        rows.setdefault(session, []).append(row)
    learned: list[Any] = []
    judged: list[tuple[int, Any]] = []
    for members in sorted(rows.values(), key=lambda members: members[-1]):
        calls = [
            package.ToolCall(tool=fleet.tools[fleet.tool[row]], step=step, result_size=int(fleet.size[row]))
            for step, row in enumerate(members)
        ]
        run = package.Run(agent=fleet.agents[fleet.agent[members[0]]], run_id=str(members[0]), calls=calls)
        if fleet.live[members[0]]:
            judged.append((members[-1], run))
        else:
            learned.append(run)
    monitor = package.Monitor.fit(learned)
    score, alarm = np.zeros(fleet.agent.size), np.zeros(fleet.agent.size, np.bool_)
    for row, run in judged:
        verdict = monitor.score(run)
        ratios = [
            value / max(monitor.thresholds[name], LEAST)
            for name, value in verdict.scores.items()
            if not math.isnan(value) and math.isfinite(monitor.thresholds[name])
        ]
        score[row], alarm[row] = max(ratios, default=0.0), verdict.flagged
    return score, alarm


def half_space_trees(fleet: Fleet) -> Told:
    """River's HalfSpaceTrees, 25 trees, own columns scaled to 0..1 by baseline quantiles; scored, then learned from."""
    x = _unit(fleet)
    score = np.zeros(fleet.agent.size)
    for members in _models(fleet):
        model = import_module("river.anomaly").HalfSpaceTrees(n_trees=25, seed=1)
        for row in members.tolist():
            event = {column: float(value) for column, value in enumerate(x[row])}
            score[row] = model.score_one(event)
            model.learn_one(event)
    return score, _above_baseline(fleet, score)


def adwin(fleet: Fleet) -> Told:
    """River's ADWIN per agent on the mean absolute own deviation; alarm: a change to more, delta .002 (its default).

    It has no score; where it has detected one, the score is how far its window lies above the baseline's mean.
    """
    value = np.abs(fleet.own).mean(axis=1)
    score, alarm = np.zeros(value.size), np.zeros(value.size, np.bool_)
    for members in _by(fleet.agent):
        model = import_module("river.drift").ADWIN()
        usual = float(value[members][~fleet.live[members]].mean())
        for row in members.tolist():
            model.update(float(value[row]))
            if model.drift_detected and model.estimation > usual:
                alarm[row] = True
                score[row] = model.estimation - usual
    return score, alarm


def loda(fleet: Fleet) -> Told:
    """Pysad's LODA on own columns, scored, then learned from (its robust random cut forest takes 21 ms an event)."""
    x = _unit(fleet)
    score = np.zeros(fleet.agent.size)
    for members in _models(fleet):
        model = import_module("pysad.models").LODA(random_state=1)
        for row in members.tolist():
            score[row] = float(model.fit_score_partial(x[row]))
    return score, _above_baseline(fleet, score)


def _pyod(module: str, name: str, columns: str, **settings: Any) -> Callable[[Fleet], Told]:
    def run(fleet: Fleet) -> Told:
        x: F64 = getattr(fleet, columns)
        score, alarm = np.zeros(fleet.agent.size), np.zeros(fleet.agent.size, np.bool_)
        for members in _models(fleet) if columns == "own" else [np.arange(fleet.agent.size)]:
            learned = members[~fleet.live[members]]
            model = getattr(import_module(module), name)(**settings)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(x[learned])
                score[members] = model.decision_function(x[members])
            alarm[members] = score[members] > model.threshold_
        return score, alarm

    return run


PEERS = (
    Peer("|z| > 2, naive log-odds", "", ("calls", "risk", "machines"), z_rule),
    Peer("agentnorm", "agentnorm", ("calls", "risk"), agentnorm),
    Peer("river HalfSpaceTrees", "river", ("calls", "risk", "machines"), half_space_trees),
    Peer("river ADWIN", "river", ("calls", "risk", "machines"), adwin),
    Peer("pysad LODA", "pysad", ("calls", "risk", "machines"), loda),
    *(
        Peer(f"PyOD {name}, {columns}", "pyod", ("calls", "risk", "machines"), _pyod(module, cls, columns, **settings))
        for name, module, cls, settings in (
            ("IsolationForest", "pyod.models.iforest", "IForest", {"random_state": 1}),
            ("ECOD", "pyod.models.ecod", "ECOD", {}),
        )
        for columns in ("pooled", "own")
    ),
)


def _by(code: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of each code, in order."""
    order = np.argsort(code, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(code[order])) + 1)


def _models(fleet: Fleet) -> list[NDArray[np.int64]]:
    """Rows that share a model: a machine's, else everybody's."""
    return _by(fleet.agent) if fleet.kind == "machines" else [np.arange(fleet.agent.size)]


def _unit(fleet: Fleet) -> F64:
    """Own columns scaled to 0..1 by the .1 % and 99.9 % quantiles of the baseline, with as much room again outside."""
    low, high = np.quantile(fleet.own[~fleet.live], (0.001, 0.999), axis=0)
    span = np.maximum(high - low, 1e-9)
    return np.clip((fleet.own - (low - span / 2)) / (2 * span), 0.0, 1.0)


def _above_baseline(fleet: Fleet, score: F64) -> NDArray[np.bool_]:
    """Rows above the quiet quantile of baseline scores, the first half of which a streaming model is still learning."""
    baseline = np.flatnonzero(~fleet.live)
    return score > float(np.quantile(score[baseline[baseline.size // 2 :]], QUIET_QUANTILE))
