"""What every agent does, window by window of event time: the series in which coordinated groups are looked for.

Three series an agent, each O(1) an event: how much it does, how much of that has side effects, and how far its
measurements are from its own running mean. They are kept in a ring for as long as a round of screening looks back.

Time is the fleet's, not any one agent's: it moves to a window once a tenth of the agents that are active have reached
it, so a clock that runs ahead, or an agent that lies about its own, neither ends rounds early nor empties them. Events
for windows that are gone, or too far ahead, are counted and change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.errors import ConfigError
from tocsin.model.events import Effect, EventBatch, Phase
from tocsin.stats.factors import MAX_LENGTH
from tocsin.stats.simhash import SHORTEST

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
I64 = NDArray[np.int64]
Flags = NDArray[np.bool_]

SERIES = ("activity", "side effects", "measurements")
AHEAD = 16  # windows an agent may be ahead of the fleet
GRACE = 2  # windows that late events have to arrive before a round is taken
FEATURES = 8  # measurements followed, the first ones seen
MEMORY = 64.0  # events over which an agent's usual measurements are averaged
FARTHEST = 1e100  # a measurement beyond it says nothing
SETTLED = 16.0  # events after which a wild value counts for no more than four standard deviations
EDGE = 8  # an agent is there all the time if it is seen within the first and the last eighth of a round
SHARE_OF_CLOCKS = 10  # one in so many active agents has to have reached a window
NEVER = -(1 << 62)
_NEWEST, _BASE, _DUE, _LATE, _AHEAD = range(5)
_ALL, _ROUND, _LEAP = range(3)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a window is, how many a round looks back on, and how many pass from one round to the next.

    Raises ConfigError for what cannot be screened.
    """

    window_ns: int = 10_000_000_000
    length: int = 256
    every: int = 64

    def __post_init__(self) -> None:
        if self.window_ns < 1 or not SHORTEST <= self.length <= MAX_LENGTH or not 1 <= self.every <= self.length:
            raise ConfigError(
                f"coordination cannot be looked for in {self.length} windows of {self.window_ns} ns, "
                f"every {self.every} of them",
                remedy=f"use {SHORTEST} to {MAX_LENGTH} windows, and a round every so many of them or fewer",
            )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The series of the agents that were there all the time: what one round screens."""

    number: int  # of the round, from 1
    end: int  # the window after the last one
    agents: I64  # (m,) numbers in order of first appearance in the fleet
    names: tuple[str, ...]  # (m,)
    series: F32  # (len(SERIES), m, T)
    judged: NDArray[np.bool_]  # (m,) live throughout
    baseline: NDArray[np.bool_]  # (m,) nothing live


@njit(cache=True, nogil=True)
def _reach_for(w: int, before: int, needed: int, clock: I64, last: I64, reach: I64) -> bool:
    """An agent got from window `before` to `w`: move the fleet's clock where enough have. True: it is a leap."""
    ahead = reach.shape[0]
    for k in range(max(before - clock[0], 0), min(w - clock[0], ahead)):
        reach[k] += 1
    far = ahead
    while far > 0 and reach[far - 1] < needed:
        far -= 1
    if 0 < far < ahead:
        clock[0] += far
        for k in range(ahead):
            reach[k] = reach[k + far] if k + far < ahead else np.sum(last > clock[0] + k)
    return far == ahead


@njit(cache=True, nogil=True)
def _distance(values: F64, column: I64, usual: F64) -> tuple[float, int]:
    """(mean distance from usual in standard deviations, count) of one event's measurements; then they are learnt."""
    total = 0.0
    count = 0
    for j in range(values.shape[0]):
        x = values[j]
        if column[j] < 0 or not np.isfinite(x):
            continue
        known = usual[column[j]]
        known[2] += 1.0
        off = x - known[0]
        scale = 1.25 * known[1]  # of a normal law, its standard deviation
        if scale > 0.0:
            total += min(max(off / scale, -3.0), 3.0)
            if known[2] > SETTLED:
                off = min(max(off, -4.0 * scale), 4.0 * scale)  # one wild value teaches little
        gain = max(1.0 / known[2], 1.0 / MEMORY)
        known[0] += gain * off
        known[1] += gain * (abs(off) - known[1]) if known[2] > 1.0 else 0.0
        count += 1
    return (total / count if count else 0.0), count


