"""What may enter the ingest log: positions, retransmissions, clocks, the number of agents, and who is still learning.

No threads, no clock of its own: one caller at a time, time from `now_ns`. Everything it remembers is rebuilt from the
log by `restore`, so a restart neither forgets a warm-up nor lets a retransmission in twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import ConfigError
from tocsin.model.events import Admitted, EventBatch, Phase
from tocsin.monitor.inputs import Observed, Sealed
from tocsin.wire.events import concat, take

NS_PER_SECOND = 1_000_000_000

DUPLICATE = "duplicate"  # a retransmission of an event already taken in: nothing is lost
LATE = "late"
AGENTS = "too_many_agents"
CLOCK_AHEAD = "clock_ahead"  # taken in, with its time set to the receiver's


_LEAST = {"warmup_events": 0, "max_agents": 1, "late_seconds": 0, "max_ahead_seconds": 0, "duplicate_window": 2}
_NEVER = -(1 << 62)


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """Bounds of admission. Raises ConfigError where one makes no sense."""

    warmup_events: int = 200  # per agent, before its events are judged
    max_agents: int = 20_000
    late_seconds: int = 900  # an event further behind its agent's newest one than this is refused
    max_ahead_seconds: int = 60  # an event further in the future than this gets the receiver's time
    duplicate_window: int = 262_144  # event ids remembered, across all agents

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}", remedy=f"give at least {least}")


class Admission:
    """Decides, row by row, what enters. `now_ns` None: no clock, times are taken as they come (tables, replays)."""

    def __init__(self, config: AdmissionConfig, now_ns: Callable[[], int] | None = None) -> None:
        self._config = config
        self._now_ns = now_ns
        self._agents: dict[str, int] = {}  # agent -> index into the three lists
        self._admitted: list[int] = []  # events, per agent
        self._newest_ns: list[int] = []
        self._sealed: list[bool] = []
        # Two generations of event ids: when the young one is full the old one is dropped.
        self._young: set[int] = set()
        self._old: set[int] = set()
        self._refused: Counter[str] = Counter()
        self._clamped = 0
        self.next_offset = 0

    def admit(self, rows: EventBatch) -> tuple[EventBatch, Admitted]:
        """The rows that enter, with `offset` and `phase` decided here, and the account given to the sender.

        Once returned, rows count as taken in: the caller makes them durable or stops.
        """
        n = len(rows)
        keep = np.ones(n, np.bool_)
        refused: Counter[str] = Counter()
        t_ns, ahead = self._clamped_times(rows)
        known = self._check_agents(rows, keep, refused)
        self._check_late(t_ns, known[rows.agent], keep, refused)
        self._check_duplicates(rows, keep, refused)
        index: NDArray[np.int64] = np.flatnonzero(keep)
        kept = take(rows, index, self.next_offset)
        batch = _with(kept, t_ns[index], self._phases(known[kept.agent], t_ns[index]))
        self.next_offset += len(batch)
        self._refused.update(refused)
        self._clamped += ahead
        return batch, Admitted(len(batch), dict(refused), {CLOCK_AHEAD: ahead} if ahead else {})

    def seal(self, agents: Sequence[str] | None) -> None:
        """End the warm-up of `agents`; None: of every agent seen so far (later ones warm up as usual)."""
        for agent in self._agents if agents is None else agents:
            self._sealed[self._index(agent)] = True

    def restore(self, entry: Observed | Sealed) -> None:
        """Take an entry of the log into account, in order, at start."""
        if isinstance(entry, Sealed):
            self.seal(entry.agents)
            return
        batch = entry.batch
        for agent, phase, t in zip(batch.agent.tolist(), batch.phase.tolist(), batch.t_ns.tolist(), strict=True):
            index = self._index(batch.agents[agent])
            self._count(index, t)
            if phase == Phase.LIVE:
                self._sealed[index] = True
        ids: list[int] = batch.event_id.tolist()
        for event_id in ids:
            self._remember(event_id)
        self.next_offset = batch.offset + len(batch)

    def join(self, batches: Sequence[EventBatch]) -> EventBatch:
        """Batches admitted one after the other as one."""
        return concat(batches)

    def refused(self) -> dict[str, int]:
        """Rows refused since the start, by reason."""
        return dict(self._refused)

    @property
    def clock_ahead(self) -> int:
        """Rows whose time was in the future and was set to the receiver's."""
        return self._clamped

    @property
    def agents(self) -> int:
        """Agents seen."""
        return len(self._agents)

    def _clamped_times(self, rows: EventBatch) -> tuple[NDArray[np.int64], int]:
        if self._now_ns is None:
            return rows.t_ns, 0
        now = self._now_ns()
        ahead = rows.t_ns > now + self._config.max_ahead_seconds * NS_PER_SECOND
        return np.where(ahead, np.int64(now), rows.t_ns), int(ahead.sum())

    def _check_late(
        self, t_ns: NDArray[np.int64], agents: NDArray[np.int64], keep: NDArray[np.bool_], refused: Counter[str]
    ) -> None:
        """Refuse what is too far behind its agent's newest event before this batch."""
        newest = np.array([*self._newest_ns, _NEVER], np.int64)
        _refuse(keep, t_ns < newest[agents] - self._config.late_seconds * NS_PER_SECOND, LATE, refused)

    def _check_agents(self, rows: EventBatch, keep: NDArray[np.bool_], refused: Counter[str]) -> NDArray[np.int64]:
        """Index of each of the batch's agents; -1 for those there is no room for."""
        known = np.full(len(rows.agents) + 1, -1, np.int64)
        codes: list[int] = np.unique(rows.agent[keep]).tolist()
        for code in codes:
            agent = rows.agents[code]
            if agent in self._agents or len(self._agents) < self._config.max_agents:
                known[code] = self._index(agent)
        _refuse(keep, known[rows.agent] < 0, AGENTS, refused)
        return known

    def _check_duplicates(self, rows: EventBatch, keep: NDArray[np.bool_], refused: Counter[str]) -> None:
        if rows.event_id.shape[0] != len(rows):
            return
        seen = np.zeros(len(rows), np.bool_)
        ids = rows.event_id.tolist()
        for row in np.flatnonzero(keep).tolist():
            seen[row] = ids[row] in self._young or ids[row] in self._old
            self._remember(ids[row])
        _refuse(keep, seen, DUPLICATE, refused)

    def _remember(self, event_id: int) -> None:
        if event_id == 0:
            return
        self._young.add(event_id)
        if len(self._young) * 2 >= self._config.duplicate_window:
            self._old, self._young = self._young, set()

    def _phases(self, agents: NDArray[np.int64], t_ns: NDArray[np.int64]) -> NDArray[np.int8]:
        """Phase of each row, given its agent's index; counts the rows and moves each agent's newest time."""
        phases = np.zeros(agents.shape[0], np.int8)
        warmup = self._config.warmup_events
        for row, (index, t) in enumerate(zip(agents.tolist(), t_ns.tolist(), strict=True)):
            if self._sealed[index] or self._admitted[index] >= warmup:
                phases[row] = Phase.LIVE
            self._count(index, t)
        return phases

    def _count(self, index: int, t_ns: int) -> None:
        self._admitted[index] += 1
        self._newest_ns[index] = max(self._newest_ns[index], t_ns)

    def _index(self, agent: str) -> int:
        index = self._agents.setdefault(agent, len(self._agents))
        if index == len(self._admitted):
            self._admitted.append(0)
            self._newest_ns.append(_NEVER)
            self._sealed.append(False)
        return index


def _refuse(keep: NDArray[np.bool_], bad: NDArray[np.bool_], reason: str, refused: Counter[str]) -> None:
    count = int((keep & bad).sum())
    if count:
        refused[reason] += count
        keep &= ~bad


def _with(batch: EventBatch, t_ns: NDArray[np.int64], phase: NDArray[np.int8]) -> EventBatch:
    """`batch` with its times and phases replaced."""
    return replace(batch, t_ns=t_ns, phase=phase)
