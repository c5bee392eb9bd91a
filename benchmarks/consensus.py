"""Agreement under simulated faults: seeds without a violation, planted errors found, every order of a small case.

The simulator is `tocsin sim`: real monitors on a simulated network, clock, processor and disk, with lying monitors. The
table of planted errors is written to docs/consensus.md, between its markers. More seeds than anybody waits for are run
a part at a time by `python -m benchmarks._campaign`, and what is stored of them is reported here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from benchmarks._campaign import STORE, Part, load
from benchmarks._costs import carrying, measure_costs
from benchmarks._harness import Bench, main, percentile
from tocsin.consensus.inputs import MILLISECOND_NS, ConsensusConfig
from tocsin.consensus.replica import Replica
from tocsin.sim.campaign import campaign
from tocsin.sim.explore import Explorer
from tocsin.sim.faults import draw
from tocsin.sim.latency import LatencyModel
from tocsin.sim.links import lan
from tocsin.sim.mutants import MUTANTS, Caught, hunt
from tocsin.sim.pbft import Pbft
from tocsin.sim.world import Size, World

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "consensus.md"
SEEDS = {4: 1000, 7: 100, 10: 40, 31: 3}  # besides the stored ones
WANTED = 100_000
WANTED_LARGE = 200  # with 31 monitors or more
SIDE_BY_SIDE = (4, 31, 100, 300)
AGENTS = 10_000
PATIENT = ConsensusConfig(view_timeout_ns=5_000 * MILLISECOND_NS)
QUICK = {4: 100, 7: 10, 10: 5}
HUNTED = 400  # seeds after which a planted error counts as not found
MOST_STATES = 1_000_000


def measure(bench: Bench) -> None:
    """Campaigns, the table of planted errors, the exhaustive search, and PBFT beside ours."""
    _campaigns(bench)
    _stored(bench)
    _large(bench)
    _planted(bench)
    _explored(bench)
    _side_by_side(bench)


def _campaigns(bench: Bench) -> None:
    for monitors, seeds in (QUICK if bench.quick else SEEDS).items():
        began = time.process_time()
        totals = campaign(range(seeds), monitors, most_failures=10)
        seconds = time.process_time() - began
        bench.count(**{f"seeds at n={monitors}": totals.runs})
        name = f"violations, {monitors} monitors"
        bench.record(name, len(totals.failures), unit="", requirement="R2.5", bound="== 0", runs=totals.runs)
        for failure in totals.failures:
            print(f"{failure.replay}: {failure.detail}")
        healed = totals.slowest_heal_ms / 1000
        bench.record(f"slowest to finish after healing, {monitors} monitors", healed, unit="s", requirement="R2.6")
        bench.record(f"runs a second, {monitors} monitors", totals.runs / seconds, unit="1/s")
        per_decision = totals.messages / totals.decisions
        bench.record(f"messages a decision, faults included, {monitors} monitors", per_decision, unit="")


def _stored(bench: Bench) -> None:
    """What benchmarks._campaign has run so far, by any version of the code."""
    parts = load(STORE)
    for monitors in sorted({part.monitors for part in parts}):
        same = [part for part in parts if part.monitors == monitors]
        runs = sum(part.totals.runs for part in same)
        name = f"stored campaign, {monitors} monitors"
        violations = sum(len(part.totals.failures) for part in same)
        bench.record(f"{name}, violations found in any version", violations, unit="", runs=runs)
        latest = [part for part in same if part.commit == same[-1].commit]
        violations = sum(len(part.totals.failures) for part in latest)
        tried = sum(part.totals.runs for part in latest)
        name_latest = f"{name}, violations in version {latest[0].commit}"
        bench.record(name_latest, violations, unit="", requirement="R2.5", bound="== 0", runs=tried)
        hours = sum(part.seconds for part in same) / 3600
        bench.record(f"{name}, processor time", hours, unit="h", runs=runs)
        bench.record(f"{name}, decisions", sum(part.totals.decisions for part in same), unit="", runs=runs)
        slowest = max(part.totals.slowest_heal_ms for part in same) / 1000
        bench.record(f"{name}, slowest to finish after healing", slowest, unit="s", requirement="R2.6", runs=runs)
    for wanted, least, most in ((WANTED, 4, 10), (WANTED_LARGE, 31, 1000)):
        runs = sum(part.totals.runs for part in parts if least <= part.monitors <= most)
        name = f"stored seeds, {least} to {most} monitors"
        bench.record(name, runs, unit="", requirement="R2.5", bound=f">= {wanted}")
    if not bench.quick:
        write_campaign(parts)


def write_campaign(parts: Sequence[Part]) -> None:
    """The table of campaigns in docs/consensus.md: a row for each commit and number of monitors."""
    rows = [
        "| monitors | commit | seeds | decisions | CPU min | slowest to finish | violations |",
        "|---:|---|" + "---:|" * 5,
    ]
    together: dict[tuple[int, str], list[Part]] = {}
    for part in parts:
        together.setdefault((part.monitors, part.commit), []).append(part)
    for (monitors, commit), same in sorted(together.items()):
        runs = sum(part.totals.runs for part in same)
        decisions = sum(part.totals.decisions for part in same)
        minutes = sum(part.seconds for part in same) / 60
        slowest = max(part.totals.slowest_heal_ms for part in same) / 1000
        violations = sum(len(part.totals.failures) for part in same)
        rows.append(
            f"| {monitors} | {commit} | {runs:,} | {decisions:,} | {minutes:.1f} | {slowest:.1f} s | {violations} |"
        )
    _rewrite("campaign", rows)


def _large(bench: Bench) -> None:
    """Fleets of 10,000 agents under hundreds of monitors, of which a third and a few see the agents; with faults."""
    for monitors, seeds in ((31, 2),) if bench.quick else ((100, 3), (300, 1)):
        began = time.process_time()
        size = Size(agents=AGENTS, batches=1, observers=monitors // 3 + 7)
        messages = sum(World(draw(seed, monitors), size=size).run().messages for seed in range(seeds))
        name = f"violations, {monitors} monitors, {AGENTS} agents"  # a violation would have been raised
        bench.record(name, 0, unit="", requirement="R2.5", bound="== 0", runs=seeds)
        bench.record(f"messages of that, {monitors} monitors", messages, unit="")
        bench.record(f"CPU of that, {monitors} monitors", time.process_time() - began, unit="s")


def _side_by_side(bench: Bench) -> None:
    """One statement to its certificate everywhere, in the latency model: PBFT's normal case against ours."""
    rows = ["| monitors | p50 ms | p99 ms | messages | PBFT p50 ms | p99 ms | messages |", "|---:|" + "---:|" * 6]
    message_ns, byte_ns = uvloop.run(carrying(2000 if bench.quick else 20_000))
    costs = measure_costs(message_ns, byte_ns, MILLISECOND_NS)
    protocols: tuple[tuple[str, type[Replica]], ...] = (("tocsin", Replica), ("PBFT", Pbft))
    for n in SIDE_BY_SIDE[:2] if bench.quick else SIDE_BY_SIDE:
        cells = [f"{n}"]
        for name, kind in protocols:
            outcome = LatencyModel(n, lan(), costs, config=PATIENT, seed=n, kind=kind).agree([1])
            times = outcome.certificate_ms
            spread = (times[0], times[-1])
            for percent in (50, 99):
                value = percentile(times, percent)
                bench.record(f"{name}, {n} monitors, LAN, p{percent}", value, unit="ms", runs=n, spread=spread)
                cells.append(f"{value:.0f}")
            bench.record(f"{name}, {n} monitors, messages a decision", outcome.messages, unit="")
            cells.append(f"{outcome.messages:,}")
        rows.append(f"| {' | '.join(cells)} |")
    if not bench.quick:
        _rewrite("side by side", rows)


