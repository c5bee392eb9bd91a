"""`tocsin baseline refit` and `tocsin baseline retire`: orders of an operator about what the fleet has learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tocsin.cli.look import running
from tocsin.cli.options import data_dir
from tocsin.cli.out import safe, say, say_json
from tocsin.errors import TocsinError, Unavailable, Unreachable, UserError
from tocsin.runtime.client import ask


def _order(path: str, body: dict[str, Any], data: Path | None, url: str | None, token: str | None) -> Any:
    """Raises Unreachable where no tocsin runs: it alone writes its log."""
    directory = data_dir(data)
    live = url or running(directory)
    if live is None:
        raise Unreachable(f"no tocsin is running on {directory}", remedy="start it with `tocsin up`, or name its --url")
    return ask(live, path, token=token or "", body=json.dumps(body).encode())


def run_refit(data: Path | None, url: str | None, token: str | None, *, discard: bool, as_json: bool) -> None:
    """Begin the sums anew. Without `discard` the service refuses, and says what it would cost."""
    try:
        done = _order("/api/v1/baseline/refit", {"discard": discard}, data, url, token)
    except (UserError, Unavailable):
        raise
    except TocsinError as refused:
        if discard:
            raise
        raise TocsinError(refused.cause, remedy="say --discard to do it; it cannot be undone") from refused
    if as_json:
        say_json(done)
        return
    before, after = done["before"], done["after"]
    say(f"epoch {after['epoch']}: {after['samples']:,} samples, fitted anew")
    say(f"discarded: epoch {before['epoch']} with {before['samples']:,} samples of {before['agents']:,} agents")


def run_retire(agents: list[str], data: Path | None, url: str | None, token: str | None, *, as_json: bool) -> None:
    """Take agents out of every sum."""
    done = _order("/api/v1/baseline/retire", {"agents": agents}, data, url, token)
    if as_json:
        say_json(done)
        return
    after = done["after"]
    say(f"retired: {', '.join(safe(agent, 60) for agent in done['retired'])}")
    say(f"the fleet's sums: {after['samples']:,} samples of {after['agents']:,} agents")
