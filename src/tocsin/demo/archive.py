"""The AgentDojo source archive: fetched once through pip, checked against a recorded hash, kept in the user's cache.

AgentDojo (Debenedetti et al. 2024, MIT licence) ships the logs of its experiments, real language models calling
tools, attacked and not, in the `runs/` folder of its source distribution.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tocsin.errors import InputError, Unavailable

REQUIREMENT = "agentdojo==0.1.26"
ARCHIVE_NAME = "agentdojo-0.1.26.tar.gz"
ARCHIVE_SHA256 = "c279d89f8724b54ad20a9ee380c94317f4d55843826758c281330064f8e3eec5"
FETCH_TIMEOUT_SECONDS = 180
SYNTHETIC = "--fleet synthetic needs no download"


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_CACHE_HOME/tocsin`, or `~/.cache/tocsin` (XDG Base Directory Specification)."""
    base = environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "tocsin"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_archive(path: Path) -> None:
    """Raise InputError unless `path` is byte for byte the recorded archive."""
    if not path.is_file():
        raise InputError(f"{path} is not there", remedy=SYNTHETIC)
    digest = sha256_of(path)
    if digest != ARCHIVE_SHA256:
        raise InputError(
            f"{path} is not the recorded {ARCHIVE_NAME}: SHA-256 {digest}, expected {ARCHIVE_SHA256}",
            remedy=f"delete it and try again, or: {SYNTHETIC}",
        )


def fetch_archive(cache: Path | None = None) -> Path:
    """Path of the checked archive, downloaded if the cache lacks it.

    Raises Unavailable when it cannot be fetched and InputError when the bytes are not the recorded ones. Never
    falls back to another fleet: which data a demonstration ran on is the user's choice.
    """
    directory = cache if cache is not None else cache_directory()
    path = directory / ARCHIVE_NAME
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        # Downloaded beside its place and moved after the check, so that a broken download is never mistaken for it.
        with tempfile.TemporaryDirectory(dir=directory, prefix=".fetch-") as scratch:
            _pip_download(Path(scratch))
            fetched = Path(scratch) / ARCHIVE_NAME
            check_archive(fetched)
            fetched.replace(path)
    check_archive(path)
    return path


def _pip_download(destination: Path) -> None:
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command += ["--dest", str(destination), REQUIREMENT]
    remedy = f"put {ARCHIVE_NAME} into {destination.parent}, or: {SYNTHETIC}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_SECONDS, check=False)  # noqa: S603 - fixed words
    except subprocess.TimeoutExpired as error:
        cause = f"{REQUIREMENT} was not downloaded within {FETCH_TIMEOUT_SECONDS} s"
        raise Unavailable(cause, remedy=remedy) from error
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise Unavailable(f"{REQUIREMENT} cannot be downloaded: {last_line[:300]}", remedy=remedy)
