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
from tocsin.monitor.inputs import Entry, Observed, Sealed
from tocsin.wire.events import concat, take, trimmed

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
        t_ns, ahead = self._clamped_times(rows)
        n = len(rows)
        times: list[int] = t_ns.tolist()
        codes: list[int] = rows.agent.tolist()
        ids: list[int] = rows.event_id.tolist() if rows.event_id.shape[0] == n else [0] * n
        before = [self._newest(agent) for agent in rows.agents]
        refused: Counter[str] = Counter()
        kept: list[int] = []
        phases: list[int] = []
        for row in range(n):
            agent = rows.agents[codes[row]]
            reason = self._reason(agent, times[row], ids[row], before[codes[row]])
            if reason:
                refused[reason] += 1
                continue
            kept.append(row)
            phases.append(self._take_in(agent, times[row], ids[row]))
        index = np.array(kept, np.int64)
        batch = trimmed(take(rows, index, self.next_offset))
        batch = replace(batch, t_ns=t_ns[index], phase=np.array(phases, np.int8))
        self.next_offset += len(batch)
        self._refused.update(refused)
        self._clamped += ahead
        return batch, Admitted(len(batch), dict(refused), {CLOCK_AHEAD: ahead} if ahead else {})

    def learning(self) -> dict[str, int]:
        """Agents whose events are still learned -> how many more are, before they are judged. From any thread."""
        warmup = self._config.warmup_events
        known = list(self._agents.items())
        left = {name: warmup - self._admitted[i] for name, i in known if i < len(self._sealed) and not self._sealed[i]}
        return {name: events for name, events in left.items() if events > 0}

    def unknown(self, agents: Sequence[str]) -> list[str]:
        """Those of `agents` of which nothing was admitted yet, in order."""
        return [agent for agent in agents if agent not in self._agents]

    def seal(self, agents: Sequence[str] | None) -> None:
        """End the warm-up of `agents`; None: of every agent seen so far (later ones warm up as usual)."""
        for agent in self._agents if agents is None else agents:
            self._sealed[self._index(agent)] = True

    def restore(self, entry: Entry) -> None:
        """Take an entry of the log into account, in order, at start."""
        if isinstance(entry, Sealed):
            self.seal(entry.agents)
        if not isinstance(entry, Observed):
            return
        batch = entry.batch
        for row in range(len(batch)):
            agent = batch.agents[int(batch.agent[row])]
            self._take_in(agent, int(batch.t_ns[row]), int(batch.event_id[row]))
            if batch.phase[row] == Phase.LIVE:
                self._sealed[self._agents[agent]] = True
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

    def _reason(self, agent: str, t_ns: int, event_id: int, newest_ns: int) -> str:
        """Why an event is refused, '' if it is not. `newest_ns` is its agent's newest time before the batch."""
        if agent not in self._agents and len(self._agents) >= self._config.max_agents:
            return AGENTS
        if t_ns < newest_ns - self._config.late_seconds * NS_PER_SECOND:
            return LATE
        if event_id and (event_id in self._young or event_id in self._old):
            return DUPLICATE
        return ""

    def _take_in(self, agent: str, t_ns: int, event_id: int) -> Phase:
        """Count an event in; returns its phase."""
        index = self._index(agent)
        live = self._sealed[index] or self._admitted[index] >= self._config.warmup_events
        self._admitted[index] += 1
        self._newest_ns[index] = max(self._newest_ns[index], t_ns)
        self._remember(event_id)
        return Phase.LIVE if live else Phase.BASELINE

    def _newest(self, agent: str) -> int:
        index = self._agents.get(agent)
        return _NEVER if index is None else self._newest_ns[index]

    def _remember(self, event_id: int) -> None:
        if event_id == 0:
            return
        self._young.add(event_id)
        if len(self._young) * 2 >= self._config.duplicate_window:
            self._old, self._young = self._young, set()

    def _index(self, agent: str) -> int:
        index = self._agents.setdefault(agent, len(self._agents))
        if index == len(self._admitted):
            self._admitted.append(0)
            self._newest_ns.append(_NEVER)
            self._sealed.append(False)
        return index
