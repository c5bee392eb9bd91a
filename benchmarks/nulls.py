"""Fleets in which nobody is compromised: how often anybody is flagged, whatever the law of what is measured or done.

Where nothing happens every alarm is false, so the share of false alarms among alarms is 1 in a fleet with an alarm and
0 in one without: its mean, which is to stay below alpha, is the share of fleets with an alarm.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks._harness import Bench, main
from benchmarks.detection import wilson
from tocsin.detection.detector import FleetDetector
from tocsin.detection.scoring import FleetAlarms
from tocsin.model.events import EventBatch, Kind
from tocsin.sim.loners import lone_fleet

F64 = NDArray[np.float64]
Law = Callable[[np.random.Generator, int, int], F64]

ALPHA = 0.01
BASELINE, LIVE = 200, 300  # rows an agent
FLEETS, AGENTS = 60, 50
MANY = 300  # fleets of the laws that are hardest to tell from shifts
LARGE = 10_000
DAY = 96  # rows
REGION = 25  # agents


def _wandering(rng: np.random.Generator, agents: int, rows: int, phi: float | F64 = 0.9) -> F64:
    """First-order autoregression with coefficient `phi`, of all or `(agents,)`."""
    shock = rng.normal(size=(rows, agents))
    out = np.empty_like(shock)
    out[0] = shock[0] / np.sqrt(1.0 - phi * phi)
    for t in range(1, rows):
        out[t] = phi * out[t - 1] + shock[t]
    return out


def _mixed_memory(rng: np.random.Generator, agents: int, rows: int) -> F64:
    """A quarter of the agents remember (coefficient .95), the others do not."""
    return _wandering(rng, agents, rows, np.where(rng.random(agents) < 0.25, 0.95, 0.0))


def _slow_and_noisy(rng: np.random.Generator, agents: int, rows: int) -> F64:
    """Slow wandering of deviation one (coefficient .97) under noise of deviation one: no first-order memory fits."""
    return _wandering(rng, agents, rows, 0.97) * np.sqrt(1.0 - 0.97**2) + rng.normal(size=(rows, agents))


def _skewed_and_volatile(rng: np.random.Generator, agents: int, rows: int) -> F64:
    """Lognormal times a level that wanders."""
    return np.exp(0.5 * rng.normal(size=(rows, agents)) + 0.15 * _wandering(rng, agents, rows, 0.95))


def _volatile(rng: np.random.Generator, agents: int, rows: int) -> F64:
    """GARCH(1, 1): calm and wild stretches (Bollerslev 1986)."""
    shock = rng.normal(size=(rows, agents))
    out, variance = np.empty_like(shock), np.ones(agents)
    for t in range(rows):
        out[t] = shock[t] * np.sqrt(variance)
        variance = 0.05 + 0.15 * out[t] ** 2 + 0.8 * variance
    return out


def _diurnal(rng: np.random.Generator, agents: int, rows: int) -> F64:
    """A day's wave of each agent's own height and hour, twice as high as the noise."""
    hour, height = rng.uniform(0, 2 * np.pi, agents), rng.uniform(0.0, 2.0, agents)
    return height * np.sin(2 * np.pi * np.arange(rows)[:, None] / DAY + hour) + rng.normal(size=(rows, agents))


def _fleet_drift(rng: np.random.Generator, agents: int, rows: int) -> F64:
    """The whole fleet climbs by three deviations once live."""
    climb = np.clip((np.arange(rows) - BASELINE) / LIVE, 0.0, 1.0)[:, None]
    return rng.normal(size=(rows, agents)) + 3.0 * climb


def _region_drift(rng: np.random.Generator, agents: int, rows: int) -> F64:
    """Every region climbs or falls once live, by a normal amount of its own of deviation one."""
    climb = np.clip((np.arange(rows) - BASELINE) / LIVE, 0.0, 1.0)[:, None]
    amount = rng.normal(size=-(-agents // REGION))
    return rng.normal(size=(rows, agents)) + climb * amount[np.arange(agents) // REGION]


HARD = ("autocorrelated .9", "volatile", "memories differ", "random walk", "slow and noisy", "regions drift")
LAWS: dict[str, Law] = {
    "normal": lambda rng, agents, rows: rng.normal(size=(rows, agents)),
    "student with two degrees": lambda rng, agents, rows: rng.standard_t(2, size=(rows, agents)),
    "cauchy": lambda rng, agents, rows: rng.standard_cauchy(size=(rows, agents)),
    "lognormal": lambda rng, agents, rows: rng.lognormal(3.0, 1.0, size=(rows, agents)),
    "counts": lambda rng, agents, rows: rng.poisson(3, size=(rows, agents)).astype(np.float64),
    "one in thirty": lambda rng, agents, rows: (rng.random((rows, agents)) < 1 / 30).astype(np.float64),
    "autocorrelated .9": _wandering,
    "volatile": _volatile,
    "memories differ": _mixed_memory,
    "random walk": lambda rng, agents, rows: np.cumsum(rng.normal(size=(rows, agents)), axis=0),
    "slow and noisy": _slow_and_noisy,
    "skewed and volatile": _skewed_and_volatile,
    "scales differ": lambda rng, agents, rows: rng.normal(size=(rows, agents)) * np.exp(rng.normal(size=agents)),
    "diurnal": _diurnal,
    "the fleet drifts": _fleet_drift,
    "regions drift": _region_drift,
}


def measurements(law: Law, agents: int, seed: int) -> EventBatch:
    """One measurement a row, all agents in turn."""
    rows = BASELINE + LIVE
    value = law(np.random.default_rng(seed), agents, rows)
    n = rows * agents
    agent = np.tile(np.arange(agents, dtype=np.int32), rows)
    return EventBatch(
        offset=0, agents=tuple(f"agent-{a}" for a in range(agents)), agent=agent, t_ns=np.arange(n),
        session=np.zeros(n, np.int64), phase=np.repeat(np.arange(rows) >= BASELINE, agents).astype(np.int8),
        kind=np.full(n, Kind.METRIC, np.int8), actions=(), action=np.full(n, -1, np.int32), effect=np.zeros(n, np.int8),
        feature_names=("measured",), values=value.reshape(-1, 1),
        groups=tuple(f"region-{r}" for r in range(-(-agents // REGION))),
        group=agent // REGION,
    )  # fmt: skip


def flagged(batch: EventBatch) -> int:
    """Agents with an alarm."""
    size = len(batch.agents)
    seen = FleetDetector().observe(batch)
    alarms = FleetAlarms(ALPHA, size).update(seen.agent_index, seen.log_e)
    return int(np.unique(seen.agent_index[alarms]).size)


def cell(bench: Bench, name: str, fleets: int, agents: int, make: Callable[[int], EventBatch]) -> None:
    """One kind of fleet, `fleets` of them."""
    counts = [flagged(make(seed)) for seed in range(fleets)]
    spoilt = sum(count > 0 for count in counts)
    title = f"{name}, {agents} agents: fleets with an alarm ({wilson(spoilt, fleets)}; {sum(counts)} agents)"
    bench.record(title, spoilt / fleets, unit="", requirement="R6.1", bound=f"<= {ALPHA}")


def others_flagged(seed: int, shift: float) -> tuple[int, int, int]:
    """(found, others flagged, taken over) where a fifth of one region shifts by `shift` deviations."""
    batch = measurements(LAWS["normal"], AGENTS, seed)
    taken = REGION // 5
    batch.values[(batch.agent < taken) & (batch.phase == 1), 0] += shift
    seen = FleetDetector().observe(batch)
    alarms = FleetAlarms(ALPHA, AGENTS).update(seen.agent_index, seen.log_e)
    raised = np.unique(seen.agent_index[alarms])
    return int((raised < taken).sum()), int((raised >= taken).sum()), taken


def taken_over(bench: Bench, fleets: int) -> None:
    """What takeovers do to those beside them: alarms of others, by size of the shift."""
    for shift in (1.0, 2.0, 4.0):
        counts = np.array([others_flagged(seed, shift) for seed in range(fleets)])
        found, others, total = (int(count) for count in counts.sum(axis=0))
        share = float(np.mean(counts[:, 1] / np.maximum(counts[:, 0] + counts[:, 1], 1)))
        name = f"a fifth of one region of {REGION} shifts by {shift:g} deviations, {fleets} fleets"
        bench.record(f"{name}: found ({wilson(found, total)})", found / total, unit="")
        bench.record(
            f"{name}: mean share of false alarms ({others} agents)", share, unit="", requirement="R6.1",
            bound=f"<= {ALPHA}",
        )  # fmt: skip


def measure(bench: Bench) -> None:
    """Every law in small fleets and in one large; tool calls of small fleets doing one job and different jobs."""
    fleets = 10 if bench.quick else FLEETS
    bench.count(baseline_rows=BASELINE, live_rows=LIVE, alpha=ALPHA)
    for name, law in LAWS.items():
        many = MANY if name in HARD and not bench.quick else fleets
        cell(bench, name, many, AGENTS, lambda seed, law=law: measurements(law, AGENTS, seed))
        if not bench.quick:
            cell(bench, name, 1, LARGE, lambda seed, law=law: measurements(law, LARGE, seed))
    taken_over(bench, fleets)
    for agents, jobs in ((2, 1), (4, 1), (6, 3), (20, 4), (40, 2)):
        kind = f"calls of {jobs} jobs"
        cell(
            bench, kind, fleets * (2 if agents < 20 else 1), agents,
            lambda seed, n=agents, jobs=jobs: lone_fleet(n, seed=seed, jobs=jobs).batch,
        )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main("nulls", measure))
