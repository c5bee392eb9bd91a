"""Coordinated groups in the running fleet: cost an event, a round of 10,000 agents, groups found, null fleets (R6.5).

Labelled fleets with coordination attacks are looked for in `../shared/data` beside the checkout, or in
$SHARED_DATA_DIR; their labels are read only to count.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `tocsin` does, and before numpy is loaded

import numpy as np

from benchmarks._harness import Bench, main
from benchmarks.detection import replay, shared_data, wilson
from tocsin.aggregation.activity import ActivityWindows, Pace, Snapshot
from tocsin.aggregation.rounds import Outcome, Rounds
from tocsin.ingest.tables import read_table
from tocsin.model.events import EventBatch
from tocsin.sim.rhythms import RhythmFleet

SECRET = b"unknown to those who are watched"
REGION, ZONE = 40, 1000
BATCH = 1_000  # rows, about what the service joins
SECOND_NS = 1_000_000_000


def placed(names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Regions of 40 agents of one role each, in zones of 25 regions."""
    counts: dict[str, int] = {}
    regions: list[str] = []
    for name in names:
        role = name.rpartition("-")[0]
        at = counts[role] = counts.get(role, -1) + 1
        regions.append(f"{role}/{at // REGION}")
    ordered = sorted(set(regions))
    return regions, {region: f"z{k * REGION // ZONE}" for k, region in enumerate(ordered)}


def screened(pace: Pace, batches: Iterable[EventBatch]) -> Iterator[tuple[Snapshot, Outcome, float, float]]:
    """Every round of a stream of events, with the seconds it took: of the wall clock, and of the processor."""
    windows, rounds = ActivityWindows(pace), Rounds(pace.length, SECRET)
    for batch in batches:
        for snapshot in windows.observe(batch):
            start, worked = time.perf_counter(), time.process_time()
            outcome = rounds.screen(snapshot, *placed(snapshot.names))
            yield snapshot, outcome, time.perf_counter() - start, time.process_time() - worked


def part(batch: EventBatch, start: int) -> EventBatch:
    """BATCH rows as the service would hand them over: the table names only who occurs."""
    rows = slice(start, start + BATCH)
    codes, agent = np.unique(batch.agent[rows], return_inverse=True)
    names: list[int] = codes.tolist()
    n = len(batch.agent[rows])
    return EventBatch(
        offset=batch.offset + start,
        agents=tuple(batch.agents[k] for k in names),
        agent=agent.astype(np.int32),
        t_ns=batch.t_ns[rows],
        session=batch.session[rows],
        phase=batch.phase[rows],
        kind=batch.kind[rows],
        actions=batch.actions,
        action=batch.action[rows],
        effect=batch.effect[rows],
        feature_names=batch.feature_names,
        values=batch.values[rows],
        arg_offset=np.zeros(n + 1, np.int32),
        prompt_offset=np.zeros(n + 1, np.int32),
    )


def hot_path(bench: Bench, agents: int) -> None:
    """Processor time that counting adds to an event on the engine's thread, snapshots of rounds apart."""
    fleet = RhythmFleet(size=agents, group=0, windows=100, turns=0, live_from=0, pace=2.0)
    windows, spent, events, cut = ActivityWindows(Pace(length=64, every=16)), 0.0, 0, 0.0
    for number, batch in enumerate(fleet.batches()):
        for one in (part(batch, k) for k in range(0, len(batch), BATCH)):
            start = time.process_time()
            taken = windows.observe(one)
            passed = time.process_time() - start
            if taken:
                cut = max(cut, passed)
            elif number > 2:  # the first windows make room, and compile
                spent += passed
                events += len(one)
    name = f"{agents} agents, {BATCH} rows a batch"
    bench.record(f"{name}: an event", 1e9 * spent / events, unit="ns", requirement="R6.5", bound="<= 1000")
    bench.record(f"{name}: taking a snapshot of 64 windows for a round", 1e3 * cut, unit="ms")


