"""Commands to paste next. Strangers chose the names in them: a shell must take each as one word and nothing more."""

from __future__ import annotations

import shlex
from pathlib import Path


def agents_command(data: Path | None) -> str:
    """List the agents of a data directory (None: the default one)."""
    return "tocsin agents" + _data(data)


def explain_command(agent_id: str, data: Path | None) -> str:
    """Explain one agent; where its name cannot be shown as typed, list the agents instead."""
    if not agent_id.isprintable():
        return agents_command(data)
    return f"tocsin explain{_data(data)} -- {shlex.quote(agent_id)}"


def quality_command(data: Path | None) -> str:
    """Show how good the alarms are."""
    return "tocsin quality" + _data(data)


def verify_command(certificate: Path, roster: Path) -> str:
    """Check a certificate against the monitors of a data directory."""
    return f"tocsin verify {shlex.quote(str(certificate))} --roster {shlex.quote(str(roster))}"


def _data(data: Path | None) -> str:
    return f" --data {shlex.quote(str(data))}" if data else ""
