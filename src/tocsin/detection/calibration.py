"""How rare a score is among baseline scores: ranks where there are enough, an exponential tail beyond.

Ranks are conformal p-values (Vovk, Gammerman & Shafer 2005). Beyond the upper 1 % the mean excess gives an exponential
tail, the limit law for light tails (Pickands 1975). SAFETY widens both: life is less calm than a baseline.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.detection.bisection import first_at_least

SAFETY = 2.0  # a baseline score may be exceeded this many times more often in life than in the baseline
TAIL_SHARE = 0.01
MIN_TAIL = 20  # scores that a tail fit needs
MIN_SCALE = 0.5
PRIOR_EXCESSES = 20  # scores beyond the threshold that a prior scale is worth


class Calibration:
    """Sorted baseline scores `scores` `(m,)` and `tail`: threshold, log of its survival, scale, log of SAFETY.

    `prior_scale` of the tail, 0 for none: a few calm agents do not show how odd the next honest session may be.
    """

    def __init__(self, scores: NDArray[np.float64], prior_scale: float = 0.0) -> None:
        self.scores = np.sort(scores)
        count = scores.shape[0]
        k = min(max(int(TAIL_SHARE * count), MIN_TAIL), max(count // 4, 1))
        threshold = float(self.scores[count - k - 1]) if count > k else math.inf
        excess = self.scores[count - k :] - threshold if count > k else np.zeros(0)
        scale = math.inf
        if excess.size:
            mean = float(excess.mean())
            if prior_scale:
                mean = (excess.sum() + PRIOR_EXCESSES * prior_scale) / (k + PRIOR_EXCESSES)
            scale = max(mean * (1.0 + 1.0 / math.sqrt(k)), MIN_SCALE)
        self.tail = np.array([threshold, math.log((k + 1.0) / (count + 1.0)), scale, math.log(SAFETY)])

    def log_p(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """log p-value of each score, without the safety factor, shape as `scores`."""
        return np.array([log_survival(float(score), self.scores, self.tail) for score in scores])


@njit(cache=True, nogil=True)
def log_survival(score: float, scores: NDArray[np.float64], tail: NDArray[np.float64]) -> float:
    """log P(a baseline score >= `score`), never below what ranks or the fitted tail say."""
    count = scores.shape[0]
    if score > tail[0]:
        return tail[1] - (score - tail[0]) / tail[2]
    above = count - first_at_least(scores, score)
    return math.log((above + 1.0) / (count + 1.0))
