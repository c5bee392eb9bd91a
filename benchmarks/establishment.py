"""Baselines of a whole fleet from arrays of samples, every level, on one core; and how that grows with the fleet."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks._harness import Bench, main
from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.aggregation.tree import REGION
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
    seconds = list[float]()
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
    exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    bench.record("scaling exponent of establishment", exponent, unit="", requirement="R1.7", bound="<= 1.1")


def held_bytes(thing: object, seen: set[int]) -> int:
    """What an object and all that it refers to take, each counted once; not classes, nor numbers that are shared."""
    if id(thing) in seen or thing is None or isinstance(thing, type | bool):
        return 0
    seen.add(id(thing))
    size = sys.getsizeof(thing)
    if isinstance(thing, np.ndarray):
        return size + (held_bytes(thing.base, seen) if thing.base is not None else 0)
    if isinstance(thing, dict):
        pairs = cast("dict[object, object]", thing).items()
        return size + sum(held_bytes(key, seen) + held_bytes(value, seen) for key, value in pairs)
    if isinstance(thing, list | tuple):
        return size + sum(held_bytes(one, seen) for one in cast("Sequence[object]", thing))
    names = [*getattr(type(thing), "__slots__", ()), *getattr(type(thing), "__struct_fields__", ())]
    inner = [getattr(thing, name) for name in dict.fromkeys(names) if hasattr(thing, name)]
    return size + sum(held_bytes(one, seen) for one in [*inner, getattr(thing, "__dict__", None)])


def region_bytes(hierarchy: Hierarchy) -> int:
    """What the leaves of the largest region take: a row of every array for each agent, what they said, their view."""
    leaves = hierarchy.leaves
    region = max(hierarchy.tree.at_level(REGION), key=lambda node: node.agents)
    said = leaves.reports._sent[region.id]  # pyright: ignore[reportPrivateUsage]
    rows: list[NDArray[Any]] = [array for array in vars(leaves).values() if isinstance(array, np.ndarray)]  # by agent
    assert len(rows) == 5
    each = sum(array[:1].nbytes for array in rows)
    return region.agents * each + held_bytes([said, leaves.reports.view(region.id)], set())


def memory(bench: Bench) -> None:
    """R1.11: everything that the busiest node refers to (sums of its children, parts, actions, its view), at d = 12."""
    sizes = [100, 1_000, 10_000] if bench.quick else [100, 1_000, 10_000, 100_000]
    busiest, leaves = list[float](), list[float]()
    for n in sizes:
        hierarchy, step = Hierarchy(flush_ns=0), min(n, 1_000)
        rng = np.random.default_rng(3)
        for first in range(0, n, step):
            hierarchy.observe(windows(first, step, 6, FEATURES, rng))
        hierarchy.pump(1)
        for region in hierarchy.tree.at_level(REGION):  # every node has been asked what the fleet does
            hierarchy.fleet_known_to(next(iter(region.children)))
        busiest.append(max(held_bytes(node, set()) for node in hierarchy.nodes.values()) / 1024)
        leaves.append(region_bytes(hierarchy) / 1024)
        bench.record(f"held by the busiest of {n} agents' nodes, d={FEATURES}", busiest[-1], unit="KiB")
        bench.record(f"held by the leaves of one region of {n} agents, d={FEATURES}", leaves[-1], unit="KiB")
    for what, held in (("the busiest node", busiest), ("the leaves of a region", leaves)):
        growth = held[-1] / held[1] / (math.log(sizes[-1]) / math.log(sizes[1]))
        title = f"growth of {what} over that of log n, from 1000 agents on"
        bench.record(title, growth, unit="x", requirement="R1.11", bound="<= 1")


def measure(bench: Bench) -> None:
    whole_fleet(bench)
    scaling(bench)
    memory(bench)


if __name__ == "__main__":
    raise SystemExit(main("establishment", measure))
