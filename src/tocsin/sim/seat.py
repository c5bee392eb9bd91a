"""A simulated host: one running copy of a monitor with its disk, clock, processor, timers and store of verdicts.

It keeps the contract of `Persist`: before anything leaves, everything written is synced. A crash strikes between any
two effects; what comes back has the disk's records and the ingest log, as in runtime/service.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from tocsin.consensus.inputs import Start
from tocsin.model.posterior import Decision
from tocsin.model.steps import Effect, Emit, Fired, Persist, Received, Send, SetTimer
from tocsin.model.verdict import Verdict
from tocsin.monitor.inputs import Flush, Observed, Sealed
from tocsin.monitor.monitor import Monitor, MonitorInput
from tocsin.sim.disk import Disk
from tocsin.sim.faults import CRASHES_AT, MACHINES, Schedule
from tocsin.sim.timeline import Streams, Timeline

STEP_NS = 30_000  # processor time of a step that reads nothing
BYTE_NS = 700  # and of each byte received: 64 of them are a signature to verify
SYNC_NS = 500_000
NEVER = -1
SECOND_NS = 1_000_000_000
START_NS = 1_700_000_000 * SECOND_NS  # no clock starts at zero

Entry = Observed | Sealed


class Watcher(Protocol):
    """Who is told what a seat did: see invariants.py."""

    def durable(self, seat: Seat, kind: str, record: bytes) -> None: ...

    def sent(self, seat: Seat, body: bytes) -> None: ...

    def decided(self, seat: Seat, decision: Decision) -> None: ...

    def entered(self, seat: Seat, epoch: int, view: int) -> None: ...

    def verdict(self, seat: Seat, verdict: Verdict) -> None: ...


class Seat:
    """`place` = (monitor, which of its copies). `make` gives a fresh monitor; `send(to, body, when_ns)` posts."""

    def __init__(
        self,
        place: tuple[int, int],
        position: int,
        make: Callable[[Seat], Monitor],
        timeline: Timeline,
        streams: Streams,
        schedule: Schedule,
        ingest_log: Sequence[Entry],
        send: Callable[[int, int, bytes, int], None],
        watcher: Watcher,
    ) -> None:
        self.index, self.copy = place
        self.position = position
        role = schedule.role(self.index)
        self.honest = self.index not in schedule.faulty
        self.loses_disk = role == "lost disk"  # honest otherwise
        self.monitor: Monitor | None = None
        self.disk = Disk(lying=role == "lying disk")
        self.store: dict[str, Verdict] = {}
        self._crash_after = NEVER  # effects of the next step that still happen
        self._down_ns = 0  # and how long it takes to come back
        self._crash_when: dict[str, tuple[int, int]] = {}  # kind of record -> effects after it, time to come back
        self._make = make
        self._timeline = timeline
        self._rng = streams.of("seat", position)
        faults = [fault for fault in schedule.of_kind(*MACHINES) if self.index in fault.who]
        self._slow = [fault for fault in faults if fault.kind == "slow machine"]
        self._jumps = [fault for fault in faults if fault.kind == "clock jump"]
        self._drifts = [fault for fault in faults if fault.kind == "clock drift"]
        self._ingest_log = ingest_log
        self._send = send
        self._watcher = watcher
        self._incarnation = 0
        self._lost_it = False
        self._read = 0  # entries of the ingest log that were analysed since the last start
        self._timers: dict[str, int] = {}  # token -> how often it was set
        self._waiting: deque[MonitorInput] = deque()  # for the processor, in the order in which they came
        self._busy_until_ns = 0
        self._offset_ns = START_NS + self._rng.randrange(-60, 60) * SECOND_NS

    # --- life

    def boot(self) -> None:
        """Start from what is on the disk and in the ingest log."""
        if self.monitor is not None:
            return
        self._incarnation += 1
        self._timers = {}
        self._waiting.clear()
        self._busy_until_ns = 0
        self._read = 0
        self._crash_after = NEVER
        self.monitor = self._make(self)
        self.monitor.recover(self.disk.records)
        self.catch_up()
        self._step(Start())

    def crash_in(self, effects: int, down_ns: int) -> None:
        """Crash after so many effects of the next step and boot again `down_ns` later."""
        self._crash_after, self._down_ns = effects, down_ns

    def crash_when(self, fault: str, effects: int, down_ns: int) -> None:
        """Crash so many effects after the next record of the kind that `fault` (see faults.CRASHES_AT) names."""
        self._crash_when[CRASHES_AT[fault]] = (effects, down_ns)

    def calm(self) -> None:
        """Do not crash any more."""
        self._crash_after = NEVER
        self._crash_when.clear()

    def _crash(self) -> None:
        self.monitor = None
        for kind, record in self.disk.crash(self._rng):
            self._watcher.durable(self, kind, record)
        if self.loses_disk and not self._lost_it:
            self._lost_it = True
            self.disk = Disk()
        self._offset_ns += self._rng.randrange(-5, 5) * SECOND_NS  # clocks do not go back but between two lives
        self._timeline.at(self._timeline.now_ns + self._down_ns, self.boot)

    def catch_up(self) -> None:
        """Analyse what the ingest log holds and has not been analysed."""
        while self.monitor is not None and self._read < len(self._ingest_log):
            self._read += 1
            self._step(self._ingest_log[self._read - 1])

    @property
    def caught_up(self) -> bool:
        """Whether the monitor is up and has analysed everything."""
        return self.monitor is not None and self._read == len(self._ingest_log)

    # --- inputs

    def give(self, event: MonitorInput) -> None:
        """Let the monitor step, when its processor is free."""
        self._give(event)

    def flush(self, offset: int) -> None:
        """State everything that is held back."""
        self.give(Flush(offset))

    def _give(self, event: MonitorInput) -> None:
        if self.monitor is None:
            return
        if self._waiting:
            self._waiting.append(event)
        elif self._timeline.now_ns < self._busy_until_ns:
            self._waiting.append(event)
            self._timeline.at(self._busy_until_ns, self._take_next, self._incarnation)
        else:
            self._step(event)

    def _take_next(self, incarnation: int) -> None:
        if self.monitor is None or incarnation != self._incarnation:
            return
        self._step(self._waiting.popleft())
        if self._waiting:
            self._timeline.at(self._busy_until_ns, self._take_next, incarnation)

    def _fire(self, incarnation: int, token: str, number: int) -> None:
        if incarnation == self._incarnation and self._timers.get(token) == number:
            self._give(Fired(token))

    def _step(self, event: MonitorInput) -> None:
        if self.monitor is None:
            return
        now = self._timeline.now_ns
        cost = STEP_NS + BYTE_NS * len(event.body) if isinstance(event, Received) else STEP_NS
        if self._slow:
            cost = int(cost * max((fault.amount for fault in self._slow if fault.active(now)), default=1))
        done = max(now, self._busy_until_ns) + cost
        self._busy_until_ns = done
        self._execute(self.monitor.step(self._clock_ns(now), event), done)

    def _clock_ns(self, now_ns: int) -> int:
        jumped = sum(f.amount for f in self._jumps if f.start_ns <= now_ns) if self._jumps else 0
        return now_ns + self._offset_ns + int(jumped * SECOND_NS)

    # --- effects

    def _execute(self, effects: Sequence[Effect], when_ns: int) -> None:
        limit, self._crash_after = self._crash_after, NEVER
        for done, effect in enumerate(effects):
            if limit != NEVER and done >= limit:
                self._crash()
                return
            if isinstance(effect, Persist):
                self.disk.append(effect.kind, effect.record)
                if effect.kind in self._crash_when and limit == NEVER:
                    after, self._down_ns = self._crash_when.pop(effect.kind)
                    limit = done + 1 + after
                continue
            if isinstance(effect, SetTimer):
                self._set_timer(effect, when_ns)
                continue
            for kind, record in self.disk.sync():
                self._watcher.durable(self, kind, record)
                when_ns += SYNC_NS
            if isinstance(effect, Send):
                self._watcher.sent(self, effect.body)
                self._send(self.position, effect.to, effect.body, when_ns)
            else:
                self._emitted(effect)
        if limit != NEVER:
            self._crash()

    def _set_timer(self, effect: SetTimer, when_ns: int) -> None:
        number = self._timers[effect.token] = self._timers.get(effect.token, 0) + 1
        if effect.delay_ns >= 0:
            drift = [f.amount for f in self._drifts if f.active(when_ns)]
            delay = int(effect.delay_ns * (drift[0] if drift else 1.0) * self._rng.uniform(1.0, 1.1))
            self._timeline.at(when_ns + delay, self._fire, self._incarnation, effect.token, number)

    def _emitted(self, emit: Emit) -> None:
        if emit.kind == "decided":
            self._watcher.decided(self, emit.value)
        elif emit.kind == "view":
            self._watcher.entered(self, *emit.value)
        elif emit.kind == "verdict":
            self.store.setdefault(emit.value.verdict_id, emit.value)
            self._watcher.verdict(self, emit.value)
