"""Numeric features: each agent against its own baseline in the same context, less what the whole fleet does.

A normal score g of every innovation feeds bets exp(b g - b^2 / 2), b of both signs and two sizes, whose expectation is
at most one when g is no heavier than normal. A two-state switching alternative (Herbster & Warmuth 1998; the forward
recursion of a hidden Markov model) turns them into an e-process: it waits, bets while a shift lasts, and stops. Scopes:
all contexts (shifts below TOLERANCE of the scale are taken for a benign recalibration), and each coarse and each fine
context relative to the agent's own recent level.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.detection.joint import Machine, beliefs, fit_machines
from tocsin.detection.numeric_fit import OWN_SHAPE_ROWS, SCORES, Shape, fit_shape, normal_score
from tocsin.detection.warp import Warp, fit_warp

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
I8 = NDArray[np.int8]

BETS = np.array([0.5, -0.5, 1.5, -1.5])
N_BETS = BETS.shape[0]
START, STOP = 1.0 / 200.0, 1.0 / 500.0  # chance per event that a shift begins, or ends
FORGET = 1.0 / 20.0  # the same end for the belief, which is about now
TOLERANCE = 1.5
CONTRAST_TOLERANCE = 0.15
LEVEL_RATE = 1.0 / 16.0
CONTRAST_VARIANCE = 1.0 + LEVEL_RATE / (2.0 - LEVEL_RATE)  # the level is itself estimated
MIN_FLEET = 20  # agents from which a common shift of the fleet is subtracted
COMMON = 0.3  # of a scale: a smaller shift of the fleet's median may be the compromised agents' own doing
CAP = 1e120
MAX_CELLS = 2_000_000  # agents x features x scopes (128 bytes each); beyond it contexts share one bet
POWERS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)
HELD_OUT_NATS = 2.0  # highest log wealth that held-back baseline may reach
SHORT_NATS = 0.0  # the same for many short baselines, above the log of their number; half of a short one fits badly


class NumericChannel:
    """Baseline rows until `establish`, then per agent the switching wealth of every feature, scope and bet."""

    def __init__(self, max_contexts: int, max_baseline_rows: int) -> None:
        self.max_contexts = max_contexts
        self.max_baseline_rows = max_baseline_rows
        self.dropped = 0
        self.ignored_values = 0  # infinite; NaN means missing
        self._contexts: dict[str, int] = {}
        self._coarse: dict[str, int] = {}
        self._parent: list[int] = []
        self._features: tuple[str, ...] = ()
        self._rows: list[tuple[I32, I32, F64]] = []
        self._kept = 0
        self._shape: Shape | None = None
        self._warp = Warp(())
        self._sealed = 0  # contexts known when baselines were first sealed; later ones have no baseline
        self._split = False  # whether contexts have bets of their own
        self._machines: dict[int, Machine] = {}
        self._wealth = np.zeros((0, 0, 0, 0, 0))
        self._memory = np.zeros((0, 0, 4))
        self._fleet = np.zeros((0, 0))  # what the fleet shares: per context and, last, over all

    def establish(self) -> None:
        """Fit locations, memory, scales and shapes on the baseline rows so far; wealth of known agents is kept."""
        if not self._rows or not self._features:
            return
        agent = np.concatenate([part[0] for part in self._rows])
        context = np.concatenate([part[1] for part in self._rows])
        values = np.concatenate([_widened(part[2], len(self._features)) for part in self._rows])
        self._rows = [(agent, context, values)]
        self._sealed = self._sealed or len(self._contexts)
        agents, contexts = int(agent.max()) + 1, self._sealed
        known = context < contexts
        agent, context, values = agent[known], context[known], values[known]
        cells = agents * values.shape[1] * (1 + len(self._coarse) + contexts)
        self._split = contexts > 1 and cells <= MAX_CELLS
        rows = np.bincount(agent, minlength=agents)
        mostly_rich = 2 * int(rows[rows >= OWN_SHAPE_ROWS].sum()) >= agent.shape[0]
        self._warp = fit_warp(context, values, contexts, mostly_rich=mostly_rich)
        values = self._warp.apply(values)
        self._shape = fit_shape(agent, context, values, agents, contexts)
        self._shape.temper = self._tempers(agent, context, values, agents, contexts)
        self._machines = fit_machines(agent, values)
        self._fleet = np.zeros((contexts + 1, values.shape[1]))

    def _tempers(self, agent: I32, context: I32, values: F64, agents: int, contexts: int) -> F64:
        """Per agent and feature the largest power at which the held-back second half of the baseline is unremarkable.

        An agent with a long baseline answers for itself; short baselines answer together, feature by feature, by the
        highest wealth among them, which under the model is seldom far above their number.
        """
        temper = np.ones((agents, values.shape[1]))
        rows = np.bincount(agent, minlength=agents)
        rich = rows >= 2 * OWN_SHAPE_ROWS
        poor = ~rich & (rows > 0)
        rank = np.empty(agent.shape[0], np.int64)
        order = np.argsort(agent, kind="stable")
        rank[order] = np.arange(agent.shape[0]) - np.repeat(np.cumsum(rows) - rows, rows)
        learn = 2 * rank < rows[agent]
        held = ~learn
        half = fit_shape(agent[learn], context[learn], values[learn], agents, contexts)
        worst = np.empty((agents, values.shape[1]))
        undecided = np.ones(temper.shape, np.bool_)
        together = SHORT_NATS + math.log(max(int(poor.sum()), 1))
        limit = np.where(rich, HELD_OUT_NATS, together)[:, None]
        for power in POWERS:
            _held_out(
                agent[held],
                context[held],
                values[held],
                half.location,
                half.phi,
                half.scale,
                half.knots,
                half.own,
                SCORES,
                power,
                self._split,
                worst,
            )
            temper[undecided] = power
            failed = worst > limit
            failed[poor] = failed[poor].any(axis=0)
            undecided &= failed
        temper[undecided] = 0.0
        return temper

    def observe(
        self,
        agent: I32,
        phase: I8,
        context: I32,
        labels: tuple[str, ...],
        values: F64,
        names: tuple[str, ...],
        agents: int,
        log_e: F64,
        belief: F64,
    ) -> None:
        """Fill `log_e` and `belief` `(n,)` for rows of `values` `(n, d)`; baseline rows are kept instead."""
        base = phase == 0
        if self._shape is None:
            fresh = [j for j, name in enumerate(names) if name not in self._features]
            self._features += tuple(names[j] for j in fresh if np.isfinite(values[base, j]).any())
        values = self._aligned(values, names)
        code = np.array([self._context(label) for label in labels], np.int32)[context]
        if base.any() and self._kept + int(base.sum()) <= self.max_baseline_rows:
            self._rows.append((agent[base], code[base], values[base]))
            self._kept += int(base.sum())
        elif base.any():
            self.dropped += int(base.sum())
        shape = self._shape
        if shape is None or base.all():
            return
        values = self._warp.apply(np.where((code < self._sealed)[:, None], values, np.nan))
        code = np.minimum(code, self._sealed - 1)
        parents = self._parent[: self._sealed]
        n_coarse, n_fine = (max(parents) + 1, self._sealed) if self._split else (0, 1)
        self._grow(agents, len(self._features), 1 + n_coarse + n_fine if self._split else 1)
        parent = np.array(parents, np.int64) + 1
        _judge(
            agent,
            phase,
            code,
            parent[code],
            code.astype(np.int64) + 1 + n_coarse,
            values,
            shape.location,
            shape.phi,
            shape.scale,
            shape.knots,
            shape.own,
            shape.temper,
            SCORES,
            self._fleet,
            1.0 / max(agents, 1) if agents >= MIN_FLEET else 0.0,
            n_coarse,
            n_fine,
            self._wealth,
            self._memory,
            log_e,
            belief,
        )
        for machine in self._machines.keys() & set(np.unique(agent).tolist()):
            rows = np.flatnonzero((agent == machine) & ~base)
            belief[rows] = beliefs(self._machines[machine], values[rows])

    def contributions(self, agent_index: int) -> list[tuple[str, float, str]]:
        """(feature, nats of its strongest bet now, baseline against now) for one agent."""
        shape = self._shape
        if shape is None or agent_index >= min(self._wealth.shape[0], shape.location.shape[0]):
            return []
        found: list[tuple[str, float, str]] = []
        for j, name in enumerate(self._features):
            wealth = self._wealth[agent_index, j, :, :, :2].sum(axis=2)
            scope, bet = np.unravel_index(int(np.argmax(wealth)), wealth.shape)
            nats = math.log(max(float(wealth[scope, bet]), 1e-300))
            side = "above" if BETS[bet] > 0 else "below"
            usual = self._warp.back(j, float(shape.location[agent_index, :, j].mean()))
            recent = self._warp.back(j, float(self._memory[agent_index, j, 3]))
            now = f"recently {recent:+.3g} from a baseline of {usual:.3g}"
            found.append((name, nats, f"values {side} the baseline{self._where(int(scope))}; {now}"))
        return found

    def _where(self, scope: int) -> str:
        coarse = max(self._parent[: self._sealed]) + 1
        labels = [*list(self._coarse)[:coarse], *list(self._contexts)[: self._sealed]]
        return f" in context {labels[scope - 1]}" if scope and labels[scope - 1] else ""

    def _aligned(self, values: F64, names: tuple[str, ...]) -> F64:
        infinite = np.isinf(values)
        if infinite.any():
            self.ignored_values += int(infinite.sum())
            values = np.where(infinite, np.nan, values)
        if names == self._features:
            return values
        aligned = np.full((values.shape[0], len(self._features)), np.nan)
        for j, name in enumerate(self._features):
            if name in names:
                aligned[:, j] = values[:, names.index(name)]
        return aligned

    def _context(self, label: str) -> int:
        if label not in self._contexts:
            if len(self._contexts) >= self.max_contexts:
                return self.max_contexts - 1
            coarse = label.partition("/")[0]
            self._coarse.setdefault(coarse, len(self._coarse))
            self._contexts[label] = len(self._contexts)
            self._parent.append(self._coarse[coarse])
        return self._contexts[label]

    def _grow(self, agents: int, features: int, scopes: int) -> None:
        have = self._wealth.shape
        if agents > have[0] or scopes > have[2]:
            size = max(agents, 2 * have[0] if agents > have[0] else have[0])
            wealth = np.zeros((size, features, scopes, N_BETS, 4))
            wealth[:, :, :, :, 0] = 1.0
            wealth[:, :, :, :, 2] = 1.0
            memory = np.zeros((size, features, 4))
            if have[0]:
                wealth[: have[0], :, : have[2]] = self._wealth
                memory[: have[0]] = self._memory
            self._wealth, self._memory = wealth, memory


def _widened(values: F64, width: int) -> F64:
    """Rows kept before further features were first seen."""
    return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=np.nan)


@njit(cache=True, nogil=True)
def _step(w: F64, scale: float, g: float, tolerance: float, temper: float) -> None:
    """One event of one scope: `w` `(bets, 4)` = waiting and betting mass of the e-process and of the belief."""
    for k in range(BETS.shape[0]):
        b = BETS[k]
        excess = g * b / abs(b) - tolerance
        gain = math.exp(temper * (abs(b) * excess - 0.5 * b * b * scale))
        wait, bet = w[k, 0], w[k, 1]
        w[k, 0] = min(wait * (1.0 - START) + bet * STOP, CAP)
        w[k, 1] = min((bet * (1.0 - STOP) + wait * START) * gain, CAP)
        wait, bet = w[k, 2], w[k, 3]
        fresh, held = wait * (1.0 - START) + bet * FORGET, (bet * (1.0 - FORGET) + wait * START) * gain
        total = max(fresh, 1e-30)
        w[k, 2] = 1.0
        w[k, 3] = min(held / total, CAP)


@njit(cache=True, nogil=True)
def _common(fleet: F64, row: int, j: int, residual: float, rate: float, scale: float) -> float:
    """Follow the fleet's median residual (Robbins & Monro 1951) and return it where it is large, else 0."""
    fleet[row, j] += rate * scale * (1.0 if residual > fleet[row, j] else -1.0)
    return fleet[row, j] if abs(fleet[row, j]) > COMMON * scale else 0.0


