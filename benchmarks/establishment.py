"""Baselines of a whole fleet from arrays of samples, every level, on one core; and how that grows with the fleet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from benchmarks._harness import Bench, main
from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.model.baseline import DistributedBaseline, Level
from tocsin.model.events import EventBatch

AGENTS, SAMPLES, FEATURES = 10_000, 1_000, 12
AGENTS_A_BATCH = 100
GROUPS = ("billing", "support", "research")
TOOLS = ("read", "write", "send")


def windows(first: int, agents: int, samples: int, d: int, rng: np.random.Generator) -> EventBatch:
    """`samples` rows of each of `agents` agents, agent after agent: correlated log-normal features."""
    n = agents * samples
    normal = rng.standard_normal((n, d))
    values = np.exp(0.3 * (normal + 0.4 * np.roll(normal, 1, axis=1)))
    who = np.repeat(np.arange(agents, dtype=np.int32), samples)
    nothing = np.zeros(n, np.int8)
    return EventBatch(
        offset=first * samples, agents=tuple(f"agent-{first + k}" for k in range(agents)), agent=who,
        t_ns=np.arange(n, dtype=np.int64), session=np.zeros(n, np.int64), phase=nothing, kind=nothing, actions=TOOLS,
        action=(who % 3).astype(np.int32), effect=nothing, groups=GROUPS, group=((who + first) % 3).astype(np.int32),
        context=np.zeros(n, np.int32), feature_names=tuple(f"feature_{k}" for k in range(d)), values=values,
    )  # fmt: skip


class Stopwatch:
    """Core time and wall time of the parts that are measured; making the samples is not."""

    def __init__(self) -> None:
        self.core = 0.0
        self.wall = 0.0

    def run(self, call: Callable[[], DistributedBaseline | None]) -> DistributedBaseline | None:
        wall, core = time.perf_counter(), time.process_time()
        result = call()
        self.core += time.process_time() - core
        self.wall += time.perf_counter() - wall
        return result


def everything(hierarchy: Hierarchy, agents: list[str], watch: Stopwatch) -> dict[Level, DistributedBaseline]:
    """The baseline of every agent, region and zone, and of the fleet."""
    found: dict[Level, DistributedBaseline] = {}
    for level in (Level.AGENT, Level.REGION, Level.ZONE, Level.GLOBAL):
        baseline = watch.run(lambda level=level: hierarchy.establish(agents, level, 1))
        assert baseline is not None
        found[level] = baseline
    return found


def whole_fleet(bench: Bench) -> None:
    """Ten million samples of twelve features: from arrays to every baseline of 10,000 agents."""
    agents = 1_000 if bench.quick else AGENTS
    bench.count(agents=agents, samples_each=SAMPLES, features=FEATURES)
    warm = Hierarchy()
    warm.observe(windows(0, 2, 600, FEATURES, np.random.default_rng(0)))
    warm.establish([], Level.GLOBAL, 1)
    walls, cores, ingest = list[float](), list[float](), list[float]()
    found: dict[Level, DistributedBaseline] = {}
    for _ in range(1 if bench.quick else 3):
        rng, watch, hierarchy = np.random.default_rng(7), Stopwatch(), Hierarchy()
        for first in range(0, agents, AGENTS_A_BATCH):
            batch = windows(first, AGENTS_A_BATCH, SAMPLES, FEATURES, rng)
            watch.run(lambda batch=batch, h=hierarchy: h.observe(batch))
        ingest.append(agents * SAMPLES / watch.core)
        found = everything(hierarchy, [f"agent-{k}" for k in range(agents)], watch)
        walls.append(watch.wall)
        cores.append(watch.core)
    name = f"every baseline of {agents} agents, {SAMPLES} samples each, d={FEATURES}"
    bench.record_all(f"{name}: core time", cores, unit="core-s", requirement="R1.10", bound="< 5")
    bench.record_all(f"{name}: wall time", walls, unit="s", requirement="R1.10", bound="< 30")
    bench.record_all("windows of samples into the leaves", ingest, unit="samples/core-s", bound=">= 1e6")
    for level, baseline in found.items():
        parts = max(1, len(baseline.parts))
        bench.record(f"baselines at level {level.value} ({level.name.lower()})", parts, unit="")
    total = agents * SAMPLES
    short = sum(baseline.samples != total for baseline in found.values())
    bench.record("levels that do not count every sample", short, unit="", requirement="R1.4", bound="== 0")


def scaling(bench: Bench) -> None:
    """Time to establish every level over n, 16 samples an agent; exponent by least squares on logarithms."""
    sizes = [100, 1_000, 10_000] if bench.quick else [100, 1_000, 10_000, 100_000]
    seconds, held = list[float](), list[float]()
    for n in sizes:
        step = min(n, 1_000)
        rng = np.random.default_rng(3)
        batches = [windows(first, step, 16, 3, rng) for first in range(0, n, step)]
        names = [f"agent-{k}" for k in range(n)]
        runs, hierarchy = list[float](), Hierarchy()
        for _ in range(20 if n == 100 else 5 if n < 100_000 else 2):
            watch, hierarchy = Stopwatch(), Hierarchy()
            for batch in batches:
                watch.run(lambda batch=batch, h=hierarchy: h.observe(batch))
            everything(hierarchy, names, watch)
            runs.append(watch.core)
        seconds.append(min(runs))
        bench.record(f"every level of {n} agents", seconds[-1], unit="core-s", requirement="R1.7")
        node = max(hierarchy.nodes.values(), key=lambda a: len(a.slots))
        held.append((len(node.slots) + 2) * node.total.counts.nbytes / 1024)
        bench.record(f"summaries held by the busiest node of {n} agents", held[-1], unit="KiB", requirement="R1.11")
    growth = held[-1] / held[1] / (math.log(sizes[-1]) / math.log(sizes[1]))
    bench.record("growth of the busiest node over that of log n", growth, unit="x", requirement="R1.11", bound="<= 1")
    exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    bench.record("scaling exponent of establishment", exponent, unit="", requirement="R1.7", bound="<= 1.1")


def measure(bench: Bench) -> None:
    whole_fleet(bench)
    scaling(bench)


if __name__ == "__main__":
    raise SystemExit(main("establishment", measure))
