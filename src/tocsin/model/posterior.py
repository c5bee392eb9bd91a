"""What a fold of agreed evidence yields: the nouns between the agreement and the posterior it agrees on."""

from __future__ import annotations

from typing import Any

import msgspec

from tocsin.model.verdict import PosteriorEntry, QuorumCertificate

Inclusion = tuple[int, tuple[bytes, ...]]  # index of a leaf, and its Merkle path to the root


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """The posterior root that some batches would lead to, and what the fold needs to commit to them."""

    root: bytes
    handle: Any


class FoldResult(msgspec.Struct, frozen=True, kw_only=True):
    """Entries whose flag changed, each with its proof of inclusion under the new root."""

    changed: tuple[PosteriorEntry, ...] = ()
    proofs: tuple[Inclusion, ...] = ()
    # For each of `changed`, the monitors whose evidence about it was trimmed away or contradicts its flag.
    dissent: tuple[tuple[int, ...], ...] = ()


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One epoch decided; `changed`, `proofs` and `dissent` as in FoldResult."""

    epoch: int
    certificate: QuorumCertificate
    changed: tuple[PosteriorEntry, ...] = ()
    proofs: tuple[Inclusion, ...] = ()
    dissent: tuple[tuple[int, ...], ...] = ()
