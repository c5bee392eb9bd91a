"""Foreign calls spliced into baseline sessions: what a call that serves somebody else's purpose looks like.

A donor call with a side effect comes from another task of the same role and is placed into a host session. Its
arguments come from tool output or from nowhere, hardly ever from the host's request, and their values are new.
No attack and no label is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.detection.call_log import Calls, ragged_rows
from tocsin.detection.calls import IN_OUTPUT, IN_PROMPT, READ
from tocsin.model.events import ARG_TYPES, Kind

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

TEXT_TYPES = np.array([ARG_TYPES.index(name) for name in ("short", "mid", "long", "email", "url", "iban")])
OUTPUT_SHARES = (0.3, 0.7, 1.0)  # of a spliced call's text arguments, drawn once per call
REQUEST_SHARE = 0.1
ROUNDS = 20  # of redrawing donors that are of the host's own task


@dataclass(frozen=True, slots=True)
class Spliced:
    """`n` spliced calls: the host rows, and the donors' calls with arguments rewritten."""

    host: I64
    calls: Calls
    repeat: I32
    own_session: NDArray[np.float64]


def splice(calls: Calls, session: I64, task: I32, count: int, seed: int) -> Spliced | None:
    """About `count` splices over `calls` sorted by session; None where there is no pair of tasks to splice between."""
    rng = np.random.default_rng(seed)
    hosts = np.flatnonzero(calls.kind == Kind.CALL)
    donors = np.flatnonzero((calls.kind == Kind.CALL) & (calls.effect != READ))
    if not donors.size:
        return None
    # Tools are drawn evenly within a role: an attacker does not care how common a tool is.
    pairs, inverse = np.unique(calls.group[donors].astype(np.int64) << 32 | calls.tool[donors], return_inverse=True)
    chance = 1.0 / np.bincount(inverse, minlength=pairs.shape[0])[inverse]
    foreign_text = np.add.reduceat(np.append(calls.arg_flags == IN_OUTPUT, 0), calls.arg_offset[:-1])
    has_foreign = (foreign_text > 0) & (np.diff(calls.arg_offset) > 0)
    chance *= np.where(has_foreign[donors], 1.0, 0.1)
    chance /= chance.sum()
    host = rng.choice(hosts, count)
    donor = rng.choice(donors, count, p=chance)
    for _ in range(ROUNDS):
        wrong = ~_fits(calls, session, task, host, donor)
        donor[wrong] = rng.choice(donors, int(wrong.sum()), p=chance)
    good = _fits(calls, session, task, host, donor)
    host, donor = host[good], donor[good]
    if not host.size:
        return None
    repeat, own = np.empty(host.shape[0], np.int32), np.zeros(host.shape[0])
    _uses(host, calls.tool[donor], session, calls.tool, repeat, own)
    return Spliced(host, _rewritten(calls, donor, rng), repeat, own)


def _fits(calls: Calls, session: I64, task: I32, host: I64, donor: I64) -> NDArray[np.bool_]:
    other = (task[host] != task[donor]) | ((task[host] < 0) & (session[host] != session[donor]))
    return (calls.group[host] == calls.group[donor]) & other


def _rewritten(calls: Calls, donor: I64, rng: np.random.Generator) -> Calls:
    taken = calls.take(donor)
    size = int(taken.arg_hash.shape[0])
    per_call = rng.choice(OUTPUT_SHARES, donor.shape[0])
    share = np.repeat(per_call, np.diff(taken.arg_offset))
    text = np.isin(taken.arg_type, TEXT_TYPES)
    seen = rng.random(size) < np.where(text, share, 0.5)
    asked = (rng.random(size) < REQUEST_SHARE) & (taken.arg_len > 0)
    flags = (seen * IN_OUTPUT + asked * IN_PROMPT).astype(np.uint8)
    fresh = rng.integers(1, 1 << 62, size)
    offset, word = ragged_rows(calls.word_offset, donor)
    return Calls(
        taken.agent,
        taken.session,
        taken.group,
        taken.tool,
        taken.effect,
        taken.kind,
        taken.arg_offset,
        taken.arg_name,
        fresh,
        taken.arg_type,
        flags,
        taken.arg_len,
        offset,
        calls.word[word],
    )


@njit(cache=True, nogil=True)
def _uses(host: I64, tool: I32, session: I64, tools: I32, repeat: I32, own: NDArray[np.float64]) -> None:
    for i in range(host.shape[0]):
        s = session[host[i]]
        count = 1
        j = host[i]
        while j >= 0 and session[j] == s:
            count += tools[j] == tool[i]
            j -= 1
        repeat[i] = count
        own[i] = 1.0 if count > 1 else 0.0
        j = host[i] + 1
        while j < tools.shape[0] and session[j] == s:
            if tools[j] == tool[i]:
                own[i] = 1.0
            j += 1
