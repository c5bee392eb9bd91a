"""One detector for all monitors of a process, which are fed the same events in the same order.

A detector is deterministic: n of them, fed alike, would say the same n times, at n times the cost. Nothing is lost by
asking one, as monitors of one process share its memory, its code and its processor anyway; independence begins where
monitors are processes of their own. Each monitor states, signs and votes for itself all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from tocsin.detection.detector import FleetDetector, Observation
from tocsin.detection.explain import Explanation
from tocsin.errors import InternalError
from tocsin.model.events import EventBatch
from tocsin.model.evidence import Reason

_Input = EventBatch | tuple[str, ...] | None


def _same(one: _Input, other: _Input) -> bool:
    return one is other or (not isinstance(one, EventBatch) and not isinstance(other, EventBatch) and one == other)


class SharedDetector:
    """Hands out `seat()`s. Whoever is fed something first has it computed; the others must be fed the same next."""

    def __init__(self, detector: FleetDetector) -> None:
        self.detector = detector
        self.inputs = 0  # taken in so far
        self._seats: list[Seat] = []
        self._latest: _Input = None
        self._seen: Observation | None = None
        self._reasons: dict[int, tuple[Reason, ...]] = {}

    def seat(self) -> Seat:
        """One more monitor's; all are taken before the first input."""
        if self.inputs:
            raise InternalError("a seat is taken before the first event, or it would have missed some")
        self._seats.append(Seat(self))
        return self._seats[-1]

    def take_in(self, seat_inputs: int, one: _Input) -> Observation | None:
        """Input number `seat_inputs` of a seat: computed where it is new, else what it gave.

        Raises InternalError where seats are not fed the same, or one would fall two inputs behind.
        """
        if seat_inputs == self.inputs:
            if any(seat.inputs < self.inputs for seat in self._seats):
                raise InternalError("monitors that share a detector are fed one input after the other, each to all")
            self._reasons = {}
            self._latest, self.inputs = one, self.inputs + 1
            if isinstance(one, EventBatch):
                self._seen = self.detector.observe(one)
            else:
                self._seen = None
                self.detector.establish(one)
        elif not _same(one, self._latest):
            raise InternalError("monitors that share a detector are fed the same")
        return self._seen

    def reasons(self, agent_index: int) -> tuple[Reason, ...]:
        """As the detector says after the latest input."""
        found = self._reasons.get(agent_index)
        if found is None:
            found = self._reasons[agent_index] = self.detector.reasons(agent_index)
        return found


class Seat:
    """A `monitor.judge.Judge`."""

    def __init__(self, shared: SharedDetector) -> None:
        self._shared = shared
        self.inputs = 0  # fed to this seat so far

    @property
    def fleet_size(self) -> int:
        """Agents seen so far."""
        return self._shared.detector.fleet_size

    def establish(self, agents: Sequence[str] | None = None) -> None:
        """As `FleetDetector.establish`."""
        self._shared.take_in(self.inputs, None if agents is None else tuple(agents))
        self.inputs += 1

    def observe(self, batch: EventBatch) -> Observation:
        """As `FleetDetector.observe`."""
        seen = self._shared.take_in(self.inputs, batch)
        self.inputs += 1
        if seen is None:
            raise InternalError("a batch was taken for a seal")
        return seen

    def reasons(self, agent_index: int) -> tuple[Reason, ...]:
        """As `FleetDetector.reasons`."""
        return self._shared.reasons(agent_index)

    def explain(self, agent_id: str) -> Explanation:
        """As `FleetDetector.explain`."""
        return self._shared.detector.explain(agent_id)
