"""Correlation between agents that share no machine: factors climb, a basis comes down, agents state a few bits.

Region: holds its members' series, knows their correlations exactly, sends the leading rows above the noise. Zone: the
leading rows of what its regions sent. Global: the leading rows of all zones, orthonormal, sent down as the basis V.
Each agent then states its loadings f on V and its residual r = z - V'f with subtractive dither. Whoever has the
statements has every correlation, `f_i' V V' f_j + <r^_i, r^_j>`, each with a bound it provably keeps
(`stats.correlation`).

What is computed twice is computed in integers: loadings, basis and residuals arrive as integers, so `agreed_q32` gives
the same bits everywhere. What takes floating point (factors, residuals) is computed once, by whoever states it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import InputError
from tocsin.stats.correlation import simultaneous_deviations, whitened
from tocsin.stats.dither import (
    DITHER_BITS,
    STEP_BITS,
    dither_codes,
    dither_key,
    lattice_bias,
    level_size,
    levels,
)
from tocsin.stats.factors import leading_rows, orthonormal_rows, unit_rows, without, without_shared
from tocsin.wire.correlation import Statement

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I16 = NDArray[np.int16]
I64 = NDArray[np.int64]

REGION_LIMIT, ZONE_LIMIT, GLOBAL_LIMIT = 6, 16, 24  # factors that climb, and that come down
REGION_OWN = 3  # factors of a region beyond its zone's, removed before screening
OWN_ERROR = 2.0**-20  # float32 of a float64 sum
LOADING_BITS = 14
BASIS_BITS = 15
FAR_FROM_ORTHONORMAL = 0.01
DELTA = 1e-3  # probability that some certificate of a window does not hold


class Basis:
    """The factors everyone projects on: rows `q` (k, T) in units of 2**-15, orthonormal up to that rounding.

    Estimates use the Gram matrix of the rounded rows, so the rounding costs no accuracy. Raises InputError for rows
    that are far from orthonormal: loadings on them would have no bound.
    """

    def __init__(self, q: I16) -> None:
        self.q = q
        self.vectors: F64 = np.ldexp(q.astype(np.float64), -BASIS_BITS)
        self.gram_q: I64 = q.astype(np.int64) @ q.astype(np.int64).T  # units of 2**-30
        self.gram: F64 = np.ldexp(self.gram_q.astype(np.float64), -2 * BASIS_BITS)
        if float(np.abs(self.gram - np.eye(q.shape[0])).max(initial=0.0)) > FAR_FROM_ORTHONORMAL:
            raise InputError("the rows of a basis are not orthonormal", remedy="take the basis from orthonormal_rows")
        self.digest = blake2b(repr(q.shape).encode() + q.astype("<i2").tobytes(), digest_size=8).digest()

    @staticmethod
    def of(rows: F64) -> Basis:
        """From orthonormal rows (k, T)."""
        return Basis(np.clip(np.rint(np.ldexp(rows, BASIS_BITS)), -32767, 32767).astype(np.int16))

    def loadings(self, z: F64) -> I16:
        """Least-squares loadings (n, k) of `z` (n, T) in units of 2**-14."""
        exact = np.linalg.solve(self.gram, self.vectors @ z.T).T
        return np.rint(np.ldexp(exact, LOADING_BITS)).astype(np.int16)

    def leak(self) -> float:
        """Most that a residual can keep of the basis, |V r|: the loadings' rounding times the largest eigenvalue."""
        k = self.q.shape[0]
        top = float(np.linalg.eigvalsh(self.gram)[-1]) if k else 0.0
        return top * math.sqrt(k) * 2.0 ** -(LOADING_BITS + 1) + 1e-9


def global_basis(zone_rows: Sequence[F64]) -> Basis:
    """The basis of everything that climbed, in the order of the zones."""
    return Basis.of(orthonormal_rows(np.concatenate(zone_rows), GLOBAL_LIMIT))


def zone_rows(region_rows: Sequence[F64]) -> F64:
    """What a zone sends up: (at most 16, T)."""
    return leading_rows(np.concatenate(region_rows), ZONE_LIMIT)


def zone_basis(rows: F64, basis: Basis) -> F64:
    """A zone's own factors beside the global basis, orthonormal, from the rows that it sent up."""
    return orthonormal_rows(without(rows, basis.vectors), ZONE_LIMIT)


