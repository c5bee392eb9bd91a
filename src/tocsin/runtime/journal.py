"""The monitors' journal: what each has bound itself to, durable before any message that depends on it leaves.

Every record carries a BLAKE2b-128 checksum over (monitor, serial, kind, record): a flipped bit is found at start-up
and refused, because a monitor that forgets a vote could vote twice. A snapshot replaces what its monitor wrote before
it, in the transaction that writes it: after a crash there is either the old prefix or the snapshot. Space that this
frees is used again, so the file does not grow with the length of history.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from tocsin.consensus.journal import SNAPSHOT
from tocsin.errors import StorageCorrupt
from tocsin.model.steps import Persist
from tocsin.runtime.sqlite import open_database, storage_errors, transaction

SCHEMA = """
CREATE TABLE journal (
  monitor INTEGER NOT NULL, serial INTEGER NOT NULL, kind TEXT NOT NULL, record BLOB NOT NULL, checksum BLOB NOT NULL,
  PRIMARY KEY (monitor, serial)
) WITHOUT ROWID;
"""
VERSION = 1


def _checksum(monitor: int, serial: int, kind: str, record: bytes) -> bytes:
    head = f"{monitor}\0{serial}\0{kind}\0".encode()
    return hashlib.blake2b(head + record, digest_size=16).digest()


class Journal:
    """One file for all monitors of a process; one fsync per round, whoever wrote in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_database(path, SCHEMA, VERSION)
        with storage_errors(path):
            rows = self._db.execute("SELECT monitor, max(serial) FROM journal GROUP BY monitor").fetchall()
        self._next: dict[int, int] = {monitor: serial + 1 for monitor, serial in rows}

    def append(self, records: Sequence[tuple[int, Persist]]) -> None:
        """Make (monitor, record) pairs durable, in order, in one transaction."""
        if not records:
            return
        rows: list[tuple[int, int, str, bytes, bytes]] = []
        taken = dict(self._next)
        replaced: dict[int, int] = {}  # monitor -> serial of its latest snapshot
        for monitor, persist in records:
            serial = taken.get(monitor, 0)
            taken[monitor] = serial + 1
            if persist.kind == SNAPSHOT:
                replaced[monitor] = serial
            checksum = _checksum(monitor, serial, persist.kind, persist.record)
            rows.append((monitor, serial, persist.kind, persist.record, checksum))
        with transaction(self._db, self._path) as db:
            db.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", rows)
            db.executemany("DELETE FROM journal WHERE monitor = ? AND serial < ?", sorted(replaced.items()))
        self._next = taken

    def records(self, monitor: int) -> Iterable[tuple[str, bytes]]:
        """Yield this monitor's (kind, record) in the order written: from the first, or its latest snapshot, on.

        Raises:
            StorageCorrupt: a record is missing or not as written.
        """
        query = "SELECT serial, kind, record, checksum FROM journal WHERE monitor = ? ORDER BY serial"
        with storage_errors(self._path):
            expected = -1
            for serial, kind, record, checksum in self._db.execute(query, (monitor,)):
                if expected < 0:
                    expected = serial if kind == SNAPSHOT else 0
                if serial != expected or checksum != _checksum(monitor, serial, kind, record):
                    raise StorageCorrupt(
                        f"record {expected} of monitor {monitor} in {self._path} is missing or was altered",
                        remedy="restore the data directory from a copy; a monitor must not forget what it signed",
                    )
                expected += 1
                yield kind, record

    def close(self) -> None:
        self._db.close()