def large_round(bench: Bench, agents: int) -> None:
    """A hidden group among many, over all three series; the first round is learnt."""
    length = 256
    fleet = RhythmFleet(size=agents, group=12, windows=2 * length + 4, turns=length, live_from=length, pace=4.0)
    name = f"{agents} agents, T={length}, a group of 12 that forms"
    for snapshot, outcome, seconds, core in screened(Pace(length=length, every=length), fleet.batches()):
        if snapshot.number == 2:
            found = {one.agent_id for one in outcome.findings.bonds}
            bench.record(f"{name}: members found", len(found & fleet.members), unit="of 12", bound=">= 11")
            bench.record(f"{name}: others found", len(found - fleet.members), unit="", bound="== 0")
            bench.record(f"{name}: a round, 3 series, beside the stream", seconds, unit="s")
            bench.record(f"{name}: a round, of a core", core, unit="s")
            proven = [bond.certified[1] for bond in outcome.findings.bonds if bond.certified]
            bench.record(f"{name}: members with a certified correlation", len(proven), unit="of 12")
            bench.record(f"{name}: its bound, at most", max(proven, default=0.0), unit="", bound="< 0.05")
            bench.record(
                f"{name}: all that crosses, an agent", outcome.bytes_sent / agents, unit="B", requirement="R6.5"
            )


def small_groups(bench: Bench, fleets: int) -> None:
    """Groups of 8 in fleets of 400: members found, others found; and the same fleets without a group."""
    length, hits, others, total, null = 256, 0, 0, 0, 0
    for seed in range(fleets):
        for group in (8, 0):
            fleet = RhythmFleet(
                size=400, group=group, windows=2 * length + 4, turns=length, live_from=length, pace=4.0, seed=seed
            )
            found: set[str] = set()
            for _, outcome, _, _ in screened(Pace(length=length, every=128), fleet.batches()):
                found |= {one.agent_id for one in outcome.findings.bonds}
            hits, total = hits + len(found & fleet.members), total + len(fleet.members)
            others += len(found - fleet.members) if group else 0
            null += 0 if group else len(found)
    name = f"{fleets} fleets of 400, T={length}, rounds every 128"
    share = 100 * hits / total
    bench.record(f"{name}: members found ({wilson(hits, total)})", share, unit="%", requirement="R6.5", bound=">= 90")
    bench.record(f"{name}: others found", others, unit="", bound="== 0")
    bench.record(f"{name}, no group: agents found ({wilson(null, 400 * fleets)})", null, unit="", bound="== 0")


def labelled(bench: Bench, name: str, data: Path) -> None:
    """What moving together adds to what each agent's own behaviour shows."""
    with (data / f"{name}_agents.csv").open() as file:
        agents = list(csv.DictReader(file))
    attacked = {row["agent_id"] for row in agents if row["tier"] == "coordination_attack"}
    bad = {row["agent_id"] for row in agents if row["compromised"] == "1"}
    path = data / f"{name}_events.parquet"
    run = replay(path, len(agents))
    alarmed: list[int] = np.unique(run.agent[run.alarm]).tolist()
    alone = {run.agents[k] for k in alarmed}
    hits = len(attacked & alone)
    bench.record(f"{name}: coordination attacks found by behaviour ({wilson(hits, len(attacked))})", hits, unit="")
    for pace in (Pace(5 * SECOND_NS, 64, 8), Pace(SECOND_NS, 256, 64)):
        found: set[str] = set()
        rounds = 0
        for snapshot, outcome, _, _ in screened(pace, (batch for batch, _ in read_table(path))):
            rounds = snapshot.number
            found |= {one.agent_id for one in outcome.findings.bonds}
        title = f"{name}, windows of {pace.window_ns // SECOND_NS} events, T={pace.length}, {rounds} rounds"
        bench.record(f"{title}: found by moving together", len(attacked & found), unit="")
        bench.record(f"{title}: added by it", len((attacked & found) - alone), unit="")
        bench.record(f"{title}: not compromised, but found by it", len(found - bad), unit="", bound="== 0")


def measure(bench: Bench) -> None:
    hot_path(bench, 2_000 if bench.quick else 10_000)
    small_groups(bench, 1 if bench.quick else 10)
    large_round(bench, 1_000 if bench.quick else 10_000)
    data = shared_data()
    if not data.is_dir():
        bench.count(labelled_data=f"not found at {data}; nothing was measured on it")
        return
    for name in ("C_nominal_1000", "C_hard_1000"):
        if not bench.quick:
            labelled(bench, name, data)


if __name__ == "__main__":
    raise SystemExit(main("coordination", measure))
