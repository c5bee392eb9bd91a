"""What a set of agents has done, as integers that add up exactly.

An abelian group: `a + b` merges, `a - b` removes, and equal behaviour gives equal canonical bytes whatever the tree,
the order or the detours (joins, leaves, moves) by which the sum came about.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.errors import InputError
from tocsin.stats.histogram import BINS
from tocsin.stats.moments import MAX_ABS, MAX_FEATURES, Q_MAX, MomentLayout

I64 = NDArray[np.int64]

MAX_ACTIONS = 256
OVERFLOW_ACTION = "(other)"
MAX_TOTAL = 1 << 60  # of any number in a total, so that differences of totals, and what predicts them, stay exact


def vector_size(d: int) -> int:
    """Numbers in a summary of `d` features: moments, then `d` histograms of `BINS` cells."""
    return MomentLayout(d).size + d * BINS


def add_actions(a: dict[str, int], b: dict[str, int], sign: int = 1) -> dict[str, int]:
    """Sum of two action counts without zeros, so that equal sums are equal dicts."""
    if not b:
        return a
    out = dict(a)
    for name, count in b.items():
        total = out.get(name, 0) + sign * count
        if total:
            out[name] = total
        else:
            out.pop(name, None)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """`counts` is the flat vector (see `vector_size`); differences of summaries may hold negative counts."""

    epoch: int
    d: int
    counts: I64
    actions: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        if not 0 <= self.d <= MAX_FEATURES or self.counts.shape != (vector_size(self.d),):
            raise InputError(f"a summary of {self.d} features cannot hold {self.counts.shape} numbers")
        if self.counts.dtype != np.int64:
            raise InputError(f"a summary holds int64, not {self.counts.dtype}", remedy="quantise before summing")

    @classmethod
    def empty(cls, epoch: int, d: int) -> Summary:
        return cls(epoch, d, np.zeros(vector_size(d), np.int64))

    @property
    def events(self) -> int:
        return int(self.counts[0])

    def _combine(self, other: Summary, sign: int) -> Summary:
        if (self.epoch, self.d) != (other.epoch, other.d):
            raise InputError(
                f"summaries of epoch {self.epoch} (d={self.d}) and {other.epoch} (d={other.d}) do not add up",
                remedy="wait for the snapshot of the newer epoch",
            )
        counts = self.counts + other.counts if sign > 0 else self.counts - other.counts
        if counts.max() >= MAX_ABS or counts.min() <= -MAX_ABS:
            raise InputError("a sum left the range of exact 64-bit arithmetic", remedy="open a new baseline epoch")
        return Summary(self.epoch, self.d, counts, add_actions(self.actions, other.actions, sign))

    def __add__(self, other: Summary) -> Summary:
        return self._combine(other, 1)

    def __sub__(self, other: Summary) -> Summary:
        return self._combine(other, -1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Summary) and self.canonical() == other.canonical()

    def __hash__(self) -> int:
        return hash(self.canonical())

    def is_zero(self) -> bool:
        return not self.actions and not self.counts.any()

    def canonical(self) -> bytes:
        """The bytes that are hashed: little-endian, actions in order of their UTF-8 names."""
        parts = [struct.pack("<qHH", self.epoch, self.d, len(self.actions)), self.counts.astype("<i8").tobytes()]
        for name in sorted(self.actions, key=lambda s: s.encode("utf-8", "surrogatepass")):
            raw = name.encode("utf-8", "surrogatepass")
            parts.append(struct.pack("<Hq", len(raw), self.actions[name]) + raw)
        return b"".join(parts)

    def digest(self) -> str:
        """BLAKE2b-128 of the canonical bytes, hexadecimal."""
        return hashlib.blake2b(self.canonical(), digest_size=16).hexdigest()

    def folded(self) -> Summary:
        """The same with at most `MAX_ACTIONS` named actions; all others are counted as `OVERFLOW_ACTION`.

        Those with the smallest hashes stay. Whatever is among them in a sum is among them in each part, so folding
        before adding or after gives the same, and every count that stays is exact.
        """
        names = self.actions.keys() - {OVERFLOW_ACTION}
        if len(names) <= MAX_ACTIONS:
            return self
        named = {name: self.actions[name] for name in heapq.nsmallest(MAX_ACTIONS, names, key=_name_hash)}
        rest = sum(self.actions.values()) - sum(named.values())
        return Summary(self.epoch, self.d, self.counts, named | ({OVERFLOW_ACTION: rest} if rest else {}))

    def refuse_beyond(self, limit: int) -> None:
        """Raise `InputError` unless every number is below `limit`."""
        if self.counts.max() >= limit or self.counts.min() <= -limit:
            raise InputError(f"a total reached {limit}", remedy="open a new baseline epoch")

    def refuse_impossible(self, limit: int = MAX_TOTAL) -> None:
        """Raise `InputError` unless some set of samples could have this summary, as far as single counts can tell.

        A total must pass; a difference need not. Checked: no negative count, no pair counted more often than events,
        no action either, histograms that count what the moments count, sums, squares and products within what the
        grid and the squares allow, variances not below zero. Sums of what passes pass. Numbers that may be negative
        are bounded by ones that may not, so taking a part away leaves a total no larger.
        """
        self.refuse_beyond(limit)
        problem = PROBLEMS[_first_problem(self.counts, self.d)]
        if any(count < 0 for count in self.actions.values()):
            problem = "an action counted a negative number of times"
        elif len(self.actions) > MAX_ACTIONS + 1:
            problem = f"more than {MAX_ACTIONS} actions"
        elif not problem and sum(self.actions.values()) > self.events:
            problem = "more actions than events"
        if problem:
            raise InputError(f"impossible summary: {problem}")


PROBLEMS = (
    "",
    "a negative count",
    "a pair seen more often than there were events",
    "a sum beyond the grid",
    "a negative variance",
    "saturated more often than seen",
    "a histogram that disagrees with the count",
    "a square beyond the grid",
    "a sum or product larger than its squares allow",
)
ROUNDING = 1.0 - 1e-9  # squares are compared in doubles: valid ones must not fail for their rounding


@lru_cache(maxsize=1 << 16)
def _name_hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@njit(cache=True, nogil=True)
def _within(total: int, squares_a: int, squares_b: int) -> bool:
    """Cauchy and Schwarz: |sum xy| <= sqrt(sum xx sum yy). A count is a sum of squares of ones."""
    return float(total) * float(total) * ROUNDING <= float(squares_a) * float(squares_b)


@njit(cache=True, nogil=True)
def _beyond(total: int, n: int, limit: int) -> bool:
    """Whether |total| > n * limit; the product could overflow."""
    return (abs(total) + limit - 1) // limit > n


@njit(cache=True, nogil=True)
def _problem_alone(events: int, clipped: int, n: int, total: int, square: int) -> int:
    if n > events:
        return 2
    if _beyond(total, n, Q_MAX):
        return 3
    if square < 0 or not _within(total, n, square):
        return 4
    if clipped > n:
        return 5
    return 7 if _beyond(square, n, Q_MAX * Q_MAX) else 0


@njit(cache=True, nogil=True)
def _problem_of_pair(n: int, own: I64, total_a: int, total_b: int, product: int) -> int:
    """`own`: the two features' counts, then their squares."""
    if n > own[0] or n > own[1]:
        return 2
    if _beyond(total_a, n, Q_MAX) or _beyond(total_b, n, Q_MAX):
        return 3
    fit = _within(total_a, n, own[2]) and _within(total_b, n, own[3]) and _within(product, own[2], own[3])
    return 0 if fit else 8


