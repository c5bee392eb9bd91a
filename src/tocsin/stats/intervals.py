"""Confidence intervals for shares."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson_interval(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """Interval for a proportion (Wilson 1927); (0, 1) without trials.

    >>> wilson_interval(26, 26)[0] > 0.87
    True
    """
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, z * z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    # The ends are exact at none and all; rounding would leave them a hair off.
    low = 0.0 if successes == 0 else centre - half
    return low, 1.0 if successes == trials else centre + half


def spotless_trials(share: float, z: float = Z95) -> int:
    """Trials without a success after which the interval's upper end is at most `share`, in (0, 1).

    >>> wilson_interval(0, spotless_trials(0.01))[1] <= 0.01 < wilson_interval(0, spotless_trials(0.01) - 1)[1]
    True
    """
    return math.ceil(z * z * (1.0 - share) / share)
