"""How well agents that were taken over are told from those that were not, on labelled fleets, and how fast.

The labelled data sets are not part of the repository: they are looked for in `../shared/data` beside the checkout, or
in $SHARED_DATA_DIR. Thresholds are the shipped ones; labels are read only here, to count. An agent counts as found if
its first alarm comes at or after its onset; an alarm on any other agent, or before the onset, is false.
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks._by_pipeline import Outcome, agents_only, average_precision, bar_elsewhere, bar_of, strangers
from benchmarks._harness import Bench, main
from tocsin.demo.score import wilson_interval
from tocsin.detection.detector import FleetDetector
from tocsin.detection.scoring import FleetAlarms
from tocsin.ingest.tables import read_table
from tocsin.model.events import EventBatch
from tocsin.wire.events import concat

ROOT = Path(__file__).resolve().parent.parent
ALPHA = 0.01
FLEETS = {
    "A_dojo_public": {"recall": ">= 0.70", "false": "<= 0.01", "ap": ">= 0.95", "at1": ">= 0.75", "single": ">= 0.60"},
    "C_orig_1000": {"recall": ">= 0.74", "precision": ">= 1.0"},
    "C_nominal_1000": {"recall": ">= 0.99", "precision": ">= 0.99"},
    "C_hard_1000": {"recall": ">= 0.85", "precision": ">= 0.99"},
}
MACHINES = {"B2_asd_public": 12, "B2_smd_public": 60}  # rows that make a unit of time
FALSE_UNITS = 0.01


@dataclass(frozen=True)
class Replay:
    """Every live event of a fleet: agent, its number in the table, belief, alarm; and events per second."""

    agents: list[str]
    agent: NDArray[np.int32]
    seq: NDArray[np.int64]
    score: NDArray[np.float64]
    alarm: NDArray[np.bool_]
    per_second: float


def shared_data() -> Path:
    """Where the labelled data sets would be."""
    return Path(os.environ.get("SHARED_DATA_DIR", ROOT.parent / "shared" / "data"))


def replay(path: Path, fleet_size: int) -> Replay:
    """All events of a table through the detector, alarms by the running e-BH."""
    return observed(read_table(path), fleet_size)


def observed(batches: Iterable[tuple[EventBatch, NDArray[np.int64]]], fleet_size: int) -> Replay:
    """As `replay`, of batches with their rows' numbers in the table."""
    detector, alarms = FleetDetector(), FleetAlarms(ALPHA, fleet_size)
    agent: list[NDArray[np.int32]] = []
    seq: list[NDArray[np.int64]] = []
    score: list[NDArray[np.float64]] = []
    alarm: list[NDArray[np.bool_]] = []
    seconds, events = 0.0, 0
    names: list[str] = []
    for batch, numbers in batches:
        start = time.perf_counter()
        seen = detector.observe(batch)
        raised = alarms.update(seen.agent_index, seen.log_e)
        seconds += time.perf_counter() - start
        events += len(batch)
        live = batch.phase == 1
        agent.append(seen.agent_index[live])
        seq.append(numbers[live])
        score.append(seen.log_odds[live])
        alarm.append(raised[live])
        names = list(seen.agents)
    joined = (np.concatenate(agent), np.concatenate(seq), np.concatenate(score), np.concatenate(alarm))
    return Replay(names, *joined, per_second=events / seconds)


def wilson(hits: int, trials: int) -> str:
    """95 % interval of a share (Wilson 1927), as text with the counts."""
    if not trials:
        return "0 of 0"
    low, high = wilson_interval(hits, trials)
    return f"{hits} of {trials}, 95 % {low:.3f} to {high:.3f}"


def by_agent(run: Replay, agents: list[dict[str, str]]) -> Iterator[tuple[dict[str, str], bool, int, float, float]]:
    """(agent, compromised, first alarm or -1, best belief while clean, best belief since the onset)."""
    order = np.argsort(run.agent, kind="stable")
    starts = np.searchsorted(run.agent[order], np.arange(len(run.agents) + 1))
    index = {name: i for i, name in enumerate(run.agents)}
    for row in agents:
        i = index[row["agent_id"]]
        mine = order[starts[i] : starts[i + 1]]
        bad = row["compromised"] == "1"
        since = run.seq[mine] >= int(row["onset_seq"]) if bad else np.zeros(mine.size, np.bool_)
        raised = run.seq[mine][run.alarm[mine]]
        best = [float(run.score[mine][part].max(initial=-np.inf)) for part in (~since, since)]
        yield row, bad, int(raised.min()) if raised.size else -1, best[0], best[1]


def outcomes_of(run: Replay, agents: list[dict[str, str]]) -> list[Outcome]:
    """What became of every agent of a fleet whose table names pipelines."""
    return [
        Outcome(
            row["pipeline"], row["tier"], is_found(row, bad, first), is_false(row, bad, first), since if bad else clean
        )
        for row, bad, first, clean, since in by_agent(run, agents)
    ]


def is_found(row: dict[str, str], bad: bool, first: int) -> bool:
    """Whether the first alarm of an agent came at or after its onset."""
    return bad and first >= int(row["onset_seq"])


def is_false(row: dict[str, str], bad: bool, first: int) -> bool:
    """Whether an agent had an alarm that is none of a compromise."""
    return first >= 0 and not is_found(row, bad, first)


