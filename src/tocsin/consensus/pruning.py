"""What is kept of the past: the latest decisions for those who lag behind, and a snapshot in place of the rest.

Every certificate is a stable checkpoint (Castro & Liskov 1999, section 4.3) without further messages: n - f monitors
signed the root of the state that it leads to. So a journal may begin with that state, its certificate, and what is not
agreed yet. Memory and disk are bounded by the state and by `ConsensusConfig`, not by how long a fleet has run, and so
is the time to start again.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

import msgspec

from tocsin.consensus.cut import empty_cut
from tocsin.consensus.messages import Certified, Cut, Fork
from tocsin.errors import StorageCorrupt
from tocsin.model.posterior import Decision

CHECKPOINT_TIMER = "checkpoint"
LOST = -1


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """All that a journal's earlier records led to; it replaces them."""

    certified: Certified | None  # the last decision; None: nothing was decided yet
    state: tuple[bytes, ...]  # leaves of the fold after it
    through_offset: int  # ingest log position that our chain speaks of
    forks: tuple[Fork, ...]
    recent: tuple[Decision, ...]  # made before the snapshot was, and perhaps not announced
    silent_below: int  # nothing is signed in earlier epochs: see transfer.py. LOST: in none, the others must be asked
    records: tuple[tuple[str, bytes], ...]  # evidence that is not decided, promises of the epoch; as in a journal


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """A journal record."""
    return msgspec.msgpack.encode(snapshot)


def decode_snapshot(record: bytes) -> Snapshot:
    """Raises StorageCorrupt."""
    try:
        return msgspec.msgpack.decode(record, type=Snapshot)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StorageCorrupt(
            f"a journal's snapshot does not decode: {error}", remedy="restore the journal from a copy"
        ) from None


class History:
    """The latest `keep` decisions, oldest first, and the cut before them."""

    def __init__(self, n: int, keep: int) -> None:
        self.first = 0  # epoch of the oldest kept, or the next one to be added
        self.cut: Cut = empty_cut(n)  # what was decided before it
        self._keep = keep
        self._kept: deque[Certified] = deque()

    def restart(self, epoch: int, cut: Cut) -> None:
        """Keep nothing: `cut` is what was decided before `epoch`."""
        self.first, self.cut = epoch, cut
        self._kept.clear()

    def add(self, certified: Certified) -> bool:
        """Take in the next decision. Whether an old one was dropped for it, so that `cut` has moved."""
        self._kept.append(certified)
        if len(self._kept) <= self._keep:
            return False
        self.cut = self._kept.popleft().cut
        self.first += 1
        return True

    def since(self, epoch: int, count: int) -> tuple[Certified, ...]:
        """Up to `count` decisions from `epoch` on; none where that one is no longer, or not yet, here."""
        if epoch < self.first:
            return ()
        return tuple(islice(self._kept, epoch - self.first, epoch - self.first + count))


class Recent:
    """Decisions that a crash might find durable and not announced.

    A host makes durable what a round of steps wrote before it acts on any of it. A snapshot is made on a timer, and a
    timer fires in a later round than the one that set it: what was decided before it was set has been announced.
    """

    def __init__(self) -> None:
        self._before: list[Decision] = []  # the timer was set last
        self._since: list[Decision] = []

    def add(self, decision: Decision) -> None:
        """It is about to be announced."""
        self._since.append(decision)

    def timer_set(self) -> None:
        """For the next snapshot."""
        self._before, self._since = self._since, []

    def in_doubt(self, *, on_timer: bool) -> tuple[Decision, ...]:
        """What a snapshot must hold, made on the timer or at once."""
        return tuple(self._since) if on_timer else (*self._before, *self._since)

    def clear(self) -> None:
        """The journal is read from here on."""
        self._before, self._since = [], []
