"""Which mapping a table gets, and what is said when it does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tocsin.errors import InputError
from tocsin.ingest.mapping import check_columns, choose_mapping, feature_columns, load_mapping, shipped_mappings

CALLS = ["agent_id", "role", "phase", "session", "seq", "t", "kind", "tool", "effect", "args", "prompt_sig"]


def number(columns: list[str]) -> dict[str, str]:
    return dict.fromkeys(columns, "number")


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (CALLS, "tool calls"),
        (["agent_id", "seq", "phase", "cmd_class", "env", "ref_risk", "risk"], "command risk"),
        (["agent_id", "seq", "phase", "m00", "m01"], "server metrics"),
        (["agent_id", "seq", "latency"], "guessed"),
    ],
)
def test_chosen_by_columns(columns: list[str], name: str) -> None:
    assert choose_mapping(columns, number(columns)).name == name


def test_a_phase_in_words_is_not_an_action() -> None:
    mapping = choose_mapping(["agent_id", "seq", "phase", "x"], number(["agent_id", "seq", "x"]) | {"phase": "text"})
    assert (mapping.columns.phase, mapping.columns.action) == ("phase", "")


def test_shipped_mappings_name_only_columns_they_match() -> None:
    assert len(shipped_mappings()) >= 3
    for mapping in shipped_mappings():
        assert mapping.match.columns or mapping.match.patterns


def test_unknown_column_names_the_nearest() -> None:
    mapping = choose_mapping(CALLS, number(CALLS))
    with pytest.raises(InputError, match="did you mean 'tools'"):
        check_columns(mapping, [name.replace("tool", "tools") for name in CALLS])


def test_features_are_expanded_in_table_order() -> None:
    columns = ["agent_id", "seq", "phase", "m01", "m00", "other"]
    mapping = choose_mapping(columns, number(columns))
    assert feature_columns(mapping, columns) == ["m01", "m00"]


@pytest.mark.parametrize("columns", [["seq", "x"], ["agent_id", "x"], ["agent_id", "seq"]])
def test_guess_needs_agent_order_and_something_to_watch(columns: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        choose_mapping(columns, number(columns))
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["name = 1\n[columns]\n", "nonsense", "name='x'\n[columns]\nagnet='a'\n"])
def test_bad_mapping_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"mapping\.toml"):
        load_mapping(path)
