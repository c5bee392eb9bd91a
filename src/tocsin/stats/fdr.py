"""False discovery rate control from e-values under any dependence, on integers: e-BH and its closure.

e-BH rejects the k* largest, k* = max{k : e_(k) >= N / (alpha k)} (Wang & Ramdas 2022). Closed e-BH rejects the largest
set R for which every set S of hypotheses has a mean e-value of at least |S and R| / (alpha |R|) (Xu, Solari, Fischer,
de Heide, Ramdas & Goeman 2025, "Bringing closure to false discovery rate control"). It rejects all that e-BH rejects
and, where several stand out, more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from tocsin.stats.fixedpoint import EXP_BITS, exp_q, ln_q32

MILLION = 1_000_000


def e_bh_threshold_q32(log_es_q32: Iterable[int], fleet_size: int, alpha_ppm: int) -> int | None:
    """The log e-value from which on hypotheses are rejected, units of 2**-32; None where none is.

    Rejects the k* largest, k* = max{k : log_e_(k) >= ln(N / (alpha k))}; hypotheses that are not listed, of the
    `fleet_size` N, have e-value one or less. Ties at the threshold are rejected together, which changes nothing in k*.
    Raises ValueError where more are listed than there are.
    """
    values = list(log_es_q32)
    if not values:
        return None
    _demand_room(len(values), fleet_size)
    # No k has a lower threshold than k = len(values): whatever is below cannot be rejected.
    lowest = ln_q32(fleet_size * MILLION, alpha_ppm * len(values))
    candidates = sorted((value for value in values if value >= lowest), reverse=True)
    for k in range(len(candidates), 0, -1):
        if candidates[k - 1] >= ln_q32(fleet_size * MILLION, alpha_ppm * k):
            return candidates[k - 1]
    return None


def closed_e_bh_threshold_q32(log_es_q32: Iterable[int], fleet_size: int, alpha_ppm: int) -> int | None:
    """As `e_bh_threshold_q32`, never higher, by closed e-BH. Listed hypotheses of e-value one or less count as zero.

    That, like hypotheses that are not listed, can only cost power. Time O(n log n + r² log n) at worst, r being twice
    the number of e-values above 1 / (2 alpha); usually O((n + r) log n).
    """
    values = list(log_es_q32)
    threshold = e_bh_threshold_q32(values, fleet_size, alpha_ppm)
    ascending = sorted(value for value in values if value > 0)
    # The lower half of R must have a mean of 1 / (2 alpha), so most of R lies above; one unit for rounding.
    high = len(ascending) - bisect_left(ascending, ln_q32(MILLION, 2 * alpha_ppm) - 1)
    sums = _Sums(ascending, fleet_size, alpha_ppm)
    for size in range(min(len(ascending), 2 * high - 1), 0, -1):
        lowest = ascending[-size]
        if threshold is not None and lowest >= threshold:
            break
        # Equal values are rejected together: only a size that takes all of them is a set of its own.
        if (size == len(ascending) or ascending[-size - 1] < lowest) and sums.rejects(size):
            return lowest
    return threshold


class _Sums:
    """Sums of e-values, ascending, in units of N / (alpha 2**62).

    Larger e-values than N / alpha count as that: every set with one of them passes in any case.
    """

    def __init__(self, ascending: Sequence[int], fleet_size: int, alpha_ppm: int) -> None:
        cap = ln_q32(fleet_size * MILLION, alpha_ppm)
        self._e = [exp_q(min(0, value - cap)) for value in ascending]
        self._before = list(accumulate(self._e, initial=0))
        self._fleet_size = fleet_size
        self._failed = 1

    def rejects(self, size: int) -> bool:
        """Whether the `size` largest may be rejected: for every number of them that S can share, its worst S passes."""
        last = min(self._failed, size)  # what failed for a size often fails for the next one, too
        if not self._passes(size, last):
            return False
        for shared in range(size, 0, -1):
            if not self._passes(size, shared):
                self._failed = shared
                return False
        return True

    def _passes(self, size: int, shared: int) -> bool:
        """The worst S: the `shared` smallest of R, and all others whose e-value is below the mean that S needs."""
        outside = len(self._e) - size
        needed = -(-(shared << EXP_BITS) // (size * self._fleet_size))
        below = bisect_left(self._e, needed, 0, outside)
        total = self._before[below] + self._before[outside + shared] - self._before[outside]
        members = shared + below + self._fleet_size - len(self._e)  # whoever is not listed counts as zero
        return size * self._fleet_size * total >= shared * members << EXP_BITS


def _demand_room(listed: int, fleet_size: int) -> None:
    if listed > fleet_size:  # the bar would fall below an e-value of one
        raise ValueError(f"{listed} hypotheses in a fleet of {fleet_size}")
