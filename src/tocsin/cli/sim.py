"""`tocsin sim`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tocsin.cli.out import bold, counted, note, say, say_json
from tocsin.errors import InputError

if TYPE_CHECKING:
    from tocsin.sim.campaign import Failure, Totals
    from tocsin.sim.faults import Schedule
    from tocsin.sim.world import Result

PROGRESS_SECONDS = 2.0


def run_sim(*, seed: int, seeds: int, monitors: int, only: str | None, shrink: bool, as_json: bool) -> None:
    """Simulate, and say what happened; exit code 1 where an invariant does not hold."""
    from tocsin.sim.campaign import attempt
    from tocsin.sim.faults import draw

    if seeds > 1 and only is not None:
        raise InputError("--only is about the faults of one seed", remedy="leave out --seeds")
    if seeds > 1:
        _many(range(seed, seed + seeds), monitors, shrink=shrink, as_json=as_json)
        return
    schedule = draw(seed, monitors)
    kept = _positions(only)
    if kept is not None:
        schedule = schedule.only(kept)
    if not as_json:
        _show_schedule(schedule, kept)
    _one(attempt(schedule), shrink=shrink and kept is None, as_json=as_json)


def _positions(only: str | None) -> tuple[int, ...] | None:
    if only is None:
        return None
    try:
        return () if only == "none" else tuple(int(part) for part in only.split(","))
    except ValueError:
        raise InputError(f"--only {only!r} is no list of numbers", remedy="write --only 0,3,5 or --only none") from None


def _show_schedule(schedule: Schedule, kept: tuple[int, ...] | None) -> None:
    faulty = ", ".join(f"{monitor} ({schedule.role(monitor)})" for monitor in schedule.faulty)
    say(bold(f"seed {schedule.seed}, {schedule.monitors} monitors; nothing is expected of {faulty or 'nobody'}"))
    if schedule.faults:
        say("number, fault, how much or how often, monitors; without a time: how a faulty monitor lies")
    for position, fault in enumerate(schedule.faults):
        say(f"  {kept[position] if kept else position:3}  {fault.describe()}")


def _one(outcome: Result | Failure, *, shrink: bool, as_json: bool) -> None:
    from tocsin.sim.campaign import Failure

    if isinstance(outcome, Failure):
        _fail([outcome], shrink=shrink, as_json=as_json)
    elif as_json:
        say_json(outcome)
    else:
        say(
            f"all invariants held: {counted(outcome.decisions, 'decision')}, {counted(outcome.verdicts, 'verdict')}, "
            f"{counted(outcome.messages, 'message')}; everything was decided {outcome.healed_after_ms} ms "
            f"after healing (run {outcome.digest})"
        )


def _many(seeds: range, monitors: int, *, shrink: bool, as_json: bool) -> None:
    from tocsin.sim.campaign import campaign

    began = time.monotonic()
    totals = campaign(seeds, monitors, progress=_progress(len(seeds), began))
    took = time.monotonic() - began
    if totals.failures:
        _fail(totals.failures, shrink=shrink, as_json=as_json)
    if as_json:
        say_json(totals)
        return
    say(f"{totals.runs:,} seeds with {monitors} monitors in {took:.0f} s: no invariant was violated")
    say(f"  {totals.decisions:,} decisions, {totals.verdicts:,} verdicts, {totals.messages:,} messages")
    say(f"  slowest to finish after healing: {totals.slowest_heal_ms:,} ms (seed {totals.slowest_seed})")


def _progress(wanted: int, began: float) -> Callable[[Totals], None]:
    last = began

    def show(totals: Totals) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            rate = totals.runs / (now - began)
            left = (wanted - totals.runs) / rate
            note(f"{totals.runs:,} of {wanted:,} seeds, {rate:.0f} a second, {left:.0f} s to go")

    return show


def _fail(failures: list[Failure], *, shrink: bool, as_json: bool) -> None:
    from tocsin.sim.campaign import shrink as shrunk
    from tocsin.sim.faults import draw

    for failure in failures:
        note(f"seed {failure.seed} violates an invariant: {failure.detail}")
        if shrink:
            note("shrinking its faults ...")
            failure = shrunk(failure)
        if as_json:
            say_json(failure)
            continue
        say(f"violated: {failure.detail}")
        faults = draw(failure.seed, failure.monitors).faults
        for position in failure.kept or ():
            say(f"  {position:3}  {faults[position].describe()}")
        say(f"replay: {failure.replay}")
    sys.exit(1)
