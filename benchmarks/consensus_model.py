"""How long agreement would take among monitors that this machine cannot hold: the latency model's predictions.

Real replicas in virtual time (`tocsin.sim.latency`), one core, one disk and one link of 1 Gb/s for each monitor; what
signatures and messages take is measured here, a commit takes what a quiet disk takes (1 ms). One monitor states
evidence; counted is the time to the certificate at every honest monitor. `benchmarks.consensus_sockets` says how well
the model predicts what can be run. The view timeout is 5 s, so that no row is a view change except where the leader
is silent: with the usual 500 ms a fleet of 1000 with Ed25519 certificates would give up on leaders that work.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import uvloop

from benchmarks._costs import carrying, measure_costs
from benchmarks._harness import Bench, main, percentile
from tocsin.consensus.inputs import MILLISECOND_NS, ConsensusConfig
from tocsin.sim.latency import Costs, Faults, LatencyModel, Outcome
from tocsin.sim.links import GIGABIT, Network, eight_regions, lan, wide

COMMIT_NS = MILLISECOND_NS
PATIENT = ConsensusConfig(view_timeout_ns=5_000 * MILLISECOND_NS)
USUAL = ConsensusConfig()
NONE = Faults()


@dataclass(frozen=True)
class Case:
    """A row. `bound` is for the p99 at n = 1000."""

    name: str
    network: Callable[[], Network]
    faults: Callable[[int], Faults]
    bound: str
    config: ConsensusConfig = PATIENT
    largest: int = 1000  # a silent leader makes n * n timeouts, more than can be stepped through here


def third_silent(n: int) -> Faults:
    """f monitors, not the leader nor who states, say nothing."""
    return Faults(silent=frozenset(random.Random(n).sample(range(2, n), (n - 1) // 3)))


def third_garbling(n: int) -> Faults:
    """f monitors vote with signatures that do not hold."""
    return Faults(garbling=frozenset(random.Random(n).sample(range(2, n), (n - 1) // 3)))


def no_leader(_: int) -> Faults:
    """The first leader is silent."""
    return Faults(silent=frozenset({0}))


def fast_lan() -> Network:
    """A data centre with 10 Gb/s."""
    return replace(lan(), name="LAN at 10 Gb/s", bits_per_second=10 * GIGABIT)


CASES = (
    Case("LAN, no faults", lan, lambda _: NONE, "< 250"),
    Case("LAN at 10 Gb/s, no faults", fast_lan, lambda _: NONE, ""),
    Case("LAN, a third silent", lan, third_silent, "< 250"),
    Case("LAN, a third send garbage votes", lan, third_garbling, "< 500"),
    Case("8 regions, no faults", eight_regions, lambda _: NONE, "< 400"),
    Case("20-80 ms links, a third silent", wide, third_silent, "< 500"),
    Case("LAN, silent leader", lan, no_leader, "< 400", USUAL, 100),
    Case("8 regions, silent leader", eight_regions, no_leader, "< 500", USUAL, 100),
)


def decide(case: Case, n: int, costs: Costs) -> Outcome:
    """One decision."""
    return LatencyModel(n, case.network(), costs, config=case.config, faults=case.faults(n), seed=n).agree([1])


def measure(bench: Bench) -> None:
    """All cases at 100 monitors, and at 1000 those that can be stepped through."""
    message_ns, byte_ns = uvloop.run(carrying(2000 if bench.quick else 20_000))
    costs = measure_costs(message_ns, byte_ns, COMMIT_NS)
    bench.count(verify_us=costs.verify_ns / 1e3, open_us=costs.open_ns / 1e3, commit_ms=COMMIT_NS / 1e6)
    for n in (100,) if bench.quick else (100, 1000):
        for case in CASES:
            if n > case.largest:
                continue
            outcome = decide(case, n, costs)
            name, times = f"{n} monitors, {case.name}", outcome.certificate_ms
            bound = case.bound if n == 1000 else ""
            spread = (times[0], times[-1])
            p50, p99 = percentile(times, 50), percentile(times, 99)
            bench.record(f"{name}, p50", p50, unit="ms", runs=len(times), spread=spread)
            bench.record(
                f"{name}, p99", p99, unit="ms", requirement="R2.9", bound=bound, runs=len(times), spread=spread
            )
            if case.network is lan and case.faults(n) == NONE:
                bound = "<= 6" if n == 1000 else ""
                per = outcome.messages / n
                bench.record(f"{n} monitors, messages a decision / n", per, unit="", requirement="R2.8", bound=bound)
                bench.record(f"{n} monitors, bytes a decision", outcome.message_bytes / 1e6, unit="MB")


if __name__ == "__main__":
    raise SystemExit(main("consensus_model", measure))
