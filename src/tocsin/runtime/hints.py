"""Commands to paste next. Strangers chose the names in them: a shell must take each as one word and nothing more."""

from __future__ import annotations

import shlex
from pathlib import Path


def agents_command(data: Path | None, url: str | None = None) -> str:
    """List the agents of a data directory (None: the default one), or of the tocsin that answers at `url`."""
    return "tocsin agents" + _where(data, url)


def explain_command(agent_id: str, data: Path | None, url: str | None = None) -> str:
    """Explain one agent; where its name cannot be shown as typed, list the agents instead."""
    if not agent_id.isprintable():
        return agents_command(data, url)
    return f"tocsin explain{_where(data, url)} -- {shlex.quote(agent_id)}"


def quality_command(data: Path | None, url: str | None = None) -> str:
    """Show how good the alarms are."""
    return "tocsin quality" + _where(data, url)


def verify_command(certificate: Path, roster: Path) -> str:
    """Check a certificate against the monitors of a data directory."""
    return f"tocsin verify {shlex.quote(str(certificate))} --roster {shlex.quote(str(roster))}"


def _where(data: Path | None, url: str | None) -> str:
    address = f" --url {shlex.quote(url)}" if url else ""
    return (f" --data {shlex.quote(str(data))}" if data else "") + address
