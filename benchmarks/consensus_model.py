"""How long agreement would take among monitors that this machine cannot hold: the latency model's predictions.

Real replicas in virtual time (`tocsin.sim.latency`), one core, one disk and one link of 1 Gb/s for each monitor; what
signatures, sums and messages take is measured here, a commit takes what a quiet disk takes (1 ms). One monitor states
evidence; counted is the time from the statement to the certificate at every honest monitor, and beside it the time from
the proposal. Certificates are lists of Ed25519 signatures up to 100 monitors and BLS sums with 1000 (100 has both).
`benchmarks.consensus_sockets` says how well the model predicts what can be run.

The view timeout is 5 s, so that no row is a view change but where the leader is silent; a leader of whom nothing is
heard is given up after 100 ms in a data centre and 150 ms across regions: longer than its proposal needs.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import uvloop

from benchmarks._costs import carrying, measure_costs
from benchmarks._harness import Bench, main, percentile
from tocsin.consensus.inputs import MILLISECOND_NS, ConsensusConfig
from tocsin.sim.latency import Costs, Faults, LatencyModel, Outcome
from tocsin.sim.links import GIGABIT, Network, eight_regions, lan, wide

COMMIT_NS = MILLISECOND_NS
NONE = Faults()


def patience(leader_timeout_ms: int) -> ConsensusConfig:
    """For leaders that work 5 s, for one of whom nothing is heard so long."""
    return ConsensusConfig(view_timeout_ns=5_000 * MILLISECOND_NS, leader_timeout_ns=leader_timeout_ms * MILLISECOND_NS)


NEAR, FAR, WIDE = patience(100), patience(150), patience(400)


@dataclass(frozen=True)
class Case:
    """A row. `bound` is for the p99 at n = 1000."""

    name: str
    network: Callable[[], Network]
    faults: Callable[[int], Faults]
    bound: str
    config: ConsensusConfig = NEAR


def third_silent(n: int) -> Faults:
    """f monitors, neither of the first leaders nor who states, say nothing."""
    return Faults(silent=frozenset(random.Random(n).sample(range(3, n), (n - 1) // 3)))


def third_garbling(n: int) -> Faults:
    """f monitors vote with signatures that do not hold."""
    return Faults(garbling=frozenset(random.Random(n).sample(range(3, n), (n - 1) // 3)))


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
    Case("LAN, silent leader", lan, no_leader, "< 400"),
    Case("LAN, a third send garbage votes, first time", lan, third_garbling, "< 500"),
    Case("8 regions, no faults", eight_regions, lambda _: NONE, "< 400", FAR),
    Case("8 regions, silent leader", eight_regions, no_leader, "< 500", FAR),
    Case("20-80 ms links, a third silent", wide, third_silent, "< 500", WIDE),
)
SIZES = ((4, False), (31, False), (100, False), (100, True), (1000, True))


def model_of(case: Case, n: int, costs: Costs, *, adds_up: bool) -> LatencyModel:
    """Nothing decided yet."""
    return LatencyModel(n, case.network(), costs, config=case.config, faults=case.faults(n), adds_up=adds_up, seed=n)


def measure_case(bench: Bench, case: Case, n: int, costs: Costs, *, adds_up: bool) -> None:
    model = model_of(case, n, costs, adds_up=adds_up)
    outcome = model.agree([2 if case.faults is third_garbling else 1])
    name = f"{n} monitors{', sums' if adds_up and n < 1000 else ''}, {case.name}"
    bound = case.bound if n == 1000 else ""
    report(bench, name, outcome, bound)
    if case.faults is third_garbling:
        report(bench, f"{name}; the decision after it", model.agree([2]), "")
    if case.network is lan and case.faults(n) == NONE:
        per, bound = outcome.messages / n, "<= 6" if n == 1000 else ""
        bench.record(f"{name}, messages a decision / n", per, unit="", requirement="R2.8", bound=bound)
        bench.record(f"{name}, bytes a decision", outcome.message_bytes / 1e6, unit="MB")


def report(bench: Bench, name: str, outcome: Outcome, bound: str) -> None:
    times, spread = outcome.certificate_ms, (outcome.certificate_ms[0], outcome.certificate_ms[-1])
    p50, p99 = percentile(times, 50), percentile(times, 99)
    bench.record(f"{name}, p50", p50, unit="ms", runs=len(times), spread=spread)
    bench.record(f"{name}, p99", p99, unit="ms", requirement="R2.9", bound=bound, runs=len(times), spread=spread)
    since = p99 - outcome.proposed_ms
    bench.record(f"{name}, p99 from the first proposal", since, unit="ms", runs=len(times))


def measure(bench: Bench) -> None:
    """All cases at every size."""
    message_ns, byte_ns = uvloop.run(carrying(2000 if bench.quick else 20_000))
    costs = measure_costs(message_ns, byte_ns, COMMIT_NS)
    bench.count(verify_us=costs.verify_ns / 1e3, open_us=costs.open_ns / 1e3, sum_us=costs.sum_ns / 1e3)
    bench.count(message_us=message_ns / 1e3, commit_ms=COMMIT_NS / 1e6)
    model_of(CASES[0], 4, costs, adds_up=True).agree([1])  # what is loaded on first use is charged to nobody
    for n, adds_up in SIZES[: 3 if bench.quick else None]:
        for case in CASES:
            print(f"{n} monitors{', sums' if adds_up else ''}, {case.name}", file=sys.stderr, flush=True)
            measure_case(bench, case, n, costs, adds_up=adds_up)


if __name__ == "__main__":
    raise SystemExit(main("consensus_model", measure))
