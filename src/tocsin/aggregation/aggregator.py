"""One inner node of the tree: adds up what its children report and reports the sum to its parent.

Sans-I/O. Per child it keeps one slot: the exact sum that child has reported and the number of its last update. Deltas
apply only in sequence; a gap is answered by asking for a snapshot, so that loss, duplication and reordering cannot
change a sum, only delay it. A snapshot's number is the clock, so that a sender that has lost its memory is listened to
again, and what it goes on from is never taken for what it said before. Everything refused is counted in `refused`, by
reason; of what was sent, a child can use up at most half of its parent's range (`Aggregator.share`).

A new epoch empties every slot, so no child opens one alone: it begins when more than half of the children announce the
very same epoch and grid. A node without a grid starts on the first that it hears of; until more than half have
announced that one, more than half may replace it by any other, an older one too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tocsin.aggregation.fleet_view import FleetView, statement
from tocsin.aggregation.messages import (
    Adopt,
    Arrived,
    AskResend,
    Attach,
    Detach,
    Downward,
    Flush,
    FromAbove,
    Input,
    Output,
    ResendAsked,
    Upward,
)
from tocsin.aggregation.summary import MAX_TOTAL, Summary
from tocsin.errors import InputError, WireError
from tocsin.stats.moments import Grid
from tocsin.wire import update as wire

HEARTBEAT_NS = 10_000_000_000  # an unchanged node repeats itself this often, so that staleness stays honest
MAX_SHARED_LEVEL = 3
NO_GRID = Grid((), (), ())


@dataclass(slots=True)
class Slot:
    """What one child has contributed."""

    total: Summary
    seq: int = -1
    as_of_ms: int = 0
    agents: int = 0
    parts: list[wire.Packet] = field(default_factory=list[wire.Packet])  # of the update being received
    announced: tuple[int, Grid] | None = None  # the epoch and grid that the child says it is on
    refused_ns: int | None = None  # when its last snapshot was refused: it is not asked for another at once


class Aggregator:
    """A region, zone or global node."""

    def __init__(self, node_id: str, level: int) -> None:
        self.id = node_id
        self.level = level
        self.parent = ""
        self.epoch = -1
        self.grid = NO_GRID
        self.total = Summary.empty(-1, 0)
        self.slots: dict[str, Slot] = {}
        self.refused: Counter[str] = Counter()
        self.fleet = FleetView()
        self._sent = self.total
        self._seq = -1
        self._sent_ns = 0
        self._changed = False
        self._snapshot_due = True

    @property
    def agents(self) -> int:
        return sum(s.agents for s in self.slots.values())

    @property
    def as_of_ms(self) -> int:
        """Up to when the sum is complete: by the child that is furthest behind; 0 while one has yet to report."""
        return min((s.as_of_ms for s in self.slots.values()), default=0)

    def step(self, now_ns: int, event: Input) -> list[Output]:
        """Apply one input; returns what to deliver."""
        match event:
            case Arrived(body, child):
                return self._arrived(body, child, now_ns)
            case Attach(child):
                slot = self.slots.setdefault(child, Slot(Summary.empty(self.epoch, len(self.grid))))
                slot.seq, slot.parts, slot.refused_ns = -1, [], None
            case Detach(child):
                slot = self.slots.pop(child, None)
                if slot is not None:
                    self.total -= slot.total
                    self._changed = True
                    return self._follow_majority()
            case Adopt(parent):
                self.parent, self._snapshot_due = parent, True
            case ResendAsked():
                self._snapshot_due = True
            case FromAbove(body):
                return [Downward(body)] if self.fleet.accept(body, now_ns) else []
            case Flush():
                return self._flush(now_ns) if self.parent else self._state(now_ns)
        return []

    # ---- downwards facing

    def _arrived(self, body: bytes, child: str, now_ns: int) -> list[Output]:
        try:
            if body[:2] == b"TG":
                return self._announced(child, *wire.decode_grid(body))
            packet = wire.decode(body)
        except WireError:
            self.refused["malformed"] += 1
            return []
        slot = self.slots.get(packet.source) if child in ("", packet.source) else None
        reason = self._reason_to_refuse(packet, slot)
        if slot is None or reason:
            self.refused[reason] += 1
            waits = slot is not None and slot.announced is not None and slot.announced[0] == packet.epoch
            asks = reason == "gap" or (reason == "unknown epoch" and not waits)
            return self._ask(packet.source, slot, now_ns) if slot is not None and asks else []
        return self._collect(slot, packet, now_ns)

    def _ask(self, child: str, slot: Slot, now_ns: int) -> list[Output]:
        rests = slot.refused_ns is not None and 0 <= now_ns - slot.refused_ns < HEARTBEAT_NS
        return [] if rests else [AskResend(child)]

    def _announced(self, child: str, epoch: int, grid: Grid) -> list[Output]:
        """Remember which epoch a child is on; only the latest word of each child."""
        slot = self.slots.get(child)
        if slot is None:
            self.refused["not a child"] += 1
            return []
        if epoch <= self.epoch and (epoch, grid) != (self.epoch, self.grid) and self._agreed(self.epoch, self.grid):
            self.refused["old epoch" if epoch < self.epoch else "conflicting grid"] += 1
            return []
        slot.announced = epoch, grid
        if self.epoch < 0:
            self._begin_epoch(epoch, grid)
            return []
        return [ask for ask in self._follow_majority() if ask != AskResend(child)]  # its snapshot comes next

    def _agreed(self, epoch: int, grid: Grid) -> bool:
        return 2 * sum(s.announced == (epoch, grid) for s in self.slots.values()) > len(self.slots)

    def _follow_majority(self) -> list[Output]:
        """Open the epoch that more than half of the children are on; their snapshots came too early and are due again.

        An announcement is not bounded to the next epoch: leaves open two at once when a batch brings two new features.
        """
        current = (self.epoch, self.grid)
        words = dict.fromkeys(s.announced for s in self.slots.values() if s.announced not in (None, current))
        for announced in words:
            if self._agreed(*announced):
                self._begin_epoch(*announced)
                return [AskResend(child) for child, slot in self.slots.items() if slot.announced == announced]
        return []

    def _begin_epoch(self, epoch: int, grid: Grid) -> None:
        """Sums on the old grid do not add to those on the new one, so every child starts again from a snapshot."""
        self.epoch, self.grid = epoch, grid
        self.total = Summary.empty(epoch, len(grid))
        for slot in self.slots.values():
            slot.total, slot.parts, slot.as_of_ms = self.total, [], 0
        self._snapshot_due = True

    def _reason_to_refuse(self, packet: wire.Packet, slot: Slot | None) -> str:
        if slot is None:
            return "not a child"
        if packet.level != self.level - 1:
            return "wrong level"
        if packet.epoch != self.epoch:
            return "old epoch" if packet.epoch < self.epoch else "unknown epoch"
        if packet.d != len(self.grid):
            return "wrong dimension"
        if packet.seq <= slot.seq:
            return "duplicate"
        if packet.kind == wire.DELTA and packet.seq != slot.seq + 1:
            return "gap"
        return ""

    def _collect(self, slot: Slot, packet: wire.Packet, now_ns: int) -> list[Output]:
        """Wait for all parts of an update, then apply it at once or not at all."""
        if slot.parts and slot.parts[0].seq != packet.seq:
            slot.parts = []
        if any(p.part == packet.part for p in slot.parts):
            self.refused["duplicate"] += 1
            return []
        slot.parts.append(packet)
        if len(slot.parts) < packet.parts:
            return []
        parts, slot.parts = sorted(slot.parts, key=lambda p: p.part), []
        try:
            self._apply(slot, wire.join(parts))
        except (WireError, InputError):
            self.refused["impossible"] += 1
            if packet.kind == wire.SNAPSHOT:
                slot.refused_ns = now_ns
            return self._ask(packet.source, slot, now_ns)
        return []

    @staticmethod
    def share(level: int) -> int:
        """How many halvings below the root's range the numbers of a node at `level` stay."""
        return max(0, MAX_SHARED_LEVEL - level)

    def _apply(self, slot: Slot, update: wire.Update) -> None:
        reported = Summary(update.epoch, update.d, update.counts, update.actions)
        new = reported if update.kind == wire.SNAPSHOT else slot.total + reported
        new.refuse_impossible(MAX_TOTAL >> self.share(self.level - 1))
        total = self.total + (reported if update.kind == wire.DELTA else new - slot.total)
        total.refuse_beyond(MAX_TOTAL >> self.share(self.level))
        if update.agents != slot.agents:
            agents = self.agents - slot.agents + update.agents
            if update.agents > wire.MAX_AGENTS >> self.share(self.level - 1) or (
                agents > wire.MAX_AGENTS >> self.share(self.level)
            ):
                raise InputError(f"{agents} agents are more than there can be")
        self.total, slot.refused_ns = total, None
        slot.total, slot.seq, slot.as_of_ms, slot.agents = new, update.seq, update.as_of_ms, update.agents
        self._changed = True

    # ---- upwards facing

    def _due(self, now_ns: int) -> bool:
        return self._changed or self._snapshot_due or not 0 <= now_ns - self._sent_ns < HEARTBEAT_NS

    def _flush(self, now_ns: int) -> list[Output]:
        if self.epoch < 0 or not self._due(now_ns):
            return []
        out: list[bytes] = []
        snapshot = self._snapshot_due or self._sent.epoch != self.epoch
        if snapshot:
            out.append(wire.encode_grid(self.epoch, self.grid))
        total = self.total.folded()
        difference = total if snapshot else total - self._sent
        self._seq = max(now_ns, self._seq + 1) if snapshot else self._seq + 1
        out += wire.encode(
            wire.Update(
                kind=wire.SNAPSHOT if snapshot else wire.DELTA, source=self.id, level=self.level, epoch=self.epoch,
                seq=self._seq, as_of_ms=self.as_of_ms, agents=self.agents, d=difference.d,
                counts=difference.counts, actions=difference.actions,
            )
        )  # fmt: skip
        self._sent, self._sent_ns, self._changed, self._snapshot_due = total, now_ns, False, False
        return [Upward(self.parent, body, self.id) for body in out]

    # ---- about the whole fleet

    def _state(self, now_ns: int) -> list[Output]:
        """The root tells everybody what the fleet does."""
        if self.epoch < 0 or not self._due(now_ns):
            return []
        self._sent_ns, self._changed, self._snapshot_due = now_ns, False, False
        packets = statement(
            self.total.folded(), self.grid, level=self.level, seq=self.fleet.next_seq(now_ns), as_of_ms=self.as_of_ms,
            agents=self.agents,
        )  # fmt: skip
        return [Downward(body) for body in packets if self.fleet.accept(body, now_ns)]
