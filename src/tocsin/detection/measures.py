"""Which numbers the numeric channel bets on.

A span of a call, a model call or an answer comes with its duration, its sizes and whether it failed. Those depend on
the tool and the task more than on the agent, rows of one session move together, and later tasks are others than the
baseline's: ranks among baseline rows say nothing about them. Measurements proper (rows of kind METRIC, and features of
any other name) are bet on.
"""

from __future__ import annotations

import numpy as np

from tocsin.model.events import F64, I8, Kind

SPAN_MEASURES = frozenset(("duration_ms", "input_tokens", "output_tokens", "error", "n_args", "msg_len", "out_len"))


def beside_calls(values: F64, names: tuple[str, ...], measures: tuple[str, ...]) -> F64:
    """Columns `measures` of `values` `(n, d)`, NaN where there is none."""
    columns = [values[:, names.index(name)] if name in names else np.full(values.shape[0], np.nan) for name in measures]
    return np.stack(columns, axis=1)


def measurements(values: F64, names: tuple[str, ...], kind: I8) -> F64:
    """`values` `(n, d)` without what merely comes with a span (NaN), rows as `kind` `(n,)`."""
    ours = np.array([name in SPAN_MEASURES for name in names], np.bool_)
    beside = kind != Kind.METRIC
    return np.where(beside[:, None] & ours, np.nan, values) if ours.any() and beside.any() else values
