"""Tables as event batches: order, phases, sessions, arguments, and errors with a remedy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from tocsin.errors import InputError
from tocsin.ingest.tables import decode_table, load_table, read_table
from tocsin.model.events import EventBatch

METRICS = {
    "agent_id": ["a", "a", "a", "b", "b"],
    "seq": [0, 1, 5, 0, 2],
    "latency": [1.0, 2.0, 3.0, 4.0, None],
    "phase": [0, 1, 1, 0, 1],
}


def write(path: Path, columns: dict[str, list[object]]) -> Path:
    table = pa.table(columns)
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    elif path.suffix == ".csv":
        csv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


def rows(path: Path, batch_rows: int = 8192, baseline_share: float = 0.3) -> list[tuple[str, int, int, list[float]]]:
    return [
        (batch.agents[batch.agent[i]], int(seq[i]), int(batch.phase[i]), batch.values[i].tolist())
        for batch, seq in read_table(path, batch_rows=batch_rows, baseline_share=baseline_share)
        for i in range(len(batch))
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_every_format_gives_the_same_events(tmp_path: Path, suffix: str) -> None:
    found = rows(write(tmp_path / f"t{suffix}", METRICS))
    assert [(agent, seq, phase) for agent, seq, phase, _ in found] == [
        ("a", 0, 0), ("b", 0, 0), ("a", 1, 1), ("b", 2, 1), ("a", 5, 1),
    ]  # fmt: skip
    assert found[0][3] == [1.0]
    assert np.isnan(found[3][3][0])


def test_batches_are_slices_of_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", METRICS)
    assert repr(rows(path, batch_rows=2)) == repr(rows(path, batch_rows=100))


def test_time_orders_the_fleet_and_each_agent_keeps_its_own_order(tmp_path: Path) -> None:
    columns = {"agent_id": ["a", "a", "b"], "seq": [0, 1, 0], "t": [10.0, 5.0, 7.0], "x": [1, 2, 3]}
    assert [(agent, seq) for agent, seq, _, _ in rows(write(tmp_path / "t.parquet", columns))] == [
        ("b", 0), ("a", 0), ("a", 1),
    ]  # fmt: skip


def test_without_phase_a_share_of_each_agent_is_baseline(tmp_path: Path) -> None:
    columns = {"agent_id": ["a"] * 10 + ["b"] * 4, "seq": [*range(10), *range(4)], "x": list(range(14))}
    found = rows(write(tmp_path / "t.parquet", columns), baseline_share=0.5)
    assert sum(phase == 0 for agent, _, phase, _ in found if agent == "a") == 5
    assert sum(phase == 0 for agent, _, phase, _ in found if agent == "b") == 2


def calls() -> dict[str, list[object]]:
    argument = "to:email:abcd:0:1:9|body:long:beef:1:0:200"
    return {
        "agent_id": ["a", "a", "b"], "role": ["r", "r", "s"], "phase": [0, 0, 0], "session": [0, 1, 0],
        "seq": [0, 1, 0], "t": [0.0, 1.0, 2.0], "kind": ["call", "final", "call"],
        "tool": ["send", "_final", "read"], "effect": ["egress", "final", "read"],
        "args": [argument, None, ""], "prompt_sig": ["1 2 3", None, "7"],
    }  # fmt: skip


def test_calls_carry_arguments_words_and_sessions(tmp_path: Path) -> None:
    ((batch, _),) = read_table(write(tmp_path / "t.parquet", calls()))
    assert isinstance(batch, EventBatch)
    assert batch.kind.tolist() == [0, 1, 0]
    assert batch.effect.tolist() == [3, 4, 1]
    assert batch.arg_offset.tolist() == [0, 2, 2, 2]
    assert batch.arg_type.tolist() == [5, 2]
    assert batch.arg_flags.tolist() == [2, 1]
    assert batch.arg_len.tolist() == [9, 200]
    assert batch.prompt_word.tolist() == [1, 2, 3, 7]
    assert len(set(batch.session.tolist())) == 3  # the same label of two agents is two sessions
    assert 0 not in batch.session


def bad(name: str, change: dict[str, list[object]]) -> pytest.param:
    return pytest.param(METRICS | change, id=name)


@pytest.mark.parametrize(
    "columns",
    [
        bad("repeated seq", {"seq": [0, 1, 1, 0, 2]}),
        bad("falling seq", {"seq": [0, 5, 1, 0, 2]}),
        bad("nameless agent", {"agent_id": ["a", None, "a", "b", "b"]}),
        bad("seq missing", {"seq": [0, None, 5, 0, 2]}),
        pytest.param({"agent_id": [], "seq": [], "x": []}, id="empty"),
        pytest.param({"agent_id": ["a"], "seq": [0]}, id="nothing to watch"),
        pytest.param(calls() | {"args": ["broken", None, ""]}, id="broken argument"),
        pytest.param(calls() | {"t": [0.0, float("nan"), 1.0]}, id="row without a time"),
        pytest.param(calls() | {"t": [1e300, 1e300, 1e300]}, id="times of no unit"),
        pytest.param(calls() | {"t": [1.7e9, 1.7e12, 1.7e12]}, id="times of two units"),
        pytest.param(calls() | {"t": [5e10, 5e10, 5e10]}, id="times of no known unit"),
        pytest.param(calls() | {"t": pa.nulls(3)}, id="no times"),
        pytest.param(calls() | {"t": pa.array([None, 1, 2], pa.timestamp("ms"))}, id="a missing timestamp"),
        pytest.param(calls() | {"t": pa.array([253_402_000_000] * 3, pa.timestamp("s"))}, id="year 9999"),
        bad("unknown phase", {"phase": ["baseline", "live", "planning", "live", "live"]}),
        bad("missing phase", {"phase": ["baseline", "live", None, "live", "live"]}),
        bad("agent without a name", {"agent_id": ["a", "a", "a", "", "b"]}),
        bad("rounded seq", {"seq": [0.0, 1.0, 2.0**53, 0.0, 1.0]}),
        bad("seq beyond 64 bits", {"seq": pa.array([0, 1, 2**63, 0, 1], pa.uint64())}),
        bad("agents that are not UTF-8", {"agent_id": pa.array([b"\xff"] * 5).view(pa.string())}),
    ],
)
def test_errors_name_cause_and_remedy(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    with pytest.raises(InputError) as caught:
        list(read_table(write(tmp_path / "t.parquet", columns)))
    assert caught.value.cause
    assert caught.value.remedy


def test_missing_unknown_and_damaged_files(tmp_path: Path) -> None:
    damaged = tmp_path / "t.parquet"
    damaged.write_bytes(b"PAR1 no table")
    unknown = tmp_path / "t.xlsx"
    unknown.write_bytes(b"")
    for path in (tmp_path / "none.csv", damaged, unknown):
        with pytest.raises(InputError) as caught:
            list(read_table(path))
        assert caught.value.remedy


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("agent_id,seq,x,x\na,0,1,2\n")
    with pytest.raises(InputError, match="two columns are called 'x'"):
        list(read_table(path))


def times(path: Path, t: list[object]) -> tuple[list[int], tuple[str, ...]]:
    columns = {"agent_id": ["a"] * len(t), "t": t, "x": list(range(len(t)))}
    decoded = decode_table(load_table(write(path, columns)), None, 0.3, "t")
    return decoded.t_ns.tolist(), decoded.notes


@pytest.mark.parametrize(
    ("scale", "unit"), [(1, ""), (10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")]
)
def test_the_unit_of_times_is_recognised_and_said(tmp_path: Path, scale: int, unit: str) -> None:
    seconds = [1_700_000_000, 1_700_000_001]
    expected = [second * 10**9 for second in seconds]
    found, notes = times(tmp_path / "i.parquet", [second * scale for second in seconds])
    assert found == expected
    assert [unit in note for note in notes] == ([True] if unit else [])
    floats, _ = times(tmp_path / "f.parquet", [float(second * scale) for second in seconds])
    assert floats == expected


def test_integer_nanoseconds_are_not_rounded(tmp_path: Path) -> None:
    exact = [1_700_000_000_000_000_001, 1_700_000_000_000_000_002]
    assert times(tmp_path / "t.parquet", exact)[0] == exact


def test_a_phase_in_words_is_a_phase(tmp_path: Path) -> None:
    words = ["baseline", "train", "live", "Live", "test"]
    found = rows(write(tmp_path / "t.csv", METRICS | {"phase": words}))
    assert sorted((agent, seq, phase) for agent, seq, phase, _ in found) == [
        ("a", 0, 0), ("a", 1, 0), ("a", 5, 1), ("b", 0, 1), ("b", 2, 1),
    ]  # fmt: skip


def test_any_number_but_nought_is_live(tmp_path: Path) -> None:
    found = rows(write(tmp_path / "t.csv", METRICS | {"phase": [0, -1, 2, 0, 1]}))
    assert sorted((agent, seq, phase) for agent, seq, phase, _ in found)[1] == ("a", 1, 1)


@pytest.mark.parametrize("large", [2**53, 2**62])
def test_large_numbers_of_events_are_exact_and_in_order(tmp_path: Path, large: int) -> None:
    columns = {"agent_id": ["a", "a", "b"], "seq": [large, large + 1, 0], "x": [1, 2, 3]}
    found = rows(write(tmp_path / "t.parquet", columns))
    assert [(agent, seq) for agent, seq, _, _ in found] == [("b", 0), ("a", large), ("a", large + 1)]


@pytest.mark.parametrize(
    "names",
    [
        [1_000_000.0, 1_000_001.0, 1_000_002.0],
        [0.1, 0.1 + 1e-12, 0.1 + 2e-12],
        ["x" * 250 + end for end in "abc"],
        ["\N{SNOWMAN}" * 90 + end for end in "abc"],
        ["nan", "null", "NaN"],
    ],
)
def test_different_agents_stay_different(tmp_path: Path, names: list[object]) -> None:
    ((batch, _),) = read_table(write(tmp_path / "t.parquet", {"agent_id": names, "seq": [0, 0, 0], "x": [1, 2, 3]}))
    assert len(set(batch.agents)) == len(set(batch.agent.tolist())) == 3
    assert all(len(agent.encode()) <= 200 for agent in batch.agents)


def test_whole_numbers_name_agents_without_a_fraction(tmp_path: Path) -> None:
    ((batch, _),) = read_table(write(tmp_path / "t.parquet", {"agent_id": [7.0, 0.5], "seq": [0, 0], "x": [1, 2]}))
    assert batch.agents == ("7", "0.5")


def test_contexts_of_short_floats_keep_their_short_form(tmp_path: Path) -> None:
    risk = pa.array([0.1, 0.7], pa.float32())
    columns = {"agent_id": ["a", "b"], "seq": [0, 0], "cmd_class": [1, 2], "ref_risk": risk, "risk": [0.1, 0.2]}
    columns["phase"] = [0, 0]
    ((batch, _),) = read_table(write(tmp_path / "t.parquet", columns))
    assert sorted(batch.contexts) == ["0.1/1", "0.7/2"]


def test_agents_that_only_a_dictionary_names_do_not_count() -> None:
    names = pa.DictionaryArray.from_arrays(pa.array([2, 0, 2], pa.int8()), pa.array(["a", "ghost", "b"]))
    decoded = decode_table(pa.table({"agent_id": names, "seq": [0, 0, 1], "x": [1, 2, 3]}), None, 0.3, "t")
    assert decoded.agents == ("a", "b")
    assert decoded.agent.tolist() == [0, 1, 1]


def test_a_name_listed_twice_in_a_dictionary_is_one_agent() -> None:
    names = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int8()), pa.array(["a", "b", "a"]))
    decoded = decode_table(pa.table({"agent_id": names, "seq": [0, 0, 1], "x": [1, 2, 3]}), None, 0.3, "t")
    assert decoded.agents == ("a", "b")


def test_measurements_can_be_squared(tmp_path: Path) -> None:
    columns = {"agent_id": ["a"] * 4, "seq": [0, 1, 2, 3], "x": [1e308, -1e308, float("inf"), 2.0]}
    found = np.array([values[0] for *_, values in rows(write(tmp_path / "t.parquet", columns))])
    np.testing.assert_array_equal(found, [1e50, -1e50, np.nan, 2.0])
