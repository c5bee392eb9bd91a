"""Sketches of series in which similar series, also at a lag, agree in most bits.

SimHash (Charikar 2002): the signs of random projections of two series agree with probability 1 - angle / pi. Here the
projections are the outputs of random all-pass filters at consecutive moments (circulant embedding, Yu et al. 2014), so
a series that follows another by l samples has the same bits, l places on: 64 bytes serve every lag. All-pass keeps the
projections of one filter orthogonal, and mixes every sample into every bit, so a spike decides none of them.

Sketches are computed once, in floating point, by whoever holds the series; comparing them is integer arithmetic.
"""

from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.errors import InputError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
U64 = NDArray[np.uint64]
U8 = NDArray[np.uint8]

BITS = 512
WORDS = BITS // 64
SHORTEST = 64  # samples, one word of consecutive outputs
MAX_LAG = 16


def outputs_per_filter(length: int) -> int:
    """How many consecutive outputs of each filter become bits: 64, 128 or 256. Raises InputError below 64 samples."""
    if length < SHORTEST:
        raise InputError(f"series of {length} samples are too short to screen", remedy=f"give at least {SHORTEST}")
    return min(256, 1 << (length.bit_length() - 1))


def all_pass(seed: bytes, length: int, filters: int) -> NDArray[np.complex128]:
    """Frequency responses (filters, length // 2 + 1) of modulus one and random phase: energy-preserving filters."""
    bins = length // 2 + 1
    raw = np.frombuffer(
        b"".join(blake2b(seed + g.to_bytes(2, "big") + m.to_bytes(2, "big"), digest_size=8).digest()
                 for g in range(filters) for m in range(bins)), ">u8",
    )  # fmt: skip
    turns = (raw.astype(np.float64) * 2.0**-64).reshape(filters, bins)
    turns[:, 0] = np.rint(turns[:, 0]) / 2.0  # the ends of a real filter's response are +1 or -1
    if length % 2 == 0:
        turns[:, -1] = np.rint(turns[:, -1]) / 2.0
    return np.exp(2j * math.pi * turns)


def sketch_rows(rows: F64, seed: bytes) -> U64:
    """Sketches (n, 8) of `rows` (n, T). All who compare sketches use one `seed`. Raises InputError for a short T."""
    length = rows.shape[1]
    outputs = outputs_per_filter(length)
    response = all_pass(seed, length, BITS // outputs)
    spectrum = np.fft.rfft(rows, axis=1)
    bits = [np.fft.irfft(spectrum * one, n=length, axis=1)[:, :outputs] > 0 for one in response]
    packed = np.packbits(np.concatenate(bits, axis=1), axis=1, bitorder="little")
    return np.ascontiguousarray(packed).view("<u8").astype(np.uint64)


def shifted(sketches: U64, lag: int, length: int) -> tuple[U64, U64]:
    """(sketches (n, 8) as they would be `lag` >= 0 samples earlier, mask (8,) of the bits that are still known)."""
    outputs = outputs_per_filter(length)
    raw = sketches.astype("<u8").view(np.uint8)
    bits = np.unpackbits(raw, axis=1, bitorder="little").reshape(-1, BITS // outputs, outputs)
    moved = np.zeros_like(bits)
    moved[:, :, : outputs - lag] = bits[:, :, lag:]
    known = np.zeros((1, *bits.shape[1:]), np.uint8)
    known[:, :, : outputs - lag] = 1
    return _packed(moved), _packed(known)[0]


def _packed(bits: U8) -> U64:
    return np.packbits(bits.reshape(bits.shape[0], BITS), axis=1, bitorder="little").view("<u8").astype(np.uint64)


@njit(cache=True, nogil=True, inline="always")
def one_bits(x: np.uint64) -> np.int64:
    """Number of one bits; the compiler knows this idiom."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def _scan(left: U64, right: U64, limit: int, rows: I64, half: bool, out: I32) -> int:
    """Pairs (rows[a], j) within `limit` bits into out (room, 2); returns how many there are, also beyond the room."""
    found = 0
    for i in rows:
        for j in range(i + 1 if half else 0, right.shape[0]):
            distance = np.int64(0)
            for w in range(left.shape[1]):
                distance += one_bits(left[i, w] ^ right[j, w])
            if distance <= limit and j != i:
                if found < out.shape[0]:
                    out[found, 0] = i
                    out[found, 1] = j
                found += 1
    return found


def agreement_limit(length: int, lag: int, comparisons: float, spare: float) -> int:
    """The most differing bits at which, over `comparisons` of independent series, about `spare` pass by chance.

    Filters see the same `length` samples, so their bits are not independent: of the variance of a comparison's sign
    product the share (2 / pi)**2 is its linear part, which filters have in common.
    """
    outputs = outputs_per_filter(length)
    filters = BITS // outputs
    known = filters * (outputs - lag)
    variance = 1.0 + (2.0 / math.pi) ** 2 * (filters - 1) * outputs / length
    share = min(0.5, max(spare / comparisons, 1e-30))
    low, high = 0.0, 12.0
    for _ in range(60):  # normal quantile by bisection
        z = (low + high) / 2
        low, high = (z, high) if 0.5 * math.erfc(z / math.sqrt(2.0)) > share else (low, z)
    return int(known / 2 - low * math.sqrt(known * variance) / 2)


def close_pairs(left: U64, right: U64, mask: U64, limit: int, *, rows: I64 | None = None, half: bool = False) -> I32:
    """(m, 2) pairs (i, j), i != j, whose sketches left[i] and right[j] differ in at most `limit` bits of `mask`.

    Every j is compared with every i of `rows` (all of them by default); `half` looks at j > i only.
    """
    every: I64 = np.arange(left.shape[0], dtype=np.int64) if rows is None else rows
    left, right = left & mask, right & mask
    found: list[I32] = []
    room = np.empty((1 << 16, 2), np.int32)
    for start in range(0, every.shape[0], 256):
        chunk = every[start : start + 256]
        count = int(_scan(left, right, limit, chunk, half, room))
        if count > room.shape[0]:
            room = np.empty((2 * count, 2), np.int32)
            count = int(_scan(left, right, limit, chunk, half, room))
        found.append(room[:count].copy())
    return np.concatenate(found) if found else np.zeros((0, 2), np.int32)
