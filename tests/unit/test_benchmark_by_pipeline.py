"""What is cross-validated by pipeline: who is in a fold's fleet, and where a bar comes from."""

from __future__ import annotations

import numpy as np

from benchmarks._by_pipeline import Outcome, agents_only, average_precision, bar_elsewhere, bar_of, halves, strangers
from benchmarks._harness import Bench
from tocsin.sim.loners import lone_fleet


def outcome(pipeline: str, belief: float, tier: str = "clean", found: bool = False, false: bool = False) -> Outcome:
    return Outcome(pipeline, tier, found, false, belief)


def test_a_fold_knows_of_no_other_agents() -> None:
    whole = lone_fleet(4, seed=3).batch
    seq = np.arange(len(whole)) * 10
    part, numbers = agents_only(whole, seq, {whole.agents[1], whole.agents[3]})
    assert part.agents == (whole.agents[1], whole.agents[3])
    rows = np.flatnonzero((whole.agent == 1) | (whole.agent == 3))
    assert np.array_equal(numbers, rows * 10)
    assert [part.agents[a] for a in part.agent] == [whole.agents[a] for a in whole.agent[rows]]
    assert np.array_equal(part.action, whole.action[rows])


def test_halves_share_no_pipeline_and_leave_none_out() -> None:
    names = [f"model-{i}" for i in range(7)]
    first, second = halves(names, 4)
    assert not first & second
    assert first | second == set(names)
    assert abs(len(first) - len(second)) == 1


def test_a_bar_comes_from_the_other_pipelines() -> None:
    calm = [outcome("calm", belief / 100) for belief in range(100)]
    wild = [outcome("wild", 50.0 + belief) for belief in range(100)]
    fleet = [*calm, *wild, outcome("calm", 60.0, "few"), outcome("wild", 60.0, "few")]
    bench = Bench("fold")
    bar_elsewhere(bench, "fleet", fleet, {})
    recall, false = (figure.value for figure in bench.figures[:2])
    assert recall == 0.5  # of calm, held against wild agents, nobody is found
    assert false == 0.5  # of wild, held against calm agents, everybody is flagged
    assert bar_of([outcome.belief for outcome in wild]) == 148.0


def test_intervals_count_an_agent_once() -> None:
    members = {
        "a": [outcome("a", 9.0, "few", found=True), outcome("a", 1.0)],
        "b": [outcome("b", 0.5, "few"), outcome("b", 1.0, false=True)],
    }
    bench = Bench("fold")
    strangers(bench, "fleet", ["a", "b"], lambda half: [o for name in sorted(half) for o in members[name]], {})
    found = next(figure for figure in bench.figures if "recall at the shipped" in figure.name)
    assert "1.0 of 2" in found.name
    assert (found.value, found.spread) == (0.5, (0.0, 1.0))
    false = next(figure for figure in bench.figures if "false agents" in figure.name)
    assert "1.0 of 2" in false.name


def test_average_precision_of_a_tie_is_that_of_the_group() -> None:
    good = np.array([True, False, True, False])
    assert average_precision(good, np.array([3.0, 2.0, 2.0, 1.0])) == 0.5 * 1.0 + 0.5 * 2 / 3
