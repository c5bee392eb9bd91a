"""Heavy-tailed features are judged on a scale of their own: the fleet's baseline ranks, as normal scores.

A mean and a deviation learned from a few hundred rows say little about a feature whose tail is heavy: the error of
the location alone then adds up to evidence. Ranking every value among the fleet's baseline values first (Blom 1958,
mid-ranks for ties) makes the rows of a baseline close to normal whatever their law, so that what follows is learned
reliably from few rows. A feature is left as it is where its baseline has no heavy tail, or where most rows come from
agents with long baselines, which are ranked against themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tocsin.detection.numeric_fit import normal_quantile

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

HEAVY_KURTOSIS = 6.0  # of residuals; the normal law has 3, the exponential 9, Student's with five degrees 9
KNOTS = 512


@dataclass(frozen=True, slots=True)
class Scale:
    """Values (rising) and their normal scores, `(k,)` each."""

    values: F64
    scores: F64


# A feature that hardly ever differs tells too little of how often it may: it is learned and shown, not bet on.
ALMOST_CONSTANT = 0.9
MUTE = Scale(np.zeros(1), np.full(1, np.nan))


class Warp:
    """One `Scale` or None a feature."""

    def __init__(self, scales: tuple[Scale | None, ...]) -> None:
        self.scales = scales

    def apply(self, values: F64) -> F64:
        """`values` `(n, d)` with warped columns replaced; NaN stays. Beyond the baseline its edge's score holds."""
        if not any(self.scales):
            return values
        out = values.copy()
        for j, scale in enumerate(self.scales[: values.shape[1]]):
            if scale is not None:
                out[:, j] = np.interp(values[:, j], scale.values, scale.scores)
        return out

    def back(self, feature: int, score: float) -> float:
        """A value whose score is about `score`, for people."""
        scale = self.scales[feature] if feature < len(self.scales) else None
        if scale is MUTE:
            return float("nan")
        return score if scale is None else float(np.interp(score, scale.scores, scale.values))


def fit_warp(agent: I32, context: I32, values: F64, contexts: int, *, mostly_rich: bool) -> Warp:
    """Scales from baseline rows `(n, d)`."""
    if mostly_rich:
        return Warp((None,) * values.shape[1])
    return Warp(tuple(_scale(agent, context, values[:, j], contexts) for j in range(values.shape[1])))


def _scale(agent: I32, context: I32, column: F64, contexts: int) -> Scale | None:
    good = np.isfinite(column)
    a: I32 = agent[good]
    c: I32 = context[good]
    x: F64 = column[good]
    if x.shape[0] == 0:
        return MUTE
    count = np.maximum(np.bincount(c, minlength=contexts), 1)
    residual = x - (np.bincount(c, x, contexts) / count)[c]
    # Each agent by its own level and scale: a fleet of agents that differ in these has no heavy tail for that.
    rows = np.maximum(np.bincount(a), 1)
    residual -= (np.bincount(a, residual) / rows)[a]
    residual /= np.sqrt(np.maximum(np.bincount(a, residual**2) / rows, 1e-300))[a]
    found, ties = np.unique(x, return_counts=True)
    if int(ties.max()) > ALMOST_CONSTANT * x.shape[0]:
        return MUTE
    if float(np.mean(residual**4)) <= HEAVY_KURTOSIS:
        return None
    below = np.cumsum(ties) - ties
    scores = normal_quantile((below + 0.5 * ties) / x.shape[0])
    if found.shape[0] > KNOTS:
        keep = np.arange(KNOTS) * (int(found.shape[0]) - 1) // (KNOTS - 1)
        found, scores = found[keep], scores[keep]
    return Scale(np.asarray(found, np.float64), scores)
