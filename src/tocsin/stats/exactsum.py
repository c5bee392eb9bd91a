"""Sums of doubles: exact in any order, compensated for comparison, and a detector for when plain addition degrades.

`ExactSum` is the small superaccumulator of Neal (2015, "Fast exact summation using small and large
superaccumulators"): a fixed-point number wide enough for every double, in 32-bit limbs. Additions commute, so
replicas that saw the same numbers in different orders hold the same bytes; merging and removing are limb-wise. Kahan
(1965), Neumaier (1974) and double-double (Dekker 1971) are more accurate than plain addition but depend on the order,
which rules them out for anything that is agreed on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.errors import InputError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

LIMBS = 68  # 32 bits each, least significant first, unit 2**-1074: any double, 2**77 of the largest ones
UNIT_EXPONENT = 1074
UNIT_ROUNDOFF = 2.0**-53
DEGRADED = 1e-3  # alarm when the error bound exceeds this share of the sum


@njit(cache=True, nogil=True)
def _normalise(limbs: I64) -> None:
    """Carry upwards until all limbs but the top lie in [0, 2**32): equal value, equal bytes."""
    for i in range(limbs.shape[0] - 1):
        carry = limbs[i] >> 32
        limbs[i] -= carry << 32
        limbs[i + 1] += carry


@njit(cache=True, nogil=True)
def _add(limbs: I64, bits: I64, sign: int) -> tuple[int, int, int]:
    """Add finite doubles given as bit patterns; returns how many were (+inf, -inf, NaN)."""
    positive = negative = nan = pending = 0
    for b in bits:
        exponent = (b >> 52) & 0x7FF
        mantissa = b & 0xFFFFFFFFFFFFF
        if exponent == 0x7FF:
            if mantissa != 0:
                nan += 1
            elif b < 0:
                negative += 1
            else:
                positive += 1
            continue
        if exponent == 0:
            exponent = 1  # subnormal: same unit, no hidden bit
        else:
            mantissa |= 1 << 52
        i = (exponent - 1) >> 5
        shift = (exponent - 1) & 31
        s = -sign if b < 0 else sign
        limbs[i] += s * ((mantissa << shift) & 0xFFFFFFFF)
        limbs[i + 1] += s * (mantissa >> (32 - shift))
        pending += 1
        if pending == 512:  # a limb holds 2**63 and gains less than 2**53 at a time
            _normalise(limbs)
            pending = 0
    _normalise(limbs)
    return positive, negative, nan


class ExactSum:
    """Exact sum of doubles. `count`, `infinities` (+inf, -inf) are kept apart; NaN is refused with `InputError`."""

    __slots__ = ("_limbs", "count", "infinities")

    def __init__(self) -> None:
        self._limbs = np.zeros(LIMBS, np.int64)
        self.count = 0
        self.infinities = (0, 0)

    def add(self, x: F64) -> None:
        """Add every element of `x` (n,)."""
        self._update(x, 1)

    def remove(self, x: F64) -> None:
        """Undo `add` of the same elements, exactly."""
        self._update(x, -1)

    def _update(self, x: F64, sign: int) -> None:
        limbs = self._limbs.copy()
        bits = np.ascontiguousarray(x, np.float64).view(np.int64)
        positive, negative, nan = _add(limbs, bits, sign)
        if nan:
            raise InputError(f"{nan} of {bits.shape[0]} numbers to sum are NaN", remedy="drop missing values first")
        self._limbs = limbs
        self.count += sign * bits.shape[0]
        self.infinities = (self.infinities[0] + sign * positive, self.infinities[1] + sign * negative)

    def merge(self, other: ExactSum, sign: int = 1) -> None:
        """Add (`sign` 1) or remove (-1) everything that `other` holds."""
        self._limbs = self._limbs + sign * other._limbs
        _normalise(self._limbs)
        self.count += sign * other.count
        (positive, negative), (more_positive, more_negative) = self.infinities, other.infinities
        self.infinities = (positive + sign * more_positive, negative + sign * more_negative)

    def value(self) -> float:
        """The sum, correctly rounded; +-inf beyond the doubles, NaN where infinities of both signs meet."""
        positive, negative = self.infinities
        if positive or negative:
            return math.nan if positive and negative else math.copysign(math.inf, positive - negative)
        total = 0
        for limb in reversed(self._limbs.tolist()):
            total = (total << 32) + limb
        try:
            return total / (1 << UNIT_EXPONENT)
        except OverflowError:
            return math.inf if total > 0 else -math.inf

    def canonical(self) -> bytes:
        """Equal multisets of numbers give equal bytes, whatever the order."""
        return np.array([self.count, *self.infinities], "<i8").tobytes() + self._limbs.astype("<i8").tobytes()


@njit(cache=True, nogil=True)
def naive_sum(x: F64) -> tuple[float, float]:
    """(left-to-right sum, sum of magnitudes)."""
    total = magnitude = 0.0
    for v in x:
        total += v
        magnitude += abs(v)
    return total, magnitude


@njit(cache=True, nogil=True)
def kahan_sum(x: F64) -> float:
    """Compensated summation (Kahan 1965). Loses the compensation when an addend exceeds the running sum."""
    total = lost = 0.0
    for v in x:
        y = v - lost
        t = total + y
        lost = (t - total) - y
        total = t
    return total


@njit(cache=True, nogil=True)
def neumaier_sum(x: F64) -> float:
    """Compensated summation that survives addends larger than the sum (Neumaier 1974)."""
    total = lost = 0.0
    for v in x:
        t = total + v
        lost += (total - t) + v if abs(total) >= abs(v) else (v - t) + total
        total = t
    return total + lost


@njit(cache=True, nogil=True)
def double_double_sum(x: F64) -> float:
    """Sum in twice the precision (Dekker 1971; the two-sum of Knuth, The Art of Computer Programming 2, 4.2.2)."""
    high = low = 0.0
    for v in x:
        t = high + v
        part = t - high
        low += (high - (t - part)) + (v - part)
        high = t + low
        low -= high - t
    return high + low


@dataclass(frozen=True, slots=True)
class GuardedSum:
    """`error_bound` holds for `value`; `replayed`: plain addition had degraded, the sum was redone exactly."""

    value: float
    error_bound: float
    replayed: bool


def guarded_sum(x: F64) -> GuardedSum:
    """Plain sum, watched: where n*u*sum|x| (Higham 2002, eq. 4.4) exceeds 0.1 % of |sum|, the exact sum replaces it.

    Raises `InputError` for NaN.
    """
    total, magnitude = naive_sum(np.ascontiguousarray(x, np.float64))
    bound = x.shape[0] * UNIT_ROUNDOFF * magnitude
    if bound <= DEGRADED * abs(total) and math.isfinite(total):
        return GuardedSum(total, bound, replayed=False)
    exact = ExactSum()
    exact.add(x)
    value = exact.value()
    return GuardedSum(value, abs(value) * UNIT_ROUNDOFF, replayed=True)
