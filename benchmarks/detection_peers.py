"""Other detectors on the labelled fleets in the same run as tocsin: recall, false alarms, ranking, speed (R6.1).

The data are looked for as `benchmarks.detection` does. Peers are optional: `pip install --require-hashes -r
requirements/peers.lock` installs them, and those that are absent are named. What each is given and how it is set is
said in `_peer_features.py` and `_peers.py`. For tool calls and command risk the agent counts: its first alarm decides,
and one before the onset is false. For servers a unit of time (an hour of SMD and of ASD) counts.
"""

from __future__ import annotations

import csv
import math
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks._by_pipeline import average_precision
from benchmarks._harness import Bench, main
from benchmarks._peer_features import Fleet, read_fleet
from benchmarks._peers import PEERS, Peer
from benchmarks.detection import (
    FALSE_UNITS,
    FLEETS,
    MACHINES,
    Replay,
    by_agent,
    replay,
    shared_data,
    wilson,
)

F64 = NDArray[np.float64]
OURS = "tocsin"


def rows_of(path: Path) -> list[dict[str, str]]:
    """The table of agents."""
    with path.open() as file:
        return list(csv.DictReader(file))


def run_peer(peer: Peer, fleet: Fleet) -> Replay:
    """A peer's live events, and its speed over all events, fitting included."""
    start = time.process_time()
    score, alarm = peer.run(fleet)
    seconds = time.process_time() - start
    live = fleet.live
    per_second = fleet.agent.size / seconds
    return Replay(
        list(fleet.agents), fleet.agent[live].astype(np.int32), fleet.seq[live], score[live], alarm[live], per_second
    )


def judge_agents(bench: Bench, title: str, run: Replay, agents: list[dict[str, str]]) -> float:
    """Figures of one detector on a fleet of agents; returns recall at 1 % of clean agents."""
    seen = list(by_agent(run, agents))
    hits = sum(bad and first >= int(row["onset_seq"]) for row, bad, first, *_ in seen)
    false = sum(first >= 0 and not bad for _, bad, first, *_ in seen)
    early = sum(0 <= first < int(row["onset_seq"]) for row, bad, first, *_ in seen if bad)
    since = np.array([best for _, bad, _, _, best in seen if bad])
    clean = np.array([best for _, bad, _, best, _ in seen if not bad])
    bar = np.sort(clean)[::-1][int(0.01 * clean.size)]
    ranked = int((since > bar).sum())

    def say(what: str, value: float, of: str) -> None:
        bench.record(f"{title}: {what} ({of})", round(value, 4), unit="", requirement="R6.1")

    say("recall at 1 % of clean agents", ranked / since.size, wilson(ranked, since.size))
    good = np.r_[np.ones(since.size, np.bool_), np.zeros(clean.size, np.bool_)]
    say("agent PR-AUC", average_precision(good, np.r_[since, clean]), f"{good.size} agents")
    say("recall at its own threshold", hits / since.size, wilson(hits, since.size))
    say("clean agents alarmed at its own threshold", false / clean.size, wilson(false, clean.size))
    share, raised = (false + early) / max(hits + false + early, 1), wilson(false + early, hits + false + early)
    say("share of false alarms, those before the onset included", share, raised)
    return ranked / since.size


def judge_units(bench: Bench, title: str, run: Replay, fault: F64, unit: int) -> float:
    """Figures of one detector on servers; `fault` is 1 for live rows of a fault. Returns recall at 1 % false units."""
    _, code = np.unique(run.agent.astype(np.int64) * (1 << 32) + run.seq // unit, return_inverse=True)
    code = code.ravel()
    score = np.full(int(code.max()) + 1, -math.inf)
    np.maximum.at(score, code, run.score)
    faulty = np.bincount(code, fault) > 0
    alarmed = np.bincount(code, run.alarm) > 0
    bar = np.sort(score[~faulty])[::-1][int(FALSE_UNITS * (~faulty).sum())]
    hits, total = int((score[faulty] > bar).sum()), int(faulty.sum())
    found, false = int(alarmed[faulty].sum()), int(alarmed[~faulty].sum())

    def say(what: str, value: float, of: str) -> None:
        bench.record(f"{title}: {what} ({of})", round(value, 4), unit="", requirement="R6.1")

    say("hourly recall at 1 % false hours", hits / total, wilson(hits, total))
    say("hourly PR-AUC", average_precision(faulty, score), f"{faulty.size} hours")
    say("hourly recall at its own threshold", found / total, wilson(found, total))
    say("false hours at its own threshold", false / int((~faulty).sum()), wilson(false, int((~faulty).sum())))
    return hits / total


def faults(run: Replay, path: Path) -> F64:
    """1 for each live row that is labelled a fault."""
    labels = pq.read_table(path).to_pydict()
    bad = {(a, s) for a, s, m in zip(labels["agent_id"], labels["seq"], labels["mal"], strict=True) if m}
    pairs = zip(run.agent.tolist(), run.seq.tolist(), strict=True)
    return np.array([float((run.agents[agent], seq) in bad) for agent, seq in pairs])


def compare(bench: Bench, name: str, kind: str, data: Path) -> None:
    """tocsin and every peer that is installed and applies, on one fleet."""
    path = data / f"{name}_events.parquet"
    agents = rows_of(data / f"{name}_agents.csv")
    fleet = read_fleet(path, kind)
    reached: dict[str, float] = {}
    applicable = [peer for peer in PEERS if kind in peer.kinds]
    installed = [peer for peer in applicable if not peer.package or find_spec(peer.package)]
    for peer in (None, *installed):
        run = replay(path, len(agents)) if peer is None else run_peer(peer, fleet)
        who = peer.name if peer else OURS
        title = f"{name}, {who}"
        if kind == "machines":
            fault = faults(run, data / f"{name}_labels.parquet")
            reached[who] = judge_units(bench, title, run, fault, MACHINES[name])
        else:
            reached[who] = judge_agents(bench, title, run, agents)
        bench.record(f"{title}: events a second, fitting included", round(run.per_second), unit="1/s")
    ours = reached.pop(OURS)
    best = max(reached, key=lambda who: reached[who])
    of = "hours" if kind == "machines" else "agents"
    what = f"{name}: tocsin's recall at 1 % false {of} less that of the best of {len(reached)} peers ({best})"
    bound = "> 0" if len(installed) == len(applicable) else ""  # the best of a few is not the best
    bench.record(what, round(ours - reached[best], 4), unit="", requirement="R6.1", bound=bound)


def measure(bench: Bench) -> None:
    """Every fleet; with `--quick` only the smaller set of servers."""
    data = shared_data()
    if not data.is_dir():
        bench.count(labelled_data=f"not found at {data}; nothing was measured")
        return
    packages = sorted({peer.package for peer in PEERS if peer.package})
    absent = [package for package in packages if not find_spec(package)]
    bench.count(absent_peers=" ".join(absent) or "none")
    kinds = {name: "calls" if name.startswith("A") else "risk" for name in FLEETS} | dict.fromkeys(MACHINES, "machines")
    for name, kind in kinds.items():
        if not bench.quick or name.startswith("B2_asd"):
            compare(bench, name, kind, data)


if __name__ == "__main__":
    raise SystemExit(main("detection_peers", measure))
