"""What people look at: verdicts with their certificates, and the latest picture of the fleet. Written by one thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tocsin.runtime.sqlite import open_database, storage_errors, transaction

SCHEMA = """
CREATE TABLE verdict (
  verdict_id TEXT PRIMARY KEY, agent_id TEXT NOT NULL, epoch INTEGER NOT NULL, decision TEXT NOT NULL,
  decided_ms INTEGER NOT NULL, certificate BLOB NOT NULL
);
CREATE INDEX verdict_agent ON verdict (agent_id, epoch);
CREATE TABLE picture (name TEXT PRIMARY KEY, taken_ms INTEGER NOT NULL, body BLOB NOT NULL);
"""
VERSION = 1


class Store:
    """`certificate` is the exact content of the certificate file; `picture` is JSON of a named snapshot."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._db = open_database(path, SCHEMA, VERSION, read_only=read_only)

    def add_verdict(
        self, verdict_id: str, agent_id: str, epoch: int, decision: str, decided_ms: int, certificate: bytes
    ) -> bool:
        """Store once; True when it was new."""
        row = (verdict_id, agent_id, epoch, decision, decided_ms, certificate)
        with transaction(self._db, self._path) as db:
            return db.execute("INSERT OR IGNORE INTO verdict VALUES (?, ?, ?, ?, ?, ?)", row).rowcount == 1

    def verdicts(self, agent_id: str | None = None, limit: int = 1000) -> list[dict[str, Any]]:
        """Latest first: dicts with verdict_id, agent_id, epoch, decision, decided_ms."""
        query = (
            "SELECT verdict_id, agent_id, epoch, decision, decided_ms FROM verdict "
            "WHERE ?1 IS NULL OR agent_id = ?1 ORDER BY epoch DESC, verdict_id LIMIT ?2"
        )
        names = ("verdict_id", "agent_id", "epoch", "decision", "decided_ms")
        with storage_errors(self._path):
            return [dict(zip(names, row, strict=True)) for row in self._db.execute(query, (agent_id, limit))]

    def count(self) -> int:
        """Verdicts stored."""
        with storage_errors(self._path):
            return int(self._db.execute("SELECT count(*) FROM verdict").fetchone()[0])

    def certificate(self, verdict_id: str) -> bytes | None:
        with storage_errors(self._path):
            row = self._db.execute("SELECT certificate FROM verdict WHERE verdict_id = ?", (verdict_id,)).fetchone()
        return row[0] if row else None

    def put_picture(self, name: str, taken_ms: int, body: Any) -> None:
        """Replace the snapshot called `name`."""
        with transaction(self._db, self._path) as db:
            db.execute("INSERT OR REPLACE INTO picture VALUES (?, ?, ?)", (name, taken_ms, msgspec.json.encode(body)))

    def picture(self, name: str) -> tuple[int, Any] | None:
        """(taken_ms, content) of a snapshot, or None."""
        with storage_errors(self._path):
            row = self._db.execute("SELECT taken_ms, body FROM picture WHERE name = ?", (name,)).fetchone()
        return (row[0], msgspec.json.decode(row[1])) if row else None

    def close(self) -> None:
        self._db.close()
