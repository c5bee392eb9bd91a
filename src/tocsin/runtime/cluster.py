"""All monitors of one process on a memory bus, single-threaded: rounds of steps, one fsync, then effects.

A round takes everything that is waiting, steps every monitor, makes all their records durable in one commit, and only
then lets messages out: the barrier that `Persist` promises, at one fsync per round instead of one per record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tocsin.consensus.inputs import Start
from tocsin.errors import InternalError
from tocsin.model.steps import Effect, Emit, Fired, Persist, Send, SetTimer
from tocsin.monitor.inputs import Flush, Observed, Screened, Sealed
from tocsin.monitor.monitor import Monitor, MonitorInput
from tocsin.runtime.clock import Clock, VirtualClock
from tocsin.runtime.memory_bus import MemoryBus
from tocsin.runtime.timers import Timers

Emitted = Callable[[int, Emit], None]


class Records(Protocol):
    """Where monitors' records go: a `Journal`, or nothing at all for a session that is not durable."""

    def append(self, records: Sequence[tuple[int, Persist]]) -> None: ...


class NoRecords:
    """For sessions in memory: a crash loses everything, and nothing else is promised."""

    def append(self, records: Sequence[tuple[int, Persist]]) -> None:
        """Forget them."""


class Cluster:
    """`monitors` on one bus. `emitted(monitor, emit)` is called after everything it depends on is durable."""

    def __init__(
        self,
        monitors: Sequence[Monitor],
        clock: Clock,
        records: Records,
        emitted: Emitted,
        bus: MemoryBus | None = None,
    ) -> None:
        self.monitors = monitors
        self.clock = clock
        self.bus = bus or MemoryBus(len(monitors))
        self.rounds = 0
        self._records = records
        self._emitted = emitted
        self._timers = Timers()

    def start(self) -> None:
        """Let every monitor re-enter its view and re-arm its timers."""
        self.feed([Start()])

    def feed(self, inputs: Sequence[Observed | Screened | Sealed | Flush | Start]) -> None:
        """Give the same inputs to every monitor, in order, after what was waiting already, as one round.

        One fsync for all of it: while inputs keep coming, messages travel one hop an input at no cost of their own.
        """
        if inputs:
            self._round([*self._waiting(), *((i, one) for one in inputs for i in range(len(self.monitors)))])

    def pump(self) -> int:
        """Process messages and due timers until none is waiting. Returns the number of rounds."""
        before = self.rounds
        while waiting := self._waiting():
            self._round(waiting)
        return self.rounds - before

    def settle(self, horizon_ns: int = 60_000_000_000) -> None:
        """On a virtual clock: jump from timer to timer until nothing is waiting, at most `horizon_ns` ahead."""
        clock = self.clock
        if not isinstance(clock, VirtualClock):
            raise InternalError("settle() needs a virtual clock")
        end = clock.now_ns() + horizon_ns
        self.pump()
        while (at := self._timers.next_ns()) is not None and at <= end:
            clock.advance_to(at)
            self.pump()

    def next_timer_ns(self) -> int | None:
        return self._timers.next_ns()

    def _waiting(self) -> list[tuple[int, MonitorInput]]:
        waiting: list[tuple[int, MonitorInput]] = []
        for i in range(len(self.monitors)):
            waiting.extend((i, message) for message in self.bus.drain(i))
        waiting.extend((i, Fired(token)) for i, token in self._timers.due(self.clock.now_ns()))
        return waiting

    def _round(self, inputs: Sequence[tuple[int, MonitorInput]]) -> None:
        self.rounds += 1
        now = self.clock.now_ns()
        effects: list[tuple[int, Effect]] = []
        for i, one in inputs:
            effects.extend((i, effect) for effect in self.monitors[i].step(now, one))
        self._records.append([(i, e) for i, e in effects if isinstance(e, Persist)])
        for i, effect in effects:
            if isinstance(effect, Send):
                self.bus.send(i, effect.to, effect.body)
            elif isinstance(effect, SetTimer):
                if effect.delay_ns < 0:
                    self._timers.cancel(i, effect.token)
                else:
                    self._timers.set(i, effect.token, now + effect.delay_ns)
            elif isinstance(effect, Emit):
                self._emitted(i, effect)
