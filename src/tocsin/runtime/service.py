"""A running tocsin: two threads beside the web server's own.

    accept() ─> writer thread: admit, one durable record, acknowledge ─> engine thread: judge, agree, store verdicts

What `accept` returns is done only after the events, and what is held of others, are on disk. The queue between the two
is bounded in events: beyond it senders are told to come back later, before anything is accepted. One batch in the log
is one step of every monitor, so requests that wait together are joined before they are written; that is what makes a
replay of the log exact.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import structlog

from tocsin.aggregation.activity import Pace
from tocsin.config import Settings
from tocsin.consensus.inputs import MILLISECOND_NS, ConsensusConfig
from tocsin.errors import StorageError, TocsinError
from tocsin.model.events import Admitted, EventBatch
from tocsin.model.verdict import Verdict
from tocsin.monitor.inputs import Entry, Observed, Refitted, Retired, Sealed
from tocsin.monitor.monitor import Transform
from tocsin.runtime.certificates import store_verdict
from tocsin.runtime.clock import SystemClock
from tocsin.runtime.datadir import DataDir
from tocsin.runtime.engine import Engine
from tocsin.runtime.ingest_log import Held, IngestLog
from tocsin.runtime.journal import Journal
from tocsin.runtime.pictures import fleet_picture
from tocsin.runtime.store import Store
from tocsin.runtime.work import Entries, Order, Question, Rows, fail, never_observed, refuse, tell

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
    def restore(self, entry: Entry) -> None: ...
    def refused(self) -> dict[str, int]: ...
    def learning(self) -> dict[str, int]: ...
    def join(self, batches: Sequence[EventBatch]) -> EventBatch: ...


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
            leader_timeout_ns=settings.consensus.leader_timeout_ms * MILLISECOND_NS,
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
        self._incoming: queue.Queue[Rows | Order | None] = queue.Queue()
        self._work: queue.Queue[Entries | Question | None] = queue.Queue()
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
        self._enqueue(Rows(batch, held, done))
        return done

    def held(self) -> list[bytes]:
        """Records of what is held, in the order put."""
        return self._log.held()

    async def seal(self, agents: tuple[str, ...] | None) -> int:
        """End the learning phase of `agents` (None: everybody seen). Durable; returns the ingest offset."""
        return await self._order(agents, lambda offset: Sealed(agents, offset))

    async def retire(self, agents: tuple[str, ...]) -> int:
        """Take `agents` out of the tree's sums, until they act again. Durable; returns the ingest offset."""
        return await self._order(agents, lambda offset: Retired(agents, offset))

    async def refit(self) -> int:
        """Open a new epoch of the tree's sums: they begin anew. Durable; returns the ingest offset."""
        return await self._order((), Refitted)

    async def _order(self, agents: tuple[str, ...] | None, entry: Callable[[int], Sealed | Retired | Refitted]) -> int:
        done: Future[int] = Future()
        self._enqueue(Order(agents, entry, done))
        return await asyncio.wrap_future(done)

    async def ask(self, question: Callable[[Engine, Store], T]) -> T:
        """Run `question` on the engine's thread, between steps."""
        self.check_alive()
        answer: Future[T] = Future()
        self._work.put(Question(question, answer))
        refuse(self._work, self._analyst_ended)
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

    def _enqueue(self, item: Rows | Order) -> None:
        self.check_alive()
        self._incoming.put(item)
        refuse(self._incoming, self._writer_ended)

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
            refuse(waiting, ended)

        return run

    def _write_forever(self) -> None:
        while (item := self._incoming.get()) is not None:
            gathered = [item]
            rows = len(item.rows) if isinstance(item, Rows) else JOIN_ROWS
            while rows < JOIN_ROWS and isinstance(item, Rows):
                try:
                    item = self._incoming.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    self._incoming.put(None)
                    break
                gathered.append(item)
                rows += len(item.rows) if isinstance(item, Rows) else JOIN_ROWS
            try:
                self._write(gathered)
            except BaseException as error:
                for one in gathered:
                    fail(one.done, error)
                raise

    def _write(self, gathered: Sequence[Rows | Order]) -> None:
        """Admit, make durable in one transaction, acknowledge, hand over."""
        answers: list[Callable[[], None]] = []
        batches: list[EventBatch] = []
        entries: list[Entry] = []
        admitted_rows = 0
        offered_rows = 0
        for item in gathered:
            if isinstance(item, Rows):
                batch, admitted = self._admission.admit(item.rows)
                offered_rows += len(item.rows)
                admitted_rows += len(batch)
                batches.append(batch)
                answers.append(partial(tell, item.done, admitted))
        joined = self._admission.join(batches) if batches else None
        if joined is not None and len(joined):
            entries.append(Observed(joined))
        offset = self._log.next_offset + admitted_rows
        for item in gathered:
            if isinstance(item, Order):
                if unknown := self._admission.unknown(item.agents or ()):
                    answers.append(partial(fail, item.done, never_observed(unknown)))
                    continue
                entries.append(entry := item.entry(offset))
                if isinstance(entry, Sealed):
                    self._admission.seal(entry.agents)
                answers.append(partial(tell, item.done, offset))
        held = [item.held for item in gathered if isinstance(item, Rows) and item.held]
        if entries or held:
            self._log.append(entries, held)
        with self._counting:
            self._waiting_rows -= offered_rows - admitted_rows
        for answer in answers:
            answer()
        if entries:
            self._work.put(Entries(entries, admitted_rows))

    def _analyse(self, first: Entries) -> Entries | Question | Literal[False] | None:
        """Analyse `first` and what waits behind it as one round of the monitors: under load, fsyncs are what costs.

        Returns what waits next and is no such thing; False where nothing waits.
        """
        entries, rows = [*first.entries], first.rows
        after: Entries | Question | Literal[False] | None = False
        while rows < JOIN_ROWS:
            try:
                after = self._work.get_nowait()
            except queue.Empty:
                break
            if not isinstance(after, Entries):
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
            timer = self.engine.next_timer_ns()
            wait = IDLE_SECONDS if timer is None else min(IDLE_SECONDS, max(0.0, (timer - clock.now_ns()) / 1e9))
            try:
                work = self._work.get(timeout=wait) if wait > 0 else self._work.get_nowait()
            except queue.Empty:
                work = False
            if isinstance(work, Entries):
                work = self._analyse(work)
            if isinstance(work, Question):
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

    def _reply(self, question: Question) -> None:
        if not question.done.set_running_or_notify_cancel():
            return  # whoever asked has gone
        try:
            question.done.set_result(question.ask(self.engine, self._store))
        except BaseException as error:  # noqa: BLE001 - handed to whoever asked
            question.done.set_exception(error)

    def _take_picture(self) -> None:
        taken_ms = self.engine.clock.now_ns() // 1_000_000
        picture = fleet_picture(self.engine, self._store, self._admission.learning())
        self._store.put_picture("fleet", taken_ms, picture)

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
