"""House rules that no ready-made tool knows, as functions from a tree of files to a list of complaints."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

MOST_LINES = 400
SKIPPED_DIRECTORIES = {"__pycache__", "build", "dist", "node_modules", "tocsin-data", "tocsin-demo"}
# Written in halves, so that this file obeys its own rule.
FORBIDDEN = re.compile(
    "|".join(
        [
            r"(?:pypi|pythonhosted|npmjs|crates|rubygems)" + r"\.(?:org|com|io)",
            r"proxy\.golang" + r"\.org",
            r"(?<![\w.~-])/(?:work|root|home|Users)" + r"/",
        ]
    )
)
REQUIREMENT = re.compile(r"\bR([1-9]\.[1-9][0-9]?)\b")


def text_files(root: Path) -> Iterator[tuple[Path, str]]:
    """Every readable text file of the project, hidden directories other than .ci left out."""
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in parts[:-1])
        if hidden or SKIPPED_DIRECTORIES.intersection(parts) or not path.is_file():
            continue
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # golden bytes, images


def source_files(root: Path) -> list[Path]:
    """The package's own modules, generated ones left out."""
    return [path for path in sorted((root / "src").rglob("*.py")) if not path.stem.endswith("_pb2")]


def long_files(root: Path) -> list[str]:
    """A file is about one thing: at most MOST_LINES lines."""
    found: list[str] = []
    for path in source_files(root):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            found.append(f"{path.relative_to(root)}: {lines} lines")
    return found


def forbidden_words(root: Path) -> list[str]:
    """No address of a package registry and no path of somebody's machine."""
    found: list[str] = []
    for path, text in text_files(root):
        for number, line in enumerate(text.splitlines(), start=1):
            if match := FORBIDDEN.search(line):
                found.append(f"{path.relative_to(root)}:{number}: {match.group()}")
    return found


def packages_without_docstring(root: Path) -> list[str]:
    """Every directory of modules is a package, and says what it is for."""
    found: list[str] = []
    for directory in sorted({path.parent for path in source_files(root)}):
        init = directory / "__init__.py"
        if not init.exists():
            found.append(f"{directory.relative_to(root)}: no __init__.py")
        elif not ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))):
            found.append(f"{init.relative_to(root)}: no docstring")
    return found


def module_name(root: Path, path: Path) -> str:
    """'tocsin.stats.fdr' for src/tocsin/stats/fdr.py; the package's name for its __init__.py."""
    parts = path.relative_to(root / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def names_mentioned(text: str, package: str) -> set[str]:
    """Dotted names a module imports, in any form, or names in a string (lazy imports, `python -m`)."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (base, node.module or "") if part)
            found.add(stem)
            found.update(f"{stem}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(re.findall(r"tocsin(?:\.\w+)+", node.value))
    return found


def dead_modules(root: Path) -> list[str]:
    """Modules that no other module, benchmark, tool or entry point mentions. A test alone keeps nothing alive."""
    users = [*source_files(root), *(path for room in ("benchmarks", "tools") for path in (root / room).rglob("*.py"))]
    mentioned: dict[str, set[Path]] = {}
    for user in users:
        inside = user.is_relative_to(root / "src")
        name = module_name(root, user) if inside else ""
        package = name if user.stem == "__init__" else name.rpartition(".")[0]
        for mention in names_mentioned(user.read_text(encoding="utf-8"), package):
            mentioned.setdefault(mention, set()).add(user)
    scripts = (root / "pyproject.toml").read_text(encoding="utf-8")
    found: list[str] = []
    for path in source_files(root):
        name = module_name(root, path)
        if path.stem in ("__init__", "__main__") or re.search(rf'"{re.escape(name)}:', scripts):
            continue
        if not mentioned.get(name, set()) - {path}:
            found.append(str(path.relative_to(root)))
    return found


def stated_requirements(root: Path) -> list[str]:
    """Numbers of the rows of docs/requirements.md, in order, repetitions included."""
    text = (root / "docs" / "requirements.md").read_text(encoding="utf-8")
    return re.findall(r"^\| R(\d+\.\d+) \|", text, flags=re.MULTILINE)


def unknown_requirements(root: Path) -> list[str]:
    """Requirement numbers that a file names and the table does not have."""
    stated = set(stated_requirements(root))
    found: list[str] = []
    for path, text in text_files(root):
        found += [f"{path.relative_to(root)}: R{one}" for one in sorted(set(REQUIREMENT.findall(text)) - stated)]
    return found


def clashing_tests(root: Path) -> list[str]:
    """pytest imports test files by bare name: names are unique, and no directory of tests is a package."""
    tests = list((root / "tests").rglob("*.py"))
    found = [f"{path.relative_to(root)}: tests are not a package" for path in tests if path.name == "__init__.py"]
    counts = Counter(path.name for path in tests)
    return found + [f"tests: {name} exists {count} times" for name, count in sorted(counts.items()) if count > 1]


def unread_settings(root: Path, keys: Iterable[str]) -> list[str]:
    """Settings that nothing outside config.py reads: a knob that turns nothing is a lie."""
    others = [path.read_text(encoding="utf-8") for path in source_files(root) if path.name != "config.py"]
    found: list[str] = []
    for key in keys:
        section, _, name = key.partition(".")
        use = re.compile(rf"\b(?:settings|{section})\.(?:{section}\.)?{name}\b")
        if not any(use.search(text) for text in others):
            found.append(key)
    return found
