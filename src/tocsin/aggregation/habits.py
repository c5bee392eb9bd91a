"""Which agents moved together before they were judged: a pair that always did is no news.

Kept for each agent and series: what nothing above it explained in the last round before it went live, or else in the
first round it was in. A pair found later is excused if it was correlated in that round beyond chance (3.5 standard
errors, at any lag), where both remember the same one. Pairs of which one was there before the other are learnt as
pairs, when the later one is learnt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tocsin.aggregation.coordination import Pair, Screening
from tocsin.stats.correlation import lagged_correlation

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

BEYOND_CHANCE = 3.5  # standard errors; of pairs that never were correlated, 7 lags excuse one in 600
MAX_PAIRS = 1_000_000
NO_ROUND = 0


class Habits:
    """Of one series. Agents are numbered as in `aggregation.activity`."""

    def __init__(self, length: int) -> None:
        self._round: I64 = np.zeros(0, np.int64)  # that an agent remembers
        self._rows: F32 = np.zeros((0, length), np.float32)
        self._removed: I64 = np.zeros(0, np.int64)  # directions taken out of each row
        self._pairs: set[tuple[int, int]] = set()

    def learning(self, agents: I64, judged: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(m,) who learns this round: those not yet `judged`, if all `baseline`, and whoever remembers none."""
        self._grow(int(agents.max(initial=-1)) + 1)
        return (self._round[agents] == NO_ROUND) | (baseline & ~judged)

    def learn(
        self, number: int, agents: I64, who: NDArray[np.bool_], nested: F64, removed: I64, pairs: Sequence[Pair]
    ) -> None:
        """Remember round `number`: rows of `nested` (m, T) of those in `who`, and `pairs` (of places) with any."""
        self._rows[agents[who]] = nested[who]
        self._removed[agents[who]] = removed[who]
        self._round[agents[who]] = number
        for pair in pairs:
            if (who[pair.left] or who[pair.right]) and len(self._pairs) < MAX_PAIRS:
                self._pairs.add(self._key(agents, pair))

    def excuses(self, agents: I64, pair: Pair, screening: Screening) -> bool:
        """Whether the agents at `pair`'s places moved together before."""
        if self._key(agents, pair) in self._pairs:
            return True
        i, j = int(agents[pair.left]), int(agents[pair.right])
        if self._round[i] != self._round[j]:
            return False
        a, b = self._rows[i].astype(np.float64), self._rows[j].astype(np.float64)
        gone = max(int(self._removed[i]), int(self._removed[j]))
        chance = BEYOND_CHANCE / math.sqrt(max(a.shape[0] - gone - screening.max_lag, 1))
        lags = range(-screening.max_lag, screening.max_lag + 1)
        return max(lagged_correlation(a, b, lag) for lag in lags) >= chance

    @staticmethod
    def _key(agents: I64, pair: Pair) -> tuple[int, int]:
        i, j = int(agents[pair.left]), int(agents[pair.right])
        return (i, j) if i < j else (j, i)

    def _grow(self, size: int) -> None:
        extra = size - self._round.shape[0]
        if extra > 0:
            extra = max(extra, self._round.shape[0] // 4, 64)
            self._round = np.concatenate([self._round, np.zeros(extra, np.int64)])
            self._removed = np.concatenate([self._removed, np.zeros(extra, np.int64)])
            self._rows = np.concatenate([self._rows, np.zeros((extra, self._rows.shape[1]), np.float32)])