class Region:
    """The members of one region over one window. Members are kept in the order of their names.

    `series` (b, T) holds one row per name of `agents`; with `heavy_tails` correlations are those of wrapped series.
    Raises InputError for what `unit_rows` refuses, or names that are not distinct.
    """

    def __init__(self, name: str, agents: Sequence[str], series: F64, *, heavy_tails: bool = False) -> None:
        if len(set(agents)) != len(agents) or len(agents) != series.shape[0] or not agents:
            raise InputError(f"region {name!r:.80} needs one row of series for each of its distinct agents")
        order = sorted(range(len(agents)), key=lambda k: agents[k])
        self.name = name
        self.agents = tuple(agents[k] for k in order)
        self.z = unit_rows(series[order], heavy_tails=heavy_tails)
        self.exact: F64 = self.z @ self.z.T

    @cached_property
    def rows(self) -> F64:
        """What the region sends up: its factors above the noise, (at most 6, T)."""
        return leading_rows(self.z, REGION_LIMIT, above_noise=True)

    def statements(self, basis: Basis, window: int, seed: bytes, bits: int) -> list[Statement]:
        """What each member states, in the order of `agents`.

        The certificates ask that `seed` was unknown when the series were fixed.
        """
        loadings = basis.loadings(self.z)
        residual = self._residual(basis, loadings)
        keys = np.array([dither_key(seed, agent, window) for agent in self.agents], np.uint64)
        codes, step = dither_codes(residual, bits, keys)
        return [
            Statement(
                agent=agent, window=window, basis=basis.digest, bits=bits, step=int(step[k]), loadings=loadings[k],
                codes=codes[k],
            )
            for k, agent in enumerate(self.agents)
        ]  # fmt: skip

    def _residual(self, basis: Basis, loadings: I16) -> F64:
        return self.z - np.ldexp(loadings.astype(np.float64), -LOADING_BITS) @ basis.vectors


def nested_residuals(z: F64, basis: Basis, of_zone: F64) -> tuple[F64, I64]:
    """(b, T): what neither the fleet, nor the zone (rows `of_zone`), nor the region, nor its own past explains.

    `z` (b, T) are the unit rows of one region's members, of their `innovations`. Also returns how many directions that
    took out of each, (b,).
    """
    inner, by_fleet = without_shared(z, basis.vectors)
    inner, by_zone = without_shared(inner, of_zone)
    own = orthonormal_rows(leading_rows(inner, REGION_OWN, above_noise=True), REGION_OWN)
    return unit_rows(whitened(without(inner, own))), by_fleet + by_zone + own.shape[0]


def possible(basis: Basis, said: Sequence[Statement], seed: bytes) -> NDArray[np.bool_]:
    """(n,) which statements a unit series could have made: loadings and residual together have a norm of about 1.

    An honest residual is reconstructed within half a step a sample. Who states a longer one, or loadings beyond 1,
    would make its own correlations exceed what any series has.
    """
    if not said:
        return np.zeros(0, np.bool_)
    loadings = np.ldexp(np.stack([one.loadings for one in said]).astype(np.float64), -LOADING_BITS)
    energy = ((loadings @ basis.gram) * loadings).sum(axis=1)
    slack = 2.0 * basis.leak() * (np.sqrt(energy) + 1.0)
    step = np.array([one.step for one in said], np.int64)
    keys = np.array([dither_key(seed, one.agent, one.window) for one in said], np.uint64)
    heard = levels(np.stack([one.codes for one in said]), step, keys) * level_size(step)[:, None]
    reach = np.sqrt(np.maximum(1.0 - energy + slack, 0.0))
    reach += np.ldexp(step.astype(np.float64), -STEP_BITS - 1) * math.sqrt(heard.shape[1])
    return (energy <= 1.0 + slack) & (np.linalg.norm(heard, axis=1) <= reach + 1e-9)


@dataclass(frozen=True, slots=True)
class Block:
    """Correlations of some agents (rows) with some agents (columns) and the bound of each one's error."""

    estimate: F32
    half_width: F32


