"""A simulated disk: what is written but not synced may be lost, and a lying one loses what it said it had synced.

A write that a crash tore is found by its checksum and dropped by the real journal (runtime/journal.py), so here it is
a record that is not there: after a crash any prefix of what was not synced survives.
"""

from __future__ import annotations

from random import Random

from tocsin.consensus.journal import SNAPSHOT

Record = tuple[str, bytes]


class Disk:
    """Records of one seat, in order. `lying`: a sync reports success and does nothing."""

    def __init__(self, *, lying: bool = False) -> None:
        self.records: list[Record] = []
        self._reported = 0  # records whose sync was reported
        self._lying = lying

    def append(self, kind: str, record: bytes) -> None:
        """Write; not durable yet."""
        self.records.append((kind, record))

    def sync(self) -> list[Record]:
        """Make everything appended durable, if the disk tells the truth; what had not been synced before.

        A durable snapshot replaces what was written before it.
        """
        new = self.records[self._reported :]
        if not self._lying:
            snapshots = [i for i, (kind, _) in enumerate(self.records) if kind == SNAPSHOT]
            del self.records[: max(snapshots, default=0)]
        self._reported = len(self.records)
        return new

    def crash(self, rng: Random) -> list[Record]:
        """Lose what was not durable, but for a prefix of it; that prefix."""
        kept = rng.randint(0 if self._lying else self._reported, len(self.records))
        del self.records[kept:]
        survived = self.records[self._reported :]
        self._reported = kept
        return survived
