"""The simulated network: messages arrive late, twice, out of order, in a burst, or never."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from tocsin.sim.faults import HEAL_NS, NETWORK, Fault, Schedule
from tocsin.sim.timeline import MILLISECOND_NS, Streams, Timeline

Deliver = Callable[[int, int, bytes], None]
MOST_STREAMS = 64  # seats
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
        self._links: dict[tuple[int, int], Random] = {}
        self.sent = 0
        self.sent_bytes = 0

    def send(self, source: int, target: int, body: bytes, when_ns: int) -> None:
        """Send from seat to seat; it leaves at `when_ns`."""
        self.sent += 1
        self.sent_bytes += len(body)
        rng = self._links.get((source, target)) or self._chance(source, target)
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
                held_until = max(held_until, self._through(fault, source, target, len(body), when_ns))
            elif self._crosses(fault.who, source, target, one_way=kind == "one way"):
                if kind != "clog":
                    return
                held_until = max(held_until, fault.stop_ns)  # nothing is lost, everything comes at once
        for _ in range(copies):
            self._arrive(held_until + int(rng.expovariate(1.0 / mean_ms) * MILLISECOND_NS), source, target, body)

    def _chance(self, source: int, target: int) -> Random:
        """A stream for each link; of very many, one for each sender, or they would not fit in memory."""
        stream = self._streams.of("link", source, target if len(self._places) <= MOST_STREAMS else -1)
        self._links[source, target] = stream
        return stream

    def _through(self, fault: Fault, source: int, target: int, size: int, when_ns: int) -> int:
        """When a message is through a narrow link: one after the other, `fault.amount` bytes a second."""
        if fault.who and not self._is_in(fault.who, source) and not self._is_in(fault.who, target):
            return when_ns
        free = max(self._busy_until.get((source, target), 0), when_ns) + int(1e9 * size / fault.amount)
        self._busy_until[source, target] = free
        return free

    def _crosses(self, group: tuple[int, ...], source: int, target: int, *, one_way: bool) -> bool:
        out_of, into = self._is_in(group, source), self._is_in(group, target)
        return out_of and not into if one_way else out_of != into

    def _is_in(self, group: tuple[int, ...], seat: int) -> bool:
        monitor, copy = self._places[seat]
        return (monitor in group) != (copy == 1)

    def _arrive(self, when_ns: int, source: int, target: int, body: bytes) -> None:
        self._timeline.at(when_ns, self._deliver, source, target, body)
