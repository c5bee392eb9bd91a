"""Which evidence is worth stating: folds per-event increments until they matter.

Stating every event of every agent would cost the network O(events); stating nothing until an alarm would hide how
belief built up. A statement is made when the unstated part has become material. What is held back is never lost:
it is part of the next statement about that agent, and `drain` states all of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

RISE_NATS = 0.5  # unstated belief against the agent that is stated at once
FALL_NATS = -4.0  # unstated belief in the agent's favour that is stated: reassurance can wait
E_RISE_NATS = 0.2  # a running e-value that rose by a fifth, while above e**2, is stated
E_FALL_NATS = 0.1  # one that fell is stated sooner: what others believe must not be more than what is known
E_FLOOR_NATS = 2.0


class Ledger:
    """Unstated evidence per agent. Index = the detector's agent index."""

    def __init__(self) -> None:
        self.events: I64 = np.zeros(0, np.int64)  # seen so far
        self.windows = 0  # stretches of one agent's events, one a batch it occurs in
        self._bf: F64 = np.zeros(0)
        self._first: I64 = np.zeros(0, np.int64)
        self._last: I64 = np.zeros(0, np.int64)
        self._log_e: F64 = np.zeros(0)
        self._stated_e: F64 = np.zeros(0)

    def _grow(self, size: int) -> None:
        have = self._bf.shape[0]
        if size <= have:
            return
        more = max(size, 2 * have) - have
        self.events = np.concatenate([self.events, np.zeros(more, np.int64)])
        self._bf = np.concatenate([self._bf, np.zeros(more)])
        self._first = np.concatenate([self._first, np.full(more, -1, np.int64)])
        self._last = np.concatenate([self._last, np.full(more, -1, np.int64)])
        self._log_e = np.concatenate([self._log_e, np.zeros(more)])
        self._stated_e = np.concatenate([self._stated_e, np.zeros(more)])

    def add(self, agent: NDArray[np.int32], seq: I64, log_bf: F64, log_e: F64) -> I64:
        """Fold a batch's columns (n,); return the indices of agents whose unstated evidence is now material."""
        if agent.shape[0] == 0:
            return np.zeros(0, np.int64)
        self._grow(int(agent.max()) + 1)
        np.add.at(self._bf, agent, log_bf)
        touched, first_row = np.unique(agent, return_index=True)
        last_row = agent.shape[0] - 1 - np.unique(agent[::-1], return_index=True)[1]
        self.windows += touched.shape[0]
        fresh = self._first[touched] < 0
        self._first[touched[fresh]] = seq[first_row[fresh]]
        self._last[touched] = seq[last_row]
        self.events[touched] = seq[last_row] + 1
        self._log_e[touched] = log_e[last_row]
        unstated = self._bf[touched]
        e_now, e_then = self._log_e[touched], self._stated_e[touched]
        e_moved = (e_now - e_then >= E_RISE_NATS) | (e_then - e_now >= E_FALL_NATS)
        e_moved &= np.maximum(e_now, e_then) >= E_FLOOR_NATS
        return touched[(unstated >= RISE_NATS) | (unstated <= FALL_NATS) | e_moved].astype(np.int64)

    def pending(self) -> I64:
        """Indices of agents with anything unstated."""
        moved = (self._first >= 0) & ((self._bf != 0.0) | (self._log_e != self._stated_e))
        return np.flatnonzero(moved).astype(np.int64)

    def take(self, agent: int) -> tuple[int, int, float, float]:
        """Hand over (first_seq, last_seq, log_bf, log_e) of one agent and mark it stated."""
        out = (int(self._first[agent]), int(self._last[agent]), float(self._bf[agent]), float(self._log_e[agent]))
        self._bf[agent] = 0.0
        self._first[agent] = -1
        self._stated_e[agent] = self._log_e[agent]
        return out
