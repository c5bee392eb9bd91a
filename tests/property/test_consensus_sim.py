"""Agreement under faults: whole monitors in a simulated world, invariants checked all the time (src/tocsin/sim).

Shows R2.1, R2.4, R2.5, R2.6 over many fault schedules; `tocsin sim --seeds N` runs more of them, and a failure here
prints the `tocsin sim` command that repeats it.
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tocsin.cli.app import app
from tocsin.sim.campaign import Failure, attempt, campaign, shrink
from tocsin.sim.faults import Schedule, draw
from tocsin.sim.mutants import MUTANTS
from tocsin.sim.pbft import Pbft
from tocsin.sim.world import Build, Result, Size, World


@pytest.mark.parametrize(("monitors", "seeds"), [(1, 3), (2, 5), (3, 5), (4, 70), (5, 5), (7, 8), (10, 3)])
def test_honest_monitors_agree_and_make_progress_under_faults(monitors: int, seeds: int):
    totals = campaign(range(seeds), monitors)
    assert totals.failures == [], [f"{failure.replay}: {failure.detail}" for failure in totals.failures]
    assert totals.runs == seeds
    assert totals.decisions >= seeds
    assert totals.verdicts > 0 or monitors == 1


def test_classic_pbft_survives_the_same_faults_with_more_messages():
    pbft = campaign(range(12), 4, build=Build(replica=Pbft))
    assert pbft.failures == [], [f"{failure.replay}: {failure.detail}" for failure in pbft.failures]
    calm = Schedule(3, 10, (), ())
    all_to_all, star = attempt(calm, Build(replica=Pbft)), attempt(calm)
    assert isinstance(all_to_all, Result)
    assert isinstance(star, Result)
    assert all_to_all.verdicts == star.verdicts
    assert all_to_all.messages - star.messages > 10 * 9 * star.decisions


def test_a_large_fleet_of_agents_is_seen_by_some_of_the_monitors():
    size = Size(agents=10_000, batches=1, observers=5)
    world = World(draw(5, 10), size=size)
    result = world.run()
    assert result.decisions > 0
    stated = {
        row["monitor"]
        for agent in world.invariants.posterior.entries
        for row in world.invariants.posterior.stated_about(agent)
    }
    assert 0 < len(stated - set(world.schedule.faulty)) <= 5
    assert len(world.invariants.posterior.entries) > 3


def test_a_seed_replays_to_the_same_run():
    first, second = attempt(draw(7, 4)), attempt(draw(7, 4))
    assert isinstance(first, Result)
    assert first == second
    assert first.digest != getattr(attempt(draw(8, 4)), "digest", "")


def test_without_faults_everything_is_decided_at_once():
    calm = attempt(Schedule(3, 4, (), ()))
    assert isinstance(calm, Result)
    assert calm.healed_after_ms < 700  # evidence is handed over half a second after the network heals
    assert calm.verdicts >= 1


def amnesia() -> tuple[Build, Failure]:
    """A broken build, and a failure of it."""
    build = next(mutant.build for mutant in MUTANTS if mutant.rule == "promises are forgotten in a crash")
    (failure,) = campaign(range(60), 4, build=build).failures
    return build, failure


def test_a_failure_shrinks_to_a_schedule_that_still_fails():
    build, failure = amnesia()
    small = shrink(failure, build)
    assert small.kind == failure.kind
    assert small.kept is not None
    schedule = draw(failure.seed, 4)
    assert len(small.kept) < len(schedule.faults)
    again = attempt(schedule.only(small.kept), build)
    assert isinstance(again, Failure)
    assert again.kind == failure.kind
    for one in small.kept:  # nothing can be taken from it
        rest = attempt(schedule.only(set(small.kept) - {one}), build)
        assert not isinstance(rest, Failure) or rest.kind != failure.kind
    assert small.replay == f"tocsin sim --seed {failure.seed} --monitors 4 --only {','.join(map(str, small.kept))}"


def test_the_command_runs_seeds_and_lists_faults():
    shown = CliRunner().invoke(app, ["sim", "--seed", "3"])
    assert shown.exit_code == 0
    assert "twins of 0" in shown.output
    assert "all invariants held" in shown.output
    several = CliRunner().invoke(app, ["sim", "--seeds", "3", "--monitors", "3", "--json"])
    assert several.exit_code == 0
    assert json.loads(several.stdout)["runs"] == 3
    fewer = CliRunner().invoke(app, ["sim", "--seed", "3", "--only", "0", "--json"])
    assert json.loads(fewer.stdout)["decisions"] > 0


def test_the_command_says_what_failed_and_how_to_repeat_it(monkeypatch: pytest.MonkeyPatch):
    build, failure = amnesia()
    monkeypatch.setattr("tocsin.sim.world.Build", lambda: build)
    failed = CliRunner().invoke(app, ["sim", "--seed", str(failure.seed)])
    assert failed.exit_code == 1
    replay = next(line for line in failed.stdout.splitlines() if line.startswith("replay: "))
    again = CliRunner().invoke(app, replay.split()[2:])
    assert again.exit_code == 1
    assert failure.kind in again.stdout
