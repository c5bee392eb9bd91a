"""What only a monitor's host can tell it. Bytes from other monitors and timers are in `tocsin.model.steps`."""

from __future__ import annotations

from dataclasses import dataclass

from tocsin.model.coordination import Findings
from tocsin.model.events import EventBatch


@dataclass(frozen=True, slots=True)
class Observed:
    """A batch of events that is durable in the ingest log. Offsets never go back."""

    batch: EventBatch


@dataclass(frozen=True, slots=True)
class Sealed:
    """The baselines of `agents` (None: of everybody seen so far) are complete; what follows is judged."""

    agents: tuple[str, ...] | None
    offset: int  # ingest log position at which the seal took effect


@dataclass(frozen=True, slots=True)
class Retired:
    """`agents` are no more: what they did leaves every sum of the tree. Beliefs and verdicts about them stay."""

    agents: tuple[str, ...]
    offset: int  # ingest log position at which they left


@dataclass(frozen=True, slots=True)
class Refitted:
    """An operator opened a new epoch of the tree's sums: they begin anew, on a grid fitted to the latest events."""

    offset: int


Entry = Observed | Sealed | Retired | Refitted  # what the ingest log holds


@dataclass(frozen=True, slots=True)
class Flush:
    """State all evidence held back as immaterial: used before a report, at shutdown, at the end of a replay."""

    offset: int


@dataclass(frozen=True, slots=True)
class Screened:
    """A round of screening the fleet for coordinated groups is over. Rounds come in order, each once."""

    findings: Findings
