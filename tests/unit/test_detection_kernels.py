"""Compiled kernels use no number that another module owns.

A cached kernel is compiled again when its own file changes, not when an imported constant does: the old number would
stay in it, silently, on every machine that has run it before. Such numbers are passed as arguments.
"""

from __future__ import annotations

import ast
import enum
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tocsin

SOURCE = Path(tocsin.__file__).parent
KERNEL_MODULES = sorted(
    path
    for room in ("detection", "stats")
    for path in (SOURCE / room).glob("*.py")
    if "@njit" in path.read_text(encoding="utf-8")
)


def frozen_imports(source: str, module: ModuleType) -> Iterator[str]:
    """Names that a kernel in `source` reads and another tocsin module defines as a number, array or enumeration."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tocsin")
        for alias in node.names
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or "njit" not in " ".join(map(ast.unparse, node.decorator_list)):
            continue
        read = {name.id for part in node.body for name in ast.walk(part) if isinstance(name, ast.Name)}
        for name in sorted(read & imported):
            value = getattr(module, name)
            number = isinstance(value, (int, float, tuple, np.generic, np.ndarray))
            if number or (isinstance(value, type) and issubclass(value, enum.Enum)):
                yield f"{node.name} reads {name}"


def test_there_are_kernels() -> None:
    assert SOURCE / "detection" / "calls.py" in KERNEL_MODULES


@pytest.mark.parametrize("path", KERNEL_MODULES, ids=lambda path: path.stem)
def test_kernels_own_their_numbers(path: Path) -> None:
    name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    assert not list(frozen_imports(path.read_text(encoding="utf-8"), importlib.import_module(name)))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("return MAX_REPEAT", ["kernel reads MAX_REPEAT"]),
        ("return Effect.READ", ["kernel reads Effect"]),
        ("return use_of(0)", []),
        ("return 8", []),
    ],
)
def test_a_planted_number_is_found(line: str, found: list[str]) -> None:
    source = (
        "from tocsin.detection.calls import MAX_REPEAT\nfrom tocsin.detection.call_log import use_of\n"
        f"from tocsin.model.events import Effect\n@njit(cache=True)\ndef kernel():\n    {line}\n"
    )
    module = ModuleType("planted")
    exec(source.partition("@njit")[0], vars(module))
    assert list(frozen_imports(source, module)) == found
