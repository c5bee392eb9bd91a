"""Each tool of `make check`, run as `make check` runs it, over a small tree with one violation planted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOOLS = Path(sys.executable).parent
ROOMS = ("monitor", "detection", "aggregation", "consensus", "wire", "trust", "stats", "model")


@pytest.fixture
def tree(tmp_path: Path, repository: Path) -> Path:
    """The project's rules over a package of empty rooms."""
    shutil.copy(repository / "pyproject.toml", tmp_path)
    plant(tmp_path, "src/tocsin/__init__.py", "")
    for room in ROOMS:
        plant(tmp_path, f"src/tocsin/{room}/__init__.py", "")
    for module in ("config", "errors", "analysis"):
        plant(tmp_path, f"src/tocsin/{module}.py", "")
    return tmp_path


def plant(tree: Path, path: str, code: str) -> None:
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    (tree / path).write_text(f'"""Planted."""\n{code}', encoding="utf-8")


def run(tree: Path, *command: str) -> tuple[int, str]:
    """Exit code and output of a tool that sees only the small tree."""
    environ = {**os.environ, "PYTHONPATH": str(tree / "src"), "NO_COLOR": "1", "COLUMNS": "200"}
    result = subprocess.run(
        [str(TOOLS / command[0]), *command[1:]], cwd=tree, env=environ, capture_output=True, text=True, check=False
    )
    return result.returncode, result.stdout + result.stderr


def ruff(tree: Path) -> tuple[int, str]:
    return run(tree, "ruff", "check", "--no-cache", "--output-format", "concise", ".")


def lint_imports(tree: Path) -> tuple[int, str]:
    return run(tree, "lint-imports", "--no-cache")


def test_nothing_planted_nothing_found(tree: Path):
    assert ruff(tree)[0] == 0
    code, output = lint_imports(tree)
    assert code == 0, output


OUTSIDE = ["asyncio", "socket", "threading", "time", "random", "secrets", "uuid", "sqlite3", "os", "pathlib", "logging"]


@pytest.mark.parametrize("module", OUTSIDE)
@pytest.mark.parametrize("room", ROOMS)
def test_ruff_keeps_the_outside_world_out(tree: Path, room: str, module: str):
    plant(tree, f"src/tocsin/{room}/planted.py", f"\nimport {module}\n\nprint_nothing = {module}\n")
    code, output = ruff(tree)
    assert code == 1
    assert f"src/tocsin/{room}/planted.py:3:8: TID251" in output


@pytest.mark.parametrize("room", ["runtime", "ingest", "sim", "demo", "dashboard", "cli"])
def test_ruff_lets_the_outer_rooms_do_their_work(tree: Path, room: str):
    plant(tree, f"src/tocsin/{room}/__init__.py", "")
    plant(tree, f"src/tocsin/{room}/planted.py", "\nimport time\n\nnow = time.time_ns\n")
    assert ruff(tree) == (0, "All checks passed!\n")


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("# TODO" + ": later", "FIX002"),
        ("\n\ndef ring():\n    return 1\n", "D103"),
        ("\nimport datetime\n\nnow = datetime.datetime.now\n", "TID251"),
        ("\n\ntry:\n    x = 1\nexcept Exception:\n    pass\n", "S110"),
        ("x = eval('1')\n", "S307"),
        ("print('x')\n", "T201"),
        ("# x = f(1)\n", "ERA001"),
        ("x = open('y')\n", "PTH123"),
    ],
)
def test_ruff_finds_the_rest(tree: Path, code: str, rule: str):
    plant(tree, "src/tocsin/stats/planted.py", code)
    exit_code, output = ruff(tree)
    assert exit_code == 1
    assert rule in output


