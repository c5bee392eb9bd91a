"""What `import tocsin` gives, and what it does not load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tocsin
from tocsin import errors

PUBLIC = {
    "DistributedBehavioralAnalysis",
    "Session",
    "DistributedBaseline",
    "Evidence",
    "Verdict",
    "QuorumCertificate",
    "local",
    "__version__",
}
SOURCE = str(Path(tocsin.__file__).parent.parent)
HEAVY = ("numpy", "numba", "pyarrow", "google.protobuf", "nacl", "asyncio", "starlette")


def loaded_after(statement: str) -> set[str]:
    """Modules in a fresh interpreter after `statement`."""
    code = f"import sys\n{statement}\nprint(*sys.modules, file=sys.stderr)"
    environ = {**os.environ, "PYTHONPATH": SOURCE}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    return set(result.stderr.split())


def test_public_names_are_these():
    tree = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, Exception)}
    assert set(tocsin.__all__) == PUBLIC | tree
    assert tocsin.__all__ == sorted(tocsin.__all__)


@pytest.mark.parametrize("name", tocsin.__all__)
def test_every_public_name_resolves_to_what_it_is_called(name: str):
    value = getattr(tocsin, name)
    assert name in dir(tocsin)
    assert getattr(value, "__name__", name) == name


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'bell'"):
        _ = tocsin.bell


def test_import_loads_nothing_heavy():
    assert loaded_after("import tocsin").isdisjoint(HEAVY)
    assert loaded_after("import tocsin; tocsin.Evidence").isdisjoint(HEAVY)


def test_the_probe_would_notice():
    assert "numpy" in loaded_after("import tocsin.model.events")


def test_help_loads_nothing_heavy():
    statement = """
import contextlib, tocsin.cli
sys.argv = ["tocsin", "--help"]
with contextlib.suppress(SystemExit):
    tocsin.cli.main()
"""
    assert loaded_after(statement).isdisjoint(set(HEAVY) - {"asyncio"})
