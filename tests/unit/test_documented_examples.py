"""Examples in docstrings and in the README are run, so they stay true."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import pkgutil
import re

import pytest

import tocsin

MODULES = [m.name for m in pkgutil.walk_packages(tocsin.__path__, "tocsin.") if not m.name.endswith("_pb2")]


def _examples(name: str) -> int:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return sum(len(test.examples) for test in finder.find(importlib.import_module(name)))


WITH_EXAMPLES = [name for name in MODULES if _examples(name)]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstrings(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_the_public_interface_has_examples():
    assert "tocsin.analysis" in WITH_EXAMPLES


def test_the_readme_example_ends_in_a_verdict(repository):
    (code,) = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    belief, verdict = printed.getvalue().splitlines()
    assert 0.01 < float(belief) < 0.1
    assert re.fullmatch(r"billing-1 compromised log e [5-9]\.\d", verdict)
