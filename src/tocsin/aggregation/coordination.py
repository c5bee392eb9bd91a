"""Groups of agents that move together although nothing above them explains it, also when some follow others.

Sketches (64 bytes an agent) of what fleet, zone and region leave unexplained are compared pair by pair at every lag:
all pairs up to 50,000 agents, beyond that those that share a band of bits. Candidates are verified on the residuals
themselves. What survives at a level that no pair of independent agents
reaches is joined into groups (after bands, everyone is compared with the members found first), and each member gets
an e-value.

Pairs within one region are left to the region, which knows its correlations exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.errors import InputError
from tocsin.stats.correlation import autocorrelations, best_lags
from tocsin.stats.eprocess import mixture_calibrator
from tocsin.stats.simhash import BITS, MAX_LAG, agreement_limit, close_pairs, one_bits, outputs_per_filter, shifted

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U16 = NDArray[np.uint16]
U64 = NDArray[np.uint64]

BAND_BITS = 16
SPARE_PER_AGENT = 2.0  # candidates to verify in vain, over all lags: what pays for finding weak correlation
SHARE = 0.01  # of the wealth that is bet; the rest pays for agents about whom nothing is said
VERIFY_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Screening:
    """What to look for. Raises InputError for settings out of range."""

    max_lag: int = 3  # windows that a member may be behind another
    least_rho: float = 0.3  # weaker correlation is no coordination, however certain
    delta: float = 1e-3  # probability that independent agents give any pair at all
    factors: int = 43  # directions that were removed from each series, where it is not said for each
    all_pairs_up_to: int = 50_000  # agents; of larger fleets those pairs that share a band of bits

    def __post_init__(self) -> None:
        if not (0 <= self.max_lag <= MAX_LAG and 0 < self.delta < 1 and 0 <= self.least_rho < 1 and self.factors >= 0):
            raise InputError("screening settings are out of range", remedy=f"lags to {MAX_LAG}, shares within 0..1")

    @property
    def lags(self) -> int:
        return 2 * self.max_lag + 1


@dataclass(frozen=True, slots=True)
class Pair:
    """Two agents found together: `right` follows `left` by `lag` samples. `log_p` is of this pair at this lag alone."""

    left: int
    right: int
    rho: float
    lag: int
    log_p: float


@dataclass(frozen=True, slots=True)
class Coordinated:
    """A member of a coordinated group. `group` is its least member, `lag` how far behind the group's first it is."""

    member: int
    group: int
    partner: int  # with whom the evidence is strongest
    rho: float
    lag: int
    log_e: float  # nats


def candidate_pairs(sketches: U64, length: int, region: I64, screening: Screening) -> I32:
    """(m, 2) pairs i < j of agents of different regions whose sketches agree at some lag; sorted, without repetition.

    `sketches` (n, 8) of series of `length` samples, `region` (n,) the region of each agent. A series of zeros has a
    sketch of zeros, which says nothing and is left out.
    """
    speaking = np.flatnonzero(sketches.any(axis=1))
    sketches, region = sketches[speaking], region[speaking]
    n = sketches.shape[0]
    found: list[I32] = []
    for lag in range(screening.max_lag + 1):
        moved, mask = shifted(sketches, lag, length)
        limit = _limit(n, length, lag, screening)
        if n <= screening.all_pairs_up_to:
            found.append(close_pairs(sketches, moved, mask, limit, half=lag == 0))
        else:
            found.append(_banded(sketches, moved, mask, limit, length, lag))
    return speaking.astype(np.int32)[_distinct(np.concatenate(found), region)]


def candidates_around(members: I64, sketches: U64, length: int, region: I64, screening: Screening) -> I32:
    """(m, 2) pairs as from `candidate_pairs`, of anyone with one of `members`, ahead or behind."""
    found: list[I32] = [np.zeros((0, 2), np.int32)]
    for lag in range(screening.max_lag + 1):
        moved, mask = shifted(sketches, lag, length)
        limit = _limit(sketches.shape[0], length, lag, screening)
        found.append(close_pairs(sketches, moved, mask, limit, rows=members))
        found.append(close_pairs(moved, sketches, mask, limit, rows=members))
    return _distinct(np.concatenate(found), region)


