"""Correlation between agents: error against numpy, certificates, hidden groups, seconds and bytes (R1.5, R6.5)."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks._harness import Bench, main
from tocsin.aggregation.assembly import COMMITMENT_BYTES
from tocsin.aggregation.coordination import Screening, candidate_pairs, coordinated, screen, verified
from tocsin.aggregation.correlation import (
    BASIS_BITS,
    Basis,
    CorrelationMap,
    Region,
    global_basis,
    nested_residuals,
    zone_basis,
    zone_rows,
)
from tocsin.stats.correlation import innovations
from tocsin.stats.factors import unit_rows
from tocsin.stats.simhash import sketch_rows
from tocsin.wire.correlation import (
    GLOBAL_BASIS,
    REGION_FACTORS,
    ZONE_FACTORS,
    Rows,
    Statement,
    decode,
    decode_rows,
    encode,
    encode_rows,
    join_rows,
    rounded_rows,
)

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

REGION, ZONE, GROUPS, GROUP = 50, 1000, 20, 8
SEED = b"announced after everyone committed"
BLOCK = 1000
NAMES = [f"agent-{k:05}" for k in range(10_000)]


def autoregressive(rng: np.random.Generator, rows: int, length: int) -> F64:
    """AR(1) with coefficient 0.5 and variance 1."""
    x = rng.standard_normal((rows, length + 50))
    for t in range(1, length + 50):
        x[:, t] = 0.5 * x[:, t - 1] + 0.75**0.5 * x[:, t]
    return x[:, 50:]


def fleet(n: int, length: int, *, lagged: bool, seed: int = 5) -> tuple[F64, list[list[int]]]:
    """(series (n, length), hidden groups): 3 fleet, 2 zone and 1 region factors and 30 % noise of each agent's own.

    In each of 20 groups of 8, from 8 regions, the own noise shares 85 %. `lagged` members are 0 to 3 samples late.
    """
    rng = np.random.default_rng(seed)
    everyone = autoregressive(rng, 3, length)
    zones = autoregressive(rng, 2 * (n // ZONE), length).reshape(-1, 2, length)
    regions = autoregressive(rng, n // REGION, length)
    share = np.sqrt(rng.dirichlet([4.0, 2.0, 3.0], n) * 0.7)
    own = rng.standard_normal((n, length))
    groups: list[list[int]] = []
    members = rng.permutation(n // REGION)
    for g in range(GROUPS):
        picked = rng.choice(members, GROUP, replace=False)
        # one slot of each region a group, so that groups never share a member
        ids = [int(r) * REGION + (7 * g + int(r)) % REGION for r in picked]
        source = rng.standard_normal(length + 3)
        for i in ids:
            late = int(rng.integers(0, 4)) if lagged else 0
            own[i] = 0.85**0.5 * source[3 - late : 3 - late + length] + 0.15**0.5 * own[i]
        groups.append(ids)
    x = np.sqrt(0.3) * own
    for i in range(n):
        weights = np.sqrt(rng.dirichlet(np.ones(5))) * rng.choice([-1.0, 1.0], 5)
        x[i] += share[i, 0] * (weights[:3] / np.linalg.norm(weights[:3])) @ everyone
        x[i] += share[i, 1] * (weights[3:] / np.linalg.norm(weights[3:])) @ zones[i // ZONE]
        x[i] += share[i, 2] * float(rng.choice([-1.0, 1.0])) * regions[i // REGION]
    return x, groups


@dataclass
class Line:
    """A fleet's correlation worked out across regions and zones, every message crossing as bytes.

    What is known in the end, `map`, `nested` and `sketches`, is known from those bytes alone.
    """

    bits: int
    sent: dict[str, int] = field(default_factory=dict[str, int])
    largest: int = 0
    regions: list[Region] = field(default_factory=list[Region])
    nested: list[F64] = field(default_factory=list[F64])
    removed: list[I64] = field(default_factory=list[I64])

    def run(self, x: F64) -> tuple[CorrelationMap, U64]:
        """The map, and the sketches (n, 8) for screening; `nested` keeps what candidates are verified on."""
        each = ZONE // REGION
        self.regions = [
            Region(f"r{a // REGION}", NAMES[a : a + REGION], x[a : a + REGION]) for a in range(0, x.shape[0], REGION)
        ]
        up = [self._rows("region up", REGION_FACTORS, one.rows) for one in self.regions]
        zones = [zone_rows(up[k : k + each]) for k in range(0, len(up), each)]
        zones = [self._rows("zone up", ZONE_FACTORS, one) for one in zones]
        basis = self._basis(global_basis(zones))
        said: list[tuple[list[Statement], None]] = []
        for region in self.regions:
            self._sent("commitments and the seed", [bytes(COMMITMENT_BYTES), SEED])
            raw = [encode(one) for one in region.statements(basis, 1, SEED, self.bits)]
            self._sent("statements", raw)
            said.append(([decode(one) for one in raw], None))
        known = CorrelationMap(basis, said, SEED)
        own, heard = [zone_basis(one, basis) for one in zones], unit_rows(known.series())
        for k in range(len(self.regions)):
            members = heard[k * REGION : (k + 1) * REGION]
            nested, removed = nested_residuals(members, basis, own[k // each])
            self.nested.append(nested)
            self.removed.append(removed)
        return known, sketch_rows(np.concatenate(self.nested), SEED)

    def _rows(self, way: str, kind: int, rows: F64) -> F64:
        packets = encode_rows(rounded_rows(kind, "source", 1, rows))
        self._sent(way, packets)
        return join_rows([decode_rows(one) for one in packets]).floats()

    def _basis(self, basis: Basis) -> Basis:
        packets = encode_rows(Rows(kind=GLOBAL_BASIS, source="global", window=1, exponent=-BASIS_BITS, values=basis.q))
        self._sent("basis down", packets * len(self.regions))
        return Basis(join_rows([decode_rows(one) for one in packets]).values)

    def _sent(self, way: str, packets: list[bytes]) -> None:
        self.sent[way] = self.sent.get(way, 0) + sum(map(len, packets))
        self.largest = max(self.largest, *map(len, packets))


@dataclass
class Errors:
    """Of all pairs against the centralised product."""

    largest: float = 0.0
    total: float = 0.0
    broken: int = 0  # certificates that do not hold
    tight: int = 0  # certificates below 5 %
    pairs: int = 0

    def add(self, estimate: F32, width: F32, truth: F32) -> None:
        error = np.abs(estimate - truth)
        self.largest = max(self.largest, float(error.max()))
        self.total += float(error.sum(dtype=np.float64))
        self.broken += int((error > width).sum())
        self.tight += int((width < 0.05).sum())
        self.pairs += error.size


def accuracy(bench: Bench, name: str, x: F64, line: Line, truth: CorrelationMap) -> None:
    """All pairs against numpy's product of the centralised, standardised series, block by block."""
    z = x - x.mean(axis=1, keepdims=True)
    central: F32 = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    n, with_residuals, factors_only, product, ours = x.shape[0], Errors(), Errors(), 0.0, 0.0
    for a in range(0, n, BLOCK):
        rows, start = slice(a, a + BLOCK), time.perf_counter()
        exact: F32 = central[rows] @ central.T
        product += time.perf_counter() - start
        start = time.perf_counter()
        block = truth.block(rows, slice(0, n))
        ours += time.perf_counter() - start
        with_residuals.add(block.estimate, block.half_width, exact)
        block = truth.block(rows, slice(0, n), residuals=False)
        factors_only.add(block.estimate, block.half_width, exact)
    e, f = with_residuals, factors_only
    bench.record(f"{name}: largest error, all pairs", e.largest, unit="", requirement="R1.5", bound="< 0.05")
    bench.record(f"{name}: mean error", e.total / e.pairs, unit="")
    bench.record(f"{name}: certificates broken", e.broken, unit="", requirement="R1.5", bound="== 0")
    tight = 100 * e.tight / e.pairs
    bench.record(f"{name}: certificates below 5 %", tight, unit="%", requirement="R1.5", bound=">= 100")
    bench.record(f"{name}: largest error, plain factor model", f.largest, unit="")
    bench.record(f"{name}: certificates broken, plain factor model", f.broken, unit="", bound="== 0")
    bench.record(f"{name}: certificates below 5 %, plain factor model", 100 * f.tight / f.pairs, unit="%")
    bench.record(f"{name}: exact n x n product in one place, float32", product, unit="s")
    bench.record(f"{name}: all estimates with their bounds", ours, unit="s")
    per_agent = {way: size / n for way, size in line.sent.items()}
    bench.record(f"{name}: stated by an agent", per_agent["statements"], unit="B", requirement="R6.5")
    others = sum(per_agent.values()) - per_agent["statements"]
    bench.record(f"{name}: factors up, basis down, commitments and seed, an agent", others, unit="B")
    bench.record(f"{name}: all that crosses, an agent", sum(per_agent.values()), unit="B", requirement="R6.5")
    bench.record(f"{name}: largest packet", line.largest, unit="B", requirement="R1.8", bound="< 1024")


