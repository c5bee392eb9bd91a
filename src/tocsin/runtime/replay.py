"""Run recorded events through the same monitors as live telemetry, on a clock that does not wait.

Every batch is judged by every monitor, agreed on and certified before the next one is read, so a replay shows what the
fleet would have known, event by event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tocsin.detection.scoring import FleetAlarms
from tocsin.model.events import EventBatch, Phase
from tocsin.model.verdict import Verdict
from tocsin.monitor.inputs import Flush, Observed
from tocsin.runtime.engine import Engine

Rows = tuple[EventBatch, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the fleet believed right after each event of a batch: columns (n,)."""

    agents: tuple[str, ...]
    agent: NDArray[np.int32]  # (n,) index into agents
    seq: NDArray[np.int64]  # (n,) the table's own numbers
    score: NDArray[np.float64]  # (n,) log-odds, nats
    alarm: NDArray[np.bool_]  # (n,) in the fleet's rejection set


@dataclass(slots=True)
class ReplayResult:
    """Totals of a replay."""

    events: int = 0
    live_events: int = 0
    agents: int = 0
    alarms: Counter[str] = field(default_factory=Counter[str])  # agent -> its events while it was in the alarm set
    verdicts: list[Verdict] = field(default_factory=list[Verdict])


def replay(
    engine: Engine,
    rows: Iterable[Rows],
    *,
    fleet_size: int,
    predicted: Callable[[Predicted], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ReplayResult:
    """Feed `rows` to `engine`, settle the agreement after each batch, hand out per-event predictions.

    `fleet_size` is the number of agents the alarm level is controlled over.
    """
    result = ReplayResult()
    alarms = FleetAlarms(engine.roster.alpha_ppm / 1e6, fleet_size)
    engine.start()
    for batch, seq in rows:
        engine.feed([Observed(batch)])
        engine.cluster.settle()
        seen = engine.witness.seen
        assert seen is not None
        live = batch.phase == Phase.LIVE
        alarm = alarms.update(seen.agent_index, seen.log_e) & live
        if predicted is not None:
            predicted(Predicted(batch.agents, batch.agent, seq, seen.log_odds, alarm))
        result.events += len(batch)
        result.live_events += int(live.sum())
        codes: list[int] = batch.agent[alarm].tolist()
        result.alarms.update(batch.agents[code] for code in codes)
        if progress is not None:
            progress(result.events)
    engine.feed([Flush(result.events)])
    engine.cluster.settle()
    result.agents = len(engine.witness.names)
    result.verdicts = sorted(engine.verdicts.values(), key=lambda v: (v.epoch, v.agent_id))
    return result