class CorrelationMap:
    """Every correlation of a fleet, from what its members stated.

    `regions` are (statements of the members, exact correlations of the region where they are at hand) and define the
    agents' numbers. All statements must be of one window and on `basis`. With probability 1 - `delta` over the dither,
    all half widths hold at once; without residuals (`block(..., residuals=False)`) they hold with certainty. Raises
    InputError for statements that do not belong together or that no unit series could have.
    """

    def __init__(
        self,
        basis: Basis,
        regions: Sequence[tuple[Sequence[Statement], F64 | None]],
        seed: bytes,
        *,
        delta: float = DELTA,
    ) -> None:
        said = [one for members, _ in regions for one in members]
        if not said:
            raise InputError("a map needs at least one statement")
        (factors, length), window = basis.q.shape, said[0].window
        like = (basis.digest, window, length, factors)
        if any((one.basis, one.window, one.codes.shape[0], one.loadings.shape[0]) != like for one in said):
            raise InputError("statements of different windows, bases or lengths do not make one map")
        self.basis = basis
        self.agents = tuple(one.agent for one in said)
        self._exact = [block for _, block in regions]
        self._start = np.cumsum([0, *(len(members) for members, _ in regions)])
        self._keys = np.array([dither_key(seed, one.agent, window) for one in said], np.uint64)
        self._codes = np.stack([one.codes for one in said])
        self._step = np.array([one.step for one in said], np.int64)
        self._loadings: I16 = np.stack([one.loadings for one in said])
        self._prepare(delta)

    def _prepare(self, delta: float) -> None:
        """Floats for blocks of pairs, and what the bounds are made of."""
        n, length = self._codes.shape
        loadings = np.ldexp(self._loadings.astype(np.float64), -LOADING_BITS)
        leak = self.basis.leak()
        energy = ((loadings @ self.basis.gram) * loadings).sum(axis=1)
        size = np.sqrt(energy)
        slack = 2.0 * leak * (size + 1.0)
        if bool((energy > 1.0 + slack).any()):
            raise InputError("a statement has loadings that no unit series has")
        rest = np.sqrt(np.maximum(1.0 - energy + slack, 0.0))  # at least |r|, whoever states it
        heard = levels(self._codes, self._step, self._keys) * level_size(self._step)[:, None]
        spread = np.ldexp(self._step.astype(np.float64), -STEP_BITS)
        spread *= simultaneous_deviations(n, delta) / math.sqrt(12.0) + lattice_bias(length)
        # One float32 product each: a sum of T + k terms is off by at most (T + k) 2**-24 times the norms, which are
        # about 1; twice that covers the conversions.
        self._own: F32 = ((energy > 0) | heard.any(axis=1)).astype(np.float32)  # with itself
        rounding = (length + loadings.shape[1]) * 2.0**-23
        self._f, self._g = loadings.astype(np.float32), (loadings @ self.basis.gram).astype(np.float32)
        self._heard = heard.astype(np.float32)
        self._rest, self._spread = rest.astype(np.float32), spread.astype(np.float32)
        self._reach = np.maximum(np.linalg.norm(heard, axis=1), rest).astype(np.float32)
        self._slack = (leak * size + rounding).astype(np.float32)

    def block(self, rows: slice, columns: slice, *, residuals: bool = True) -> Block:
        """Correlations between two runs of agents; without `residuals`, by the factor model alone."""
        estimate = self._f[rows] @ self._g[columns].T
        width = self._slack[rows, None] + self._slack[None, columns]
        if residuals:
            estimate += self._heard[rows] @ self._heard[columns].T
            width += np.multiply.outer(self._reach[rows], self._spread[columns])
            width += np.multiply.outer(self._spread[rows], self._reach[columns])
        else:
            width += np.multiply.outer(self._rest[rows], self._rest[columns])
        self._put_exact(estimate, width, rows.indices(len(self.agents)), columns.indices(len(self.agents)))
        return Block(estimate, width)

    def _put_exact(self, estimate: F32, width: F32, rows: tuple[int, int, int], columns: tuple[int, int, int]) -> None:
        both = np.arange(max(rows[0], columns[0]), min(rows[1], columns[1]))
        estimate[both - rows[0], both - columns[0]] = self._own[both]
        width[both - rows[0], both - columns[0]] = OWN_ERROR
        for k, block in enumerate(self._exact):
            if block is None:
                continue
            start, stop = int(self._start[k]), int(self._start[k + 1])
            r0, r1 = max(start, rows[0]), min(stop, rows[1])
            c0, c1 = max(start, columns[0]), min(stop, columns[1])
            if r0 < r1 and c0 < c1:
                here = np.s_[r0 - rows[0] : r1 - rows[0], c0 - columns[0] : c1 - columns[0]]
                estimate[here] = block[r0 - start : r1 - start, c0 - start : c1 - start]
                width[here] = OWN_ERROR

    def series(self) -> F64:
        """(n, T) every agent's unit series as its statement tells it."""
        return self._f.astype(np.float64) @ self.basis.vectors + self._heard

    def pair(self, i: int, j: int) -> tuple[float, float]:
        """(correlation of agents number i and j, bound of its error)."""
        one = self.block(slice(i, i + 1), slice(j, j + 1))
        return float(one.estimate[0, 0]), float(one.half_width[0, 0])

    def agreed_q32(self, i: int, j: int) -> int:
        """The correlation of two agents in units of 2**-32: integers only, so it can be signed and voted on.

        Between agents of one region it is what the region knows, rounded once, where that is at hand.
        """
        if i == j:
            return int(self._own[i]) << 32
        region = int(np.searchsorted(self._start, i, side="right")) - 1
        start, stop = int(self._start[region]), int(self._start[region + 1])
        exact = self._exact[region]
        if exact is not None and start <= j < stop:
            return round(math.ldexp(float(exact[i - start, j - start]), 32))
        pushed = self.basis.gram_q @ self._loadings[j].astype(np.int64)
        common = sum(int(a) * int(b) for a, b in zip(self._loadings[i], pushed, strict=True))  # 2**-58
        pick = [i, j]
        heard = levels(self._codes[pick], self._step[pick], self._keys[pick]).astype(np.int64)
        own = int(heard[0] @ heard[1]) * int(self._step[i]) * int(self._step[j])  # 2**-80
        unit = 2 * (STEP_BITS + DITHER_BITS)
        total = (common << (unit - 2 * (BASIS_BITS + LOADING_BITS))) + own
        return (total + (1 << (unit - 33))) >> (unit - 32)
