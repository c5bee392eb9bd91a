"""Summaries beside other ways to keep them: numpy with all samples in one place, river, DataSketches. One run.

Everybody gets the same samples of the same agents and is asked for the same things: mean, variance and median of every
feature, and for numpy, river and tocsin the correlations too. Peers that are not installed are reported as absent
(`requirements/peers.lock` installs them). What is compared: cost, error against all samples in one place, and whether
merging in another order gives the same bytes, which is what monitors sign.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._harness import Bench, main
from benchmarks.establishment import windows
from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.aggregation.summary import Summary
from tocsin.model.baseline import Level

F64 = NDArray[np.float64]
AGENTS, SAMPLES, FEATURES = 100, 1_000, 12
ORDERS = 10


def module(name: str) -> Any:
    """A peer, or None where it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        return None


def core_seconds(call: Callable[[], object], runs: int) -> list[float]:
    """Core time of each of `runs` calls, after one that compiles and warms."""
    call()
    found: list[float] = []
    for _ in range(runs):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return found


def in_other_orders(parts: Sequence[Any], merged: Callable[[Sequence[Any]], bytes]) -> int:
    """How many different results `ORDERS` orders of merging the same parts give."""
    pick = random.Random(5)
    return len({merged(pick.sample(list(parts), len(parts))) for _ in range(ORDERS)})


def worst(got: Sequence[float], truth: F64, scale: F64) -> float:
    """Largest error over the features, against `scale`."""
    return float(np.abs((np.array(got) - truth) / scale).max())


def ours(bench: Bench, x: F64, runs: int) -> None:
    batch = windows(0, AGENTS, SAMPLES, FEATURES, np.random.default_rng(3))

    def establish() -> Hierarchy:
        one = Hierarchy()
        one.observe(batch)
        one.establish([], Level.GLOBAL, 1)
        return one

    rates = [x.shape[0] / s for s in core_seconds(establish, runs)]
    bench.record_all("tocsin: samples, tree and baseline included", rates, unit="samples/core-s", bound=">= 1e6")
    hierarchy = establish()
    found = hierarchy.establish([], Level.GLOBAL, 1)
    mean, std = x.mean(axis=0), x.std(axis=0, ddof=1)
    bench.record("tocsin: mean, error in deviations", worst([f.mean for f in found.features], mean, std), unit="")
    bench.record("tocsin: deviation, relative error", worst([f.std for f in found.features], std, std), unit="")
    ranks = [abs(float((x[:, a] < f.p50).mean()) - 0.5) for a, f in enumerate(found.features)]
    bench.record("tocsin: median, error in rank", max(ranks), unit="")
    parts = hierarchy.leaves.each([f"agent-{k}" for k in range(AGENTS)])
    merges = in_other_orders(parts, lambda some: _sum(some).canonical())
    bench.record(
        f"tocsin: different bytes over {ORDERS} orders of merging", merges, unit="", requirement="R1.4", bound="== 1"
    )


def _sum(parts: Sequence[Summary]) -> Summary:
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def centralised(bench: Bench, x: F64, runs: int) -> None:
    """All samples in one place: the answer, and what it costs where moving them is free."""

    def everything() -> None:
        np.median(x, axis=0)
        np.cov(x.T)
        x.mean(axis=0)

    rates = [x.shape[0] / s for s in core_seconds(everything, runs)]
    bench.record_all("numpy, centralised: samples", rates, unit="samples/core-s")
    batches = np.split(x, AGENTS)
    merges = in_other_orders(batches, lambda some: np.mean([b.mean(axis=0) for b in some], axis=0).tobytes())
    bench.record(f"numpy, means of agents' means: different bytes over {ORDERS} orders", merges, unit="")


def river(bench: Bench, x: F64) -> None:
    """river's covariance matrix and quantiles, updated sample by sample as it is meant to be used."""
    covariance, stats = module("river.covariance"), module("river.stats")
    if covariance is None or stats is None:
        bench.count(river="not installed")
        return
    rows = [{str(a): v for a, v in enumerate(row)} for row in x[:5_000].tolist()]
    matrix, quantiles = covariance.EmpiricalCovariance(), [stats.Quantile(0.5) for _ in range(FEATURES)]
    start = time.process_time()
    for row in rows:
        matrix.update(row)
        for quantile, value in zip(quantiles, row.values(), strict=True):
            quantile.update(value)
    rate = len(rows) / (time.process_time() - start)
    bench.record("river: samples, one node, no tree", rate, unit="samples/core-s")
    part = x[: len(rows)]
    ranks = [abs(float((part[:, a] < q.get()).mean()) - 0.5) for a, q in enumerate(quantiles)]
    bench.record("river: median (P2), error in rank", max(ranks), unit="")
    deviations = [matrix[str(a), str(a)].get() ** 0.5 for a in range(FEATURES)]
    std = part.std(axis=0, ddof=1)
    bench.record("river: deviation, relative error", worst(deviations, std, std), unit="")

    def merged(some: Sequence[F64]) -> bytes:
        total: Any = stats.Var()
        for values in some:
            one: Any = stats.Var()
            for value in values[:, 0].tolist():
                one.update(value)
            total += one
        return np.float64(total.get()).tobytes()

    different = in_other_orders(np.split(part, 20), merged)
    bench.record(f"river: different bytes of a variance over {ORDERS} orders of merging", different, unit="")


def datasketches(bench: Bench, x: F64, runs: int) -> None:
    """KLL sketches of every feature: quantiles only, neither moments nor correlations, and nothing can be removed."""
    sketches = module("datasketches")
    if sketches is None:
        bench.count(datasketches="not installed")
        return
    parts = np.split(np.ascontiguousarray(x.astype(np.float32)), AGENTS)

    def sketched() -> list[Any]:
        made: list[Any] = []
        for part in parts:
            many: Any = sketches.vector_of_kll_floats_sketches(200, FEATURES)
            many.update(part)
            made.append(many)
        return made

    rates = [x.shape[0] / s for s in core_seconds(sketched, runs)]
    bench.record_all("DataSketches KLL: samples, quantiles only, no tree", rates, unit="samples/core-s")
    singles: list[Any] = []
    for part in parts:
        one: Any = sketches.kll_floats_sketch(200)
        one.update(np.ascontiguousarray(part[:, 0]))
        singles.append(one)

    def merged(some: Sequence[Any]) -> Any:
        total: Any = sketches.kll_floats_sketch(200)
        for one in some:
            total.merge(one)
        return total

    whole = merged(singles)
    rank = abs(float((x[:, 0] < whole.get_quantile(0.5)).mean()) - 0.5)
    bench.record("DataSketches KLL: median, error in rank", rank, unit="")
    bench.record("DataSketches KLL: bytes a feature, merged", len(whole.serialize()), unit="B")
    different = in_other_orders(singles, lambda some: bytes(merged(some).serialize()))
    bench.record(f"DataSketches KLL: different bytes over {ORDERS} orders of merging", different, unit="")


def measure(bench: Bench) -> None:
    runs = 3 if bench.quick else 10
    x = windows(0, AGENTS, SAMPLES, FEATURES, np.random.default_rng(3)).values
    bench.count(agents=AGENTS, samples_each=SAMPLES, features=FEATURES)
    ours(bench, x, runs)
    centralised(bench, x, runs)
    river(bench, x)
    datasketches(bench, x, runs)
    for name in ("river", "datasketches"):
        installed = float(name not in bench.counts)
        bench.record(f"{name} is installed (else its figures are absent)", installed, unit="", bound="== 1")


if __name__ == "__main__":
    raise SystemExit(main("aggregation_peers", measure))
