"""A running tocsin: two threads beside the web server's own.

    accept() ─> writer thread: admit, one durable record, acknowledge ─> engine thread: judge, agree, store verdicts

What `accept` returns is done only after the events, and what is held of others, are on disk. The queue between the two
is bounded in events: beyond it senders are told to come back later, before anything is accepted. One batch in the log
is one step of every monitor, so requests that wait together are joined before they are written; that is what makes a
replay of the log exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import structlog

from tocsin.aggregation.activity import Pace
from tocsin.config import Settings
from tocsin.consensus.inputs import MILLISECOND_NS, ConsensusConfig
from tocsin.errors import StorageError, TocsinError, UnknownAgent
from tocsin.model.events import Admitted, EventBatch
from tocsin.model.verdict import Verdict
from tocsin.monitor.inputs import Observed, Sealed
from tocsin.monitor.monitor import Transform
from tocsin.runtime.certificates import store_verdict
from tocsin.runtime.clock import SystemClock
from tocsin.runtime.datadir import DataDir
from tocsin.runtime.engine import Engine
from tocsin.runtime.ingest_log import Held, IngestLog
from tocsin.runtime.journal import Journal
from tocsin.runtime.pictures import fleet_picture
from tocsin.runtime.store import Store

T = TypeVar("T")
PICTURE_SECONDS = 60.0  # it takes tenths of a second; one more is taken at the end
JOIN_ROWS = 1_024  # one record of the log and one step of the monitors: more would blur when what was known
IDLE_SECONDS = 0.5
NOTHING_HELD = Held()


def _log_error(event: str, **fields: Any) -> None:
    logger: Any = structlog.wrap_logger(structlog.PrintLogger(sys.stderr))  # whatever stderr is by now
    logger.error(event, **fields)


class Admits(Protocol):
    """Decides what enters: see `tocsin.ingest.admission`."""

    def admit(self, rows: EventBatch) -> tuple[EventBatch, Admitted]: ...
    def unknown(self, agents: Sequence[str]) -> list[str]: ...
    def seal(self, agents: Sequence[str] | None) -> None: ...
    def restore(self, entry: Observed | Sealed) -> None: ...
    def refused(self) -> dict[str, int]: ...
    def join(self, batches: Sequence[EventBatch]) -> EventBatch: ...


@dataclass(slots=True)
class _Rows:
    rows: EventBatch
    held: Held
    done: Future[Admitted]


@dataclass(slots=True)
class _Seal:
    agents: tuple[str, ...] | None
    done: Future[int]


@dataclass(slots=True)
class _Question:
    ask: Callable[[Engine, Store], Any]
    done: Future[Any]


@dataclass(slots=True)
class _Entries:
    entries: Sequence[Observed | Sealed]
    rows: int


def _answer(done: Future[T], value: T) -> None:
    """Tell whoever waits; a sender that has hung up does not matter."""
    if done.set_running_or_notify_cancel():
        done.set_result(value)


def _never_observed(agents: Sequence[str]) -> UnknownAgent:
    return UnknownAgent(
        f"{len(agents)} of the agents were never observed, the first {agents[0]!r:.80}",
        remedy="seal the baselines of observed agents: `tocsin agents` lists them",
    )


def _fail(done: Future[Any], error: BaseException) -> None:
    if not done.done() and done.set_running_or_notify_cancel():
        done.set_exception(error)


def _refuse(waiting: queue.Queue[Any], ended: threading.Event) -> None:
    """Fail what waits for a thread that has ended; to be asked after every put, as it may have ended just before."""
    with contextlib.suppress(queue.Empty):
        while ended.is_set():
            item = waiting.get_nowait()
            if isinstance(item, _Rows | _Seal | _Question):
                _fail(item.done, StorageError("tocsin has stopped", remedy="see its log, then start it again"))


class FleetService:
    """Start with `start()`, feed through `accept`, ask through `ask`, end with `stop()`. Thread-safe."""

    def __init__(
        self, settings: Settings, data: DataDir, admission: Admits, *, alter: Mapping[int, Transform] | None = None
    ) -> None:
        self._settings = settings
        self._data = data
        self._admission = admission
        self._log = IngestLog(data.ingest)
        self._journal = Journal(data.journal)
        self._store = Store(data.store)
        self._verdicts = self._store.count()
        data.complete()
        consensus = ConsensusConfig(
            proposal_delay_ns=settings.consensus.proposal_delay_ms * MILLISECOND_NS,
            view_timeout_ns=settings.consensus.view_timeout_ms * MILLISECOND_NS,
        )
        self.engine = Engine(
            data.roster,
            data.signers,
            SystemClock(),
            records=self._journal,
            consensus=consensus,
            alter=alter,
            on_verdict=self._on_verdict,
            pace=Pace(
                window_ns=settings.coordination.window_seconds * 1000 * MILLISECOND_NS,
                length=settings.coordination.windows,
                every=min(settings.coordination.every_windows, settings.coordination.windows),
            ),
            background=True,
        )
        self._incoming: queue.Queue[_Rows | _Seal | None] = queue.Queue()
        self._work: queue.Queue[_Entries | _Question | None] = queue.Queue()
        self._waiting_rows = 0
        self._counting = threading.Lock()
        self._failure: BaseException | None = None
        self._writer_ended = threading.Event()
        self._analyst_ended = threading.Event()
        self._status = self.engine.status()
        self._listeners: list[Callable[[Verdict], None]] = []
        write = self._guarded(self._write_forever, self._incoming, self._writer_ended)
        analyse = self._guarded(self._analyse_forever, self._work, self._analyst_ended)
        self._writer = threading.Thread(target=write, name="tocsin-writer")
        self._analyst = threading.Thread(target=analyse, name="tocsin-engine")

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Recover from the journal and the ingest log, then begin. `progress(events_replayed, events_total)`."""
        self.engine.recover(self._journal)
        total = self._log.next_offset
        for entry in self._log.replay():
            self._admission.restore(entry)
            self.engine.feed([entry])
            if progress is not None:
                progress(self.engine.events, total)
        self.engine.start()
        self._status = self.engine.status()
        self._writer.start()
        self._analyst.start()

    def stop(self) -> None:
        """Finish what was accepted, write the last picture, close the files."""
        self._incoming.put(None)
        if self._writer.is_alive():
            self._writer.join()
        self._work.put(None)
        if self._analyst.is_alive():
            self._analyst.join()
        for file in (self._log, self._journal, self._store):
            file.close()

    def on_verdict(self, listener: Callable[[Verdict], None]) -> None:
        """Call `listener` (on the engine's thread) for every new certified verdict."""
        self._listeners.append(listener)

    # -- what the web server calls ------------------------------------------------------------------------------------

    def room(self) -> tuple[int, int]:
        """How many events may wait to be analysed, and how many do. Raises StorageError when a thread has died."""
        self.check_alive()
        return self._settings.limits.queue_events, self._waiting_rows

    def accept(self, batch: EventBatch, held: Held = NOTHING_HELD) -> Future[Admitted]:
        """Make a batch, and the change of what is held, durable as one. Ask for `room` before: this takes anything."""
        with self._counting:
            self._waiting_rows += len(batch)
        done: Future[Admitted] = Future()
        self._enqueue(_Rows(batch, held, done))
        return done

    def held(self) -> list[bytes]:
        """Records of what is held, in the order put."""
        return self._log.held()

    async def seal(self, agents: tuple[str, ...] | None) -> int:
        """End the learning phase of `agents` (None: everybody seen). Durable; returns the ingest offset."""
        done: Future[int] = Future()
        self._enqueue(_Seal(agents, done))
        return await asyncio.wrap_future(done)

    async def ask(self, question: Callable[[Engine, Store], T]) -> T:
        """Run `question` on the engine's thread, between steps."""
        self.check_alive()
        answer: Future[T] = Future()
        self._work.put(_Question(question, answer))
        _refuse(self._work, self._analyst_ended)
        return await asyncio.wrap_future(answer)

    def fail(self, error: BaseException) -> None:
        """Go out of business, loudly: nothing is accepted afterwards, and what was accepted is finished."""
        self._failure = error
        _log_error("stopped", cause=str(error), exc_info=not isinstance(error, TocsinError))
        self._incoming.put(None)
        self._work.put(None)

    def check_alive(self) -> None:
        """Raises StorageError when a thread has died: nothing is accepted or answered any more."""
        if self._failure is not None:
            raise StorageError(f"tocsin has stopped: {self._failure}", remedy="see its log, then start it again")

    # -- threads ----------------------------------------------------------------------------------------------------

    def _enqueue(self, item: _Rows | _Seal) -> None:
        self.check_alive()
        self._incoming.put(item)
        _refuse(self._incoming, self._writer_ended)

    def _guarded(
        self, work: Callable[[], None], waiting: queue.Queue[Any], ended: threading.Event
    ) -> Callable[[], None]:
        """A thread that dies takes the service out of business, loudly: nothing is accepted afterwards."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - kept, said aloud, and told to every caller
                self.fail(error)  # the other thread finishes what it has and ends too: alone it can do nothing more
            ended.set()
            _refuse(waiting, ended)

        return run

    def _write_forever(self) -> None:
        while (item := self._incoming.get()) is not None:
            gathered = [item]
            rows = len(item.rows) if isinstance(item, _Rows) else JOIN_ROWS
            while rows < JOIN_ROWS and isinstance(item, _Rows):
                try:
                    item = self._incoming.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    self._incoming.put(None)
                    break
                gathered.append(item)
                rows += len(item.rows) if isinstance(item, _Rows) else JOIN_ROWS
            try:
                self._write(gathered)
            except BaseException as error:
                for one in gathered:
                    _fail(one.done, error)
                raise

    def _write(self, gathered: Sequence[_Rows | _Seal]) -> None:
        """Admit, make durable in one transaction, acknowledge, hand over."""
        answers: list[Callable[[], None]] = []
        batches: list[EventBatch] = []
        entries: list[Observed | Sealed] = []
        admitted_rows = 0
        offered_rows = 0
        for item in gathered:
            if isinstance(item, _Rows):
                batch, admitted = self._admission.admit(item.rows)
                offered_rows += len(item.rows)
                admitted_rows += len(batch)
                batches.append(batch)
                answers.append(partial(_answer, item.done, admitted))
        joined = self._admission.join(batches) if batches else None
        if joined is not None and len(joined):
            entries.append(Observed(joined))
        offset = self._log.next_offset + admitted_rows
        for item in gathered:
            if isinstance(item, _Seal):
                if unknown := self._admission.unknown(item.agents or ()):
                    answers.append(partial(_fail, item.done, _never_observed(unknown)))
                    continue
                self._admission.seal(item.agents)
                entries.append(Sealed(item.agents, offset))
                answers.append(partial(_answer, item.done, offset))
        held = [item.held for item in gathered if isinstance(item, _Rows) and item.held]
        if entries or held:
            self._log.append(entries, held)
        with self._counting:
            self._waiting_rows -= offered_rows - admitted_rows
        for answer in answers:
            answer()
        if entries:
            self._work.put(_Entries(entries, admitted_rows))

    def _analyse(self, first: _Entries) -> _Entries | _Question | Literal[False] | None:
        """Analyse `first` and what waits behind it as one round of the monitors: under load, fsyncs are what costs.

        Returns what waits next and is no such thing; False where nothing waits.
        """
        entries, rows = [*first.entries], first.rows
        after: _Entries | _Question | Literal[False] | None = False
        while rows < JOIN_ROWS:
            try:
                after = self._work.get_nowait()
            except queue.Empty:
                break
            if not isinstance(after, _Entries):
                break
            entries.extend(after.entries)
            rows += after.rows
            after = False
        self.engine.feed(entries, more=after is not False or not self._work.empty())
        with self._counting:
            self._waiting_rows -= rows
        return after

    def _analyse_forever(self) -> None:
        clock = self.engine.clock
        pictured_ns = 0
        while True:
            timer = self.engine.cluster.next_timer_ns()
            wait = IDLE_SECONDS if timer is None else min(IDLE_SECONDS, max(0.0, (timer - clock.now_ns()) / 1e9))
            try:
                work = self._work.get(timeout=wait) if wait > 0 else self._work.get_nowait()
            except queue.Empty:
                work = False
            if isinstance(work, _Entries):
                work = self._analyse(work)
            if isinstance(work, _Question):
                self._reply(work)
            if work is None:
                break
            if self._work.empty():
                self.engine.tick()
            self._status = self.engine.status()
            if clock.now_ns() - pictured_ns > PICTURE_SECONDS * 1e9 and self.engine.events:
                self._take_picture()
                pictured_ns = clock.now_ns()
        self._take_picture()

    def _reply(self, question: _Question) -> None:
        if not question.done.set_running_or_notify_cancel():
            return  # whoever asked has gone
        try:
            question.done.set_result(question.ask(self.engine, self._store))
        except BaseException as error:  # noqa: BLE001 - handed to whoever asked
            question.done.set_exception(error)

    def _take_picture(self) -> None:
        taken_ms = self.engine.clock.now_ns() // 1_000_000
        self._store.put_picture("fleet", taken_ms, fleet_picture(self.engine, self._store))

    def _on_verdict(self, verdict: Verdict) -> None:
        if store_verdict(self._store, self._data.certificates, verdict, self._data.roster):
            self._verdicts += 1
            for listener in self._listeners:
                listener(verdict)

    @property
    def logged_events(self) -> int:
        """Events in the ingest log."""
        return self._log.next_offset

    def status(self) -> dict[str, Any]:
        """Counts as of the engine's latest step, from any thread, at once; `as_of_ms` says when that was."""
        return {
            **self._status,
            "verdicts": self._verdicts,
            "backlog_events": self._waiting_rows,
            "ingested_events": self._log.next_offset,
            "not_admitted": self._admission.refused(),
        }
