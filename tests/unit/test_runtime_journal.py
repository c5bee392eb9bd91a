"""The journal keeps its promises: order, atomicity, and refusal of what was altered."""

from __future__ import annotations

import sqlite3

import pytest

from tocsin.errors import StorageCorrupt, StorageError
from tocsin.model.steps import Persist
from tocsin.runtime.journal import Journal


def test_records_come_back_in_order_per_monitor_after_reopening(tmp_path):
    journal = Journal(tmp_path / "journal.db")
    journal.append([(0, Persist("vote", b"a")), (1, Persist("vote", b"x")), (0, Persist("cert", b"b"))])
    journal.append([(0, Persist("vote", b"c"))])
    journal.close()
    again = Journal(tmp_path / "journal.db")
    assert list(again.records(0)) == [("vote", b"a"), ("cert", b"b"), ("vote", b"c")]
    assert list(again.records(1)) == [("vote", b"x")]
    assert list(again.records(2)) == []
    again.append([(1, Persist("vote", b"y"))])
    assert list(again.records(1)) == [("vote", b"x"), ("vote", b"y")]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE journal SET record = x'00' WHERE monitor = 0 AND serial = 1",
        "UPDATE journal SET kind = 'other' WHERE monitor = 0 AND serial = 1",
        "DELETE FROM journal WHERE monitor = 0 AND serial = 1",
        "UPDATE journal SET monitor = 0, serial = 3 WHERE monitor = 1",
    ],
)
def test_an_altered_missing_or_moved_record_is_refused(tmp_path, damage):
    path = tmp_path / "journal.db"
    journal = Journal(path)
    journal.append([(0, Persist("vote", bytes([i]))) for i in range(3)] + [(1, Persist("vote", b"z"))])
    journal.close()
    with sqlite3.connect(path) as db:
        db.execute(damage)
    db.close()
    with pytest.raises(StorageCorrupt, match="monitor 0"):
        list(Journal(path).records(0))


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "journal.db").write_bytes(b"not a database at all, but long enough to be read as one" * 20)
    with pytest.raises(StorageCorrupt, match=r"journal\.db"):
        Journal(tmp_path / "journal.db")


def test_a_directory_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(StorageError, match="nowhere"):
        Journal(tmp_path / "nowhere" / "journal.db")


def test_another_format_is_refused(tmp_path):
    path = tmp_path / "journal.db"
    Journal(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StorageError, match="format 99"):
        Journal(path)
