"""Many seeds in a row, and the smallest schedule that still fails."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence

import msgspec

from tocsin.errors import TocsinError
from tocsin.sim.faults import Schedule, draw
from tocsin.sim.invariants import Violation
from tocsin.sim.world import Build, Result, World

COLLECT_EVERY = 64  # runs leave cycles behind; looking for them at every allocation costs a tenth of the time


class Failure(msgspec.Struct, frozen=True):
    """A run that violated an invariant. `kept`: positions of the faults it was run with; None: all of the seed's."""

    seed: int
    monitors: int
    kind: str
    detail: str
    kept: tuple[int, ...] | None = None

    @property
    def replay(self) -> str:
        """The command that repeats it."""
        only = f" --only {','.join(map(str, self.kept)) or 'none'}" if self.kept is not None else ""
        return f"tocsin sim --seed {self.seed} --monitors {self.monitors}{only}"


class Totals(msgspec.Struct):
    """What a campaign has come to so far."""

    runs: int = 0
    decisions: int = 0
    verdicts: int = 0
    messages: int = 0
    steps: int = 0
    slowest_heal_ms: int = 0
    slowest_seed: int = 0
    failures: list[Failure] = []

    def add(self, result: Result) -> None:
        """Count a run in which all held."""
        self.decisions += result.decisions
        self.verdicts += result.verdicts
        self.messages += result.messages
        self.steps += result.steps
        if result.healed_after_ms > self.slowest_heal_ms:
            self.slowest_heal_ms, self.slowest_seed = result.healed_after_ms, result.seed


def attempt(schedule: Schedule, build: Build | None = None) -> Result | Failure:
    """One run. What the code under test raises is a failure too: nothing that arrives may stop a monitor."""
    try:
        return World(schedule, build).run()
    except Violation as violation:
        return Failure(schedule.seed, schedule.monitors, violation.kind, str(violation))
    except (TocsinError, ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        return Failure(schedule.seed, schedule.monitors, f"{type(error).__name__} raised", f"{error}")


def campaign(
    seeds: Iterable[int],
    monitors: int,
    *,
    build: Build | None = None,
    most_failures: int = 1,
    progress: Callable[[Totals], None] | None = None,
) -> Totals:
    """Run seeds until `most_failures` have failed. `progress` is called after each."""
    totals = Totals()
    collecting = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        for seed in seeds:
            outcome = attempt(draw(seed, monitors), build)
            totals.runs += 1
            if isinstance(outcome, Failure):
                totals.failures.append(outcome)
            else:
                totals.add(outcome)
            if totals.runs % COLLECT_EVERY == 0:
                gc.collect()
            if progress is not None:
                progress(totals)
            if len(totals.failures) >= most_failures:
                break
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
    return totals


def shrink(failure: Failure, build: Build | None = None) -> Failure:
    """The same failure from as few faults as delta debugging (Zeller & Hildebrandt 2002) finds."""
    schedule = draw(failure.seed, failure.monitors)
    latest = failure

    def fails(kept: Sequence[int]) -> bool:
        nonlocal latest
        outcome = attempt(schedule.only(kept), build)
        if isinstance(outcome, Failure) and outcome.kind == failure.kind:
            latest = msgspec.structs.replace(outcome, kept=tuple(kept))
            return True
        return False

    minimal(list(range(len(schedule.faults))), fails)
    return latest


def minimal(items: list[int], fails: Callable[[Sequence[int]], bool]) -> list[int]:
    """A subset of `items` that `fails` and from which nothing can be taken; `items` themselves fail."""
    parts = 2
    while items:
        size = max(1, len(items) // parts)
        for start in range(0, len(items), size):
            rest = items[:start] + items[start + size :]
            if fails(rest):
                items, parts = rest, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(len(items), 2 * parts)
    return items
