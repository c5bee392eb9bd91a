"""What a user installs with pip contains what the package needs at run time."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tocsin


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=repository, check=True, capture_output=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_every_file_of_the_package_is_in_the_wheel(wheel: zipfile.ZipFile, repository: Path):
    source = repository / "src"
    kept = {
        str(path.relative_to(source))
        for path in (source / "tocsin").rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".nbi", ".nbc") and "__pycache__" not in path.parts
    }
    assert kept <= set(wheel.namelist())
    assert {Path(name).suffix for name in kept} >= {".py", ".typed", ".toml", ".json", ".proto", ".html", ".css", ".js"}


def test_nothing_else_is_in_the_wheel(wheel: zipfile.ZipFile):
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert tops == {"tocsin", f"tocsin-{tocsin.__version__}.dist-info"}


def test_it_names_its_version_its_licence_and_its_command(wheel: zipfile.ZipFile):
    info = f"tocsin-{tocsin.__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert f"Version: {tocsin.__version__}\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "tocsin = tocsin.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert {f"{info}/licenses/{name}" for name in ("LICENSE", "NOTICE", "THIRD_PARTY.md")} <= set(wheel.namelist())
