"""Who is in the fleet's rejection set right after each event: closed e-BH, the rule by which verdicts are certified.

Whoever e-BH rejects (Wang & Ramdas 2022) closed e-BH rejects too (Xu et al. 2025, `stats/fdr.py`). The former is
followed event by event at hardly any cost; the latter is asked where it could make a difference. In fleets of more than
`CLOSED_UP_TO` agents it is not: with thousands in the set asking takes milliseconds an event, and what is gained is a
bar lower by the share of the fleet that is in the set. Alarms there are a subset of what is certified.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.stats.fdr import closed_e_bh_threshold_q32

Q32 = 1 << 32
CLIP_NATS = 64.0
CLOSED_UP_TO = 2_000


class FleetAlarms:
    """Running closed e-BH (plain above `CLOSED_UP_TO`) over `fleet_size` agents at level `alpha`.

    Agents never updated count with e-value one.
    """

    def __init__(self, alpha: float, fleet_size: int) -> None:
        self.alpha = alpha
        self.fleet_size = fleet_size
        # Smallest set size at which e-BH rejects each agent; fleet_size + 1 = never.
        self._rank = np.full(fleet_size, fleet_size + 1, np.int64)
        self._agents_at = np.zeros(fleet_size + 2, np.int64)
        self._agents_at[fleet_size + 1] = fleet_size
        self._log_e = np.zeros(fleet_size)
        self._closed = fleet_size <= CLOSED_UP_TO
        self._high = np.zeros(1, np.int64)  # agents above half the level, of which closed e-BH demands most of a set

    def update(self, agent_index: NDArray[np.int32], log_e: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether the agent of each event is in the set right after that event, shape `(n,)`.

        `agent_index` must lie in [0, fleet_size).
        """
        alarms = np.zeros(agent_index.shape[0], np.bool_)
        start = 0
        while start < alarms.shape[0]:
            start = _follow(
                agent_index,
                log_e,
                start,
                self.alpha,
                self._closed,
                self._rank,
                self._agents_at,
                self._log_e,
                self._high,
                alarms,
            )
            if start < alarms.shape[0]:
                alarms[start] = log_e[start] >= self._threshold()
                start += 1
        return alarms

    def rejected(self) -> NDArray[np.int64]:
        """Indices of the agents now in the set."""
        return np.flatnonzero((self._rank <= _set_size(self._agents_at)) | (self._log_e >= self._threshold()))

    def _threshold(self) -> float:
        if not self._closed:
            return math.inf
        stand_out = np.minimum(self._log_e[self._log_e > 0.0], CLIP_NATS)
        values = np.rint(stand_out * Q32).astype(np.int64).tolist()
        threshold = closed_e_bh_threshold_q32(values, self.fleet_size, round(self.alpha * 1e6))
        return math.inf if threshold is None else (threshold - 1) / Q32


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
    start: int,
    alpha: float,
    closed: bool,
    rank: NDArray[np.int64],
    agents_at: NDArray[np.int64],
    latest: NDArray[np.float64],
    high: NDArray[np.int64],
    alarms: NDArray[np.bool_],
) -> int:
    """Take in events from `start` on until one must be put to closed e-BH; its number, or how many events there are.

    A set of r rejected agents has none below 1 / (alpha r), and more than half of it above 1 / (2 alpha).
    """
    never = rank.shape[0] + 1
    log_bar, half = math.log(rank.shape[0] / alpha), -math.log(2.0 * alpha) - 1e-6
    size = _set_size(agents_at)
    for i in range(start, agent.shape[0]):
        a = agent[i]
        high[0] += int(log_e[i] >= half) - int(latest[a] >= half)
        latest[a] = log_e[i]
        gap = log_bar - log_e[i]  # the agent belongs to every e-BH set of at least exp(gap) members
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
        largest = min(2 * high[0] - 1, rank.shape[0])
        if closed and not alarms[i] and largest > 0 and log_e[i] > max(-math.log(alpha * largest) - 1e-6, 0.0):
            return i
    return agent.shape[0]