@njit(cache=True, nogil=True)
def _accumulate(
    start: int, window_ns: int, needed: int, agent: I64, t_ns: I64, live: Flags, effective: Flags, values: F64,
    column: I64, clock: I64, first: I64, last: I64, turned: I64, reach: I64, ring: F32, usual: F64,
) -> tuple[int, int]:  # fmt: skip
    """Rows from `start` on into `ring` (agents, slots, 4); stops before a row at which a round is due, or time leaps.

    `usual` (agents, features, 3): running mean, mean absolute deviation and count. `turned` is the window in which an
    agent went live, `reach[k]` how many agents have reached window newest + 1 + k. Returns the row it stopped at, and
    why (_ALL, _ROUND, _LEAP).
    """
    for r in range(start, agent.shape[0]):
        a = agent[r]
        w = int(t_ns[r]) // window_ns
        before = int(last[a])
        if w > before:
            last[a] = w
            if before < first[a]:
                first[a] = w
            if _reach_for(w, before, needed, clock, last, reach):
                return r, 2
        if clock[0] >= clock[2]:
            return r, 1
        if live[r] and w < turned[a]:
            turned[a] = w
        if w < clock[1] or w > clock[0] + reach.shape[0]:
            clock[3 if w < clock[1] else 4] += 1
            continue
        cell = ring[a, w % ring.shape[1]]
        cell[0] += np.float32(1.0)
        if effective[r]:
            cell[1] += np.float32(1.0)
        far_off, count = _distance(values[r], column, usual[a])
        if count > 0:
            cell[2] += np.float32(far_off)
            cell[3] += np.float32(1.0)
    return agent.shape[0], 0