@njit(cache=True, nogil=True)
def _held_out(
    agent: I32,
    context: I32,
    values: F64,
    location: F64,
    phi: F64,
    scale: F64,
    knots: F64,
    own: I64,
    levels: F64,
    power: float,
    split: bool,
    worst: F64,
) -> None:
    """Fill `worst` `(a, j)` with the highest log wealth, bets averaged, that held-back baseline rows reach."""
    agents, d = worst.shape
    wealth, last = np.zeros((agents, d, BETS.shape[0], 4)), np.zeros((agents, d, 3))
    wealth[:, :, :, 0] = 1.0
    wealth[:, :, :, 2] = 1.0
    worst[:] = -1e9
    for i in range(agent.shape[0]):
        a, c = agent[i], context[i]
        for j in range(d):
            if math.isnan(values[i, j]):
                continue
            residual = values[i, j] - location[a, c, j]
            z = (residual - phi[a, j] * last[a, j, 0] * last[a, j, 1]) / scale[a, j]
            last[a, j, 0], last[a, j, 1] = residual, 1.0
            g = normal_score(z, knots[own[a], j], levels)
            if split:  # as contexts are judged: relative to the agent's own recent level
                _step(wealth[a, j], CONTRAST_VARIANCE, g - last[a, j, 2], CONTRAST_TOLERANCE, power)
                last[a, j, 2] += LEVEL_RATE * (min(max(g, -3.0), 3.0) - last[a, j, 2])
            else:
                _step(wealth[a, j], 1.0, g, 0.0, power)
            mean = wealth[a, j, :, :2].sum() / BETS.shape[0]
            worst[a, j] = max(worst[a, j], math.log(mean))


