"""The parsed runs, kept beside the archive so that a second demonstration starts at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from tocsin.demo.agentdojo import Run, ToolCall, read_runs
from tocsin.demo.archive import ARCHIVE_SHA256, cache_directory, check_archive, fetch_archive

# Raised whenever parsing or classification changes, so that an older cache is read anew.
FORMAT = 1
CACHE_NAME = f"agentdojo-0.1.26-runs-{FORMAT}.msgpack"


class _Stored(msgspec.Struct, array_like=True):
    """Tool outputs repeat over the runs: each text once, calls point into `texts`."""

    archive_sha256: str
    format: int
    texts: list[str]
    runs: list[Run]
    outputs: list[list[int]]  # per run, per call


def save_runs(path: Path, runs: list[Run]) -> None:
    """Write `runs` so that a reader never sees half a file."""
    codes: dict[str, int] = {}
    outputs = [[codes.setdefault(call.output, len(codes)) for call in run.calls] for run in runs]
    bare = [msgspec.structs.replace(run, calls=[_with_output(call, "") for call in run.calls]) for run in runs]
    stored = _Stored(ARCHIVE_SHA256, FORMAT, list(codes), bare, outputs)
    scratch = path.with_suffix(".part")
    scratch.write_bytes(msgspec.msgpack.encode(stored))
    scratch.replace(path)


def load_saved(path: Path) -> list[Run] | None:
    """The runs written by `save_runs`, or None where there are none, older ones, or damaged ones."""
    try:
        stored = msgspec.msgpack.decode(path.read_bytes(), type=_Stored)
        if (stored.archive_sha256, stored.format) != (ARCHIVE_SHA256, FORMAT):
            return None
        for run, codes in zip(stored.runs, stored.outputs, strict=True):
            for call, code in zip(run.calls, codes, strict=True):
                call.output = stored.texts[code]
    except (OSError, msgspec.DecodeError, ValueError, IndexError):
        return None
    return stored.runs


def load_runs(
    cache: Path | None = None, progress: Callable[[int], None] = lambda _: None, *, archive: Path | None = None
) -> list[Run]:
    """Every usable run: from the cache, else parsed from `archive`, else from a download. Both are checked first.

    Raises InputError and Unavailable as `archive.fetch_archive` and `agentdojo.read_runs` do.
    """
    directory = cache if cache is not None else cache_directory()
    saved = load_saved(directory / CACHE_NAME)
    if saved is not None:
        progress(len(saved))
        return saved
    if archive is not None:
        check_archive(archive)
    runs = read_runs(archive or fetch_archive(directory), progress)
    directory.mkdir(parents=True, exist_ok=True)
    save_runs(directory / CACHE_NAME, runs)
    return runs


def _with_output(call: ToolCall, output: str) -> ToolCall:
    return ToolCall(call.tool, call.args, output, call.error, call.directed)
