"""The ingest log: admitted batches and what operators ordered, durable before the sender is told so.

After a restart the log is replayed, in order, through the detectors, which are deterministic: that rebuilds what every
monitor had learned. A batch carries its own checksum (`tocsin.wire.events`), an order is plain JSON.

Beside the log stands what the receiver holds of requests it has answered and that is no event yet (`Held`). It changes
in the same transaction as the log: an event is in the one or in the other, never in both or in neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tocsin.errors import StorageCorrupt, WireError
from tocsin.model.events import EventBatch
from tocsin.monitor.inputs import Entry, Observed, Refitted, Retired, Sealed
from tocsin.runtime.sqlite import open_database, storage_errors, transaction
from tocsin.wire.events import decode_batch, encode_batch

SCHEMA = """
CREATE TABLE log (
  serial INTEGER PRIMARY KEY, start INTEGER NOT NULL, rows INTEGER NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL
);
"""
VERSION = 1
# Added after the first format had data: a log without it holds nothing, and a reader of that format ignores it.
HELD_SCHEMA = """
CREATE TABLE IF NOT EXISTS held (serial INTEGER PRIMARY KEY, scope BLOB NOT NULL, record BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS held_scope ON held (scope);
"""


@dataclass(frozen=True, slots=True)
class Held:
    """A change of what is held. Records are the receiver's own, opaque here; `drop` is done before `put`."""

    drop: Sequence[bytes] = ()  # scopes of which every record goes
    put: Sequence[tuple[bytes, bytes]] = ()  # scope, record; records of a scope keep their order

    def __bool__(self) -> bool:
        return bool(self.drop or self.put)


class IngestLog:
    """The log is append-only; `next_offset` is where the next batch must start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_database(path, SCHEMA, VERSION)
        with storage_errors(path):
            self._db.executescript(HELD_SCHEMA)
            query = "SELECT start + rows FROM log ORDER BY serial DESC LIMIT 1"
            last = self._db.execute(query).fetchone()
        self.next_offset: int = last[0] if last else 0

    def append(self, entries: Sequence[Entry], held: Sequence[Held] = ()) -> None:
        """Make `entries` and changes of what is `held` durable, each in order, all in one transaction."""
        rows: list[tuple[int, int, str, bytes]] = []
        offset = self.next_offset
        for entry in entries:
            if isinstance(entry, Observed):
                rows.append((entry.batch.offset, len(entry.batch), "batch", encode_batch(entry.batch)))
                offset = entry.batch.offset + len(entry.batch)
            else:
                rows.append((offset, 0, *_order_record(entry)))
        with transaction(self._db, self._path) as db:
            db.executemany("INSERT INTO log (start, rows, kind, body) VALUES (?, ?, ?, ?)", rows)
            for change in held:
                db.executemany("DELETE FROM held WHERE scope = ?", [(scope,) for scope in change.drop])
                db.executemany("INSERT INTO held (scope, record) VALUES (?, ?)", change.put)
        self.next_offset = offset

    def replay(self) -> Iterable[Entry]:
        """Yield what was appended, in order. Raises StorageCorrupt where a record is not as written."""
        with storage_errors(self._path):
            expected = 0
            query = "SELECT serial, start, rows, kind, body FROM log ORDER BY serial"
            for number, (serial, start, rows, kind, body) in enumerate(self._db.execute(query), 1):
                if (serial, start) != (number, expected):
                    raise StorageCorrupt(
                        f"record {number} of {self._path}, which starts at offset {expected}, is missing or was moved",
                        remedy="restore the data directory from a copy, or start with another --data directory",
                    )
                expected = start + rows
                try:
                    yield Observed(_batch(start, body)) if kind == "batch" else _order(kind, start, body)
                except (WireError, msgspec.MsgspecError) as error:
                    raise StorageCorrupt(
                        f"record {serial} of {self._path} is damaged: {error}",
                        remedy="restore the data directory from a copy, or start with another --data directory",
                    ) from error

    def held(self) -> list[bytes]:
        """All that is held, in the order put."""
        with storage_errors(self._path):
            return [record for (record,) in self._db.execute("SELECT record FROM held ORDER BY serial")]

    def close(self) -> None:
        self._db.close()


def _batch(start: int, body: bytes) -> EventBatch:
    batch = decode_batch(body)
    if batch.offset != start:
        raise WireError(f"batch says offset {batch.offset}, the log says {start}")
    return batch


class _Agents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object, where a seal is a list: a reader that knows seals only refuses it."""

    agents: tuple[str, ...] = ()


def _order_record(entry: Sealed | Retired | Refitted) -> tuple[str, bytes]:
    if isinstance(entry, Sealed):
        return "seal", msgspec.json.encode(entry.agents)
    if isinstance(entry, Retired):
        return "retire", msgspec.json.encode(_Agents(entry.agents))
    return "refit", msgspec.json.encode(_Agents())


def _order(kind: str, start: int, body: bytes) -> Sealed | Retired | Refitted:
    if kind == "seal":
        return Sealed(msgspec.json.decode(body, type=tuple[str, ...] | None), start)
    found = msgspec.json.decode(body, type=_Agents)
    if kind not in ("retire", "refit"):
        raise WireError(f"{kind!r:.40} is no kind of record")
    return Retired(found.agents, start) if kind == "retire" else Refitted(start)
