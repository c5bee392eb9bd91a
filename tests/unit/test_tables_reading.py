"""Tables as event batches: order, phases, sessions, arguments, and errors with a remedy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from tocsin.errors import InputError
from tocsin.ingest.tables import read_table
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
