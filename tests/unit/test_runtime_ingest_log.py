"""The ingest log gives back exactly what was acknowledged, in order, or refuses."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest

from tocsin.errors import StorageCorrupt
from tocsin.monitor.inputs import Observed, Refitted, Retired, Sealed
from tocsin.runtime.ingest_log import IngestLog
from tocsin.wire.events import encode_batch
from tocsin.wire.records import batch_from_records


def _batch(offset, rows):
    records = [(f"agent-{i % 2}", {"action": "read", "latency": float(i)}) for i in range(rows)]
    return batch_from_records(records, offset=offset, phases=[0] * rows)


def test_entries_come_back_in_order_after_reopening(tmp_path):
    log = IngestLog(tmp_path / "ingest.db")
    log.append([Observed(_batch(0, 3)), Sealed(("agent-0",), 3)])
    log.append([Observed(_batch(3, 2)), Sealed(None, 5)])
    log.close()
    again = IngestLog(tmp_path / "ingest.db")
    assert again.next_offset == 5
    first, seal, second, everybody = list(again.replay())
    assert encode_batch(first.batch) == encode_batch(_batch(0, 3))
    assert encode_batch(second.batch) == encode_batch(_batch(3, 2))
    assert (seal.agents, seal.offset, everybody.agents, everybody.offset) == (("agent-0",), 3, None, 5)


def test_orders_of_an_operator_come_back_and_others_are_refused(tmp_path):
    log = IngestLog(tmp_path / "ingest.db")
    log.append([Observed(_batch(0, 3)), Retired(("agent-0", "agent-1"), 3), Refitted(3)])
    log.append([Observed(_batch(3, 2))])
    _, retired, refitted, last = list(log.replay())
    assert (retired, refitted, last.batch.offset) == (Retired(("agent-0", "agent-1"), 3), Refitted(3), 3)
    log.close()
    with sqlite3.connect(tmp_path / "ingest.db") as db:
        db.execute("UPDATE log SET kind = 'forget' WHERE kind = 'refit'")
    db.close()
    with pytest.raises(StorageCorrupt, match="forget"):
        list(IngestLog(tmp_path / "ingest.db").replay())


def test_an_append_is_all_or_nothing(tmp_path):
    log = IngestLog(tmp_path / "ingest.db")

    class NotABatch:
        offset = 0

        def __len__(self):
            return 1

    with pytest.raises(AttributeError):
        log.append([Observed(_batch(0, 3)), Observed(NotABatch())])
    assert log.next_offset == 0
    assert list(log.replay()) == []


@pytest.mark.parametrize("flip", [0, 1, 9, 40, -1])
def test_a_flipped_bit_is_found(tmp_path, flip):
    path = tmp_path / "ingest.db"
    log = IngestLog(path)
    log.append([Observed(_batch(0, 3))])
    log.close()
    with sqlite3.connect(path) as db:
        body = bytearray(db.execute("SELECT body FROM log").fetchone()[0])
        body[flip] ^= 0x10
        db.execute("UPDATE log SET body = ?", (bytes(body),))
    db.close()
    with pytest.raises(StorageCorrupt, match="record 1"):
        list(IngestLog(path).replay())


def test_a_moved_batch_is_found(tmp_path):
    path = tmp_path / "ingest.db"
    log = IngestLog(path)
    log.append([Observed(_batch(0, 3))])
    log.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE log SET start = 9")
    db.close()
    with pytest.raises(StorageCorrupt, match="offset"):
        list(IngestLog(path).replay())


def test_a_missing_record_is_found(tmp_path):
    path = tmp_path / "ingest.db"
    log = IngestLog(path)
    for i in range(3):
        log.append([Observed(_batch(3 * i, 3))])
    log.close()
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM log WHERE serial = 2")
    db.close()
    with pytest.raises(StorageCorrupt, match="record 2"):
        list(IngestLog(path).replay())


def test_values_survive_with_their_missing_ones(tmp_path):
    log = IngestLog(tmp_path / "ingest.db")
    batch = batch_from_records([("a", {"x": 1.5}), ("a", {"y": -2.0})], offset=0, phases=[0, 1])
    log.append([Observed(batch)])
    (entry,) = log.replay()
    np.testing.assert_array_equal(entry.batch.values, batch.values)
    assert entry.batch.phase.tolist() == [0, 1]
