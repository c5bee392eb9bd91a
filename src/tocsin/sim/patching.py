"""Attributes replaced for a while: how errors are planted, and how signatures are made cheap."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def patched(*replacements: tuple[Any, str, Any]) -> Generator[None]:
    """`(owner, name, value)`: attributes of modules, classes or objects, as they were again afterwards."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    for owner, name, value in replacements:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