def hidden_groups(bench: Bench, name: str, line: Line, sketches: U64, groups: list[list[int]], share: float) -> None:
    """Pairs of the planted groups found, and pairs found that were not planted."""
    nested, removed = np.concatenate(line.nested), np.concatenate(line.removed)
    n, length = nested.shape
    region: I64 = np.arange(n, dtype=np.int64) // REGION
    looking = Screening()
    planted = {(i, j) for g in groups for i in g for j in g if i < j and region[i] != region[j]}
    crossed = sum(line.sent.values()) / n
    bench.record(f"{name}: all that crosses, an agent, {line.bits} bits", crossed, unit="B", requirement="R6.5")
    start = time.perf_counter()
    candidates = candidate_pairs(sketches, length, region, looking)
    compared = time.perf_counter()
    pairs = verified(candidates, n, lambda numbers: nested[numbers], looking, removed=removed)
    members = coordinated(pairs, n, looking)
    done = time.perf_counter()
    found = {(p.left, p.right): p.lag for p in pairs}
    recall = 100 * len(found.keys() & planted) / len(planted)
    at_zero = 100 * sum(found.get(p) == 0 for p in planted) / len(planted)
    bound = f">= {share}"
    bench.record(f"{name}: planted pairs found", recall, unit="%", requirement="R6.5", bound=bound)
    bench.record(f"{name}: other pairs found", len(found.keys() - planted), unit="", requirement="R6.5", bound="== 0")
    bench.record(f"{name}: planted pairs found and best at lag 0", at_zero, unit="%")
    whole = 100 * len({m.member for m in members} & {i for g in groups for i in g}) / (len(groups) * GROUP)
    bench.record(f"{name}: members found", whole, unit="%", requirement="R6.5", bound=f">= {share}")
    bench.record(f"{name}: least log e of a member", min((m.log_e for m in members), default=0.0), unit="nats")
    bench.record(f"{name}: comparing sketches, {looking.lags} lags", compared - start, unit="s")
    bench.record(f"{name}: verifying {len(candidates)} candidates", done - compared, unit="s")


