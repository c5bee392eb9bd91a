"""What to expect of an agent that is hardly known yet: its own mean, pulled towards its peers'.

Empirical Bayes for normal means (James & Stein 1961; Efron & Morris 1975): peers' means spread around `location` with
deviation `between`, an agent's samples around its own mean with deviation `within`; after `n` samples summing to S the
best guess is (S + k * location) / (n + k) with k = within**2 / between**2, as if `k` samples had been seen at the
location before the first. Location and spread come from medians, so that fewer than half of the peers cannot move what
is expected of a newcomer beyond what the honest ones span.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

LEAST_BETWEEN = 1e-3  # of `within`: peers that agree to the last digit do not silence an agent's own samples for ever


@dataclass(frozen=True, slots=True)
class Peers:
    """How peers differ, per feature (d,), NaN where nothing is known. Any unit, the same in all three."""

    location: F64  # median of their means
    between: F64  # robust deviation of their true means
    within: F64  # median of their samples' deviations


@dataclass(frozen=True, slots=True)
class Expected:
    """Of the next sample, per feature (d,)."""

    mean: F64
    std: F64  # of the next sample, what is not known about the mean included
    own_share: F64  # of the mean that comes from the agent's own samples, 0..1
    prior_samples: F64  # k: how many samples of its own the peers' word weighs as much as


def spread_of_true_means(observed: F64, within: F64, samples: float) -> F64:
    """Deviation of the true means, when means of `samples` samples each were observed to spread by `observed`."""
    noise = within**2 / max(samples, 1.0)
    return np.sqrt(np.maximum(observed**2 - noise, (LEAST_BETWEEN * within) ** 2))


def expected(count: F64, mean: F64, peers: Peers) -> Expected:
    """After `count` (d,) samples with `mean` (d,); without samples it is what the peers do, without peers NaN."""
    between = np.maximum(peers.between, LEAST_BETWEEN * peers.within)
    ratio = np.divide(peers.within, between, out=np.zeros_like(between), where=between > 0)
    k = ratio**2
    share = np.divide(count, count + k, out=np.zeros_like(k), where=count + k > 0)
    centre = peers.location + share * np.where(count > 0, mean - peers.location, 0.0)
    left = between**2 * (1.0 - share)  # variance of the agent's true mean, given its samples
    return Expected(centre, np.sqrt(peers.within**2 + left), share, k)
