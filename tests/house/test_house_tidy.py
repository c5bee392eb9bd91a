"""The house rules hold for this tree; each is broken on purpose in a small one to see that it would notice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import house_rules
import pytest

from tocsin.config import knobs

RULES: list[Callable[[Path], list[str]]] = [
    house_rules.long_files,
    house_rules.forbidden_words,
    house_rules.packages_without_docstring,
    house_rules.dead_modules,
    house_rules.unknown_requirements,
    house_rules.clashing_tests,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_this_tree_obeys(rule: Callable[[Path], list[str]], repository: Path):
    assert rule(repository) == []


def test_requirements_are_numbered_without_gap_or_repetition(repository: Path):
    numbers = [tuple(map(int, one.split("."))) for one in house_rules.stated_requirements(repository)]
    sections = [[number for _, number in group] for _, group in groupby(numbers, key=lambda pair: pair[0])]
    assert [len(section) for section in sections] == [11, 10, 6, 7, 5, 5]
    assert all(section == list(range(1, len(section) + 1)) for section in sections)


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    """A tree that obeys every rule: one package, one module, one user of it."""
    write(tmp_path, "pyproject.toml", '[project.scripts]\ntocsin = "tocsin.cli:main"\n')
    write(tmp_path, "docs/requirements.md", "| R1.1 | shown |\n")
    write(tmp_path, "src/tocsin/__init__.py", '"""Small."""\n')
    write(tmp_path, "src/tocsin/cli.py", "from tocsin import bell\n")
    write(tmp_path, "src/tocsin/bell.py", "# shows R1.1\n")
    write(tmp_path, "tests/unit/test_bell.py", "")
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_tidy_tree_is_left_alone(rule: Callable[[Path], list[str]], small_tree: Path):
    assert rule(small_tree) == []


@pytest.mark.parametrize(
    ("rule", "path", "text", "complaint"),
    [
        (house_rules.long_files, "src/tocsin/bell.py", "x = 1\n" * 401, "src/tocsin/bell.py: 401 lines"),
        (house_rules.forbidden_words, "docs/a.md", "see https://py" + "pi.org/p", "docs/a.md:1: py" + "pi.org"),
        (house_rules.forbidden_words, "tests/a.py", 'x = "/ho' + 'me/me/x"', "tests/a.py:1: /ho" + "me/"),
        (house_rules.forbidden_words, ".ci/run", "cd /wo" + "rk/x", ".ci/run:1: /wo" + "rk/"),
        (
            house_rules.packages_without_docstring,
            "src/tocsin/a/__init__.py",
            "",
            "src/tocsin/a/__init__.py: no docstring",
        ),
        (house_rules.packages_without_docstring, "src/tocsin/a/b.py", "", "src/tocsin/a: no __init__.py"),
        (house_rules.dead_modules, "src/tocsin/lost.py", "from tocsin import lost", "src/tocsin/lost.py"),
        (house_rules.dead_modules, "src/tocsin/cli.py", "", "src/tocsin/bell.py"),
        (
            house_rules.unknown_requirements,
            "tests/unit/test_bell.py",
            "# R1." + "2",
            "tests/unit/test_bell.py: R1." + "2",
        ),
        (house_rules.clashing_tests, "tests/fuzz/test_bell.py", "", "tests: test_bell.py exists 2 times"),
        (house_rules.clashing_tests, "tests/fuzz/__init__.py", "", "tests/fuzz/__init__.py: tests are not a package"),
    ],
)
def test_a_planted_violation_is_found(
    rule: Callable[[Path], list[str]], path: str, text: str, complaint: str, small_tree: Path
):
    write(small_tree, path, text)
    assert rule(small_tree) == [complaint]


@pytest.mark.parametrize(
    "text",
    [
        "import tocsin.bell",
        "from tocsin.bell import ring",
        "from . import bell",
        "from .bell import ring",
        "import_module('tocsin.bell')",
    ],
)
def test_a_module_is_alive_however_it_is_mentioned(text: str, small_tree: Path):
    write(small_tree, "src/tocsin/cli.py", text)
    assert house_rules.dead_modules(small_tree) == []


def test_every_setting_is_read(repository: Path):
    assert house_rules.unread_settings(repository, [knob.key for knob in knobs()]) == []


def test_a_setting_that_nobody_reads_is_found(small_tree: Path):
    write(small_tree, "src/tocsin/bell.py", "volume = settings.bell.volume\npitch = bell.pitch_hz\n")
    write(small_tree, "src/tocsin/config.py", "bell.colour")
    keys = ["bell.volume", "bell.pitch_hz", "bell.pitch", "bell.colour"]
    assert house_rules.unread_settings(small_tree, keys) == ["bell.pitch", "bell.colour"]
