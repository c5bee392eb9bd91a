"""Options that several commands share, and how they become settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tocsin.config import Resolved

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Data directory.  [default: data.dir of the settings, ./tocsin-data]"),
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="A running tocsin.  [default: the one that last used the data directory]"),
]
TOKEN_VARIABLE = "TOCSIN_SERVER_TOKEN"  # noqa: S105 - a name
TokenOption = Annotated[
    str | None, typer.Option("--token", help="Bearer token of a tocsin that asks for one.", envvar=TOKEN_VARIABLE)
]


def settings(flags: dict[str, str | int | None]) -> Resolved:
    """Flags over TOCSIN_* over tocsin.toml (or the file TOCSIN_CONFIG names) over defaults. Raises ConfigError."""
    from tocsin.config import resolve
    from tocsin.errors import ConfigError

    named = os.environ.get("TOCSIN_CONFIG")
    file = Path(named or "tocsin.toml")
    try:
        text = file.read_text() if named or file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}", remedy="correct TOCSIN_CONFIG, or the file") from error
    return resolve(flags=flags, environ=os.environ, toml_text=text, toml_name=str(file))


def data_dir(data: Path | None) -> Path:
    """The data directory to use."""
    return Path(settings({"data.dir": str(data) if data else None}).settings.data.dir)
