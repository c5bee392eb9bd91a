"""Opening SQLite the one way tocsin trusts: WAL, synchronous=FULL, errors turned into sentences."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tocsin.errors import StorageCorrupt, StorageError


def open_database(path: Path, schema: str, version: int, *, read_only: bool = False) -> sqlite3.Connection:
    """Open or create `path`. A commit has reached the disk when it returns (WAL with synchronous=FULL).

    Raises:
        StorageError: the file cannot be opened or written, or was made by another version of tocsin.
        StorageCorrupt: the file is not a database.
    """
    with storage_errors(path):
        target = f"file:{path}?mode=ro" if read_only else f"file:{path}?mode=rwc"
        db = sqlite3.connect(target, uri=True, isolation_level=None, check_same_thread=False, timeout=10)
        if not read_only:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found == 0 and not read_only:
            db.executescript(f"BEGIN; {schema} PRAGMA user_version={version}; COMMIT;")
        elif found != version:
            db.close()
            raise StorageError(
                f"{path} has format {found}, this tocsin reads format {version}",
                remedy="use the tocsin that wrote it, or another --data directory",
            )
        return db


@contextmanager
def storage_errors(path: Path) -> Generator[None]:
    """Turn SQLite's errors into StorageError/StorageCorrupt that name the file and what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "malformed" in text or "not a database" in text or "corrupt" in text:
            raise StorageCorrupt(
                f"{path} is damaged: {text}", remedy="restore it from a copy, or start with another --data directory"
            ) from error
        raise StorageError(
            f"cannot use {path}: {text}", remedy="check that the directory exists, is writable and has free space"
        ) from error


@contextmanager
def transaction(db: sqlite3.Connection, path: Path) -> Generator[sqlite3.Connection]:
    """All or nothing; durable when the block ends without an error."""
    with storage_errors(path):
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # a full disk makes SQLite roll back by itself
                db.execute("ROLLBACK")
            raise
