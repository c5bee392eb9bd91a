"""Agreement over real TCP sockets and fsynced journals on one machine, and how well the latency model predicts it.

n replicas run as tasks of one process: one core and one disk carry them all, which a deployment would not ask for. The
model (`tocsin.sim.latency`) is given what the machine takes for a signature, a message and a commit, measured in the
same run, and predicts the same runs; `benchmarks.consensus_model` then asks it about machines that are not here.
Partitions and kill -9 are between processes of their own.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks._committee import Committee, processor_ns
from benchmarks._costs import carrying, measure_costs, round_trips
from benchmarks._harness import Bench, main, percentile
from benchmarks._processes import Monitors
from tocsin.consensus.inputs import MILLISECOND_NS, ConsensusConfig
from tocsin.sim.latency import Costs, LatencyModel
from tocsin.sim.links import loopback

# Monitors, bound of the median in milliseconds, and whether votes are BLS shares that add up.
SIZES = ((4, "< 25", False), (16, "", False), (31, "< 150", False), (64, "", False), (100, "", False), (100, "", True))
# One machine carries everybody: nobody is to be taken for dead because the core is busy.
PATIENT = ConsensusConfig(view_timeout_ns=5_000 * MILLISECOND_NS)
SHORT = ConsensusConfig(proposal_delay_ns=2 * MILLISECOND_NS, view_timeout_ns=300 * MILLISECOND_NS)


@dataclass(frozen=True, slots=True)
class Runs:
    """Milliseconds from a statement to the certificate at the last monitor; what the machine did meanwhile."""

    took_ms: list[float]
    commit_ms: list[float]
    stretch: float  # wall time of a unit of processor time, waiting for a core included


def far_from_leader(epoch: int, n: int) -> int:
    """Who states: not the epoch's leader, which would save a message."""
    return (epoch + n // 2) % n


async def certificates(n: int, rounds: int, *, all_state: bool, adds_up: bool = False) -> Runs:
    """n monitors as tasks, one decision after the other."""
    took: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        async with Committee(n, Path(directory) / "journal.db", PATIENT, None, adds_up=adds_up) as committee:
            before = processor_ns()
            for k in range(rounds + 2):
                known = committee.newest
                began = time.perf_counter()
                committee.state(range(n) if all_state else [far_from_leader(k, n)])
                await committee.until(lambda known=known: committee.newest > known and committee.agreed())
                if k >= 2:
                    took.append((max(committee.decided[committee.newest].values()) - began) * 1e3)
                else:
                    before = processor_ns()
            ran, waited = (after - start for after, start in zip(processor_ns(), before, strict=True))
            return Runs(took, [1e3 * one for one in committee.journal.seconds], 1 + waited / ran)


def predicted(n: int, costs: Costs, one_way_ms: float, rounds: int, *, adds_up: bool) -> list[float]:
    """The model's milliseconds for the same runs."""
    model = LatencyModel(n, loopback(one_way_ms), costs, config=PATIENT, together=True, adds_up=adds_up)
    return [model.agree([far_from_leader(k, n)]).certificate_ms[-1] for k in range(rounds + 2)][2:]


def agreement(bench: Bench) -> None:
    """Measured and predicted side by side."""
    pings = asyncio.run(round_trips(300 if bench.quick else 2000))
    bench.record_all("round trip between two nodes, loopback", pings, unit="us")
    one_way_ms = statistics.median(pings) / 2e3
    message_ns, byte_ns = uvloop.run(carrying(2000 if bench.quick else 20_000))
    bench.record("processor time of one message, both ends", message_ns / 1e3, unit="core-us")
    for n, bound, adds_up in SIZES:
        rounds = max(5, min(100, 1200 // n)) // (4 if bench.quick else 1)
        runs = uvloop.run(certificates(n, rounds, all_state=False, adds_up=adds_up))
        who = f"{n} monitors{', sums' if adds_up else ''}"
        name = f"statement to certificate everywhere, {who}"
        bench.record_all(name, runs.took_ms, unit="ms", requirement="R2.9", bound=bound)
        bench.record(f"{name}, p99", percentile(runs.took_ms, 99), unit="ms", runs=rounds)
        commit_ms = statistics.mean(runs.commit_ms)
        costs = measure_costs(message_ns, byte_ns, int(1e6 * commit_ms), runs.stretch)
        model = predicted(n, costs, one_way_ms, min(rounds, 10), adds_up=adds_up)
        bench.record_all(f"... predicted by the model, {who}", model, unit="ms")
        ratio = statistics.median(model) / statistics.median(runs.took_ms)
        bench.record(f"... predicted/measured, {who}", ratio, unit="x")
        bench.record(f"... one commit meanwhile, {who}", commit_ms, unit="ms", runs=len(runs.commit_ms))
        bench.record(f"... wall time of processor time, {who}", runs.stretch, unit="x")
    for n in (4, 31):
        runs = uvloop.run(certificates(n, 5 if bench.quick else 20, all_state=True))
        bench.record_all(f"all {n} monitors state at once, to the last certificate", runs.took_ms, unit="ms")


async def heal_times(runs: int) -> list[float]:
    """Seconds from the end of a partition to the moment when all four monitors believe the same certified things."""
    took: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        async with Monitors(4, Path(directory), SHORT) as monitors:
            for k in range(runs):
                monitors.split({k % 4})
                await monitors.until(lambda k=k: not any(k % 4 in link for link in monitors.up))
                for _ in range(5):
                    monitors.state(range(4))
                    await monitors.agreed(i for i in range(4) if i != k % 4)
                healed = monitors.heal()
                await monitors.agreed()
                took.append(time.monotonic() - healed)
            assert not monitors.disagreements()
            assert not monitors.double_votes
    return took


async def kills(count: int, seed: int) -> tuple[int, int, int]:
    """SIGKILL at random moments: votes seen on the wire, slots voted in twice, epochs decided differently."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        async with Monitors(4, Path(directory), SHORT) as monitors:
            for _ in range(count):
                monitors.state(range(4))
                victim = rng.randrange(4)
                await asyncio.sleep(rng.uniform(0, 0.03))
                await monitors.kill(victim)
                monitors.state(i for i in range(4) if i != victim)
                await monitors.start(victim)
            monitors.state(range(4))
            await monitors.agreed()
            return len(monitors.votes), len(monitors.double_votes), len(monitors.disagreements())


def processes(bench: Bench) -> None:
    """Four processes, their links through relays."""
    healed = asyncio.run(heal_times(2 if bench.quick else 8))
    bench.record_all("heal of a cut-off monitor, 4 processes", healed, unit="s", requirement="R2.10", bound="< 10")
    count = 3 if bench.quick else 25
    votes, twice, differently = asyncio.run(kills(count, seed=1))
    bench.count(kills=count, votes_on_the_wire=votes)
    bench.record("slots voted in twice, kill -9 at random moments", twice, unit="", requirement="R2.5", bound="== 0")
    bench.record("epochs decided differently", differently, unit="", requirement="R2.5", bound="== 0")


def measure(bench: Bench) -> None:
    """All figures."""
    agreement(bench)
    processes(bench)


if __name__ == "__main__":
    raise SystemExit(main("consensus_sockets", measure))
