"""Fixtures and settings shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import tocsin.runtime  # noqa: F401 - throws away kernels that other sources made, before a test loads one

ROOT = Path(__file__).resolve().parent.parent

# The default draws the same examples on every machine; `explore` draws new ones and prints how to repeat a failure:
#   HYPOTHESIS_PROFILE=explore make test
_COMMON = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, **_COMMON)
settings.register_profile("explore", max_examples=1000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Directory of the labelled data sets, which are not part of the repository: `../shared/data` beside the checkout,
    or $SHARED_DATA_DIR. A test that needs them is skipped, by name, where they are absent."""
    path = Path(os.environ.get("SHARED_DATA_DIR", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"labelled data sets not found at {path}; set SHARED_DATA_DIR to their directory")
    return path