@njit(cache=True, nogil=True)
def _judge(
    agent: I32,
    phase: I8,
    context: I32,
    coarse: I64,
    fine: I64,
    values: F64,
    location: F64,
    phi: F64,
    scale: F64,
    knots: F64,
    own: I64,
    temper: F64,
    levels: F64,
    fleet: F64,
    rate: float,
    n_coarse: int,
    n_fine: int,
    wealth: F64,
    memory: F64,
    log_e: F64,
    belief: F64,
) -> None:
    d = values.shape[1]
    split = n_fine > 1
    for i in range(agent.shape[0]):
        if phase[i] == 0:
            continue
        a = agent[i]
        if a < location.shape[0]:
            c = context[i]
            for j in range(d):
                if math.isnan(values[i, j]):
                    continue
                residual = values[i, j] - location[a, c, j]
                if rate > 0.0:
                    residual -= _common(fleet, fleet.shape[0] - 1, j, residual, rate, scale[a, j])
                    residual -= _common(fleet, c, j, residual, rate, scale[a, j])
                z = (residual - phi[a, j] * memory[a, j, 0] * memory[a, j, 1]) / scale[a, j]
                memory[a, j, 0], memory[a, j, 1] = residual, 1.0
                memory[a, j, 3] += LEVEL_RATE * (residual - memory[a, j, 3])
                g = normal_score(z, knots[own[a], j], levels)
                _step(wealth[a, j, 0], 1.0, g, TOLERANCE if split else 0.0, temper[a, j])
                if split:
                    y = g - memory[a, j, 2]
                    _step(wealth[a, j, coarse[i]], CONTRAST_VARIANCE, y, CONTRAST_TOLERANCE, temper[a, j])
                    _step(wealth[a, j, fine[i]], CONTRAST_VARIANCE, y, CONTRAST_TOLERANCE, temper[a, j])
                    memory[a, j, 2] += LEVEL_RATE * (min(max(g, -3.0), 3.0) - memory[a, j, 2])
            log_e[i], belief[i] = _merged(wealth[a], n_coarse, n_fine)


@njit(cache=True, nogil=True)
def _merged(wealth: F64, n_coarse: int, n_fine: int) -> tuple[float, float]:
    """log of the weighted mean wealth over features, scopes and bets: a third each to all, coarse and fine contexts."""
    d = wealth.shape[0]
    e, now = 0.0, 0.0
    for j in range(d):
        for s in range(1 + n_coarse + n_fine if n_fine > 1 else 1):
            if n_fine <= 1:
                share = 1.0
            elif s == 0:
                share = 1.0 / 3.0
            elif s <= n_coarse:
                share = 1.0 / (3.0 * n_coarse)
            else:
                share = 1.0 / (3.0 * n_fine)
            for k in range(wealth.shape[2]):
                e += share * (wealth[j, s, k, 0] + wealth[j, s, k, 1])
                now += share * (1.0 + wealth[j, s, k, 3])
    count = d * wealth.shape[2]
    return math.log(e / count), math.log(now / count)
