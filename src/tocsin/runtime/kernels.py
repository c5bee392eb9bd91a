"""Compiled kernels on disk: stale ones thrown away before they are loaded, missing ones made before they are needed.

numba keeps a compiled kernel until the file it stands in changes, and does not notice a change of a function that
another file owns. After an update of tocsin such a kernel would go on computing with the old one: wrong numbers,
silently. So the sources of all rooms with kernels are hashed, and when the hash is not the one noted, the kernels go.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

ROOMS = ("stats", "detection", "aggregation", "wire")
NOTE = "kernels.hash"  # of the sources that the kernels here were made from
READY = "kernels.ready"  # the same, once all that a service needs are there
COMPILED = ("*.nbi", "*.nbc")


def discard_stale(package: Path) -> bool:
    """Delete compiled kernels of `package` that other sources made; whether there was anything to note.

    A directory that cannot be written (numba then caches elsewhere, by path and time of the file) is left alone.
    """
    note = _note(package, NOTE)
    expected = _digest(package)
    with contextlib.suppress(OSError):
        if note.exists() and note.read_text() == expected:
            return False
        for room in ROOMS:
            for pattern in COMPILED:
                for file in (package / room / "__pycache__").glob(pattern):
                    file.unlink(missing_ok=True)
        note.parent.mkdir(exist_ok=True)
        note.write_text(expected)
    return True


def ready(package: Path) -> bool:
    """Whether `mark_ready` was called for these sources."""
    with contextlib.suppress(OSError):
        return _note(package, READY).read_text() == _digest(package)
    return False


def mark_ready(package: Path) -> None:
    """Note that every kernel is there; where nothing can be written, the next start finds out anew."""
    with contextlib.suppress(OSError):
        _note(package, READY).write_text(_digest(package))


def _note(package: Path, name: str) -> Path:
    return package / "stats" / "__pycache__" / name


def _digest(package: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for room in ROOMS:
        for source in sorted((package / room).glob("*.py")):
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()
