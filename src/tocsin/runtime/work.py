"""What waits for a thread of the service, and how whoever waits for it is told what became of it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from tocsin.errors import StorageError, UnknownAgent
from tocsin.model.events import Admitted, EventBatch
from tocsin.monitor.inputs import Entry, Refitted, Retired, Sealed
from tocsin.runtime.engine import Engine
from tocsin.runtime.ingest_log import Held
from tocsin.runtime.store import Store

T = TypeVar("T")


@dataclass(slots=True)
class Rows:
    """Of one sender."""

    rows: EventBatch
    held: Held
    done: Future[Admitted]


@dataclass(slots=True)
class Order:
    """An operator's; what becomes of it is `entry(offset)`."""

    agents: tuple[str, ...] | None
    entry: Callable[[int], Sealed | Retired | Refitted]
    done: Future[int]


@dataclass(slots=True)
class Question:
    """To be asked on the engine's thread."""

    ask: Callable[[Engine, Store], Any]
    done: Future[Any]


@dataclass(slots=True)
class Entries:
    """Durable ones, for the engine."""

    entries: Sequence[Entry]
    rows: int


def tell(done: Future[T], value: T) -> None:
    """Tell whoever waits; a sender that has hung up does not matter."""
    if done.set_running_or_notify_cancel():
        done.set_result(value)


def never_observed(agents: Sequence[str]) -> UnknownAgent:
    """What is said of an order that names them."""
    return UnknownAgent(
        f"{len(agents)} of the agents were never observed, the first {agents[0]!r:.80}",
        remedy="name observed agents: `tocsin agents` lists them",
    )


def fail(done: Future[Any], error: BaseException) -> None:
    """Tell whoever still waits that it came to nothing."""
    if not done.done() and done.set_running_or_notify_cancel():
        done.set_exception(error)


def refuse(waiting: queue.Queue[Any], ended: threading.Event) -> None:
    """Fail what waits for a thread that has ended; to be asked after every put, as it may have ended just before."""
    with contextlib.suppress(queue.Empty):
        while ended.is_set():
            item = waiting.get_nowait()
            if isinstance(item, Rows | Order | Question):
                fail(item.done, StorageError("tocsin has stopped", remedy="see its log, then start it again"))
