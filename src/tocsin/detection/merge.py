"""One e-value and one belief per agent from its channels: their mean, which needs no independence.

The average of e-values is an e-value under any dependence, a product is not (Vovk & Wang 2021, proposition 3.1).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@njit(cache=True, nogil=True)
def merge(
    agent: NDArray[np.int32], phase: NDArray[np.int8], both: F64, share: F64, last: F64, log_e: F64, belief: F64
) -> None:
    """Fill `log_e` and `belief` `(n,)` with the log of the mean over channels that have seen the agent.

    `share` `(agents, channels)` weighs the mean, fixed beforehand; `both` `(n, channels, 2)` holds what channels
    say of each row, NaN where one did not see it; `last` `(agents, channels, 2)` carries what each said last.
    """
    for i in range(agent.shape[0]):
        if phase[i] == 0:
            continue
        a = agent[i]
        for c in range(both.shape[1]):
            if not math.isnan(both[i, c, 0]):
                last[a, c, 0], last[a, c, 1] = both[i, c, 0], both[i, c, 1]
        log_e[i] = _log_mean(last[a, :, 0], share[a])
        belief[i] = _log_mean(last[a, :, 1], share[a])


@njit(cache=True, nogil=True)
def _log_mean(logs: F64, share: F64) -> float:
    high, weight = -np.inf, 0.0
    for c in range(logs.shape[0]):
        if not math.isnan(logs[c]):
            high = max(high, logs[c])
            weight += share[c]
    if weight == 0.0:
        return 0.0
    total = 0.0
    for c in range(logs.shape[0]):
        if not math.isnan(logs[c]):
            total += share[c] * math.exp(logs[c] - high)
    return high + math.log(total / weight)