@pytest.mark.parametrize(
    ("path", "code", "contract"),
    [
        ("stats/a.py", "import tocsin.consensus\n", "a room imports only from rooms below it BROKEN"),
        ("model/a.py", "from tocsin.wire import x\n", "a room imports only from rooms below it BROKEN"),
        ("detection/a.py", "import tocsin.aggregation\n", "a room imports only from rooms below it BROKEN"),
        ("trust/a.py", "def f():\n    import tocsin.stats\n", "a room imports only from rooms below it BROKEN"),
        ("attic/__init__.py", "", "a room imports only from rooms below it BROKEN"),
        ("model/a.py", "import time\n", "from monitor down nothing touches the outside world BROKEN"),
        ("config.py", "from os import environ\n", "from monitor down nothing touches the outside world BROKEN"),
        ("monitor/a.py", "import asyncio\n", "from monitor down nothing touches the outside world BROKEN"),
    ],
)
def test_import_linter_keeps_the_layers(tree: Path, path: str, code: str, contract: str):
    plant(tree, f"src/tocsin/{path}", code)
    exit_code, output = lint_imports(tree)
    assert exit_code == 1
    assert contract in output


def contracts_of(repository: Path) -> list[dict[str, list[str]]]:
    settings = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    return settings["tool"]["importlinter"]["contracts"]


@pytest.mark.parametrize(
    ("page", "indent"), [("ARCHITECTURE.md", ""), ("docs/decisions/0001-layout-and-layers.md", "    ")]
)
def test_the_drawn_layers_are_the_checked_ones(repository: Path, page: str, indent: str):
    layers = [re.sub(r"[()]", "", line) for line in contracts_of(repository)[0]["layers"]]
    assert "\n".join(indent + line for line in layers) in (repository / page).read_text(encoding="utf-8")


def test_no_room_below_monitor_is_left_out_of_the_contract(repository: Path):
    contracts = contracts_of(repository)
    layers = [name.strip(" ()") for line in contracts[0]["layers"] for name in line.split("|")]
    inner = layers[layers.index("monitor") :]
    package = repository / "src" / "tocsin"
    present = {f"tocsin.{one}" for one in inner if (package / one).is_dir() or (package / f"{one}.py").exists()}
    assert present == set(contracts[1]["source_modules"])


def test_basedpyright_is_strict(tree: Path, repository: Path):
    shutil.copytree(repository / "typings", tree / "typings")
    (tree / "benchmarks").mkdir()
    (tree / ".venv").symlink_to(TOOLS.parent)
    plant(
        tree,
        "src/tocsin/stats/sound.py",
        "from numba import njit\n\n\n@njit(cache=True)\ndef f(x: int) -> int:\n    return x\n",
    )
    plant(tree, "src/tocsin/stats/wrong.py", "from tocsin.stats.sound import f\n\nx = f('1')\n")
    plant(tree, "src/tocsin/stats/untyped.py", "def g(x):\n    return x\n")
    plant(
        tree,
        "src/tocsin/stats/hushed.py",
        "x: int = 'a'  # type: ignore\ny = 1  # pyright: ignore[reportGeneralTypeIssues]\n",
    )
    exit_code, output = run(tree, "basedpyright")
    assert exit_code == 1
    assert "hushed.py:2:10 - error" in output
    assert "hushed.py:3:26 - error: Unnecessary" in output
    assert "wrong.py:4:7 - error" in output
    assert "untyped.py:2:7 - error" in output
    assert "sound.py:" not in output


def test_stale_generated_code_is_found(tree: Path, repository: Path):
    shutil.copytree(repository / "tools", tree / "tools")
    proto = tree / "src/tocsin/wire/planted.proto"
    proto.write_text('syntax = "proto3";\npackage planted;\nmessage A { int32 a = 1; }\n')
    command = ("python", "tools/generate_protobuf.py")
    for generated in ("planted_pb2.py", "planted_pb2.pyi"):
        assert f"src/tocsin/wire/{generated} is out of date" in run(tree, *command, "--check")[1]
    assert run(tree, *command) == (0, "")
    assert run(tree, *command, "--check") == (0, "")
    proto.write_text(proto.read_text().replace("int32", "int64"))
    assert run(tree, *command, "--check")[0] == 1
