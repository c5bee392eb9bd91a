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
# Added after the first format had data. The last word on an alarm counts, the ones before it stay readable.
FEEDBACK_SCHEMA = """
CREATE TABLE IF NOT EXISTS feedback (
  serial INTEGER PRIMARY KEY, agent_id TEXT NOT NULL, verdict_id TEXT NOT NULL, outcome TEXT NOT NULL,
  note TEXT NOT NULL, told_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS feedback_agent ON feedback (agent_id);
CREATE INDEX IF NOT EXISTS feedback_about ON feedback (agent_id, verdict_id);
"""
SAID_ABOUT_ONE = 20  # the latest of what was said about one verdict; whoever may speak cannot fill the disk
SAID_SHOWN = 100


class Store:
    """`certificate` is the exact content of the certificate file; `picture` is JSON of a named snapshot."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._db = open_database(path, SCHEMA, VERSION, read_only=read_only)
        if not read_only:
            with storage_errors(path):
                self._db.executescript(FEEDBACK_SCHEMA)

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

    def add_feedback(self, agent_id: str, verdict_id: str, outcome: str, note: str, told_ms: int) -> None:
        """Append what a person said; durable on return. `verdict_id` '' where it is about no verdict.

        Of one verdict (of one agent, where it is about none) the latest SAID_ABOUT_ONE are kept.
        """
        row = (agent_id, verdict_id, outcome, note, told_ms)
        about = (agent_id, verdict_id)
        with transaction(self._db, self._path) as db:
            db.execute(
                "INSERT INTO feedback (agent_id, verdict_id, outcome, note, told_ms) VALUES (?, ?, ?, ?, ?)", row
            )
            db.execute(
                "DELETE FROM feedback WHERE agent_id = ?1 AND verdict_id = ?2 AND serial <= (SELECT serial "
                "FROM feedback WHERE agent_id = ?1 AND verdict_id = ?2 ORDER BY serial DESC LIMIT 1 OFFSET ?3)",
                (*about, SAID_ABOUT_ONE),
            )

    def last_word(self, agent_id: str, verdict_id: str) -> str:
        """The latest outcome that was told about a verdict, '' if none was."""
        query = "SELECT outcome FROM feedback WHERE agent_id = ? AND verdict_id = ? ORDER BY serial DESC LIMIT 1"
        with storage_errors(self._path):
            row = self._db.execute(query, (agent_id, verdict_id)).fetchone()
        return row[0] if row else ""

    def labels(self, decision: str) -> tuple[int, dict[str, int], dict[str, int]]:
        """(verdicts with `decision`, last words on them, last words about no verdict), words as outcome -> count."""
        query = (
            "SELECT said.verdict_id != '', said.outcome, count(*) FROM feedback AS said "
            "LEFT JOIN verdict ON verdict.verdict_id = said.verdict_id "
            "WHERE (said.verdict_id = '' OR verdict.decision = ?1) AND said.serial = (SELECT max(serial) "
            "FROM feedback WHERE agent_id = said.agent_id AND verdict_id = said.verdict_id) GROUP BY 1, 2"
        )
        about: tuple[dict[str, int], dict[str, int]] = ({}, {})
        with storage_errors(self._path):
            total = self._db.execute("SELECT count(*) FROM verdict WHERE decision = ?", (decision,)).fetchone()[0]
            for verdict, outcome, count in self._db.execute(query, (decision,)):
                about[verdict][outcome] = count
        return int(total), about[1], about[0]

    def feedback(self, agent_id: str | None = None, limit: int = SAID_SHOWN) -> list[dict[str, Any]]:
        """What people said, latest first: dicts with agent_id, verdict_id, outcome, note, told_ms."""
        query = (
            "SELECT agent_id, verdict_id, outcome, note, told_ms FROM feedback "
            "WHERE ?1 IS NULL OR agent_id = ?1 ORDER BY serial DESC LIMIT ?2"
        )
        names = ("agent_id", "verdict_id", "outcome", "note", "told_ms")
        with storage_errors(self._path):
            return [dict(zip(names, row, strict=True)) for row in self._db.execute(query, (agent_id, limit))]

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
