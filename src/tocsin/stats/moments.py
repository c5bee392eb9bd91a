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
from functools import lru_cache

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
    with the p = d(d+1)/2 pairs a <= b in row-major order. While rows are still being added, an accumulator of
    `open_size` carries [complete rows | sums over complete rows (d)] behind that: a row without missing values says the
    same thing to every pair, so it is noted once and spread by `closed` when somebody asks.
    """

    __slots__ = ("counts", "d", "open_size", "products", "size", "sums")

    def __init__(self, d: int) -> None:
        pairs = d * (d + 1) // 2
        self.d = d
        self.counts = 1 + d
        self.sums = self.counts + pairs
        self.products = self.sums + d * d
        self.size = self.products + pairs
        self.open_size = self.size + 1 + d

    def pair(self, a: int, b: int) -> int:
        """Number of a pair, in either order."""
        a, b = min(a, b), max(a, b)
        return a * self.d - a * (a - 1) // 2 + b - a

    def closed(self, accumulators: I64) -> I64:
        """(..., open_size) -> (..., size): complete rows spread over all pairs. Linear: sum first, close once."""
        out = accumulators[..., : self.size].copy()
        out[..., self.counts : self.sums] += accumulators[..., self.size, None]
        out[..., self.sums : self.products] += np.repeat(accumulators[..., self.size + 1 :], self.d, axis=-1)
        return out


BLOCK_ROWS = 256  # a block of 16 features in doubles stays in the first-level cache, its sums below 2**53
LEAST_RUN = 8  # shorter runs of one agent's rows are added row by row


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _add_block(q: I32, start: int, stop: int, m: I64, x: F64) -> bool:
    """Complete rows start..stop of one agent at once; False, and nothing added, if a value is missing.

    `x` (d, BLOCK_ROWS) is scratch. Sums run in doubles because those have vector instructions everywhere: every term is
    an integer and every partial sum below 2**38, so any association gives the same, exact result.
    """
    d = q.shape[1]
    n = stop - start
    products = 1 + d + d * (d + 1) // 2 + d * d
    whole = products + d * (d + 1) // 2
    for i in range(n):
        for a in range(d):
            if q[start + i, a] == MISSING:
                return False
            x[a, i] = q[start + i, a]
    m[0] += n
    m[whole] += n
    k = products
    for a in range(d):
        one = x[a]
        total, saturated = 0.0, 0
        for i in range(n):
            total += one[i]
            saturated += 1 if abs(one[i]) == Q_MAX else 0
        m[1 + a] += saturated
        m[whole + 1 + a] += np.int64(total)
        for b in range(a, d):
            other = x[b]
            product = 0.0
            for i in range(n):
                product += one[i] * other[i]
            m[k] += np.int64(product)
            k += 1
    return True


@njit(cache=True, nogil=True)
def _add_row(q: I32, i: int, m: I64, x: I64, present: I64) -> None:
    """Row i; `x` and `present` (d,) are scratch. Costs the square of the features it has, not of the grid's."""
    d = q.shape[1]
    counts = 1 + d
    sums = counts + d * (d + 1) // 2
    products = sums + d * d
    whole = products + d * (d + 1) // 2
    n = 0
    for a in range(d):
        v = q[i, a]
        if v != MISSING:
            present[n], x[n] = a, v
            n += 1
            if abs(v) == Q_MAX:
                m[1 + a] += 1
    m[0] += 1
    if n == d:
        m[whole] += 1
        k = products
        for a in range(d):
            m[whole + 1 + a] += x[a]
            for b in range(d - a):
                m[k + b] += x[a] * x[a + b]
            k += d - a
        return
    for s in range(n):
        a = present[s]
        first = a * d - a * (a - 1) // 2 - a  # of the pairs (a, ...)
        for t in range(n):
            m[sums + a * d + present[t]] += x[s]
        for t in range(s, n):
            m[counts + first + present[t]] += 1
            m[products + first + present[t]] += x[s] * x[t]


