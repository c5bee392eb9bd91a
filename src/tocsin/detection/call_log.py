"""Baseline tool calls kept until baselines are sealed, and their order by session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.model.events import EventBatch

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

TOOLS_PER_SESSION = 16  # distinct tools whose repeats are counted within a session


@dataclass(frozen=True, slots=True)
class Calls:
    """`n` calls with fleet-wide codes; `m` arguments and `k` prompt words behind offsets `(n + 1,)`."""

    agent: I32
    session: I64
    group: I32
    tool: I32
    effect: I8
    kind: I8
    arg_offset: I64
    arg_name: I64
    arg_hash: I64
    arg_type: I8
    arg_flags: U8
    arg_len: I32
    word_offset: I64
    word: I32

    def __len__(self) -> int:
        return int(self.agent.shape[0])

    def arguments(self) -> tuple[I64, I64, I64, I8, U8, I32]:
        """Argument columns in the order in which kernels take them."""
        return self.arg_offset, self.arg_name, self.arg_hash, self.arg_type, self.arg_flags, self.arg_len

    def take(self, rows: I64) -> Calls:
        """The calls at `rows`, in that order."""
        arg_offset, arg = ragged_rows(self.arg_offset, rows)
        word_offset, word = ragged_rows(self.word_offset, rows)
        return Calls(
            self.agent[rows],
            self.session[rows],
            self.group[rows],
            self.tool[rows],
            self.effect[rows],
            self.kind[rows],
            arg_offset,
            self.arg_name[arg],
            self.arg_hash[arg],
            self.arg_type[arg],
            self.arg_flags[arg],
            self.arg_len[arg],
            word_offset,
            self.word[word],
        )


def calls_of(batch: EventBatch, rows: I64, agent: I32, session: I64, group: I32, tool: I32) -> Calls:
    """Rows of a batch as calls; `agent`, `session`, `group` and `tool` are fleet-wide codes of all rows `(n,)`."""
    none = np.zeros(len(batch) + 1, np.int64)
    whole = Calls(
        agent,
        session,
        group,
        tool,
        batch.effect,
        batch.kind,
        batch.arg_offset.astype(np.int64) if batch.arg_offset.shape[0] > 1 else none,
        batch.arg_name,
        batch.arg_hash,
        batch.arg_type,
        batch.arg_flags,
        batch.arg_len,
        batch.prompt_offset.astype(np.int64) if batch.prompt_offset.shape[0] > 1 else none,
        batch.prompt_word,
    )
    return whole if rows.shape[0] == len(batch) else whole.take(rows)


def joined(parts: list[Calls]) -> Calls:
    """All parts one after the other."""
    columns: list[NDArray[np.generic]] = []
    for name in Calls.__slots__:
        arrays = [getattr(part, name) for part in parts]
        if name.endswith("_offset"):
            starts = np.cumsum([0, *(int(array[-1]) for array in arrays[:-1])])
            moved = [array[1:] + start for array, start in zip(arrays, starts, strict=True)]
            columns.append(np.concatenate([np.zeros(1, np.int64), *moved]))
        else:
            columns.append(np.concatenate(arrays))
    return Calls(*columns)  # pyright: ignore[reportArgumentType]


def by_session(calls: Calls) -> tuple[Calls, I64]:
    """Calls sorted by agent and session, in order within; and dense session numbers `(n,)`."""
    order = np.lexsort((np.arange(len(calls)), calls.session, calls.agent))
    ordered = calls.take(order)
    fresh = np.ones(len(calls), np.bool_)
    fresh[1:] = (np.diff(ordered.agent) != 0) | (np.diff(ordered.session) != 0)
    return ordered, np.cumsum(fresh) - 1


def ragged_rows(offset: I64, rows: I64) -> tuple[I64, I64]:
    """New offsets and flat positions of ragged `rows`."""
    sizes = np.diff(offset)[rows]
    fresh = np.zeros(rows.shape[0] + 1, np.int64)
    np.cumsum(sizes, out=fresh[1:])
    index = np.arange(int(fresh[-1])) - np.repeat(fresh[:-1], sizes) + np.repeat(offset[:-1][rows], sizes)
    return fresh, index


@njit(cache=True, nogil=True)
def use_of(tools: I32, uses: I32, tool: int) -> int:
    """How often `tool` was used in the session now, counting this use; tools beyond the table count as first uses."""
    for k in range(tools.shape[0]):
        if tools[k] == tool:
            uses[k] += 1
            return uses[k]
        if tools[k] < 0:
            tools[k] = tool
            uses[k] = 1
            return 1
    return 1


@njit(cache=True, nogil=True)
def places(session: I64, tool: I32, previous: I32, repeat: I32) -> None:
    """Fill the previous tool (-1 at a session's start) and the repeat number of each call, sorted by session."""
    tools = np.full(TOOLS_PER_SESSION, -1, np.int32)
    uses = np.zeros(TOOLS_PER_SESSION, np.int32)
    for i in range(session.shape[0]):
        if i == 0 or session[i] != session[i - 1]:
            tools[:] = -1
            previous[i] = -1
        else:
            previous[i] = tool[i - 1]
        repeat[i] = use_of(tools, uses, tool[i])


@njit(cache=True, nogil=True)
def slot_of(key: I64, used: I64, a: int, session: int, now: int) -> tuple[int, bool]:
    """(slot of the session, whether it is new); the slot unused for longest is given to a new session."""
    oldest = 0
    for k in range(key.shape[1]):
        if key[a, k] == session:
            used[a, k] = now
            return k, False
        if used[a, k] < used[a, oldest]:
            oldest = k
    key[a, oldest] = session
    used[a, oldest] = now
    return oldest, True


class PerAgent:
    """State whose attributes are all arrays with a row for each agent."""

    def __init__(self, agents: int) -> None:
        raise NotImplementedError

    def grown(self, agents: int) -> Self:
        """Self, or a copy with room for at least `agents`."""
        have = next(iter(vars(self).values())).shape[0]
        if agents <= have:
            return self
        larger = type(self)(max(agents, 2 * have, 64))
        for name, array in vars(self).items():
            getattr(larger, name)[:have] = array
        return larger