def errors(bench: Bench, n: int, length: int, bits: int) -> None:
    x = fleet(n, length, lagged=False)[0]
    line, start = Line(bits), time.perf_counter()
    known, _ = line.run(x)
    name = f"T={length}, {bits} bits"
    bench.record(f"{name}: all levels, every agent's statement, serially", time.perf_counter() - start, unit="s")
    accuracy(bench, name, x, line, known)


def screening(bench: Bench, n: int, length: int, *, lagged: bool, spikes: bool = False) -> None:
    x, groups = fleet(n, length, lagged=lagged)
    if spikes:
        x += 0.1 * np.random.default_rng(6).standard_t(2, x.shape)
    line = Line(4)
    _, sketches = line.run(innovations(x))
    name = f"T={length}, {'members 0..3 late' if lagged else 'no lag'}{', spikes (t, 2 d.f.)' if spikes else ''}"
    hidden_groups(bench, name, line, sketches, groups, 80 if spikes else 90 if lagged else 99)


def sketches_alone(bench: Bench, n: int, looking: Screening) -> None:
    """A fleet of white noise in which 20 groups of 8 correlate at 0.75, members 0..3 samples late."""
    rng, length = np.random.default_rng(9), 256
    rows = rng.standard_normal((n, length), dtype=np.float32)
    groups = rng.permutation(n)[: GROUPS * GROUP].reshape(GROUPS, GROUP)
    for group in groups:
        source = rng.standard_normal(length + 3, dtype=np.float32)
        for i in group:
            late = int(rng.integers(0, 4))
            rows[i] = 0.75**0.5 * source[3 - late : 3 - late + length] + 0.5 * rows[i]
    sketches = np.concatenate([sketch_rows(rows[a : a + BLOCK].astype(np.float64), SEED) for a in range(0, n, BLOCK)])
    region: I64 = np.arange(n, dtype=np.int64)
    start = time.perf_counter()
    members = {m.member for m in screen(sketches, length, region, lambda k: rows[k].astype(np.float64), looking)}
    name = f"{n} sketches, {'banded' if n > looking.all_pairs_up_to else 'all pairs'}, members 0..3 late"
    planted = set(groups.ravel().tolist())
    bench.record(f"{name}: screened and verified", time.perf_counter() - start, unit="s")
    bench.record(f"{name}: members found", 100 * len(members & planted) / len(planted), unit="%", bound=">= 90")
    bench.record(f"{name}: others found", len(members - planted), unit="", bound="== 0")


def measure(bench: Bench) -> None:
    n = 2000 if bench.quick else 10_000
    bench.count(agents=n, region=REGION, zone=ZONE, groups=GROUPS, members=GROUP)
    Line(5).run(fleet(2000, 256, lagged=True)[0])  # compile
    for length, bits in ((256, 6),) if bench.quick else ((256, 6), (1024, 5)):
        errors(bench, n, length, bits)
        for lagged in (False, True):
            screening(bench, n, length, lagged=lagged)
    screening(bench, n, 256, lagged=True, spikes=True)
    sketches_alone(bench, n, Screening(factors=1, all_pairs_up_to=0))
    for many in () if bench.quick else (20_000, 100_000):
        sketches_alone(bench, many, Screening(factors=1))
    bench.record("peak memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, unit="GiB", bound="< 8")


if __name__ == "__main__":
    raise SystemExit(main("correlation", measure))
