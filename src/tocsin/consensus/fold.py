"""What the agreement needs of a posterior: a deterministic fold of evidence batches with a root to vote on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from tocsin.model.evidence import EvidenceBatch
from tocsin.model.posterior import FoldResult, Preview


class Folded(Protocol):
    """A committed state as leaves under its root. It stays as it is while the fold goes on."""

    @property
    def size(self) -> int:
        """How many leaves."""
        ...

    def items(self, start: int, stop: int) -> list[bytes]:
        """Leaves `start..stop - 1`, as far as there are."""
        ...

    def proof(self, index: int) -> tuple[bytes, ...]:
        """Path of a leaf to the root that was voted on: the tree over the leaves is its right half."""
        ...


class Fold(Protocol):
    """A state machine over batches. Equal sequences of committed batches give equal roots on every replica."""

    @property
    def root(self) -> bytes:
        """Of everything committed so far."""
        ...

    def preview(self, batches: Sequence[EvidenceBatch]) -> Preview:
        """The root that committing `batches` after everything committed so far would give. Changes nothing.

        `batches` are ordered by (monitor, seq) and are new since the last commit.
        """
        ...

    def commit(self, handle: object) -> FoldResult:
        """Make a preview of the current state the new state. Other outstanding previews become invalid."""
        ...

    def changes(self, handle: object) -> FoldResult:
        """What committing a preview of the current state would change. Changes nothing."""
        ...

    def folded(self) -> Folded:
        """What is committed, to be taken elsewhere."""
        ...

    def restore(self, items: Sequence[bytes]) -> FoldResult:
        """Replace what is committed by a state's leaves; the result compares it with what was there before.

        Raises WireError for leaves that are no state, and changes nothing then. Whether `root` is as it should be is
        the caller's to compare. Outstanding previews become invalid.
        """
        ...

    def spoken(self, monitor: int) -> Iterator[tuple[str, int, int]]:
        """(agent, kind of evidence, last number) of what is committed that `monitor` stated."""
        ...
