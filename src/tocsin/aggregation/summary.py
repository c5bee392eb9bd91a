"""What a set of agents has done, as integers that add up exactly.

An abelian group: `a + b` merges, `a - b` removes, and equal behaviour gives equal canonical bytes whatever the tree,
the order or the detours (joins, leaves, moves) by which the sum came about.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

import numpy as np
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
    out = dict(a)
    for name, count in b.items():
        out[name] = out.get(name, 0) + sign * count
    return {name: count for name, count in out.items() if count}


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
        if counts.size and int(np.abs(counts).max()) >= MAX_ABS:
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

        A total must pass; a difference need not. Checked: no negative count, no feature counted more often than events,
        histograms that count what the moments count, sums within what the grid allows, variances not below zero.
        """
        at, v = MomentLayout(self.d), self.counts
        n = v[0]
        pair_counts = v[at.counts : at.sums]
        cells = v[at.size :].reshape(self.d, BINS)
        own = np.array([at.pair(a, a) for a in range(self.d)], np.int64)
        count, product = v[at.counts + own], v[at.products + own]
        total = v[at.sums : at.products].reshape(self.d, self.d)
        own_sums = (count, total.diagonal(), product)
        problems = (
            ("negative count", n < 0 or bool((v[: at.sums] < 0).any()) or bool((cells < 0).any())),
            ("more samples than events", bool((pair_counts > n).any())),
            ("histogram disagrees with count", bool((cells.sum(axis=1) != count).any())),
            ("saturated more often than seen", bool((v[1 : at.counts] > count).any())),
            ("sum beyond the grid", bool((np.abs(total) > count[:, None].astype(object) * Q_MAX).any())),
            ("negative variance", any(int(n) * int(p) < int(s) ** 2 for n, s, p in zip(*own_sums, strict=True))),
            ("negative action count", any(c < 0 for c in self.actions.values())),
            ("too many actions", len(self.actions) > MAX_ACTIONS + 1),
        )
        for problem, found in problems:
            if found:
                raise InputError(f"impossible summary: {problem}")
