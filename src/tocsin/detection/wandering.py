"""Whether what looks like noise wanders: the long-run variance of held-back scores beside their variance.

Scores that are alike over many rows drift together for a while, and bets on a shift win though nothing has shifted. The
logarithm of a small bet's wealth over many rows grows as b g - b^2 / 2 with the variance of g in the long run, not that
of single rows; raised to the power (variance / long-run variance) its expectation is one again. The long-run variance
is that of the means of batches (Alexopoulos & Seila 1996, batch means), the largest over several lengths of batches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

BATCHES = (8, 16, 32, 64, 128, 256, 512)  # rows
MIN_FREEDOM = 15  # batches, less one an agent: fewer tell nothing


def wandering(agent: I32, scores: F64, rich: NDArray[np.bool_]) -> F64:
    """Long-run variance over variance of `scores` `(n, d)`, at least one, `(agents, d)`; rows of an agent in its order.

    `rich` agents `(agents,)` answer for themselves, the others together.
    """
    agents = rich.shape[0]
    out = np.ones((agents, scores.shape[1]))
    order = np.argsort(agent, kind="stable")
    for j in range(scores.shape[1]):
        good = order[np.isfinite(scores[order, j])]
        a, x = agent[good], scores[good, j]
        rows = np.bincount(a, minlength=agents)
        x = x - (np.bincount(a, x, agents) / np.maximum(rows, 1))[a]
        variance = np.bincount(a, x * x, agents) / np.maximum(rows - 1, 1)
        for length in BATCHES:
            own, freedom = _batched(a, x, rows, length)
            own /= np.maximum(variance, 1e-12)
            poor = ~rich & (freedom > 0)
            if freedom[poor].sum() >= MIN_FREEDOM:
                pooled = float((own * freedom)[poor].sum() / freedom[poor].sum())
                out[~rich, j] = np.maximum(out[~rich, j], pooled)
            enough = rich & (freedom >= MIN_FREEDOM)
            out[enough, j] = np.maximum(out[enough, j], own[enough])
    return out


def _batched(a: I32, x: F64, rows: I64, length: int) -> tuple[F64, I64]:
    """Variance per agent of batch sums over the batch's `length`, and its degrees of freedom."""
    agents = rows.shape[0]
    whole = rows // length
    place: I64 = np.arange(int(a.shape[0]), dtype=np.int64) - (np.cumsum(rows) - rows)[a]
    used: NDArray[np.bool_] = place < (whole * length)[a]
    batch: I64 = (np.cumsum(whole) - whole)[a[used]] + place[used] // length
    kept: F64 = x[used]
    total = np.bincount(batch, kept, int(whole.sum()))
    everyone: I64 = np.arange(int(agents), dtype=np.int64)
    owner: I64 = np.repeat(everyone, whole)
    centre = np.bincount(owner, total, agents) / np.maximum(whole, 1)
    spread = np.bincount(owner, (total - centre[owner]) ** 2, agents)
    freedom = np.maximum(whole - 1, 0)
    return spread / (length * np.maximum(freedom, 1)), freedom
