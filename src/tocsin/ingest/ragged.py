"""Ragged text columns of a table (call arguments, prompt words) as flat arrays with offsets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import InputError
from tocsin.model.events import ARG_TYPES

TYPE_CODES = {name: code for code, name in enumerate(ARG_TYPES)}
OTHER = TYPE_CODES["other"]
MAX_ARGUMENTS = 64  # per event; the rest is dropped: one call must not fill memory
MAX_WORDS = 256  # per event
MAX_LENGTH = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Ragged:
    """`items[offset[i]:offset[i + 1]]` belongs to row i; shapes `(n + 1,)` and `(k,)`."""

    offset: NDArray[np.int32]
    items: NDArray[np.int32]

    def take(self, rows: NDArray[np.int64]) -> Ragged:
        """The rows in the given order."""
        offset, index = gather(self.offset, rows)
        return Ragged(offset, self.items[index])

    def slice(self, start: int, stop: int) -> Ragged:
        """Rows `start..stop`, offsets from 0."""
        first, last = int(self.offset[start]), int(self.offset[stop])
        return Ragged(self.offset[start : stop + 1] - np.int32(first), self.items[first:last])


@dataclass(frozen=True, slots=True)
class Arguments:
    """Arguments of all rows: `offset` `(n + 1,)`, the other columns `(m,)`, as in `EventBatch`."""

    offset: NDArray[np.int32]
    name: NDArray[np.int64]
    value: NDArray[np.int64]
    type: NDArray[np.int8]
    flags: NDArray[np.uint8]
    length: NDArray[np.int32]

    def take(self, rows: NDArray[np.int64]) -> Arguments:
        """The rows in the given order."""
        offset, index = gather(self.offset, rows)
        return Arguments(
            offset, self.name[index], self.value[index], self.type[index], self.flags[index], self.length[index]
        )

    def slice(self, start: int, stop: int) -> Arguments:
        """Rows `start..stop`, offsets from 0."""
        span = slice(int(self.offset[start]), int(self.offset[stop]))
        offset = self.offset[start : stop + 1] - self.offset[start]
        return Arguments(
            offset, self.name[span], self.value[span], self.type[span], self.flags[span], self.length[span]
        )


def gather(offset: NDArray[np.int32], rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """New offsets and flat positions for taking ragged `rows` in that order."""
    sizes = np.diff(offset)[rows].astype(np.int64)
    fresh = np.zeros(rows.shape[0] + 1, np.int32)
    np.cumsum(sizes, out=fresh[1:])
    index = np.arange(int(fresh[-1])) - np.repeat(fresh[:-1].astype(np.int64), sizes)
    return fresh, index + np.repeat(offset[:-1][rows].astype(np.int64), sizes)


def text_hash(text: str) -> int:
    """Stable signed 64-bit hash (BLAKE2b) of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big", signed=True)


def parse_arguments(column: Any | None, n: int) -> Arguments:
    """Decode `name:type:hash:in_prompt:in_output:length|...` per row; None or '' = no arguments."""
    offset = np.zeros(n + 1, np.int32)
    rows: list[tuple[int, int, int, int, int]] = []
    memo: dict[str, int] = {}

    def hashed(text: str) -> int:
        if text not in memo:
            memo[text] = text_hash(text)
        return memo[text]

    for i, text in enumerate(_texts(column)):
        if text:
            for part in text.split("|")[:MAX_ARGUMENTS]:
                fields = part.rsplit(":", 5)
                if len(fields) != 6:
                    raise InputError(
                        f"row {i}: argument {part[:60]!r} is not name:type:hash:in_prompt:in_output:length",
                        remedy="give six fields per argument, or leave the column out of the mapping",
                    )
                name, kind, value, in_prompt, in_output, length = fields
                flags = (in_prompt == "1") | (in_output == "1") << 1
                size = min(int(length), MAX_LENGTH) if length.isdecimal() else 0
                rows.append((hashed(name), hashed(value), TYPE_CODES.get(kind, OTHER), flags, size))
        offset[i + 1] = len(rows)
    table = np.array(rows, np.int64).reshape(-1, 5)
    return Arguments(
        offset,
        np.ascontiguousarray(table[:, 0]),
        np.ascontiguousarray(table[:, 1]),
        table[:, 2].astype(np.int8),
        table[:, 3].astype(np.uint8),
        table[:, 4].astype(np.int32),
    )


def parse_words(column: Any | None, n: int) -> Ragged:
    """Decode blank-separated words (already hashed numbers, or any text) per row, as 31-bit codes."""
    offset = np.zeros(n + 1, np.int32)
    words: list[int] = []
    memo: dict[str, list[int]] = {}
    for i, text in enumerate(_texts(column)):
        if text:
            if text not in memo:
                memo[text] = [_word(word) for word in text.split()[:MAX_WORDS]]
            words += memo[text]
        offset[i + 1] = len(words)
    return Ragged(offset, np.array(words, np.int32))


def _texts(column: Any | None) -> list[str | None]:
    return [] if column is None else cast("list[str | None]", column.cast("string").to_pylist())


def _word(word: str) -> int:
    return int(word) if word.isdecimal() and len(word) < 10 else text_hash(word) & 0x7FFFFFFF