@njit(cache=True, nogil=True)
def accumulate_moments(q: I32, row: I64, moments: I64) -> None:
    """Add each sample `q[i]` (n, d) to accumulator `moments[row[i]]` (agents, MomentLayout(d).open_size), in place.

    Any order of rows gives the same numbers; rows of one agent that stand together are added in blocks, ten times as
    fast.
    """
    n, d = q.shape
    block, x, present = np.empty((d, BLOCK_ROWS), np.float64), np.zeros(d, np.int64), np.zeros(d, np.int64)
    i = 0
    while i < n:
        stop = i + 1
        while stop < n and row[stop] == row[i] and stop - i < BLOCK_ROWS:
            stop += 1
        m = moments[row[i]]
        if stop - i < LEAST_RUN or not _add_block(q, i, stop, m, block):
            for k in range(i, stop):
                _add_row(q, k, m, x, present)
        i = stop


@lru_cache(maxsize=MAX_FEATURES + 1)
def _pair_numbers(d: int) -> I64:
    """(d, d) `MomentLayout.pair` of every two features."""
    layout = MomentLayout(d)
    return np.array([[layout.pair(a, b) for b in range(d)] for a in range(d)], np.int64).reshape(d, d)


class Moments:
    """Means, variances and correlations of the moment vectors (m, size) of `m` summaries, in the features' own units.

    Numerators and denominators are exact integers; what follows is a few IEEE operations, the same on every machine.
    """

    __slots__ = ("count", "covariance_q", "mean", "saturated", "variance")

    def __init__(self, grid: Grid, vectors: I64) -> None:
        d = len(grid)
        at, pairs = MomentLayout(d), _pair_numbers(d)
        if vectors.shape[1] < at.size:
            raise InputError(f"{d} features need {at.size} numbers, {vectors.shape[1]} were given")
        rows = vectors[:, at.counts + pairs]
        sums = vectors[:, at.sums : at.products].reshape(vectors.shape[0], d, d)
        exponent = np.array(grid.exponent, np.int32)
        self.saturated = vectors[:, 1 : 1 + d]
        self.count: I64 = rows.diagonal(axis1=1, axis2=2)  # (m, d)
        # (m, d, d) unbiased covariances in squared grid steps over the rows that have both; 0.0 below two rows
        self.covariance_q = _covariance(rows, sums, vectors[:, at.products + pairs])
        self.mean: F64 = np.ldexp(_mean_q(grid, self.count, sums.diagonal(axis1=1, axis2=2)), exponent)
        self.variance: F64 = np.ldexp(self.covariance_q.diagonal(axis1=1, axis2=2), 2 * exponent)  # unbiased

    def correlation(self) -> F64:
        """(m, d, d) Pearson correlations; where values are missing, pairwise covariance over available-case variances.

        0.0 where a feature does not vary.
        """
        deviation = np.sqrt(self.covariance_q.diagonal(axis1=1, axis2=2))
        scale = deviation[:, :, None] * deviation[:, None, :]
        r = np.divide(self.covariance_q, scale, out=np.zeros_like(scale), where=scale > 0)
        np.clip(r, -1.0, 1.0, out=r)
        r[:, np.eye(r.shape[1], dtype=np.bool_)] = 1.0
        return r


def _mean_q(grid: Grid, n: I64, total: I64) -> F64:
    """(origin * n + total) / n, both exact; 0.0 without rows."""
    origin = np.array(grid.origin, np.int64)
    if n.size and int(n.max()) * (1 + int(np.abs(origin).max()) + Q_MAX) >= MAX_ABS:
        origin = origin.astype(object)
    top = (origin * n + total).astype(np.float64)
    return np.divide(top, n, out=np.zeros_like(top), where=n > 0)


def _covariance(n: I64, sums: I64, products: I64) -> F64:
    """(n * products - sums * sums') / (n * (n - 1)), both exact; in Python's integers where 64 bits do not suffice."""
    if n.size == 0:
        return np.zeros(n.shape)
    most, widest = int(n.max()), int(np.abs(sums).max())
    if max(most * int(np.abs(products).max()), most * most, widest * widest) >= MAX_ABS:
        n, sums, products = n.astype(object), sums.astype(object), products.astype(object)
    top = (n * products - sums * sums.transpose(0, 2, 1)).astype(np.float64)
    bottom = (n * (n - 1)).astype(np.float64)
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