@njit(cache=True, nogil=True)
def _problem_of_cells(cells: I64, n: int) -> int:
    left = n
    for cell in cells:
        if cell < 0:
            return 1
        if cell > left:  # before it is subtracted: sums of cells could overflow
            return 6
        left -= cell
    return 6 if left else 0


@njit(cache=True, nogil=True)
def _first_problem(v: I64, d: int) -> int:
    """Index into PROBLEMS; 0 = none."""
    counts = 1 + d
    sums = counts + d * (d + 1) // 2
    products = sums + d * d
    cells = products + d * (d + 1) // 2
    for i in range(sums):
        if v[i] < 0:
            return 1
    own = np.empty(4, np.int64)
    k = 0
    for a in range(d):
        n, square = v[counts + k], v[products + k]
        problem = _problem_alone(v[0], v[1 + a], n, v[sums + a * d + a], square)
        if not problem:
            problem = _problem_of_cells(v[cells + a * BINS : cells + (a + 1) * BINS], n)
        own[0], own[2] = n, square
        pair_bb = k
        for b in range(a + 1, d):
            pair_bb += d - b + 1
            k += 1
            own[1], own[3] = v[counts + pair_bb], v[products + pair_bb]
            if not problem:
                problem = _problem_of_pair(
                    v[counts + k], own, v[sums + a * d + b], v[sums + b * d + a], v[products + k]
                )
        if problem:
            return problem
        k += 1
    return 0
