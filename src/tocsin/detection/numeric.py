"""Numeric features: each agent against its own baseline in the same context."""

from __future__ import annotations

import math

import numpy as np
from numba import njit  # pyright: ignore[reportUnknownVariableType]
from numpy.typing import NDArray

MIN_COUNT = 5  # samples an agent needs in a context before its own spread is used


class NumericChannel:
    """State per (agent, context, feature): count, mean, sum of squared deviations; per agent an e-process and a belief."""

    def __init__(self, max_contexts: int) -> None:
        self.max_contexts = max_contexts
        self._contexts: dict[str, int] = {}
        self._features: tuple[str, ...] = ()
        self._moments = np.zeros((0, 1, 0, 3))
        self._state = np.zeros((0, 2))
        self._score = np.zeros((0, 0))

    def establish(self) -> None:
        """Nothing to fit beyond the running moments."""

    def observe(
        self,
        agent: NDArray[np.int32],
        phase: NDArray[np.int8],
        context: NDArray[np.int32],
        labels: tuple[str, ...],
        values: NDArray[np.float64],
        names: tuple[str, ...],
        log_e: NDArray[np.float64],
        belief: NDArray[np.float64],
    ) -> None:
        """Fill `log_e` and `belief`, shape `(n,)`, for rows of `values` `(n, d)`."""
        codes = np.array([self._context(label) for label in labels], np.int32)
        self._features = self._features or names
        self._grow(int(agent.max()) + 1, len(names))
        _follow(agent, phase, codes[context], values, self._moments, self._state, self._score, log_e, belief)

    def contributions(self, agent_index: int) -> list[tuple[str, float, str]]:
        """(feature, nats, detail) for one agent."""
        if agent_index >= self._score.shape[0]:
            return []
        row = self._score[agent_index]
        return [(name, float(row[j]), "its values moved") for j, name in enumerate(self._features)]

    def _context(self, label: str) -> int:
        if label not in self._contexts:
            self._contexts[label] = min(len(self._contexts), self.max_contexts - 1)
        return self._contexts[label]

    def _grow(self, agents: int, features: int) -> None:
        contexts = max(len(self._contexts), self._moments.shape[1])
        if agents > self._moments.shape[0] or contexts > self._moments.shape[1] or not self._moments.shape[2]:
            size = max(agents, self._moments.shape[0])
            old, score, state = self._moments, self._score, self._state
            self._moments = np.zeros((size, contexts, features, 3))
            self._score, self._state = np.zeros((size, features)), np.zeros((size, 2))
            if old.shape[2]:
                self._moments[: old.shape[0], : old.shape[1]] = old
                self._score[: score.shape[0]] = score
                self._state[: state.shape[0]] = state


@njit(cache=True, nogil=True)
def _follow(agent, phase, context, values, moments, state, score, log_e, belief):  # type: ignore[no-untyped-def]
    for i in range(agent.shape[0]):
        a, c = agent[i], context[i]
        gain, counted = 0.0, 0
        for j in range(values.shape[1]):
            x = values[i, j]
            if not math.isfinite(x):
                continue
            m = moments[a, c, j]
            if phase[i] == 0:
                m[0] += 1.0
                d = x - m[1]
                m[1] += d / m[0]
                m[2] += d * (x - m[1])
            elif m[0] >= MIN_COUNT:
                s = math.sqrt(m[2] / (m[0] - 1.0) * (1.0 + 1.0 / m[0])) + 1e-9
                z = abs(x - m[1]) / s
                step = min(max(0.5 * (z - 3.0), -0.02), 4.0)
                score[a, j] = max(score[a, j] + step, 0.0)
                gain += step
                counted += 1
        if counted:
            state[a, 0] = max(state[a, 0] + gain / counted, 0.0)
            state[a, 1] = max(state[a, 1] + gain / counted, -1.0)
        belief[i] = state[a, 0]
        log_e[i] = state[a, 1]
