"""The command line. Importing this package costs little: every command loads what it needs when it runs."""

from __future__ import annotations

from tocsin.cli.app import main

__all__ = ["main"]
