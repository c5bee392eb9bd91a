"""The alarm rule: what closed e-BH finds beyond e-BH, its realised share of false alarms, and its time (R6.1).

Simulated: log e-values of a normal shift of 4, true for a share of the agents, noise partly common to all. Labelled:
the detector's e-values on the labelled fleets, where `benchmarks.detection` looks for them, decided at cuts of 512
events as monitors do; an agent counts by its first alarm.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks._harness import Bench, main
from benchmarks.detection import shared_data
from tocsin.detection.detector import FleetDetector
from tocsin.ingest.tables import read_table
from tocsin.model.evidence import Q32
from tocsin.stats.fdr import closed_e_bh_threshold_q32, e_bh_threshold_q32
from tocsin.stats.intervals import wilson_interval

Rule = Callable[[list[int], int, int], int | None]
RULES: dict[str, Rule] = {"e-BH": e_bh_threshold_q32, "closed e-BH": closed_e_bh_threshold_q32}
ALPHA_PPM = 10_000
SHIFT = 4.0
CUT_ROWS = 512
FLEETS = ("A_dojo_public", "C_orig_1000", "C_nominal_1000", "C_hard_1000")


def draw(rng: np.random.Generator, size: int, true: int, shared: float) -> NDArray[np.int64]:
    """Log likelihood ratios (size,), the first `true` of them of compromised agents, in units of 2**-32."""
    noise = shared**0.5 * rng.standard_normal() + (1.0 - shared) ** 0.5 * rng.standard_normal(size)
    shifted = noise + np.where(np.arange(size) < true, SHIFT, 0.0)
    return np.rint((SHIFT * shifted - SHIFT**2 / 2) * Q32).astype(np.int64)


def simulated(bench: Bench) -> None:
    """Found and false of both rules over fleets, shares of compromised agents and common noise."""
    for size, trials in ((100, 400), (1000, 200), (10_000, 40)):
        for share in (0.01, 0.05, 0.2):
            for shared in (0.0, 0.5):
                rng, true = np.random.default_rng([size, round(100 * share), round(10 * shared)]), round(size * share)
                runs = [draw(rng, size, true, shared) for _ in range(trials // 10 if bench.quick else trials)]
                title = f"{size} agents, {share:.0%} compromised, {shared:.0%} of the noise common"
                _both(bench, title, runs, true)


def _both(bench: Bench, title: str, runs: list[NDArray[np.int64]], true: int) -> None:
    for name, rule in RULES.items():
        found = 0
        wrong: list[float] = []
        for values in runs:
            threshold = rule(values.tolist(), values.size, ALPHA_PPM)
            alarmed = values >= (threshold if threshold is not None else np.iinfo(np.int64).max)
            found += int(alarmed[:true].sum())
            wrong.append(float(alarmed[true:].sum() / max(alarmed.sum(), 1)))
        total, mean = true * len(runs), float(np.mean(wrong))
        low, high = wilson_interval(found, total)
        power = f"{title}: found by {name} ({found} of {total}, 95 % {low:.3f} to {high:.3f})"
        bench.record(power, round(found / total, 4), unit="")
        error = 1.96 * float(np.std(wrong)) / len(wrong) ** 0.5
        share = f"{title}: mean share of false alarms by {name} (+- {error:.4f} over {len(wrong)} fleets)"
        bench.record(share, round(mean, 5), unit="", requirement="R6.1", bound="<= 0.01")


def labelled(bench: Bench, name: str) -> None:
    """Agents found and clean agents alarmed by both rules."""
    data = shared_data()
    with (data / f"{name}_agents.csv").open() as file:
        agents = list(csv.DictReader(file))
    detector = FleetDetector()
    first: dict[str, dict[str, int]] = {rule: {} for rule in RULES}
    latest, at = np.zeros(len(agents), np.int64), np.full(len(agents), -1)
    for batch, numbers in read_table(data / f"{name}_events.parquet", batch_rows=CUT_ROWS):
        seen = detector.observe(batch)
        live = batch.phase == 1
        if not live.any():
            continue
        latest[seen.agent_index[live]] = np.rint(np.minimum(seen.log_e[live], 64.0) * Q32).astype(np.int64)
        at[seen.agent_index] = numbers
        for rule, threshold_of in RULES.items():
            threshold = threshold_of(latest.tolist(), len(agents), ALPHA_PPM)
            if threshold is not None:
                for index in np.flatnonzero(latest >= threshold).tolist():
                    first[rule].setdefault(seen.agents[index], int(at[index]))
    bad = {row["agent_id"]: int(row["onset_seq"]) for row in agents if row["compromised"] == "1"}
    for rule, alarms in first.items():
        found = sum(name in bad and seq >= bad[name] for name, seq in alarms.items())
        false = len(alarms) - found
        low, high = wilson_interval(false, len(alarms))
        title = f"{name}: found by {rule} at cuts of {CUT_ROWS} events ({found} of {len(bad)}; false alarms {false} of "
        title += f"{len(alarms)}, 95 % {low:.3f} to {high:.3f})"
        bench.record(title, round(found / len(bad), 4), unit="")


def speed(bench: Bench) -> None:
    """Time of a decision, CPU, over a fleet of 10,000 in which 300 stand out."""
    values = draw(np.random.default_rng(0), 10_000, 300, 0.0).tolist()
    for name, rule in RULES.items():
        spent: list[float] = []
        for _ in range(5 if bench.quick else 20):
            start = time.process_time()
            rule(values, len(values), ALPHA_PPM)
            spent.append(1e3 * (time.process_time() - start))
        bench.record_all(f"one decision over 10,000 agents by {name}", spent, unit="ms")


def measure(bench: Bench) -> None:
    """Simulated fleets, labelled fleets, time."""
    simulated(bench)
    if not shared_data().is_dir():
        bench.count(labelled_data=f"not found at {shared_data()}; simulated fleets only")
    elif not bench.quick:
        for name in FLEETS:
            labelled(bench, name)
    speed(bench)


if __name__ == "__main__":
    raise SystemExit(main("alarm_rule", measure))
