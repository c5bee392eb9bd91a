"""`tocsin doctor`: what would stop tocsin from running here, found before it does."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sqlite3
import sys
import tempfile
from pathlib import Path

from tocsin.cli.look import running
from tocsin.cli.options import settings
from tocsin.cli.out import say, say_json, style
from tocsin.errors import TocsinError

FREE_BYTES = 1 << 30


def run_doctor(data: Path | None, port: int | None, *, as_json: bool) -> None:
    """Print one line a check; exit 1 when one failed."""
    try:
        chosen = settings({"data.dir": str(data) if data else None, "server.port": port}).settings
    except TocsinError as error:
        _report([("settings", False, str(error))], as_json=as_json)
        return
    checks = [
        ("python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.machine()}"),
        _protobuf(),
        ("sqlite", sqlite3.sqlite_version_info >= (3, 37), sqlite3.sqlite_version),
        _signatures(),
        _directory(Path(chosen.data.dir)),
        _port(chosen.server.host, chosen.server.port, running(Path(chosen.data.dir))),
        ("cores", True, f"{os.cpu_count()}"),
    ]
    _report(checks, as_json=as_json)


def _report(checks: list[tuple[str, bool, str]], *, as_json: bool) -> None:
    if as_json:
        say_json([{"check": name, "ok": ok, "found": found} for name, ok, found in checks])
    else:
        for name, ok, found in checks:
            say(f"{style('ok  ', '32') if ok else style('FAIL', '31')}  {name:<12} {found}")
    if not all(ok for _, ok, _ in checks):
        sys.exit(1)


def _protobuf() -> tuple[str, bool, str]:
    from google.protobuf.internal import api_implementation

    kind = api_implementation.Type()
    return (
        "protobuf",
        kind == "upb",
        f"{kind}: decoding is {'fast' if kind == 'upb' else 'slow; install the upb build'}",
    )


def _signatures() -> tuple[str, bool, str]:
    from tocsin.trust.signing import VOTE, Signer, verify

    signer = Signer(bytes(32))
    holds = verify(signer.public_key, VOTE, b"doctor", signer.sign(VOTE, b"doctor"))
    return ("ed25519", holds, "libsodium signs and verifies" if holds else "a signature made here does not verify here")


def _directory(path: Path) -> tuple[str, bool, str]:
    existing = next(p for p in [path.absolute(), *path.absolute().parents] if p.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free
    except OSError as error:
        return ("data", False, f"{existing} cannot be written: {error.strerror}; choose another with --data")
    return ("data", free >= FREE_BYTES, f"{path} can be written; {free / (1 << 30):.1f} GiB free")


def _port(host: str, port: int, own: str | None) -> tuple[str, bool, str]:
    if port == 0:
        return ("port", True, "the system chooses")
    if own is not None and own.endswith(f":{port}"):
        return ("port", True, f"the tocsin of this data directory is listening on {own}")
    try:
        with socket.create_server((host, port)):
            return ("port", True, f"{host}:{port} is free")
    except OSError as error:
        return ("port", False, f"{host}:{port}: {error.strerror}; choose another with --port, or 0")
