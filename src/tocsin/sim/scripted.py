"""A fleet whose behaviour is a table, and a detector that reads it: all that agreement needs of detection.

What every event adds to the belief about its agent is drawn from the seed in sixteenths of a nat, so sums are exact and
it can be said after a run, to the last bit, what each monitor must have stated. One agent of the fleet goes wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from tocsin.detection.detector import FleetDetector, Observation
from tocsin.model.events import EventBatch
from tocsin.model.evidence import CLIP_NATS, Q32, Reason

AGENTS = ("ada", "bob", "mallory")
WRONG = 2  # index of the agent that goes wrong
GRAIN = 16  # parts of a nat


def names_of(size: int) -> tuple[str, ...]:
    """AGENTS, and as many more as make a fleet of `size`."""
    return (*AGENTS, *(f"agent {i}" for i in range(len(AGENTS), size)))


def make_batch(offset: int, agent: Sequence[int], names: tuple[str, ...] = AGENTS) -> EventBatch:
    """Events of `names`, in this order; nothing else about them matters."""
    n = len(agent)
    zeros = np.zeros(n, np.int64)
    small = np.zeros(n, np.int8)
    return EventBatch(
        offset=offset,
        agents=names,
        agent=np.array(agent, np.int32),
        t_ns=zeros,
        session=zeros,
        phase=small,
        kind=small,
        actions=(),
        action=np.full(n, -1, np.int32),
        effect=small,
    )


class Script:
    """What each event says, the same for every monitor: [agent][event number] -> (log_bf, log_e) in nats."""

    def __init__(self, rng: Random, events: int, fleet_size: int = len(AGENTS)) -> None:
        self.names = names_of(fleet_size)
        self.log_bf = np.zeros((fleet_size, events))
        self.log_e = np.zeros((fleet_size, events))
        for agent in range(fleet_size):
            wrong = agent == WRONG
            for event in range(events):
                self.log_bf[agent, event] = rng.randrange(0, 48) / GRAIN if wrong else rng.randrange(-24, 16) / GRAIN
                self.log_e[agent, event] = (event + 1) * rng.randrange(16, 48) / GRAIN if wrong else 0.0

    def total(self, agent: int, events: int) -> float:
        """Belief, in nats, that the agent's first `events` events add up to; exact, and clipped as in the posterior."""
        return float(np.clip(self.log_bf[agent, :events].sum(), -CLIP_NATS, CLIP_NATS))


class ScriptedDetector(FleetDetector):
    """Reads the script instead of judging."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self._script = script
        self._seen = np.zeros(len(script.names), np.int64)

    @property
    def fleet_size(self) -> int:
        """Agents of the script."""
        return len(self._script.names)

    def observe(self, batch: EventBatch) -> Observation:
        """The script's lines for the batch's events."""
        seq = np.zeros(len(batch), np.int64)
        for row, agent in enumerate(batch.agent.tolist()):
            seq[row] = self._seen[agent]
            self._seen[agent] += 1
        log_bf, log_e = self._script.log_bf[batch.agent, seq], self._script.log_e[batch.agent, seq]
        return Observation(self._script.names, batch.agent, seq, log_e, log_bf, log_bf)

    def reasons(self, agent_index: int) -> tuple[Reason, ...]:
        """One that names the script."""
        return (Reason("script", Q32),) if agent_index == WRONG else ()
