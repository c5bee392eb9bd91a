"""Sans-I/O machines on real links: each event loop turn is one round of steps, at most one fsync, then their effects.

A round takes whatever has arrived, for however many machines the process runs. What a machine sends or emits after a
`Persist` leaves only when the record is durable; what it sent before one leaves at once, while the disk works; and
records that nothing waits for yet (evidence of others) share the next commit. While the disk is busy messages wait in
their sockets, so the busier a host is the more it does for each fsync.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from tocsin.consensus.inputs import Start
from tocsin.errors import InternalError
from tocsin.model.steps import EVERYONE, Effect, Emit, Fired, Persist, Received, Send, SetTimer
from tocsin.runtime.clock import Clock
from tocsin.runtime.tcp_bus import OnMessage, TcpBus
from tocsin.runtime.timers import Timers

if TYPE_CHECKING:
    from tocsin.runtime.cluster import Records  # brings detectors and compiled kernels along

Emitted = Callable[[int, Emit], None]
LAZY_SECONDS = 0.05  # records that nothing waits for are durable after so long


class Machine(Protocol):
    """A `consensus.Replica`, a `monitor.Monitor`, or anything else with their one method."""

    def step(self, now_ns: int, event: Any, /) -> list[Effect]: ...


class Host:
    """Runs `machines` (number -> machine) on the running event loop.

    `emitted(number, emit)` is called after everything it depends on is durable. When a step or the disk fails, nothing
    more is stepped or sent, since what a machine believes durable may not be: `failed` then holds the error.
    """

    def __init__(self, machines: Mapping[int, Machine], records: Records, clock: Clock, emitted: Emitted) -> None:
        self.clock = clock
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.rounds = 0
        self.inputs = 0
        self._machines = dict(machines)
        self._records = records
        self._emitted = emitted
        self._buses: dict[int, TcpBus] = {}
        self._inbox: list[tuple[int, Any]] = []
        self._pending: list[tuple[int, Persist]] = []  # not durable yet
        self._lazy: asyncio.TimerHandle | None = None
        self._timers = Timers()
        self._alarm: asyncio.TimerHandle | None = None
        self._woken = False
        self._closed = False

    def hears(self, number: int) -> OnMessage:
        """What the bus of machine `number` is to call for each message."""
        return lambda peer, body: self.submit(number, Received(peer, body))

    def start(self, buses: Mapping[int, TcpBus]) -> None:
        """Let every machine re-enter where its journal left it. The buses need not be connected yet."""
        self._buses = dict(buses)
        for number in self._machines:
            self.submit(number, Start())

    def submit(self, number: int, event: Any) -> None:
        """Give machine `number` an input in the next round."""
        self._inbox.append((number, event))
        if not self._woken and not self._closed:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._wake)

    def close(self) -> None:
        """Step no more, and make durable what is not. Buses and journal belong to whoever made them."""
        failed = self._closed
        self._closed = True
        for handle in (self._alarm, self._lazy):
            if handle is not None:
                handle.cancel()
        if not failed:
            self._commit()
        if not self.failed.done():
            self.failed.cancel()

    def _wake(self) -> None:
        self._woken = False
        if self._attempt(self._round):
            self._set_alarm()

    def _attempt(self, work: Callable[[], None]) -> bool:
        if self._closed:
            return False
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - kept for whoever awaits `failed`
            self._closed = True
            self.failed.set_exception(error)
        return not self._closed

    def _round(self) -> None:
        now = self.clock.now_ns()
        inputs, self._inbox = self._inbox, []
        inputs.extend((number, Fired(token)) for number, token in self._timers.due(now))
        self.rounds += 1
        self.inputs += len(inputs)
        waiting: list[tuple[int, Effect]] = []
        left = False  # something is on its way: while others work on it the disk may too
        behind = {number for number, _ in self._pending}  # machines with a record that is not durable
        for number, event in inputs:
            for effect in self._machines[number].step(now, event):
                if isinstance(effect, Persist):
                    self._pending.append((number, effect))
                    behind.add(number)
                elif number in behind and not isinstance(effect, SetTimer):
                    waiting.append((number, effect))
                else:
                    left = left or isinstance(effect, Send)
                    self._execute(now, number, effect)
        if waiting or (left and self._pending):
            self._commit()
            for number, effect in waiting:
                self._execute(now, number, effect)
        elif self._pending and self._lazy is None:
            self._lazy = asyncio.get_running_loop().call_later(LAZY_SECONDS, self._attempt, self._commit)

    def _commit(self) -> None:
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None
        if self._pending:
            self._records.append(self._pending)
            self._pending = []

    def _execute(self, now: int, number: int, effect: Effect) -> None:
        if isinstance(effect, Send):
            bus = self._buses[number]
            if effect.to == EVERYONE:
                bus.broadcast(effect.body)
            else:
                bus.send(effect.to, effect.body)
        elif isinstance(effect, SetTimer):
            if effect.delay_ns < 0:
                self._timers.cancel(number, effect.token)
            else:
                self._timers.set(number, effect.token, now + effect.delay_ns)
        elif isinstance(effect, Emit):
            self._emitted(number, effect)

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        at = self._timers.next_ns()
        if at is not None and not self._woken:
            wait = max(0, at - self.clock.now_ns()) / 1e9
            self._alarm = asyncio.get_running_loop().call_later(wait, self._wake)


def demand_running(host: Host) -> None:
    """Raises the error that stopped `host`, if one did."""
    if host.failed.done() and not host.failed.cancelled():
        error = host.failed.exception()
        raise error if error is not None else InternalError("a host ended without a cause")
