"""Events as the leaves count them, and their vectors when a feature is added."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tocsin.stats.moments import MomentLayout
from tocsin.wire import update as wire

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Events as the leaves need them."""

    row: I64  # (n,) agent
    action: I64  # (n,) code, -1 none
    features: tuple[str, ...]
    values: F64  # (n, d')


def bounded_name(name: str) -> str:
    """A hostile name made fit to be sent: valid UTF-8 of at most `wire.NAME_BYTES` bytes."""
    raw = name.encode("utf-8", "replace")
    return name if len(raw) <= wire.NAME_BYTES and name.isascii() else raw[: wire.NAME_BYTES].decode("utf-8", "ignore")


def column_of(rows: Rows, name: str) -> F64:
    """Values of one feature, NaN where the rows do not have it."""
    out = np.full(rows.row.shape[0], np.nan)
    for i, n in enumerate(rows.features):
        if bounded_name(n) == name:
            out[:] = rows.values[:, i]
    return out


def widened(moments: I64, d: int) -> I64:
    """Accumulators (n, open_size) of `d` features with room for one more, of which no sample has been seen."""
    old, new = MomentLayout(d), MomentLayout(d + 1)
    place = list(range(1 + d))
    place += [new.counts + new.pair(a, b) for a in range(d) for b in range(a, d)]
    place += [new.sums + a * (d + 1) + b for a in range(d) for b in range(d)]
    place += [new.products + new.pair(a, b) for a in range(d) for b in range(a, d)]
    wide = np.zeros((moments.shape[0], new.open_size), np.int64)
    wide[:, place] = old.closed(moments)
    return wide