class ActivityWindows:
    """`observe` batches; it returns the rounds that became due. The same batches give the same rounds."""

    def __init__(self, pace: Pace, *, max_agents: int = 1 << 20) -> None:
        self.pace = pace
        self.rounds = 0
        self._max_agents = max_agents
        self._slots = pace.length + GRACE + AHEAD + 1
        self._code: dict[str, int] = {}
        self._names: list[str] = []
        self._feature: dict[str, int] = {}
        self._table: tuple[str, ...] = ()
        self._table_codes: I64 = np.zeros(0, np.int64)
        self._clock: I64 = np.array([NEVER, 0, 0, 0, 0], np.int64)
        self._reach: I64 = np.zeros(AHEAD, np.int64)
        self._first: I64 = np.zeros(0, np.int64)
        self._last: I64 = np.zeros(0, np.int64)
        self._turned: I64 = np.zeros(0, np.int64)
        self._ring: F32 = np.zeros((0, self._slots, 4), np.float32)
        self._usual: F64 = np.zeros((0, FEATURES, 3))
        self.unfollowed = 0  # events of agents beyond `max_agents`

    @property
    def late(self) -> int:
        """Events that came after their window had been screened."""
        return int(self._clock[_LATE])

    @property
    def ahead(self) -> int:
        """Events of clocks too far ahead of the fleet's."""
        return int(self._clock[_AHEAD])

    def observe(self, batch: EventBatch) -> list[Snapshot]:
        """Count a batch; rows of one agent in its own order. Returns what is to be screened now, oldest first."""
        agent, t_ns, live = self._codes(batch.agents)[batch.agent], batch.t_ns, batch.phase == Phase.LIVE
        effective = (batch.effect == Effect.WRITE) | (batch.effect == Effect.EGRESS)
        values = np.where(np.abs(batch.values) <= FARTHEST, batch.values, np.nan)  # of larger ones means overflow
        if not bool((agent >= 0).all()):
            known = agent >= 0
            self.unfollowed += int((~known).sum())
            agent, t_ns, live, effective = agent[known], t_ns[known], live[known], effective[known]
            values = values[known] if batch.feature_names else values
        if agent.shape[0] == 0:
            return []
        column = np.array([self._feature_code(name) for name in batch.feature_names], np.int64)
        if self._clock[_NEWEST] == NEVER:
            self._begin(int(t_ns.min()) // self.pace.window_ns)
        found: list[Snapshot] = []
        row, why = 0, _ALL
        while row < agent.shape[0]:
            row, why = _accumulate(
                row, self.pace.window_ns, self._needed(), agent, t_ns, live, effective, values, column, self._clock,
                self._first, self._last, self._turned, self._reach, self._ring, self._usual,
            )  # fmt: skip
            if why == _ROUND:
                found.append(self._take())
            elif why == _LEAP:
                self._leap()
        return found

    def _codes(self, table: tuple[str, ...]) -> I64:
        if table is self._table:
            return self._table_codes
        codes = np.empty(len(table), np.int64)
        for i, name in enumerate(table):
            code = self._code.get(name, -1)
            if code < 0 and len(self._names) < self._max_agents:
                code = self._code[name] = len(self._names)
                self._names.append(name)
            codes[i] = code
        self._grow(len(self._names))
        self._table, self._table_codes = table, codes
        return codes

    def _grow(self, size: int) -> None:
        extra = size - self._last.shape[0]
        if extra > 0:
            extra = max(extra, self._last.shape[0] // 4, 64)
            self._first = np.concatenate([self._first, np.full(extra, -NEVER, np.int64)])
            self._last = np.concatenate([self._last, np.full(extra, NEVER, np.int64)])
            self._turned = np.concatenate([self._turned, np.full(extra, -NEVER, np.int64)])
            self._ring = np.concatenate([self._ring, np.zeros((extra, *self._ring.shape[1:]), np.float32)])
            self._usual = np.concatenate([self._usual, np.zeros((extra, *self._usual.shape[1:]))])

    def _feature_code(self, name: str) -> int:
        if name not in self._feature and len(self._feature) < FEATURES:
            self._feature[name] = len(self._feature)
        return self._feature.get(name, -1)

    def _needed(self) -> int:
        active = int(np.count_nonzero(self._last >= self._clock[_NEWEST] - self.pace.length))
        return max(1, active // SHARE_OF_CLOCKS)

    def _begin(self, window: int) -> None:
        """Start, or start again, with the round that begins at `window`."""
        self._clock[_NEWEST], self._clock[_BASE] = window, window
        self._clock[_DUE] = window + self.pace.length + GRACE
        self._ring[:] = 0.0
        self._first[self._last > NEVER] = window
        self._count_reach()

    def _count_reach(self) -> None:
        self._reach[:] = [np.count_nonzero(self._last > self._clock[_NEWEST] + k) for k in range(AHEAD)]

    def _leap(self) -> None:
        """Nothing came for a while. After more than a round's length what the ring holds has no continuation."""
        reached = int(np.sort(self._last)[-self._needed()])
        if reached - int(self._clock[_NEWEST]) >= self.pace.length:
            self._begin(reached)
        else:
            self._clock[_NEWEST] = min(reached, int(self._clock[_DUE]))
            self._count_reach()

    def _take(self) -> Snapshot:
        """The round that is due, and room for the windows that come next."""
        length, base = self.pace.length, int(self._clock[_BASE])
        # An agent that came or went in the middle would look like all that came or went with it.
        edge = length // EDGE
        agents = np.flatnonzero((self._first <= base + edge) & (self._last >= base + length - edge))
        start = base % self._slots
        head = min(length, self._slots - start)
        cells = np.concatenate([self._ring[agents, start : start + head], self._ring[agents, : length - head]], axis=1)
        series = np.empty((len(SERIES), agents.shape[0], length), np.float32)
        series[:2] = np.sqrt(np.moveaxis(cells[:, :, :2], 2, 0) + 0.375)  # steadies a count's variance (Anscombe 1948)
        series[2] = cells[:, :, 2] / np.maximum(cells[:, :, 3], 1.0)
        self.rounds += 1
        names = tuple(self._names[a] for a in agents.tolist())
        gone = np.arange(base, base + self.pace.every) % self._slots
        self._ring[:, gone] = 0.0
        self._clock[_BASE] += self.pace.every
        self._clock[_DUE] += self.pace.every
        turned = self._turned[agents]
        judged, baseline = turned <= base, turned >= base + length
        return Snapshot(self.rounds, base + length, agents.astype(np.int64), names, series, judged, baseline)
