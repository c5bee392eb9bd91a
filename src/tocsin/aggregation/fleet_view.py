"""What a node knows about the whole fleet: the root's sum, passed down unread and decoded when somebody asks.

The root states its whole sum, never a difference, so that what is lost on the way needs no repair: the next statement
replaces it. Numbers of statements are the root's clock, so that a new root's count for more than the old one's. None
may be far ahead of the receiver's own clock: it would keep out all that come after.
"""

from __future__ import annotations

from collections import Counter

from tocsin.aggregation.summary import Summary
from tocsin.errors import InputError, WireError
from tocsin.stats.moments import Grid
from tocsin.wire import update as wire

SOURCE = "fleet"
AHEAD_NS = 60_000_000_000  # machines' clocks differ by less; for so long at most can one statement keep others out


def statement(total: Summary, grid: Grid, *, level: int, seq: int, as_of_ms: int, agents: int) -> list[bytes]:
    """What the root sends down: the grid, then its sum in as many packets as it takes."""
    update = wire.Update(
        kind=wire.SNAPSHOT, source=SOURCE, level=level, epoch=total.epoch, seq=seq, as_of_ms=as_of_ms, agents=agents,
        d=total.d, counts=total.counts, actions=total.actions,
    )  # fmt: skip
    return [wire.encode_grid(total.epoch, grid), *wire.encode(update)]


class FleetView:
    """The newest complete statement. `refused` counts what was not passed on, by reason."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        self.seq: int = -1  # of the newest complete statement
        self._grid = b""  # of the newest complete statement
        self._next = b""  # the latest that was announced
        self._complete: list[bytes] = []
        self._parts: dict[int, bytes] = {}
        self._collecting: int = -1

    def next_seq(self, now_ns: int) -> int:
        """Number of the statement that a root makes now."""
        self._keep_up(now_ns)
        return max(now_ns, self.seq + 1)

    def _keep_up(self, now_ns: int) -> None:
        """What is ahead of the clock was not when it came, so the clock has been set back: begin anew."""
        if max(self.seq, self._collecting) > now_ns + AHEAD_NS:
            self.seq, self._parts, self._collecting = -1, {}, -1

    def accept(self, body: bytes, now_ns: int) -> bool:
        """Whether `body` is news, and so to be passed on. Costs a look at its head."""
        self._keep_up(now_ns)
        try:
            if body[:2] == b"TG":
                return self._accept_grid(body)
            head = wire.peek(body)
        except WireError:
            self.refused["malformed"] += 1
            return False
        reason = ""
        if head.source != SOURCE or head.kind != wire.SNAPSHOT:
            reason = "not about the fleet"
        elif head.seq > now_ns + AHEAD_NS:
            reason = "ahead of the clock"
        elif head.seq <= self.seq or head.seq < self._collecting:
            reason = "duplicate" if head.seq == self.seq else "outdated"
        elif head.seq == self._collecting and head.part in self._parts:
            reason = "duplicate"
        if reason:
            self.refused[reason] += 1
            return False
        if head.seq != self._collecting:
            self._parts, self._collecting = {}, head.seq
        self._parts[head.part] = body
        if len(self._parts) == head.parts:
            self._complete = [self._parts[k] for k in sorted(self._parts)]
            self.seq, self._parts = head.seq, {}
            if self._next != self._grid and wire.decode_grid(self._next)[0] == head.epoch:
                self._grid = self._next
        return True

    def follow(self, above: FleetView, now_ns: int) -> list[bytes]:
        """Take over what the node above knows where that is newer; returns the packets that this took."""
        self._keep_up(now_ns)
        if above.seq <= self.seq:
            return []
        return [body for body in (above._grid, *above._complete) if self.accept(body, now_ns)]

    def _accept_grid(self, body: bytes) -> bool:
        """Always passed on, since who has just joined needs it. It counts with a statement only, whatever its epoch."""
        if body not in (self._next, self._grid):
            wire.decode_grid(body)
        self._next = body
        return True

    def read(self) -> tuple[Summary, Grid, int] | None:
        """The fleet's sum, its grid and up to when (ms) it is complete; None until there is one that makes sense."""
        if not self._complete:
            return None
        try:
            update = wire.join([wire.decode(part) for part in self._complete])
            epoch, grid = wire.decode_grid(self._grid)
            if epoch != update.epoch:  # the grid came after the sum
                epoch, grid = wire.decode_grid(self._next)
            total = Summary(update.epoch, update.d, update.counts, update.actions)
            total.refuse_impossible()
            if (epoch, len(grid)) != (update.epoch, update.d):
                raise WireError("a sum that is not on this grid")
        except (WireError, InputError):
            self.refused["impossible"] += 1
            self._complete = []
            return None
        return total, grid, update.as_of_ms
