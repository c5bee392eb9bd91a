"""Exactly mergeable counts, sums and cross products on an integer grid.

Samples are rounded once, at the leaf, to integers `q`; from there on everything is int64 addition, so summaries form
an abelian group: merging is `+`, removing a member is `-`, an update is `new - old`, and any tree of additions gives
the same bytes. Floating-point recurrences (Chan, Golub & LeVeque 1983) have none of these properties.

A summary of `d` features is one flat vector (see `MomentLayout`). Missing values are handled pairwise: a row
contributes to a pair (a, b) where it has both, so per pair the vector holds how many rows, the sum of either and of
the product.

Overflow. |q| <= 2**15 - 1, so n rows give |sum q| < n * 2**15 and sum q*q < n * 2**30. One agent's row is refused
beyond `MAX_ROWS_PER_AGENT` = 2**31 - 1 rows (histogram cells are int32), hence stays below 2**61. Merged vectors are
checked to stay below `MAX_ABS` = 2**62, so that the sum of two never wraps: 2**32 rows if every sample is saturated,
about 2**45 for ordinary ones (|q| around 2**8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.errors import InputError

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]

FRACTION_BITS = 8  # one scale unit (about a standard deviation) is 2**8 grid steps
Q_MAX = (1 << 15) - 1
MISSING = -(1 << 31)
MAX_ABS = 1 << 62
MAX_ROWS_PER_AGENT = (1 << 31) - 1
MAX_FEATURES = 16
MAX_EXPONENT = 480  # variances stay within a double
LARGEST = 2.0**500  # fitting ignores by how much a sample exceeds this
WIDEN_BITS = 2  # how far a heavy tail may coarsen the grid beyond what the centre asks for


@dataclass(frozen=True, slots=True)
class Grid:
    """Where features are rounded to: `q = clip(rint(x / 2**exponent) - origin, +-Q_MAX)`.

    The step is a power of two and the origin a whole number of steps, so that dividing and subtracting are exact and
    the only rounding is the one to the nearest step.
    """

    features: tuple[str, ...]
    origin: tuple[int, ...]  # reference value in steps
    exponent: tuple[int, ...]  # log2 of the step, in the feature's own unit

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.origin) == len(self.exponent) <= MAX_FEATURES:
            raise InputError(f"a grid has one origin and one exponent per feature and at most {MAX_FEATURES} features")
        if any(abs(o) > 1 << 52 for o in self.origin) or any(abs(e) > MAX_EXPONENT for e in self.exponent):
            raise InputError("a grid's origin must stay within 2**52 steps and its exponent within 480")

    def __len__(self) -> int:
        return len(self.features)

    def ref(self, a: int) -> float:
        """The value that feature `a` has at q = 0."""
        return math.ldexp(self.origin[a], self.exponent[a])

    def scale(self, a: int) -> float:
        """2**8 steps: about one standard deviation of feature `a` when the grid was fitted."""
        return math.ldexp(1.0, self.exponent[a] + FRACTION_BITS)

    def value(self, a: int, q: float) -> float:
        """Grid coordinate -> the feature's own unit."""
        return math.ldexp(self.origin[a] + q, self.exponent[a])


def fit_axis(x: F64) -> tuple[int, int]:
    """(origin, exponent) from samples of one feature; NaN and infinities are ignored.

    Robust on purpose (median and median absolute deviation, breakdown 50 %), because nobody has vetted the first
    samples. The step follows the centre, coarsened by at most 2**WIDEN_BITS where 99.9 % of the samples would not
    fit.
    """
    x = np.clip(x[np.isfinite(x)], -LARGEST, LARGEST)
    if x.size == 0:
        return 0, -FRACTION_BITS
    centre = float(np.median(x))
    deviation = np.abs(x - centre)
    spread = 1.4826 * float(np.median(deviation)) or 1.2533 * float(np.mean(deviation)) or abs(centre) / 16 or 1.0
    exponent = round(math.log2(spread)) - FRACTION_BITS
    reach = float(np.quantile(deviation, 0.999))
    exponent += sum(reach / Q_MAX > math.ldexp(1.0, exponent + k) for k in range(WIDEN_BITS))
    floor = math.frexp(centre)[1] - 52 if centre else -MAX_EXPONENT
    exponent = min(MAX_EXPONENT, max(exponent, floor, -MAX_EXPONENT))
    origin = round(math.ldexp(centre, -exponent)) if exponent >= floor else 0
    return origin, exponent


def fit_grid(features: tuple[str, ...], values: F64) -> Grid:
    """A grid for the columns of `values` (n, d)."""
    axes = [fit_axis(values[:, a]) for a in range(len(features))]
    return Grid(features, tuple(o for o, _ in axes), tuple(e for _, e in axes))


@njit(cache=True, nogil=True)
def _quantise(values: F64, columns: I64, origin: F64, per_step: F64, out: I32) -> None:
    for i in range(values.shape[0]):
        for a in range(columns.shape[0]):
            x = values[i, columns[a]] if columns[a] >= 0 else np.nan
            if np.isnan(x):
                out[i, a] = MISSING
                continue
            out[i, a] = np.int32(min(max(np.rint(x * per_step[a]) - origin[a], -Q_MAX), Q_MAX))


