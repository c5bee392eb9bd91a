"""What a set of agents has done, as integers that add up exactly.

An abelian group: `a + b` merges, `a - b` removes, and equal behaviour gives equal canonical bytes whatever the tree,
the order or the detours (joins, leaves, moves) by which the sum came about.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.errors import InputError
from tocsin.stats.histogram import BINS
from tocsin.stats.moments import MAX_ABS, MAX_FEATURES, Q_MAX, MomentLayout

I64 = NDArray[np.int64]

MAX_ACTIONS = 256
OVERFLOW_ACTION = "(other)"


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

    def refuse_impossible(self) -> None:
        """Raise `InputError` unless some set of samples could have this summary, as far as single counts can tell.

        A total must pass; a difference need not. Checked: no negative count, no pair counted more often than events,
        histograms that count what the moments count, sums within what the grid allows, variances not below zero.
        """
        problem = PROBLEMS[_first_problem(self.counts, self.d)]
        if any(count < 0 for count in self.actions.values()):
            problem = "an action counted a negative number of times"
        if len(self.actions) > MAX_ACTIONS + 1:
            problem = f"more than {MAX_ACTIONS} actions"
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
)
ROUNDING = 1.0 - 1e-9  # the variance is compared in doubles: a valid one must not fail for their rounding


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
    k = 0
    for a in range(d):
        own = v[counts + k]
        total, product = v[sums + a * d + a], v[products + k]
        for b in range(a, d):
            n = v[counts + k]
            if n > v[0] or n > own:
                return 2
            limit = max(abs(v[sums + a * d + b]), abs(v[sums + b * d + a]))
            if (limit + Q_MAX - 1) // Q_MAX > n:
                return 3
            k += 1
        if float(own) * float(product) < float(total) * float(total) * ROUNDING:
            return 4
        if v[1 + a] > own:
            return 5
        seen = 0
        for i in range(cells + a * BINS, cells + (a + 1) * BINS):
            if v[i] < 0:
                return 1
            seen += v[i]
        if seen != own:
            return 6
    return 0