def _limit(n: int, length: int, lag: int, screening: Screening) -> int:
    return agreement_limit(length, lag, (n * n + 1) * (screening.lags / 2.0), SPARE_PER_AGENT * n)


def _distinct(pairs: I32, region: I64) -> I32:
    """Pairs across regions with the lesser number first, each once, in order."""
    apart = pairs[region[pairs[:, 0]] != region[pairs[:, 1]]]
    return np.unique(np.sort(apart, axis=1), axis=0)


def _bands(sketches: U64, length: int, lag: int) -> U16:
    """(bands, n) keys of 16 consecutive bits that are known at `lag`."""
    bits = np.unpackbits(sketches.astype("<u8").view(np.uint8), axis=1, bitorder="little")
    outputs = outputs_per_filter(length)
    starts = [
        g + m
        for g in range(0, BITS, outputs)
        for m in range(0, outputs - lag - BAND_BITS + 1, BAND_BITS // 2)
    ]  # fmt: skip
    keys = [np.packbits(bits[:, s : s + BAND_BITS], axis=1, bitorder="little").view("<u2")[:, 0] for s in starts]
    return np.stack(keys).astype(np.uint16)


@njit(cache=True, nogil=True)
def _meet(left_keys: U16, order: I64, start: I64, left: U64, right: U64, mask: U64, limit: int, out: I32) -> int:
    """Pairs that share a key and whose sketches are within `limit`: like `close_pairs`, over one band."""
    found = 0
    for i in range(left_keys.shape[0]):
        key = np.int64(left_keys[i])
        for at in range(start[key], start[key + 1]):
            j = order[at]
            distance = np.int64(0)
            for w in range(left.shape[1]):
                distance += one_bits((left[i, w] ^ right[j, w]) & mask[w])
            if distance <= limit and i != j:
                if found < out.shape[0]:
                    out[found, 0] = i
                    out[found, 1] = j
                found += 1
    return found


def _banded(left: U64, right: U64, mask: U64, limit: int, length: int, lag: int) -> I32:
    found: list[I32] = []
    room = np.empty((1 << 16, 2), np.int32)
    mine, theirs = _bands(left, length, lag), _bands(right, length, lag)
    for a, b in zip(mine, theirs, strict=True):
        order = np.argsort(b, kind="stable").astype(np.int64)
        start = np.concatenate([[0], np.cumsum(np.bincount(b, minlength=1 << BAND_BITS))]).astype(np.int64)
        count = int(_meet(a, order, start, left, right, mask, limit, room))
        if count > room.shape[0]:
            room = np.empty((2 * count, 2), np.int32)
            count = int(_meet(a, order, start, left, right, mask, limit, room))
        found.append(room[:count].copy())
    return np.concatenate(found)


def verified(
    candidates: I32,
    agents: int,
    residuals: Callable[[I64], F64],
    screening: Screening,
    *,
    removed: I64 | None = None,
    log_p_at_most: float | None = None,
) -> list[Pair]:
    """Those of `candidates` (m, 2) that the residuals themselves confirm, at their best lag, in the order given.

    `residuals(numbers)` hands out the nested residuals (len(numbers), T) of the agents asked for, ascending; `removed`
    (agents,) says how many directions were taken out of each (`screening.factors` by default). Of
    independent agents this returns any pair at all with probability at most `delta`: ln p plus the logarithm of how
    many pairs and lags a fleet of `agents` has stays below ln delta. `log_p_at_most` replaces both conditions by one on
    the pair alone: for pairs that are to be known, not reported.
    """
    tests = math.log(agents) + math.log(max(agents - 1, 1)) - math.log(2.0) + math.log(screening.lags)
    found: list[Pair] = []
    for start in range(0, candidates.shape[0], VERIFY_ROWS):
        some = candidates[start : start + VERIFY_ROWS].astype(np.int64)
        numbers, place = np.unique(some, return_inverse=True)
        rows = np.ascontiguousarray(residuals(numbers), np.float64)
        left, right = place.reshape(some.shape).T
        auto = autocorrelations(rows, rows.shape[1] // 16)
        gone = np.full(numbers.size, screening.factors) if removed is None else removed[numbers]
        rho, lag, log_p = best_lags(
            rows, auto, np.ascontiguousarray(left), np.ascontiguousarray(right), screening.max_lag, gone
        )
        if log_p_at_most is None:
            certain = (log_p + tests <= math.log(screening.delta)) & (rho >= screening.least_rho)
        else:
            certain = log_p <= log_p_at_most
        keep = np.flatnonzero(certain)
        found += [
            Pair(int(some[k, 0]), int(some[k, 1]), float(rho[k]), int(lag[k]), float(log_p[k])) for k in keep
        ]  # fmt: skip
    return found


def coordinated(pairs: list[Pair], agents: int, screening: Screening) -> list[Coordinated]:
    """Members of the groups that `pairs` connect, by number; the order of `pairs` does not matter.

    Validity of `log_e`. Null of member i: its residual is independent of everybody else's. Each pair at each lag then
    has a valid p-value (`stats.correlation`), so (agents - 1) * lags * the least of them is one (Bonferroni), under any
    dependence among the others. A p-value calibrator, the mixture of k p**(k - 1) over k, makes it an e-value, of which
    a share of 1 % is staked. An agent that is not returned counts as e = 1 with whoever hears only of members, though
    it would have less; the expected e-value is then at most 1.01, so alarms at level alpha are at most 1.01 alpha.
    E-values of several members are dependent, which e-BH allows.

    Whoever echoes an innocent agent would make that null false: so of a pair that is some windows apart only the one
    that follows is charged, and a member that nobody leads counts as e = 1, though it is named.
    """
    strongest: dict[int, Pair] = {}
    charged: dict[int, Pair] = {}
    ordered = sorted(pairs, key=lambda one: (one.log_p, one.left, one.right))
    for pair in ordered:
        for member, delay in ((pair.left, -pair.lag), (pair.right, pair.lag)):
            strongest.setdefault(member, pair)
            if delay >= 0:
                charged.setdefault(member, pair)
    tests = math.log(max(agents - 1, 1)) + math.log(screening.lags)
    found: list[Coordinated] = []
    for group in _groups(ordered):
        least, first = min(group), min(group.values())
        for member in sorted(group):
            pair = strongest[member]
            partner = pair.right if member == pair.left else pair.left
            log_e = 0.0
            if member in charged:
                log_e = math.log(SHARE) + mixture_calibrator(min(charged[member].log_p + tests, 0.0))
            found.append(Coordinated(member, least, partner, pair.rho, group[member] - first, log_e))
    return sorted(found, key=lambda one: one.member)


def _groups(ordered: list[Pair]) -> list[dict[int, int]]:
    """Connected groups as member -> delay relative to each other, along the most certain pairs (Kruskal 1956)."""
    group_of: dict[int, dict[int, int]] = {}
    for pair in ordered:
        a = group_of.setdefault(pair.left, {pair.left: 0})
        b = group_of.setdefault(pair.right, {pair.right: 0})
        if a is b:
            continue
        offset = a[pair.left] + pair.lag - b[pair.right]
        for member, delay in b.items():
            a[member] = delay + offset
            group_of[member] = a
    return list({min(group): group for group in group_of.values()}.values())


def screen(
    sketches: U64, length: int, region: I64, residuals: Callable[[I64], F64], screening: Screening
) -> list[Coordinated]:
    """The members of every coordinated group: the functions above in one, which name the arguments."""
    n = sketches.shape[0]
    pairs = verified(candidate_pairs(sketches, length, region, screening), n, residuals, screening)
    if n > screening.all_pairs_up_to:
        members = np.unique(np.array([[p.left, p.right] for p in pairs], np.int64))
        around = candidates_around(members, sketches, length, region, screening)
        pairs = list({*pairs, *verified(around, n, residuals, screening)})
    return coordinated(pairs, n, screening)
