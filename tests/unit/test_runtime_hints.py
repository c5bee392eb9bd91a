"""What is printed to be pasted runs one command, whatever an agent calls itself."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.runtime.hints import explain_command, verify_command


@given(st.text(min_size=1))
def test_a_name_is_one_word_after_the_end_of_options(name):
    words = shlex.split(explain_command(name, Path("some where")))
    if name.isprintable():
        assert words == ["tocsin", "explain", "--data", "some where", "--", name]
    else:
        assert words == ["tocsin", "agents", "--data", "some where"]


@pytest.mark.parametrize("name", ["$(touch PWNED)", "`id`", "a; rm -rf x", "--url=http://evil", "it's"])
def test_names_that_mean_something_to_a_shell(name):
    assert shlex.split(explain_command(name, None)) == ["tocsin", "explain", "--", name]


def test_paths_are_quoted_too():
    assert shlex.split(verify_command(Path("a b/c.json"), Path("d e"))) == [
        "tocsin",
        "verify",
        "a b/c.json",
        "--roster",
        "d e",
    ]


def test_an_address_that_was_given_is_kept():
    words = shlex.split(explain_command("a", None, "http://there:1/;x"))
    assert words == ["tocsin", "explain", "--url", "http://there:1/;x", "--", "a"]
