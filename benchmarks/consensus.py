"""Agreement under simulated faults: seeds without a violation, planted errors found, every order of a small case.

The simulator is `tocsin sim`: real monitors on a simulated network, clock, processor and disk, with lying monitors. The
table of planted errors is written to docs/consensus.md, between its markers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks._harness import Bench, main
from tocsin.sim.campaign import campaign
from tocsin.sim.explore import Explorer
from tocsin.sim.mutants import MUTANTS, Caught, hunt

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "consensus.md"
BEGIN, END = "<!-- planted errors -->", "<!-- end of planted errors -->"
SEEDS = {4: 2000, 7: 200, 10: 100, 31: 5}  # in minutes; `tocsin sim --seeds N` for more
QUICK = {4: 100, 7: 10, 10: 5}
HUNTED = 400  # seeds after which a planted error counts as not found
MOST_STATES = 1_000_000


def measure(bench: Bench) -> None:
    """Campaigns, the table of planted errors, and the exhaustive search."""
    _campaigns(bench)
    _planted(bench)
    _explored(bench)


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
    text = DOCUMENT.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    DOCUMENT.write_text(f"{head}{BEGIN}\n" + "\n".join(rows) + f"\n{END}{tail}", encoding="utf-8")


def _explored(bench: Bench) -> None:
    for liar, last_view in ((0, 0), (1, 0), (0, 1), (1, 1), (2, 1)):
        began = time.process_time()
        found = Explorer(liar, last_view).run(2000 if bench.quick else MOST_STATES)
        if found.violation:
            print(f"liar {liar}, {found.views} views: {found.violation}")
        name = f"violations in {found.views} views, liar {liar}, {'all' if found.complete else 'first'} states"
        bench.record(name, bool(found.violation), unit="", requirement="R2.5", bound="== 0", runs=found.states)
        bench.record(f"CPU of that, liar {liar}, {found.views} views", time.process_time() - began, unit="s")


if __name__ == "__main__":
    raise SystemExit(main("consensus", measure))
