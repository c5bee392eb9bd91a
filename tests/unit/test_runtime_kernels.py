"""Compiled kernels do not outlive the sources they were made from."""

from __future__ import annotations

from tocsin.runtime.kernels import ROOMS, discard_stale


def _package(path):
    for room in ROOMS:
        (path / room / "__pycache__").mkdir(parents=True)
        (path / room / "source.py").write_text("one = 1\n")
        for kind in ("nbi", "nbc"):
            (path / room / "__pycache__" / f"source.kernel.{kind}").write_bytes(b"compiled")
    return path


def _compiled(path):
    return sorted(file.suffix for file in path.rglob("*.nb?"))


def test_kernels_go_when_any_source_changes_and_stay_otherwise(tmp_path):
    package = _package(tmp_path)
    assert discard_stale(package)
    assert _compiled(package) == []
    (package / "detection" / "__pycache__" / "source.kernel.nbi").write_bytes(b"compiled")
    assert not discard_stale(package)
    assert _compiled(package) == [".nbi"]
    (package / "stats" / "source.py").write_text("one = 2\n")
    assert discard_stale(package)
    assert _compiled(package) == []


def test_a_package_without_caches_is_no_problem(tmp_path):
    for room in ROOMS:
        (tmp_path / room).mkdir()
    assert discard_stale(tmp_path)
    assert not discard_stale(tmp_path)