def _planted(bench: Bench) -> None:
    caught = [hunt(mutant, range(50 if bench.quick else HUNTED)) for mutant in MUTANTS]
    missed = [one.rule for one in caught if one.seed is None]
    bench.record("planted errors found", len(caught) - len(missed), unit="", bound=f">= {len(caught)}")
    for rule in missed:
        print(f"not found: {rule}")
    if not bench.quick:
        write_table(caught)


def write_table(caught: Sequence[Caught]) -> None:
    """Replace the table in docs/consensus.md."""
    rows = ["| broken rule | seed that noticed | CPU s | noticed as |", "|---|---:|---:|---|"]
    for one in caught:
        seed = f"{one.seed}" if one.seed is not None else f"none of {one.seeds}"
        rows.append(f"| {one.rule} | {seed} | {one.seconds:.1f} | {one.noticed} |")
    _rewrite("planted errors", rows)


def _rewrite(part: str, rows: Sequence[str]) -> None:
    """Replace what stands between two markers in docs/consensus.md."""
    begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
    text = DOCUMENT.read_text(encoding="utf-8")
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    DOCUMENT.write_text(f"{head}{begin}\n" + "\n".join(rows) + f"\n{end}{tail}", encoding="utf-8")


def _explored(bench: Bench) -> None:
    for liar, last_view in ((0, 0), (1, 0), (0, 1), (1, 1), (2, 1)):
        began = time.process_time()
        found = Explorer(liar, last_view, crashes=True).run(2000 if bench.quick else MOST_STATES)
        if found.violation:
            print(f"liar {liar}, {found.views} views: {found.violation}")
        name = f"violations in {found.views} views, liar {liar}, {'all' if found.complete else 'first'} states"
        bench.record(name, bool(found.violation), unit="", requirement="R2.5", bound="== 0", runs=found.states)
        bench.record(f"CPU of that, liar {liar}, {found.views} views", time.process_time() - began, unit="s")


if __name__ == "__main__":
    raise SystemExit(main("consensus", measure))
