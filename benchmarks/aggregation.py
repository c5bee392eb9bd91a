"""Statistical aggregation: exactness, size and cost of summaries, tree and whole-fleet baselines (R1, R2.3)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np

from benchmarks._harness import Bench, main, percentile
from benchmarks.establishment import windows
from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.aggregation.summary import Summary, vector_size
from tocsin.aggregation.tree import REGION
from tocsin.model.baseline import Level
from tocsin.model.events import EventBatch
from tocsin.stats.exactsum import ExactSum, kahan_sum, naive_sum, neumaier_sum
from tocsin.stats.histogram import BINS, accumulate_histograms
from tocsin.stats.moments import MomentLayout, accumulate_moments, fit_grid, quantise

SECOND = 1_000_000_000
TOOLS = tuple(f"tool_{k:02}" for k in range(12))
GROUPS = ("billing", "support", "research")
ROWS = 1000


def fleet(agents: int, events_each: int, d: int, seed: int = 11) -> Iterator[EventBatch]:
    """Log-normal features (latencies, token counts) of agents that act in random order, `ROWS` events a batch."""
    rng = np.random.default_rng(seed)
    features = tuple(f"feature_{k}" for k in range(d))
    mix = np.eye(d) + 0.4 * rng.normal(size=(d, d))
    order = rng.permutation(np.repeat(np.arange(agents), events_each))
    for start in range(0, order.shape[0], ROWS):
        who = order[start : start + ROWS]
        names, index = np.unique(who, return_inverse=True)
        n = len(who)
        yield EventBatch(
            offset=start, agents=tuple(f"agent-{k}" for k in names), agent=index.astype(np.int32),
            t_ns=np.arange(start, start + n, dtype=np.int64), session=np.zeros(n, np.int64), phase=np.zeros(n, np.int8),
            kind=np.zeros(n, np.int8), actions=TOOLS, action=rng.integers(0, len(TOOLS), n).astype(np.int32),
            effect=np.zeros(n, np.int8), groups=GROUPS, group=(who % 3).astype(np.int32),
            context=np.zeros(n, np.int32), feature_names=features, values=np.exp(rng.normal(size=(n, d)) @ mix * 0.5),
        )  # fmt: skip


def kernels(bench: Bench) -> None:
    """Leaf accumulators alone, one core, agents in random order."""
    for d in (8, 12):
        _accumulators(bench, d)
    rng = np.random.default_rng(0)
    a, b = (Summary(0, 8, rng.integers(0, 1 << 40, vector_size(8)), dict.fromkeys(TOOLS, 3)) for _ in range(2))
    bench.time("merge of two summaries, d=8", lambda: a + b, unit="us", number=1000, requirement="R1.6")


def _accumulators(bench: Bench, d: int) -> None:
    rng = np.random.default_rng(0)
    n, agents = 200_000, 5_000
    x = rng.normal(size=(n, d))
    grid = fit_grid(tuple(map(str, range(d))), x[:1000])
    moments, cells = np.zeros((agents, MomentLayout(d).open_size), np.int64), np.zeros((agents, d * BINS), np.int32)
    row, columns = rng.integers(0, agents, n), np.arange(d)

    def accumulate() -> None:
        q = quantise(grid, x, columns)
        accumulate_moments(q, row, moments)
        accumulate_histograms(q, row, cells)

    accumulate()
    rates: list[float] = []
    for _ in range(3 if bench.quick else 10):
        start = time.process_time()  # a core's own time: neighbours on the machine are not charged
        accumulate()
        rates.append(n / (time.process_time() - start))
    name, bound = f"samples into {agents} agents' summaries, d={d}", ">= 1e6" if d == 12 else ""
    bench.record_all(name, rates, unit="samples/core-s", bound=bound)


def sums(bench: Bench) -> None:
    """R2.3 on the cancelling set: x and -x up to 1e12, plus a thousand 1e-6."""
    rng = np.random.default_rng(1)
    n = 1_000_000 if bench.quick else 10_000_000
    big = 10 ** rng.uniform(0, 12, n // 2)
    x = rng.permutation(np.concatenate([big, -big, np.full(1000, 1e-6)]))
    exact = ExactSum()
    exact.add(x)
    truth = exact.value()
    orders = {exact.canonical()}
    for _ in range(3):
        again = ExactSum()
        again.add(rng.permutation(x))
        orders.add(again.canonical())
    bench.record("distinct exact sums over 4 orders", len(orders), unit="states", requirement="R2.3", bound="== 1")
    against = math.fsum(x.tolist())
    bench.record("exact sum against math.fsum", abs(truth - against), unit="", requirement="R2.3", bound="== 0")
    bench.record("relative error, plain", abs(float(naive_sum(x)[0]) - truth) / truth, unit="")
    bench.record("relative error, Kahan", abs(float(kahan_sum(x)) - truth) / truth, unit="")
    bench.record("relative error, Neumaier", abs(float(neumaier_sum(x)) - truth) / truth, unit="")
    part = x[:1_000_000]
    values = part.tolist()
    bench.ratio("exact sum against math.fsum", ours=lambda: ExactSum().add(part), theirs=lambda: math.fsum(values))
    bench.count(summed_numbers=int(x.shape[0]))


def whole_fleet(bench: Bench) -> None:
    """10,000 agents, 64 events each, d=8: cost, exactness against numpy over all events, packets."""
    agents, d = (2_000 if bench.quick else 10_000), 8
    batches = list(fleet(agents, 64, d))
    bench.count(agents=agents, events=agents * 64, features=d)
    Hierarchy().observe(batches[0])  # compile
    hierarchy, pumping, per_event, spent = Hierarchy(), list[float](), list[float](), list[float]()
    for _ in range(1 if bench.quick else 3):
        hierarchy, packets = Hierarchy(), 0
        began, core = time.perf_counter(), time.process_time()
        for k, batch in enumerate(batches):
            hierarchy.observe(batch)
            start = time.perf_counter()
            hierarchy.pump(k * ROWS * SECOND // 20_000)
            if hierarchy.packets != packets:
                packets = hierarchy.packets
                pumping.append(time.perf_counter() - start)
        per_event.append(1e6 * (time.process_time() - core) / (agents * 64))
        hierarchy.establish([], Level.GLOBAL)
        spent.append(time.perf_counter() - began)
    whole = hierarchy.establish([], Level.GLOBAL)
    bench.record_all("whole-fleet baseline, all events", spent, unit="s", requirement="R1.10", bound="< 30")
    bench.record_all("cost an event at 20,000 events/s, climbing included", per_event, unit="core-us", bound="<= 3")
    bench.record_all("one climb of every changed region", [1e3 * p for p in pumping], unit="ms")
    bench.record("largest packet", hierarchy.largest_packet, unit="B", requirement="R1.8", bound="< 1024")
    x = np.concatenate([b.values for b in batches])
    mean = max(abs(f.mean / x[:, k].mean() - 1) for k, f in enumerate(whole.features))
    std = max(abs(f.std / x[:, k].std(ddof=1) - 1) for k, f in enumerate(whole.features))
    clipped = sum(f.saturated for f in whole.features) / x.size
    correlation = np.abs(np.array(whole.correlation) - np.corrcoef(x.T)).max()
    bench.record("mean against centralised, worst feature", mean, unit="", requirement="R1.4", bound="<= 1e-4")
    bench.record("deviation against centralised, worst feature", std, unit="", requirement="R1.4", bound="<= 1e-4")
    bench.record("samples clipped at the edge of the grid", clipped, unit="")
    worst = "feature correlation against centralised, worst"
    bench.record(worst, correlation, unit="", requirement="R1.5", bound="< 0.05")
    exact = hierarchy.root_equals_leaf_sum()
    bench.record("root equals leaf sum, byte for byte", exact, unit="", requirement="R1.4", bound="== 1")
    other = Hierarchy(flush_ns=SECOND)
    for k, batch in enumerate([batches[0], *batches[:0:-1]]):
        other.observe(batch)
        other.pump(k * SECOND // 3)
    equal = other.establish([], Level.GLOBAL).summary_hash == whole.summary_hash
    bench.record("same hash from another order and tree, on one grid", equal, unit="", requirement="R1.4", bound="== 1")
    propagation(bench, hierarchy, batches[-1])


def propagation(bench: Bench, hierarchy: Hierarchy, batch: EventBatch) -> None:
    """One agent acts: how long until root and leaves know, in one process, and how many packets up that takes."""
    one = EventBatch(
        offset=0, agents=batch.agents[:1], agent=np.zeros(1, np.int32), t_ns=batch.t_ns[:1], session=batch.session[:1],
        phase=batch.phase[:1], kind=batch.kind[:1], actions=TOOLS, action=batch.action[:1], effect=batch.effect[:1],
        groups=GROUPS, group=batch.group[:1], context=batch.context[:1], feature_names=batch.feature_names,
        values=batch.values[:1],
    )  # fmt: skip
    now, times, packets = 10_000 * SECOND, list[float](), list[float]()
    hierarchy.pump(now)
    somebody = [next(iter(region.children)) for region in hierarchy.tree.at_level(REGION)]
    for _ in range(50):
        now += 21 * SECOND
        hierarchy.pump(now)  # heartbeats leave here, so that they are not charged to the event
        now += 19 * SECOND // 2
        before, start = hierarchy.packets, time.perf_counter()
        hierarchy.observe(one)
        hierarchy.pump(now)
        for agent in somebody:
            hierarchy.fleet_known_to(agent)
        times.append(1e3 * (time.perf_counter() - start))
        packets.append(hierarchy.packets - before)
    bench.record_all(
        "event to root and back to every region's leaves, one process",
        times,
        unit="ms",
        requirement="R1.9",
        bound="< 100",
    )
    bench.record("packets an update costs", percentile(packets, 50), unit="", requirement="R1.6", bound="<= 4")


def work_of_an_update(bench: Bench) -> None:
    """R1.6: one agent acts once; what that takes until the root has stated it, over the size of the fleet."""
    sizes = (100, 1_000, 10_000) if bench.quick else (100, 1_000, 10_000, 100_000)
    medians = list[float]()
    for n in sizes:
        hierarchy, rng, step, now = Hierarchy(flush_ns=0), np.random.default_rng(3), min(n, 1_000), SECOND
        for first in range(0, n, step):
            hierarchy.observe(windows(first, step, 6, 3, rng))
        hierarchy.pump(now)
        spent, packets, fetching = list[float](), list[float](), list[float]()
        for one in [windows(k, 1, 1, 3, rng) for k in rng.integers(0, n, 300).tolist()]:
            now += 1_000  # no heartbeat falls due in between
            before, start = hierarchy.packets, time.process_time_ns()
            hierarchy.observe(one)
            hierarchy.pump(now)
            spent.append((time.process_time_ns() - start) / 1e3)
            packets.append(hierarchy.packets - before)
            start = time.process_time_ns()
            hierarchy.fleet_known_to(one.agents[0])
            fetching.append((time.process_time_ns() - start) / 1e3)
        bench.record_all(f"an update at {n} agents", spent, unit="core-us", requirement="R1.6")
        bench.record_all(f"an update at {n} agents: packets", packets, unit="", requirement="R1.6", bound="<= 4")
        bench.record_all(f"asking what the fleet does at {n} agents", fetching, unit="core-us", requirement="R1.6")
        medians.append(percentile(spent, 50))
    growth = medians[-1] / medians[1] / (math.log(sizes[-1]) / math.log(sizes[1]))
    title = "work of an update: growth over that of log n, from 1000 agents on"
    bench.record(title, growth, unit="x", requirement="R1.6", bound="<= 1")


def measure(bench: Bench) -> None:
    kernels(bench)
    sums(bench)
    whole_fleet(bench)
    work_of_an_update(bench)


if __name__ == "__main__":
    raise SystemExit(main("aggregation", measure))
