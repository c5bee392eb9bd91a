"""What the agreement needs of a posterior: a deterministic fold of evidence batches with a root to vote on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tocsin.model.evidence import EvidenceBatch
from tocsin.model.posterior import FoldResult, Preview


class Fold(Protocol):
    """A state machine over batches. Equal sequences of committed batches give equal roots on every replica."""

    def preview(self, batches: Sequence[EvidenceBatch]) -> Preview:
        """The root that committing `batches` after everything committed so far would give. Changes nothing.

        `batches` are ordered by (monitor, seq) and are new since the last commit.
        """
        ...

    def commit(self, handle: object) -> FoldResult:
        """Make a preview of the current state the new state. Other outstanding previews become invalid."""
        ...
