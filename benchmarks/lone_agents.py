"""Small fleets of agents with different jobs: how soon a hijacked one is flagged, and how often an honest one is.

Two kinds of fleets: simulated loners (`tocsin.sim.loners`: five temperaments, baselines of 200 events that end inside
sessions), and agents of the labelled tool calls (`benchmarks.detection`), taken alone or one of each suite. In the
latter a baseline has about 15 sessions; there, little can be found without peers.
"""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks._harness import Bench, main
from benchmarks.detection import shared_data, wilson
from tocsin.detection.detector import FleetDetector
from tocsin.detection.scoring import FleetAlarms
from tocsin.ingest.tables import read_table
from tocsin.model.events import EventBatch
from tocsin.sim.loners import ATTACKS, lone_fleet
from tocsin.wire.events import concat, take

ALPHA = 0.01
SIZES = {1: 240, 3: 240, 10: 60, 30: 20}  # agents: fleets with an attack, per kind
CLEAN = {1: 500, 3: 300, 10: 200, 30: 200}
WITHIN = (1, 3, 10)  # hijacked sessions
NEVER = np.iinfo(np.int64).max
TABLE = "A_dojo_public"


def first_alarms(batch: EventBatch) -> NDArray[np.int64]:
    """Event number of each agent's first alarm `(agents,)`, NEVER where there is none."""
    seen = FleetDetector().observe(batch)
    alarms = FleetAlarms(ALPHA, len(batch.agents)).update(seen.agent_index, seen.log_e)
    first = np.full(len(batch.agents), NEVER)
    index = {name: i for i, name in enumerate(batch.agents)}
    place = np.array([index[name] for name in seen.agents])
    np.minimum.at(first, place[seen.agent_index[alarms]], seen.seq[alarms])
    return first


def clean(bench: Bench, size: int, fleets: int) -> None:
    """Alarms in fleets where nothing happens."""
    false, spoilt = 0, 0
    for seed in range(fleets):
        alarms = int((first_alarms(lone_fleet(size, seed=seed).batch) < NEVER).sum())
        false, spoilt = false + alarms, spoilt + (alarms > 0)
    agents = f"{false} of {fleets * size} agents"
    bench.record(
        f"{size} loners, nothing happens: fleets with an alarm ({wilson(spoilt, fleets)}; {agents})",
        spoilt / fleets, unit="", requirement="R6.1", bound=f"<= {ALPHA}",
    )  # fmt: skip


def attacked(bench: Bench, size: int, fleets: int, attack: str) -> None:
    """A tenth of the agents hijacked in each of their last ten sessions."""
    hijacked = max(1, size // 10)
    found, false, total = Counter[int](), 0, 0
    for seed in range(fleets):
        fleet = lone_fleet(size, seed=10_000 + seed, hijacked=hijacked, attack=attack)
        first = first_alarms(fleet.batch)
        for agent, starts in enumerate(fleet.hijacked_sessions):
            total += bool(starts)
            false += bool(first[agent] < (starts[0] if starts else NEVER))
            for within in WITHIN if starts else ():
                end = starts[within] if within < len(starts) else NEVER
                found[within] += bool(starts[0] <= first[agent] < end)
    for within in WITHIN:
        bench.record(
            f"{size} loners, {attack}: found within {within} hijacked sessions ({wilson(found[within], total)})",
            found[within] / total, unit="", requirement="R6.1",
            bound=">= 0.5" if attack == ATTACKS[0] and within == 1 and size <= 3 else "",
        )  # fmt: skip
    bench.record(f"{size} loners, {attack}: false alarms among {fleets * size} agents", false, unit="agents")


def _parts(path: Path) -> dict[str, EventBatch]:
    """The events of each agent of a table."""
    whole = concat([batch for batch, _ in read_table(path)], 0)
    order = np.argsort(whole.agent, kind="stable")
    starts = np.searchsorted(whole.agent[order], np.arange(len(whole.agents) + 1))
    parts: dict[str, EventBatch] = {}
    for i, name in enumerate(whole.agents):
        mine = take(whole, order[starts[i] : starts[i + 1]].astype(np.int64), 0)
        parts[name] = dataclasses.replace(mine, agents=(name,), agent=np.zeros(len(mine), np.int32))
    return parts


def _recomposed(rows: list[dict[str, str]], size: int, fleets: int) -> Iterator[list[dict[str, str]]]:
    """Fleets of `size` <= 4 agents of different suites; an agent may be in several fleets."""
    rng = np.random.default_rng(size)
    suites: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        suites[row["role"]].append(row)
    names = sorted(suites)
    for _ in range(fleets):
        chosen = rng.permutation(len(names))[:size]
        yield [suites[names[j]][int(rng.integers(len(suites[names[j]])))] for j in chosen]


def recomposed(bench: Bench, data: Path, fleets: int) -> None:
    """Agents of the labelled tool calls without peers."""
    with (data / f"{TABLE}_agents.csv").open() as file:
        rows = list(csv.DictReader(file))
    parts = _parts(data / f"{TABLE}_events.parquet")
    for size in (1, 3):
        found, bad, false, total = 0, 0, 0, 0
        for members in _recomposed(rows, size, fleets):
            batch = concat([parts[row["agent_id"]] for row in members], 0)
            order = np.lexsort((np.arange(len(batch)), batch.phase))  # the fleet's baselines first
            first = first_alarms(take(batch, order.astype(np.int64), 0))
            for i, row in enumerate(members):
                onset = int(row["onset_seq"]) if row["compromised"] == "1" else NEVER
                bad, total = bad + (onset < NEVER), total + 1
                found, false = found + (onset <= first[i] < NEVER), false + (first[i] < onset)
        bench.record(f"{size} agents of different suites: found ({wilson(int(found), bad)})", found / bad, unit="")
        bench.record(
            f"{size} agents of different suites: false ({wilson(int(false), total)})", false / total, unit="",
            requirement="R6.1", bound=f"<= {ALPHA}",
        )  # fmt: skip


def measure(bench: Bench) -> None:
    """Simulated loners; agents of the labelled tool calls where the table is there."""
    few = 10 if bench.quick else 1
    bench.count(sessions_in_life=30, hijacked_sessions=10, foreign_calls_a_session=5)
    for size, fleets in CLEAN.items():
        clean(bench, size, fleets // few)
    for attack in ATTACKS:
        for size, fleets in SIZES.items():
            attacked(bench, size, fleets // few, attack)
    data = shared_data()
    if data.is_dir():
        recomposed(bench, data, 600 // few)
    else:
        bench.count(labelled_data=f"not found at {data}; not measured")


if __name__ == "__main__":
    raise SystemExit(main("lone_agents", measure))
