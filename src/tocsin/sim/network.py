"""The simulated network: messages arrive late, twice, out of order, in a burst, or never."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tocsin.sim.faults import HEAL_NS, NETWORK, Schedule
from tocsin.sim.timeline import MILLISECOND_NS, Streams, Timeline

Deliver = Callable[[int, int, bytes], None]
USUAL_DELAY_MS = 4.0  # mean, of an exponential distribution: reordering is usual


class Network:
    """Links between seats. `deliver(source, target, body)` is called when a message arrives.

    `places[seat]` is (monitor, which of its copies): twins are two seats of one monitor, and a partition parts them.
    """

    def __init__(
        self,
        timeline: Timeline,
        streams: Streams,
        schedule: Schedule,
        places: Sequence[tuple[int, int]],
        deliver: Deliver,
    ) -> None:
        self._timeline = timeline
        self._streams = streams
        self._faults = schedule.of_kind(*NETWORK)
        self._places = places
        self._deliver = deliver
        self._busy_until: dict[tuple[int, int], int] = {}
        self.sent = 0
        self.sent_bytes = 0

    def send(self, source: int, target: int, body: bytes, when_ns: int) -> None:
        """Send from seat to seat; it leaves at `when_ns`."""
        self.sent += 1
        self.sent_bytes += len(body)
        rng = self._streams.of("link", source, target)
        if when_ns >= HEAL_NS:
            self._arrive(when_ns + rng.randrange(1, 12) * MILLISECOND_NS, source, target, body)
            return
        mean_ms, held_until, copies = USUAL_DELAY_MS, when_ns, 1
        for fault in self._faults:
            if not fault.active(when_ns):
                continue
            kind = fault.kind
            if kind == "loss":
                if rng.random() < fault.amount:
                    return
            elif kind == "delay":
                mean_ms = max(mean_ms, fault.amount)
            elif kind == "duplicate":
                copies += rng.random() < fault.amount
            elif kind == "narrow":
                free = max(self._busy_until.get((source, target), 0), when_ns) + int(1e9 * len(body) / fault.amount)
                self._busy_until[source, target] = free
                held_until = max(held_until, free)
            elif self._crosses(fault.who, source, target, one_way=kind == "one way"):
                if kind != "clog":
                    return
                held_until = max(held_until, fault.stop_ns)  # nothing is lost, everything comes at once
        for _ in range(copies):
            self._arrive(held_until + int(rng.expovariate(1.0 / mean_ms) * MILLISECOND_NS), source, target, body)

    def _crosses(self, group: tuple[int, ...], source: int, target: int, *, one_way: bool) -> bool:
        out_of, into = self._is_in(group, source), self._is_in(group, target)
        return out_of and not into if one_way else out_of != into

    def _is_in(self, group: tuple[int, ...], seat: int) -> bool:
        monitor, copy = self._places[seat]
        return (monitor in group) != (copy == 1)

    def _arrive(self, when_ns: int, source: int, target: int, body: bytes) -> None:
        self._timeline.at(when_ns, self._deliver, source, target, body)
