"""What a monitor asks of a detector: `detection.FleetDetector`, or a seat at one that several monitors share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tocsin.detection.detector import Observation
from tocsin.detection.explain import Explanation
from tocsin.model.events import EventBatch
from tocsin.model.evidence import Reason


class Judge(Protocol):
    """See `FleetDetector`, method by method."""

    @property
    def fleet_size(self) -> int: ...
    def establish(self, agents: Sequence[str] | None = None) -> None: ...
    def observe(self, batch: EventBatch) -> Observation: ...
    def reasons(self, agent_index: int) -> tuple[Reason, ...]: ...
    def explain(self, agent_id: str) -> Explanation: ...