def fleet(bench: Bench, name: str, bounds: dict[str, str], data: Path) -> None:
    """Agents found and false alarms of one fleet."""
    with (data / f"{name}_agents.csv").open() as file:
        agents = list(csv.DictReader(file))
    run = replay(data / f"{name}_events.parquet", len(agents))
    seen = list(by_agent(run, agents))
    found = [(row, first) for row, bad, first, _, _ in seen if is_found(row, bad, first)]
    false = sum(is_false(row, bad, first) for row, bad, first, _, _ in seen)
    bad_total, clean_total = sum(bad for _, bad, *_ in seen), sum(not bad for _, bad, *_ in seen)
    hits, raised = len(found), len(found) + false

    def say(what: str, value: float, bound: str, of: str) -> None:
        title = f"{name}: {what} ({of})"
        bench.record(title, round(value, 4), unit="", requirement="R6.1", bound=bounds.get(bound, ""))

    say("recall at the shipped threshold", hits / bad_total, "recall", wilson(hits, bad_total))
    say("precision", hits / max(raised, 1), "precision", wilson(hits, raised))
    say("false agents", false / clean_total, "false", wilson(false, clean_total))
    since = np.array([best for _, bad, _, _, best in seen if bad])
    clean = np.array([best for _, bad, _, best, _ in seen if not bad])
    good = np.r_[np.ones(since.size, np.bool_), np.zeros(clean.size, np.bool_)]
    say("agent PR-AUC", average_precision(good, np.r_[since, clean]), "ap", f"{good.size} agents")
    ranked = int((since > bar_of(clean.tolist())).sum())
    say("recall at 1 % of clean agents", ranked / bad_total, "at1", wilson(ranked, bad_total))
    tiers = sorted({row["tier"] for row, bad, *_ in seen if bad})
    for tier in tiers:
        total = sum(row["tier"] == tier for row, *_ in seen)
        part = sum(row["tier"] == tier for row, _ in found)
        say(f"recall, {tier}", part / total, tier, wilson(part, total))
    delays = [max(first - int(row["first_mal_seq"]), 0) for row, first in found]
    say("median delay, events", float(np.median(delays)) if delays else math.nan, "delay", f"{hits} agents")
    bench.record(f"{name}: events a second, fits and compilation included", round(run.per_second), unit="1/s")
    if "pipeline" in agents[0]:
        by_pipeline(bench, name, bounds, data, agents, run)


def by_pipeline(
    bench: Bench, name: str, bounds: dict[str, str], data: Path, agents: list[dict[str, str]], run: Replay
) -> None:
    """The same figures of agents whose pipelines had no part in them."""
    table = list(read_table(data / f"{name}_events.parquet"))
    whole, numbers = concat([batch for batch, _ in table], 0), np.concatenate([seq for _, seq in table])

    def outcomes(pipelines: set[str]) -> list[Outcome]:
        rows = [row for row in agents if row["pipeline"] in pipelines]
        part = agents_only(whole, numbers, {row["agent_id"] for row in rows})
        return outcomes_of(observed([part], len(rows)), rows)

    bar_elsewhere(bench, name, outcomes_of(run, agents), bounds)
    strangers(bench, name, sorted({row["pipeline"] for row in agents}), outcomes, bounds)


def machines(bench: Bench, name: str, unit: int, data: Path) -> None:
    """Faults of servers by units of time: recall where 1 % of the faultless units are above the bar."""
    with (data / f"{name}_agents.csv").open() as file:
        agents = list(csv.DictReader(file))
    run = replay(data / f"{name}_events.parquet", len(agents))
    labels = pq.read_table(data / f"{name}_labels.parquet").to_pydict()
    fault = {(a, s) for a, s, m in zip(labels["agent_id"], labels["seq"], labels["mal"], strict=True) if m}
    best: dict[tuple[int, int], list[float]] = {}
    for agent, seq, score in zip(run.agent.tolist(), run.seq.tolist(), run.score.tolist(), strict=True):
        entry = best.setdefault((agent, seq // unit), [-math.inf, 0.0])
        entry[0] = max(entry[0], score)
        entry[1] = max(entry[1], float((run.agents[agent], seq) in fault))
    table = np.array(list(best.values()))
    faulty = table[:, 1] > 0
    bar = np.sort(table[~faulty, 0])[::-1][int(FALSE_UNITS * (~faulty).sum())]
    hits = int((table[faulty, 0] > bar).sum())
    of = wilson(hits, int(faulty.sum()))
    bench.record(f"{name}: unit recall at 1 % false units ({of})", round(hits / int(faulty.sum()), 4), unit="")
    bench.record(f"{name}: unit PR-AUC", round(average_precision(faulty, table[:, 0]), 4), unit="")


def measure(bench: Bench) -> None:
    """Every labelled fleet; with `--quick` only the tool calls."""
    data = shared_data()
    if not data.is_dir():
        bench.count(labelled_data=f"not found at {data}; nothing was measured")
        return
    for name, bounds in FLEETS.items():
        if not bench.quick or name.startswith("A"):
            fleet(bench, name, bounds, data)
    if not bench.quick:
        for name, unit in MACHINES.items():
            machines(bench, name, unit, data)


if __name__ == "__main__":
    raise SystemExit(main("detection", measure))
