"""Cuts: how much of every monitor's chain is agreed on."""

from __future__ import annotations

from functools import lru_cache

from tocsin.consensus.messages import Cut, Tip
from tocsin.trust import merkle
from tocsin.wire.evidence import GENESIS

NOTHING = Tip(-1, GENESIS)


def empty_cut(n: int) -> Cut:
    """The cut before the first epoch."""
    return (NOTHING,) * n


@lru_cache(maxsize=128)  # asked again at every message about one proposal
def cut_root(cut: Cut) -> bytes:
    """Merkle root over (monitor, seq, head), so that one monitor's place in a cut can be shown alone."""
    return merkle.root(
        i.to_bytes(4, "big") + tip.seq.to_bytes(8, "big", signed=True) + tip.head for i, tip in enumerate(cut)
    )


def is_well_formed(cut: Cut, n: int) -> bool:
    """One tip per monitor, and number -1 exactly where the hash is the genesis hash."""
    return len(cut) == n and all((tip.seq == -1) == (tip.head == GENESIS) for tip in cut)
