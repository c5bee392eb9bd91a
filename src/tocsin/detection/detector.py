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

from tocsin.detection.explain import Explanation, describe
from tocsin.detection.numeric import NumericChannel
from tocsin.errors import ConfigError, UnknownAgent
from tocsin.model.events import EventBatch, Kind, Phase
from tocsin.model.evidence import CLIP_NATS, Q32, Reason

REASONS_KEPT = 5


class DetectorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings. `alpha`: target share of false alarms among alarms. `prior`: probability that an agent is compromised.

    `max_agents`, `max_actions`, `max_contexts` bound memory: names beyond them share one overflow slot.
    `seed` feeds the hashes that break ties between ranks.
    """

    alpha: float = 0.01
    prior: float = 0.01
    max_agents: int = 1 << 20
    max_actions: int = 4096
    max_contexts: int = 256
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
    """Learns from events of the baseline phase, then compares every live event with what it learned."""

    def __init__(self, config: DetectorConfig | None = None) -> None:
        self.config = config or DetectorConfig()
        self._names: list[str] = []
        self._index: dict[str, int] = {}
        self._table: tuple[str, ...] = ()
        self._codes = np.zeros(0, np.int32)
        self._events = np.zeros(0, np.int64)
        self._belief = np.zeros(0, np.float64)
        self._numeric = NumericChannel(self.config.max_contexts)
        self._established = False
        self.prior_log_odds = float(np.log(self.config.prior / (1.0 - self.config.prior)))

    @property
    def fleet_size(self) -> int:
        """Agents seen so far."""
        return len(self._names)

    def establish(self, agents: Sequence[str] | None = None) -> None:
        """Seal baselines: fit and calibrate on what was seen in the baseline phase so far.

        Called by itself at the first live event. `agents` limits sealing to these; unknown names raise `UnknownAgent`.
        """
        for name in agents or ():
            self._position(name)
        self._numeric.establish()
        self._established = True

    def observe(self, batch: EventBatch) -> Observation:
        """Take in a batch; rows of one agent must be in its own order."""
        agent = self._agents_of(batch)
        n = agent.shape[0]
        seq = _number(agent, self._events)
        log_e, belief = np.zeros(n), np.zeros(n)
        live = batch.phase == Phase.LIVE
        if not self._established and live.any():
            cut = int(np.argmax(live))
            self._channels(batch, agent, slice(0, cut), log_e, belief)
            self.establish()
            self._channels(batch, agent, slice(cut, n), log_e, belief)
        else:
            self._channels(batch, agent, slice(0, n), log_e, belief)
        log_bf = _increments(agent, belief, live, self._belief)
        log_odds = self.prior_log_odds + np.clip(np.where(live, belief, 0.0), -CLIP_NATS, CLIP_NATS)
        return Observation(self._names, agent, seq, np.where(live, log_e, 0.0), log_bf, log_odds)

    def reasons(self, agent_index: int) -> tuple[Reason, ...]:
        """What contributed most to the agent's current belief, largest first."""
        parts = self._numeric.contributions(agent_index)
        ranked = sorted(parts, key=lambda part: -part[1])[:REASONS_KEPT]
        return tuple(Reason(name, round(nats * Q32), detail) for name, nats, detail in ranked)

    def explain(self, agent_id: str) -> Explanation:
        """Why the detector believes what it believes about `agent_id`. Raises `UnknownAgent`."""
        index = self._position(agent_id)
        return describe(agent_id, float(self._belief[index]), self.prior_log_odds, self.reasons(index))

    def _position(self, name: str) -> int:
        if name not in self._index:
            raise UnknownAgent(f"no event of agent {name!r} was observed", remedy="check the name, or wait for it")
        return self._index[name]

    def _agents_of(self, batch: EventBatch) -> NDArray[np.int32]:
        if batch.agents is not self._table:
            known = self._index
            for name in batch.agents:
                if name not in known:
                    known[name] = len(self._names)
                    self._names.append(name)
            self._codes = np.array([known[name] for name in batch.agents], np.int32)
            self._table = batch.agents
            self._grow(len(self._names))
        return self._codes[batch.agent]

    def _grow(self, size: int) -> None:
        extra = size - self._events.shape[0]
        if extra > 0:
            self._events = np.concatenate((self._events, np.zeros(max(extra, 64), np.int64)))
            self._belief = np.concatenate((self._belief, np.zeros(max(extra, 64), np.float64)))

    def _channels(
        self,
        batch: EventBatch,
        agent: NDArray[np.int32],
        rows: slice,
        log_e: NDArray[np.float64],
        belief: NDArray[np.float64],
    ) -> None:
        if batch.values.shape[1] and rows.stop > rows.start:
            context = batch.context[rows] if batch.context.shape[0] else np.zeros(rows.stop - rows.start, np.int32)
            labels = batch.contexts
            self._numeric.observe(
                agent[rows], batch.phase[rows], context, labels, batch.values[rows], batch.feature_names,
                log_e[rows], belief[rows],
            )


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
