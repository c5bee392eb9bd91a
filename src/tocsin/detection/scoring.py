"""Who is in the fleet's e-BH rejection set right after each event (Wang & Ramdas 2022, False discovery rate control
with e-values)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray


class FleetAlarms:
    """Running e-BH over `fleet_size` agents at level `alpha`.

    An agent enters the set when its e-value reaches fleet_size / (alpha k), k being the size of the set; agents that
    were never updated count with e-value one.
    """

    def __init__(self, alpha: float, fleet_size: int) -> None:
        self.alpha = alpha
        self.fleet_size = fleet_size
        # Smallest set size at which each agent belongs to the set; fleet_size + 1 = never.
        self._rank = np.full(fleet_size, fleet_size + 1, np.int64)
        self._agents_at = np.zeros(fleet_size + 2, np.int64)
        self._agents_at[fleet_size + 1] = fleet_size

    def update(self, agent_index: NDArray[np.int32], log_e: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether the agent of each event is in the set right after that event, shape `(n,)`.

        `agent_index` must lie in [0, fleet_size).
        """
        alarms = np.zeros(agent_index.shape[0], np.bool_)
        _follow(agent_index, log_e, math.log(self.fleet_size / self.alpha), self._rank, self._agents_at, alarms)
        return alarms

    def rejected(self) -> NDArray[np.int64]:
        """Indices of the agents now in the set."""
        return np.flatnonzero(self._rank <= _set_size(self._agents_at))


@njit(cache=True, nogil=True)
def _set_size(agents_at: NDArray[np.int64]) -> int:
    size, total = 0, 0
    for k in range(1, agents_at.shape[0] - 1):
        total += agents_at[k]
        if total >= k:
            size = k
    return size


@njit(cache=True, nogil=True)
def _follow(
    agent: NDArray[np.int32],
    log_e: NDArray[np.float64],
    log_bar: float,
    rank: NDArray[np.int64],
    agents_at: NDArray[np.int64],
    alarms: NDArray[np.bool_],
) -> None:
    never = rank.shape[0] + 1
    size = _set_size(agents_at)
    for i in range(agent.shape[0]):
        a = agent[i]
        gap = log_bar - log_e[i]  # the agent belongs to every set of at least exp(gap) members
        needed = never
        if gap <= 0.0:
            needed = 1
        elif gap <= np.log(rank.shape[0]) + 1e-9:
            needed = min(int(np.ceil(np.exp(gap) - 1e-9)), never)
        if needed != rank[a]:
            agents_at[rank[a]] -= 1
            agents_at[needed] += 1
            rank[a] = needed
            size = _set_size(agents_at)
        alarms[i] = needed <= size