def quantise(grid: Grid, values: F64, columns: I64) -> I32:
    """Round `values` (n, any) to grid coordinates (n, d): feature `a` is read from column `columns[a]`, -1 = absent.

    NaN and absent give `MISSING`; infinities saturate at +-Q_MAX like anything else off the grid.
    """
    out = np.empty((values.shape[0], len(grid)), np.int32)
    per_step = np.array([math.ldexp(1.0, -e) for e in grid.exponent], np.float64)
    _quantise(np.ascontiguousarray(values, np.float64), columns, np.array(grid.origin, np.float64), per_step, out)
    return out


class MomentLayout:
    """Where things are in the flat vector of `d` features.

    [events | saturated (d) | pair count (p) | sum of q_a over rows that also have b (d*d) | sum of q_a*q_b (p)]
    with the p = d(d+1)/2 pairs a <= b in row-major order.
    """

    __slots__ = ("counts", "d", "products", "size", "sums")

    def __init__(self, d: int) -> None:
        pairs = d * (d + 1) // 2
        self.d = d
        self.counts = 1 + d
        self.sums = self.counts + pairs
        self.products = self.sums + d * d
        self.size = self.products + pairs

    def pair(self, a: int, b: int) -> int:
        """Number of a pair, in either order."""
        a, b = min(a, b), max(a, b)
        return a * self.d - a * (a - 1) // 2 + b - a


@njit(cache=True, nogil=True)
def accumulate_moments(q: I32, row: I64, moments: I64) -> None:
    """Add each sample `q[i]` (n, d) to vector `moments[row[i]]` (agents, MomentLayout(d).size), in place."""
    d = q.shape[1]
    counts = 1 + d
    sums = counts + d * (d + 1) // 2
    products = sums + d * d
    x = np.zeros(d, np.int64)
    has = np.zeros(d, np.int64)
    for i in range(q.shape[0]):
        m = moments[row[i]]
        m[0] += 1
        complete = True
        for a in range(d):
            present = q[i, a] != MISSING
            complete = complete and present
            has[a] = 1 if present else 0
            x[a] = q[i, a] if present else 0
            m[1 + a] += 1 if abs(x[a]) == Q_MAX else 0
        k = 0
        for a in range(d):
            for b in range(d):
                m[sums + a * d + b] += x[a] * has[b]
            if complete:
                for b in range(d - a):
                    m[counts + k + b] += 1
            else:
                for b in range(d - a):
                    m[counts + k + b] += has[a] * has[a + b]
            for b in range(d - a):
                m[products + k + b] += x[a] * x[a + b]
            k += d - a


@dataclass(frozen=True, slots=True)
class FeatureMoments:
    """Of one feature, in its own unit."""

    count: int
    mean: float
    variance: float  # unbiased; 0.0 below two samples
    saturated: int


class Moments:
    """Reads means, variances and correlations out of a moment vector. Exact integers, one rounding at the end."""

    __slots__ = ("grid", "layout", "vector")

    def __init__(self, grid: Grid, vector: I64) -> None:
        self.grid = grid
        self.layout = MomentLayout(len(grid))
        if vector.shape[0] < self.layout.size:
            raise InputError(f"{len(grid)} features need {self.layout.size} numbers, {vector.shape[0]} were given")
        self.vector = vector

    def _pair(self, a: int, b: int) -> tuple[int, int, int, int]:
        """(rows with both, sum of a, sum of b, sum of a*b)."""
        at, v, d = self.layout, self.vector, self.layout.d
        k = at.pair(a, b)
        return int(v[at.counts + k]), int(v[at.sums + a * d + b]), int(v[at.sums + b * d + a]), int(v[at.products + k])

    def covariance_q(self, a: int, b: int) -> tuple[int, int]:
        """Unbiased covariance in squared grid steps over the rows that have both, exactly: (numerator, denominator)."""
        n, sa, sb, sab = self._pair(a, b)
        return (n * sab - sa * sb, n * (n - 1)) if n > 1 else (0, 1)

    def feature(self, a: int) -> FeatureMoments:
        n, total, _, _ = self._pair(a, a)
        exponent = self.grid.exponent[a]
        mean = math.ldexp((self.grid.origin[a] * n + total) / n, exponent) if n else 0.0
        top, bottom = self.covariance_q(a, a)
        return FeatureMoments(n, mean, math.ldexp(top / bottom, 2 * exponent), int(self.vector[1 + a]))

    def correlation(self) -> tuple[tuple[float, ...], ...]:
        """(d, d) Pearson correlations; where values are missing, pairwise covariance over available-case variances."""
        d = self.layout.d
        variance = [self.covariance_q(a, a) for a in range(d)]
        rows = [[1.0] * d for _ in range(d)]
        for a in range(d):
            for b in range(a + 1, d):
                (c, n), (va, na), (vb, nb) = self.covariance_q(a, b), variance[a], variance[b]
                top, bottom = c * c * na * nb, n * n * va * vb
                r = math.sqrt(1.0 if top >= bottom else top / bottom) if bottom else 0.0
                rows[a][b] = rows[b][a] = r if c > 0 else -r
        return tuple(tuple(row) for row in rows)
