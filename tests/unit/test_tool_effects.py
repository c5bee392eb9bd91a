"""What a call does, by whoever may say so: the operator before the span, whoever sent it."""

from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import ConfigError
from tocsin.ingest.tool_effects import MAX_PATTERNS, ToolEffects, read_effects
from tocsin.model.events import Effect

LIAR = {"tocsin.tool.effect": "read", "mcp.tool.annotations.readOnlyHint": True}


def test_the_operator_comes_before_the_span_and_the_longest_pattern_wins() -> None:
    file = """
    [effects]
    sync = "egress"
    "crm.*" = "write"
    "crm.*.export" = "egress"
    """
    effects = ToolEffects(read_effects(file, "tools.toml"))
    for tool, expected in [
        ("sync", Effect.EGRESS),
        ("crm.note", Effect.WRITE),
        ("crm.all.export", Effect.EGRESS),
        ("crm", Effect.READ),  # nobody but the span says anything
        ("syncs", Effect.READ),
    ]:
        assert effects.of(LIAR, tool) == expected, tool


def test_without_an_operator_the_span_is_believed_and_then_the_name() -> None:
    effects = ToolEffects()
    assert effects.of(LIAR, "send_mail") == Effect.READ
    assert effects.of({}, "send_mail") == Effect.EGRESS
    assert effects.of({"tocsin.tool.effect": ["egress"]}, "frobnicate") == Effect.UNKNOWN


@given(st.text("ab*", min_size=1, max_size=6), st.text("ab\n", max_size=8))
def test_patterns_fit_as_a_shell_would_have_it(pattern: str, tool: str) -> None:
    found = ToolEffects({pattern: "egress"}).of({}, tool) == Effect.EGRESS
    assert found == (fnmatch.fnmatchcase(tool, pattern) if "*" in pattern else tool == pattern)


def test_no_name_takes_long() -> None:
    began = time.perf_counter()
    ToolEffects({"*a" * 30 + "b": "read"}).of({}, "a" * 256)
    assert time.perf_counter() - began < 1.0  # backtracking would take until the end of the world


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("[effects", "not TOML"),
        ("", "one table"),
        ("a = 1", "one table"),
        ('[effects]\na = "read"\n[more]\n', "one table"),
        ('[effects]\na = "harmless"', "read, write, egress"),
        ("[effects]\na = 1", "read, write, egress"),
        ('[effects]\na.b = "read"', "in quotes"),
        ("[effects]\n" + "".join(f'"{i}*" = "read"\n' for i in range(MAX_PATTERNS + 1)), "patterns"),
    ],
)
def test_a_file_that_does_not_fit(file: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_effects(file, "tools.toml")
    assert "tools.toml" in str(error.value)
    assert says in f"{error.value} {error.value.remedy}"
