"""A service whose disk is full, or whose thread has died: it says so, acknowledges nothing, stops, and opens again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from tocsin.config import Settings
from tocsin.errors import StorageError
from tocsin.ingest.admission import Admission, AdmissionConfig
from tocsin.model.events import EventBatch
from tocsin.runtime.datadir import DataDir, open_datadir
from tocsin.runtime.ingest_log import Held, IngestLog
from tocsin.runtime.service import FleetService
from tocsin.wire.records import batch_from_records

PATIENCE_SECONDS = 60


def batch(rows: int, name: str = "a") -> EventBatch:
    return batch_from_records([(name, {"action": "read"})] * rows, offset=0, phases=[0] * rows)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDir]:
    directory = open_datadir(tmp_path / "data", monitors=4, alpha_ppm=10_000, prior_ppm=10_000)
    yield directory
    directory.close()


def service(data: DataDir) -> FleetService:
    return FleetService(Settings(), data, Admission(AdmissionConfig()))


def stops(it: FleetService) -> bool:
    """Whether `stop` comes to its end."""
    stopping = threading.Thread(target=it.stop, daemon=True)
    stopping.start()
    stopping.join(PATIENCE_SECONDS)
    return not stopping.is_alive()


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_full_disk_acknowledges_nothing_says_why_and_the_store_opens_again(
    data: DataDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    it = service(data)
    it.start()
    assert it.accept(batch(2), Held(put=[(b"x", b"first")])).result(PATIENCE_SECONDS).accepted == 2
    with monkeypatch.context() as patched:
        patched.setattr(IngestLog, "append", failing(StorageError("cannot use ingest.db: database or disk is full")))
        refused = it.accept(batch(3), Held(put=[(b"x", b"second")]))
        assert isinstance(refused.exception(PATIENCE_SECONDS), StorageError)
        it._writer.join(PATIENCE_SECONDS)
    with pytest.raises(StorageError, match="disk is full"):
        it.room()
    with pytest.raises(StorageError, match="disk is full"):
        it.accept(batch(1))
    assert stops(it)
    out, err = capsys.readouterr()
    assert "disk is full" in out + err
    again = service(data)
    again.start()
    assert again.logged_events == 2
    assert again.held() == [b"first"]
    assert again.accept(batch(1)).result(PATIENCE_SECONDS).accepted == 1
    assert stops(again)


def test_a_disk_that_is_really_full_leaves_the_transaction_undone(tmp_path: Path) -> None:
    log = IngestLog(tmp_path / "log.db")
    log.append([], [Held(put=[(b"x", b"first")])])
    pages = log._db.execute("PRAGMA page_count").fetchone()[0]
    log._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StorageError):
        log.append([], [Held(put=[(b"x", b"second" * 100_000)], drop=[b"x"])])
    assert log.held() == [b"first"]
    log.close()
    assert IngestLog(tmp_path / "log.db").held() == [b"first"]


def test_a_dead_engine_stops_the_service_without_hanging_and_fails_what_is_asked(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = service(data)
    it.start()
    monkeypatch.setattr(it.engine, "feed", failing(ValueError("a bug")))
    assert it.accept(batch(1)).result(PATIENCE_SECONDS).accepted == 1  # durable all the same
    it._analyst.join(PATIENCE_SECONDS)
    it._writer.join(PATIENCE_SECONDS)
    assert not it._writer.is_alive()
    with pytest.raises(StorageError, match="a bug"):
        asyncio.run(it.ask(lambda engine, _: engine.events))
    assert stops(it)
    again = service(data)
    again.start()
    assert again.engine.events == 1
    assert stops(again)


def test_what_is_put_just_as_a_thread_ends_is_failed_and_not_left_waiting(data: DataDir) -> None:
    it = service(data)
    it.start()
    assert stops(it)
    # Ended in good order, so nothing says it failed: as if asked between the check and the end.
    assert isinstance(it.accept(batch(1)).exception(PATIENCE_SECONDS), StorageError)
    for question in (it.seal(None), it.ask(lambda engine, _: engine.events)):
        with pytest.raises(StorageError, match="stopped"):
            asyncio.run(asyncio.wait_for(question, PATIENCE_SECONDS))


def test_stopping_finishes_what_was_accepted(data: DataDir) -> None:
    it = service(data)
    it.start()
    done: list[Future[object]] = [it.accept(batch(2, f"a{i}"), Held(put=[(b"x", b"%d" % i)])) for i in range(20)]
    assert stops(it)
    assert all(future.done() for future in done)
    again = service(data)
    assert again.logged_events == 40
    assert again.held() == [b"%d" % i for i in range(20)]
    assert stops(again)


def test_what_waits_is_told_until_it_was_analysed(data: DataDir) -> None:
    it = service(data)
    limit = Settings().limits.queue_events
    waiting = it.accept(batch(1))  # not started: nothing is taken from the queue yet
    assert it.room() == (limit, 1)
    it.start()
    assert waiting.result(PATIENCE_SECONDS).accepted == 1
    asyncio.run(it.ask(lambda engine, _: engine.events))
    assert it.room() == (limit, 0)
    assert stops(it)


def test_what_feeds_it_breaking_ends_it_after_what_was_accepted(
    data: DataDir, capsys: pytest.CaptureFixture[str]
) -> None:
    it = service(data)
    accepted = it.accept(batch(2))
    it.fail(StorageError("the decoder process has ended"))
    it.start()
    assert accepted.result(PATIENCE_SECONDS).accepted == 2
    with pytest.raises(StorageError, match="decoder process has ended"):
        it.accept(batch(1))
    with pytest.raises(StorageError, match="decoder process has ended"):
        it.room()
    assert stops(it)
    assert "decoder process has ended" in capsys.readouterr().err
