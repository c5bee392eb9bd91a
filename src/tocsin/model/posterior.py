"""What a fold of agreed evidence yields: the nouns between the agreement and the posterior it agrees on."""

from __future__ import annotations

from typing import Any

import msgspec

from tocsin.model.verdict import PosteriorEntry, QuorumCertificate


class Inclusion(msgspec.Struct, frozen=True, kw_only=True):
    """A Merkle path from an entry to the posterior root. See trust/merkle.py."""

    index: int
    path: tuple[bytes, ...]


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """The posterior root that some batches would lead to, and what the fold needs to commit to them."""

    root: bytes
    handle: Any


class FoldResult(msgspec.Struct, frozen=True, kw_only=True):
    """Entries whose flag changed; the other fields are aligned with `changed`."""

    changed: tuple[PosteriorEntry, ...] = ()
    inclusions: tuple[Inclusion, ...] = ()
    dissent: tuple[tuple[int, ...], ...] = ()  # monitors whose evidence was trimmed away or contradicts
    reasons: tuple[tuple[tuple[str, int], ...], ...] = ()  # (feature, nats in q32), largest first


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One epoch decided. Per-entry fields are aligned with `entries_changed`."""

    epoch: int
    certificate: QuorumCertificate
    entries_changed: tuple[PosteriorEntry, ...] = ()
    proofs: tuple[Inclusion, ...] = ()
    dissent: tuple[tuple[int, ...], ...] = ()
    reasons: tuple[tuple[tuple[str, int], ...], ...] = ()
