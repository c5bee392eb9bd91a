"""The benchmark harness reports what was measured: medians, bounds, spread, and one stable document."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import _harness, run_all
from benchmarks._harness import Bench, percentile, within


@pytest.mark.parametrize(
    ("value", "bound", "holds"),
    [
        (150, "<= 150", True),
        (150, "< 150", False),
        (0.95, ">= 0.95", True),
        (0, "> 0", False),
        (0, "== 0", True),
        (9_999, "< 10,000", True),
    ],
)
def test_a_bound_is_read_as_it_is_written(value: float, bound: str, holds: bool):
    assert within(value, bound) is holds
    assert Bench("t").record("x", value, unit="s", bound=bound).holds is holds


@pytest.mark.parametrize("bound", ["150", "<=150", "about 3", "<= fast", "<="])
def test_a_bound_that_does_not_read_is_an_error(bound: str):
    with pytest.raises(ValueError, match=r"bound|float"):
        within(1, bound)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_several_runs_become_their_median_and_extremes(values: list[float]):
    figure = Bench("t").record_all("x", values, unit="s")
    assert (figure.value, figure.runs) == (statistics.median(values), len(values))
    assert figure.spread == (min(values), max(values))
    assert figure.holds is None


@given(st.lists(st.integers(-99, 99), min_size=1, max_size=40), st.integers(1, 100))
def test_percentile_is_the_least_value_that_enough_values_do_not_exceed(values: list[int], percent: int):
    enough = [one for one in sorted(values) if sum(other <= one for other in values) * 100 >= percent * len(values)]
    assert percentile(values, percent) == enough[0]


def test_calls_are_counted_as_stated():
    calls: list[int] = []
    figure = Bench("t").time("x", lambda: calls.append(1), runs=5, number=3, warmup=2)
    assert len(calls) == 2 + 5 * 3
    assert figure.runs == 5
    assert figure.value > 0


def test_a_quick_run_is_shorter_and_says_so():
    bench = Bench("t", quick=True)
    assert bench.time("x", lambda: None, runs=10).runs == 3
    assert "quick run" in _harness.render(bench)


def test_ratio_is_above_one_where_ours_does_less():
    bench = Bench("t")
    figure = bench.ratio("sum", ours=lambda: sum(range(10)), theirs=lambda: sum(range(100_000)), bound="> 1")
    assert figure.holds


def measure(bench: Bench) -> None:
    bench.count(agents=7)
    bench.record("a | b", 3.14159, unit="ms", requirement="R1.8", bound="<= 3", runs=2, spread=(3.0, 3.5))


def test_the_command_line_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "x.json"
    assert _harness.main("t", measure, ["--json", str(out)]) == 0
    assert "3.142" in capsys.readouterr().out
    document = json.loads(out.read_text())
    assert set(document) == {"topic", "quick", "machine", "versions", "counts", "figures"}
    assert document["figures"][0]["holds"] is False
    assert document["counts"] == {"agents": 7}


def test_numpy_scalars_are_written_as_numbers():
    bench = Bench("t")
    bench.count(agents=np.int64(7), share=np.float32(0.5))
    bench.record("x", np.float64(2), unit="s", bound="<= 3", spread=(np.float32(1), np.int64(3)))
    document = json.loads(json.dumps(_harness.report(bench)))
    assert document["counts"] == {"agents": 7, "share": 0.5}
    assert document["figures"][0] == {**document["figures"][0], "value": 2, "holds": True, "spread": [1, 3]}


def test_the_document_is_a_function_of_the_figures():
    bench = Bench("t")
    measure(bench)
    report = json.loads(json.dumps(_harness.report(bench)))
    other = {**report, "topic": "s"}
    text = run_all.render([report, other])
    assert text == run_all.render([other, report])
    assert r"| a \| b | 3.142 | ms | 3..3.5 | 2 | <= 3 | **no** | R1.8 |" in text
    assert "`python -m benchmarks.t`, over agents 7" in text


def test_every_topic_is_found_and_knows_its_name():
    for topic in run_all.topics():
        text = Path(run_all.__file__).with_name(f"{topic}.py").read_text()
        assert f'main("{topic}"' in text
