"""The fleet's detector: batches of events in, running evidence about every agent out.

Two numbers per event that are never mixed: `log_e`, the agent's running e-process (controls false alarms), and
`log_bf`, by how much the event moved the belief that the agent is compromised. Deterministic and sans-I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from tocsin.detection.call_log import calls_of
from tocsin.detection.explain import NOTABLE_NATS, Explanation, describe
from tocsin.detection.measures import beside_calls, measurements
from tocsin.detection.merge import merge
from tocsin.detection.names import Names
from tocsin.detection.novelty import NoveltyChannel
from tocsin.detection.numeric import NumericChannel
from tocsin.detection.sessions import SessionChannel
from tocsin.detection.span_levels import MEASURES, SpanChannel
from tocsin.errors import ConfigError, UnknownAgent
from tocsin.model.events import EventBatch, Kind, Phase
from tocsin.model.evidence import CLIP_NATS, Q32, Reason

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

REASONS_KEPT = 5
# Of the mean over channels: numeric features, calls, durations and sizes, which must not cost the calls much, and the
# agent's own novelties, which share with the calls by how many peers there are to compare with.
SHARES = np.array([1.0, 1.0, 0.03, 0.0])
CHANNELS = SHARES.shape[0]
REFIT_GROWTH = 1.15
PSEUDO_SESSION = 16  # events that make a session where the source names none


class DetectorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings. `alpha`: target share of false alarms among alarms. `prior`: probability that an agent is compromised.

    `max_agents`, `max_actions`, `max_contexts` bound memory: names beyond them share one overflow slot.
    `seed` feeds the hashes that break ties between ranks.
    """

    alpha: float = 0.01
    prior: float = 0.01
    max_agents: int = 1 << 20
    max_actions: int = 4096
    max_contexts: int = 32
    max_groups: int = 1 << 16
    max_baseline_events: int = 2_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("alpha", "prior"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(f"{name} = {getattr(self, name)} is not between 0 and 1", remedy="0.01 is usual")


@dataclass(frozen=True, slots=True)
class Observation:
    """What a batch of n events says, row by row. All nats."""

    agents: Sequence[str]  # every agent known to the detector; agent_index points into it
    agent_index: NDArray[np.int32]  # (n,)
    seq: NDArray[np.int64]  # (n,) the agent's event number, from 0
    log_e: NDArray[np.float64]  # (n,) running e-process after the event; 0 in the baseline
    log_bf: NDArray[np.float64]  # (n,) what this event added to the belief; 0 in the baseline
    log_odds: NDArray[np.float64]  # (n,) belief after the event: prior log-odds plus the clipped sum of log_bf


class FleetDetector:
    """Learns from events of the baseline phase, then compares every live event with what it learned.

    Baselines are sealed at the first live event, and sealed again whenever the baseline has grown by REFIT_GROWTH since
    (agents of a fleet do not finish their baselines at the same time).
    """

    def __init__(self, config: DetectorConfig | None = None) -> None:
        self.config = config or DetectorConfig()
        self._agents = Names(self.config.max_agents)
        self._tools = Names(self.config.max_actions)
        self._groups = Names(self.config.max_groups)
        self._events = np.zeros(0, np.int64)
        self._belief = np.zeros(0, np.float64)
        self._last = np.zeros((0, CHANNELS, 2))  # each channel's latest log_e and belief per agent; NaN = none yet
        self._shares = np.zeros((0, CHANNELS))  # of the mean over channels, fixed once an agent is judged
        self._numeric = NumericChannel(
            self.config.max_contexts, self.config.max_baseline_events, self.config.max_groups
        )
        self._sessions = SessionChannel(self.config.seed, self.config.max_baseline_events)
        self._spans = SpanChannel(self.config.max_baseline_events)
        self._novelty = NoveltyChannel()
        self._baseline_events = 0
        self._sealed_at = 0
        self.prior_log_odds = float(np.log(self.config.prior / (1.0 - self.config.prior)))

    @property
    def fleet_size(self) -> int:
        """Agents seen so far."""
        return len(self._agents)

    def establish(self, agents: Sequence[str] | None = None) -> None:
        """Seal baselines: fit and calibrate on what was seen in the baseline phase so far.

        Called by itself at the first live event. Agents are judged against each other, so the whole fleet is sealed;
        `agents` are checked to be known (`UnknownAgent`).
        """
        for name in agents or ():
            self._position(name)
        self._numeric.establish()
        self._sessions.establish()
        self._spans.establish(len(self._tools))
        self._novelty.establish(self._sessions.baseline)
        self._share()
        self._sealed_at = self._baseline_events

    def observe(self, batch: EventBatch) -> Observation:
        """Take in a batch; rows of one agent must be in its own order."""
        n = len(batch)
        agent = self._agents.codes(batch.agents)[batch.agent]
        self._grow(len(self._agents))
        seq = _number(agent, self._events)
        log_e, belief = np.zeros(n), np.zeros(n)
        live = batch.phase == Phase.LIVE
        start = 0
        while start < n:
            stop = self._seal_before(live, start)
            if stop > start:
                self._channels(batch, agent, seq, slice(start, stop), log_e, belief)
            start = stop
        log_bf = _increments(agent, belief, live, self._belief)
        log_odds = self.prior_log_odds + np.clip(np.where(live, belief, 0.0), -CLIP_NATS, CLIP_NATS)
        return Observation(self._agents.known, agent, seq, np.where(live, log_e, 0.0), log_bf, log_odds)

    def reasons(self, agent_index: int) -> tuple[Reason, ...]:
        """What contributed most to the agent's current belief, largest first."""
        parts = self._numeric.contributions(agent_index)
        parts += self._sessions.contributions(agent_index, self._tools.known)
        parts += self._spans.contributions(agent_index)
        parts += self._novelty.contributions(agent_index, self._tools.known)
        ranked = sorted((part for part in parts if part[1] > 0.0), key=lambda part: -part[1])[:REASONS_KEPT]
        return tuple(Reason(name, round(min(nats, CLIP_NATS) * Q32), detail) for name, nats, detail in ranked)

    def explain(self, agent_id: str) -> Explanation:
        """Why the detector believes what it believes about `agent_id`. Raises `UnknownAgent`."""
        index = self._position(agent_id)
        belief, reasons = float(self._belief[index]), self.reasons(index)
        return describe(agent_id, belief, self.prior_log_odds, reasons, self._peers(index))

    def _peers(self, index: int) -> str:
        members, users, tool = self._sessions.peers(index, self._tools.known)
        if not members:
            others = int(
                np.sum(self._belief[: self.fleet_size] >= NOTABLE_NATS) - (self._belief[index] >= NOTABLE_NATS)
            )
            if self.fleet_size < 2:
                return "no other agents."
            return f"{others} of {self.fleet_size - 1} other agents stand{'s' * (others == 1)} out now."
        alike = self._sessions.alike(index)
        share = int(np.sum(self._belief[alike] >= NOTABLE_NATS))
        return (
            f"{users} of {members} peers of its role used {tool} in their baselines; "
            f"{'1 other agent stands' if share == 1 else f'{share} other agents stand'} out now by a call of it."
        )

    def _position(self, name: str) -> int:
        index = self._agents.find(name)
        if index < 0:
            raise UnknownAgent(f"no event of agent {name!r} was observed", remedy="check the name, or wait for it")
        return index

    def _grow(self, size: int) -> None:
        extra = size - self._events.shape[0]
        if extra > 0:
            extra = max(extra, self._events.shape[0], 64)
            self._events = np.concatenate((self._events, np.zeros(extra, np.int64)))
            self._belief = np.concatenate((self._belief, np.zeros(extra, np.float64)))
            self._last = np.concatenate((self._last, np.full((extra, CHANNELS, 2), np.nan)))
            self._shares = np.concatenate((self._shares, np.full((extra, CHANNELS), np.nan)))
            self._share()

    def _share(self) -> None:
        """Weights of the mean over channels, of agents not judged yet: later changes would not be fixed beforehand."""
        new = np.isnan(self._last[:, :, 0]).all(axis=1)
        novelty = self._novelty.shares(int(self._shares.shape[0]))
        self._shares[new] = SHARES
        self._shares[new, 1] -= novelty[new]
        self._shares[new, 3] += novelty[new]

    def _seal_before(self, live: NDArray[np.bool_], start: int) -> int:
        """Where the run of rows from `start` ends that needs no new sealing; seals if row `start` is due."""
        seen = self._baseline_events + np.cumsum(~live[start:])
        due = live[start:] & (seen >= max(1.0, REFIT_GROWTH * self._sealed_at))
        if not due.any():
            self._baseline_events = int(seen[-1])
            return live.shape[0]
        first = int(np.argmax(due))
        if first:
            self._baseline_events = int(seen[first - 1])
            return start + first
        self.establish()
        return start

    def _channels(self, batch: EventBatch, agent: I32, seq: I64, rows: slice, log_e: F64, belief: F64) -> None:
        """Every channel on a run of rows; an agent has the mean of e-values and of beliefs of those that saw it."""
        size = rows.stop - rows.start
        both = np.full(
            (size, CHANNELS, 2), np.nan
        )  # (row, channel, log_e and belief); NaN = the channel did not see the row
        values = measurements(batch.values[rows], batch.feature_names, batch.kind[rows])
        seen = np.isfinite(values).any(axis=1)
        if seen.any():
            context = batch.context[rows] if batch.context.shape[0] else np.zeros(size, np.int32)
            fresh_e, fresh_belief = np.zeros(size), np.zeros(size)
            self._numeric.observe(
                agent[rows],
                batch.phase[rows],
                self._group(batch)[rows],
                context,
                batch.contexts,
                values,
                batch.feature_names,
                len(self._agents),
                fresh_e,
                fresh_belief,
            )
            both[seen, 0, 0], both[seen, 0, 1] = fresh_e[seen], fresh_belief[seen]
        if batch.actions:
            self._calls(batch, agent, seq, rows, both)
        merge(agent[rows], batch.phase[rows], both, self._shares, self._last, log_e[rows], belief[rows])

    def _group(self, batch: EventBatch) -> I32:
        none = np.zeros(len(batch), np.int32)
        return self._groups.codes(batch.groups)[batch.group] if batch.group.shape[0] else none

    def _calls(self, batch: EventBatch, agent: I32, seq: I64, rows: slice, both: F64) -> None:
        tool = np.where(batch.action >= 0, self._tools.codes(batch.actions)[batch.action], np.int32(-1))
        group = self._group(batch)
        session = np.where(batch.session != 0, batch.session, -1 - seq // PSEUDO_SESSION)
        window: I64 = np.arange(rows.start, rows.stop, dtype=np.int64)
        baseline = window[(batch.phase[rows] == Phase.BASELINE) & (tool[rows] >= 0)]
        self._sessions.learn(calls_of(batch, baseline, agent, session, group, tool))
        at = window[batch.kind[rows] != Kind.METRIC]
        if at.size:
            calls, live = calls_of(batch, at, agent, session, group, tool), batch.phase[at] == Phase.LIVE
            fresh_e, fresh_belief = np.zeros(at.size), np.zeros(at.size)
            self._sessions.judge(calls, live, seq[at], len(self._agents), fresh_e, fresh_belief)
            both[at - rows.start, 1, 0], both[at - rows.start, 1, 1] = fresh_e, fresh_belief
            self._novelty.judge(calls, live, seq[at], len(self._agents), fresh_e, fresh_belief)
            both[at - rows.start, 3, 0], both[at - rows.start, 3, 1] = fresh_e, fresh_belief
        if batch.values.shape[1]:
            self._levels(batch, agent, seq, rows, session, both)

    def _levels(self, batch: EventBatch, agent: I32, seq: I64, rows: slice, session: I64, both: F64) -> None:
        values = beside_calls(batch.values, batch.feature_names, MEASURES)
        window: I64 = np.arange(rows.start, rows.stop, dtype=np.int64)
        window = window[(batch.kind[rows] != Kind.METRIC)]
        if not np.isfinite(values[window]).any():
            return
        tool = np.where(batch.action >= 0, self._tools.codes(batch.actions)[batch.action], np.int32(-1))
        none = np.zeros(len(batch), np.int32)
        baseline = window[batch.phase[window] == Phase.BASELINE]
        self._spans.learn(calls_of(batch, baseline, agent, session, none, tool), values[baseline])
        at = window[batch.phase[window] == Phase.LIVE]
        if at.size:
            fresh_e, fresh_belief = np.zeros(at.size), np.zeros(at.size)
            calls = calls_of(batch, at, agent, session, none, tool)
            self._spans.judge(calls, values[at], seq[at], len(self._agents), fresh_e, fresh_belief)
            both[at - rows.start, 2, 0], both[at - rows.start, 2, 1] = fresh_e, fresh_belief


def _number(agent: NDArray[np.int32], events: NDArray[np.int64]) -> NDArray[np.int64]:
    """Per-agent running event numbers; `events` holds the next number of each agent and is advanced."""
    order = np.argsort(agent, kind="stable")
    owner = agent[order]
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]]) if owner.shape[0] else np.zeros(0, np.int64)
    sizes = np.diff(np.r_[starts, owner.shape[0]])
    seq = np.empty(agent.shape[0], np.int64)
    seq[order] = np.arange(owner.shape[0]) - np.repeat(starts, sizes) + events[owner]
    events[owner[starts]] += sizes
    return seq


def _increments(
    agent: NDArray[np.int32], belief: NDArray[np.float64], live: NDArray[np.bool_], last: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Differences of each agent's belief between its consecutive live events; `last` is carried between batches."""
    rows = np.flatnonzero(live)
    order = rows[np.argsort(agent[rows], kind="stable")]
    owner, value = agent[order], belief[order]
    before = np.r_[0.0, value[:-1]] if order.shape[0] else value
    first = np.r_[True, owner[1:] != owner[:-1]] if order.shape[0] else np.zeros(0, np.bool_)
    before = np.where(first, last[owner], before)
    out = np.zeros(agent.shape[0])
    out[order] = value - before
    final = np.r_[first[1:], True] if order.shape[0] else first
    last[owner[final]] = value[final]
    return out
