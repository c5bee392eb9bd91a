"""Sparse counts: a fixed-size open-addressing table from 64-bit keys to how many distinct owners had the key.

Memory is set once; when the table is 3/4 full new keys are refused (and counted), so hostile variety cannot grow it.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Keys = NDArray[np.int64]
Counts = NDArray[np.int32]

MULTIPLIER = np.int64(-7046029254386353131)  # 2**64 / golden ratio, as Knuth's multiplicative hashing asks for
MULTIPLIER_2 = np.int64(-4417276706812531889)


@njit(cache=True, nogil=True)
def mix(a: int, b: int) -> int:
    """Hash of a pair of 64-bit integers."""
    h = (np.int64(a) ^ (np.int64(b) * MULTIPLIER)) * MULTIPLIER_2
    return h ^ ((h >> np.int64(29)) & np.int64(0x7FFFFFFFF))  # pyright: ignore[reportReturnType]


@njit(cache=True, nogil=True)
def find(keys: Keys, key: int) -> int:
    """Slot that holds `key`, or -1."""
    mask = keys.shape[0] - 1
    i = (key ^ (key >> 32)) & mask
    while keys[i] != 0:
        if keys[i] == key:
            return i
        i = (i + 1) & mask
    return -1


@njit(cache=True, nogil=True)
def look(keys: Keys, counts: Counts, key: int) -> int:
    """Count at `key`, 0 where absent."""
    i = find(keys, key)
    return counts[i] if i >= 0 else 0


@njit(cache=True, nogil=True)
def add(keys: Keys, counts: Counts, last: Counts, used: Keys, key: int, owner: int) -> None:
    """Count `owner` once at `key` (owners arrive grouped, so the last one is enough to tell repeats)."""
    mask = keys.shape[0] - 1
    i = (key ^ (key >> 32)) & mask
    while keys[i] != 0 and keys[i] != key:
        i = (i + 1) & mask
    if keys[i] == 0:
        if used[0] * 4 >= keys.shape[0] * 3:
            used[1] += 1
            return
        keys[i] = key
        used[0] += 1
        last[i] = -1
    if last[i] != owner:
        counts[i] += 1
        last[i] = owner


class CountTable:
    """`keys`, `counts`, `last` `(2**bits,)`; `used` = (slots taken, keys refused)."""

    def __init__(self, bits: int) -> None:
        self.keys = np.zeros(1 << bits, np.int64)
        self.counts = np.zeros(1 << bits, np.int32)
        self.last = np.zeros(1 << bits, np.int32)
        self.used = np.zeros(2, np.int64)
