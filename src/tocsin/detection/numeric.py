"""Numeric features: each agent against its own baseline in the same context, less what the whole fleet does.

A normal score g of every innovation feeds bets of both signs and two sizes b: exp(b g) / cosh(b g), whose expectation
is one for every symmetric law, and exp(b g - b^2 / 2) where contexts have bets of their own and g is no heavier than
normal. A two-state switching alternative (Herbster & Warmuth 1998; the forward
recursion of a hidden Markov model) turns them into an e-process: it waits, bets while a shift lasts, and stops. Scopes:
all contexts (shifts below TOLERANCE of the scale are taken for a benign recalibration), and each coarse and each fine
context relative to the agent's own recent level.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tocsin.detection.joint import Machine, beliefs, fit_machines
from tocsin.detection.numeric_bets import BETS, N_BETS, held_out, judge
from tocsin.detection.numeric_fit import OWN_SHAPE_ROWS, SCORES, Shape, fit_shape
from tocsin.detection.wandering import wandering
from tocsin.detection.warp import Warp, fit_warp

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
I8 = NDArray[np.int8]

MIN_FLEET = 20  # agents from which a common shift of the fleet, or of a group, is subtracted
MAX_CELLS = 2_000_000  # agents x features x scopes (128 bytes each); beyond it contexts share one bet
POWERS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)
HELD_OUT_NATS = 2.0  # highest log wealth that held-back baseline may reach
SHORT_NATS = 0.0  # the same for many short baselines, above the log of their number; half of a short one fits badly


class NumericChannel:
    """Baseline rows until `establish`, then per agent the switching wealth of every feature, scope and bet."""

    def __init__(self, max_contexts: int, max_baseline_rows: int, max_groups: int) -> None:
        self.max_contexts = max_contexts
        self.max_groups = max_groups  # the last stands for all others, whose common shifts are not known
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
        self._memory = np.zeros((0, 0, 6))
        self._fleet = np.zeros((0, 0))  # what the fleet shares: per context, per group, and, last, over all
        self._group_of = np.zeros(0, np.int64)  # each agent's last in the baseline, -1 where it has none
        # One in the number of members, 0 where too few to have a median, -1 where unknown; last: later ones.
        self._group_rate = np.zeros(1)

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
        self._warp = fit_warp(agent, context, values, contexts, mostly_rich=mostly_rich)
        values = self._warp.apply(values)
        self._shape = fit_shape(agent, context, values, agents, contexts)
        self._shape.temper = self._tempers(agent, context, values, agents, contexts)
        self._machines = fit_machines(agent, values)
        members = np.bincount(self._group_of[self._group_of >= 0])
        alone = np.count_nonzero(members) < 2  # one group is the fleet
        rates = np.where((members >= MIN_FLEET) & ~alone, 1.0 / np.maximum(members, 1), 0.0)
        rates[self.max_groups - 1 :] = -1.0
        self._group_rate = np.append(rates, 0.0)
        self._fleet = np.zeros((contexts + self._group_rate.shape[0] + 1, values.shape[1]))

    def _tempers(self, agent: I32, context: I32, values: F64, agents: int, contexts: int) -> F64:
        """Per agent and feature the largest power at which the held-back second half of the baseline is unremarkable.

        An agent with a long baseline answers for itself; short baselines answer together, feature by feature, by the
        highest wealth among them, which under the model is seldom far above their number. That shows what goes wrong
        often; what wanders slowly shows in the long-run variance, by which bets are tempered as well.
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
        worst, scores = np.empty((agents, values.shape[1])), np.full((int(held.sum()), values.shape[1]), np.nan)
        undecided = np.ones(temper.shape, np.bool_)
        together = SHORT_NATS + math.log(max(int(poor.sum()), 1))
        limit = np.where(rich, HELD_OUT_NATS, together)[:, None]
        for power in POWERS:
            held_out(
                agent[held],
                context[held],
                values[held],
                half.location,
                half.phi,
                half.scale,
                half.knots,
                half.own,
                half.fleet,
                half.tolerance,
                SCORES,
                power,
                self._split,
                worst,
                scores,
            )
            temper[undecided] = power
            failed = worst > limit
            failed[poor] = failed[poor].any(axis=0)
            undecided &= failed
        temper[undecided] = 0.0
        return temper / wandering(agent[held], scores, rich)

    def observe(
        self,
        agent: I32,
        phase: I8,
        group: I32,
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
        self._join(agent[base], group[base], agents)
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
        judge(
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
            shape.fleet,
            shape.temper,
            shape.tolerance,
            np.median(shape.scale, axis=0),
            SCORES,
            self._fleet,
            1.0 / max(agents, 1) if agents >= MIN_FLEET else 0.0,
            np.minimum(group, self._group_rate.shape[0] - 1),
            self._group_rate,
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

    def _join(self, agent: I32, group: I32, agents: int) -> None:
        if agents > self._group_of.shape[0]:
            extra = np.full(agents - self._group_of.shape[0], -1)
            self._group_of = np.concatenate((self._group_of, extra))
        self._group_of[agent] = group

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
            memory = np.zeros((size, features, 6))
            if have[0]:
                wealth[: have[0], :, : have[2]] = self._wealth
                memory[: have[0]] = self._memory
            self._wealth, self._memory = wealth, memory


def _widened(values: F64, width: int) -> F64:
    """Rows kept before further features were first seen."""
    return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=np.nan)
