"""Subtractive dither: few bits a sample, and an error that does not depend on the sample.

A value x is stated as `code = floor(x / step + k / 2**16)` with k uniform on 0..2**16-1 from a seed both sides know;
the receiver takes k off again: `x^ = step * (code - k / 2**16 + 1/2)`. The error is then uniform on an interval of one
step, whatever x is, and independent between samples (Schuchman 1964; Gray & Stockham 1993), which is what turns it
into a certificate (`stats.correlation`). That needs a seed nobody knew when fixing x: commit to the series first.

Values are kept in integers: steps in units of 2**-24, reconstructed values as `levels` in units of step * 2**-16.
"""

from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.errors import InputError

F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

MIN_BITS, MAX_BITS = 2, 8
STEP_BITS = 24  # a step is a whole number of 2**-24
DITHER_BITS = 16
MAX_STEP = 1 << (STEP_BITS + 1)  # |x| <= 1 with two bits needs a step of 1


def dither_key(seed: bytes, agent: str, window: int) -> int:
    """64-bit key of the dither of one agent in one window."""
    text = agent.encode()
    digest = blake2b(window.to_bytes(8, "big") + text, digest_size=8, key=blake2b(seed).digest())
    return int.from_bytes(digest.digest(), "big")


@njit(cache=True, nogil=True, inline="always")
def _scramble(x: np.uint64) -> np.uint64:
    """Output function of SplitMix64 (Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True)
def stream(key: np.uint64, count: int) -> I32:
    """`count` uniform numbers below 2**16, four of each 64-bit output, the lowest bits first."""
    out = np.empty(count, np.int32)
    state = key
    word = np.uint64(0)
    for t in range(count):
        if t % 4 == 0:
            state += np.uint64(0x9E3779B97F4A7C15)
            word = _scramble(state)
        out[t] = np.int32(word & np.uint64(0xFFFF))
        word >>= np.uint64(16)
    return out


@njit(cache=True, nogil=True)
def _encode(values: F64, step: I64, keys: U64, out: I8) -> None:
    for i in range(values.shape[0]):
        if step[i] == 0:
            out[i] = 0
            continue
        noise = stream(keys[i], values.shape[1])
        size = step[i] / 16777216.0
        for t in range(values.shape[1]):
            out[i, t] = np.int8(np.floor(values[i, t] / size + noise[t] / 65536.0))


@njit(cache=True, nogil=True)
def _decode(codes: I8, step: I64, keys: U64, out: I32) -> None:
    for i in range(codes.shape[0]):
        if step[i] == 0:
            out[i] = 0
            continue
        noise = stream(keys[i], codes.shape[1])
        for t in range(codes.shape[1]):
            out[i, t] = (np.int32(codes[i, t]) << 16) - noise[t] + 32768


def largest_code(bits: int) -> int:
    """Codes are -largest..largest; one of the 2**bits patterns stays unused."""
    return (1 << (bits - 1)) - 1


def dither_codes(values: F64, bits: int, keys: U64) -> tuple[I8, I64]:
    """(codes (n, T), steps (n,) in units of 2**-24) of `values` (n, T), |values| <= 1.

    The step fits each row's maximum; a row of zeros has step 0. Raises InputError for `bits` outside 2..8 or values
    beyond 1.
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise InputError(f"{bits} bits a sample are not supported", remedy=f"use {MIN_BITS} to {MAX_BITS}")
    largest = np.abs(values).max(axis=1, initial=0.0)
    if not bool((largest <= 1.0 + 1e-9).all()):
        raise InputError("only values within -1..1 can be dithered")
    step = np.ceil(largest * (1 << STEP_BITS) / largest_code(bits)).astype(np.int64)
    step += (step > 0) & (step / (1 << STEP_BITS) * largest_code(bits) < largest)
    codes = np.empty(values.shape, np.int8)
    _encode(np.ascontiguousarray(values, np.float64), step, keys, codes)
    return codes, step


def levels(codes: I8, step: I64, keys: U64) -> I32:
    """Reconstructed values (n, T) in units of step * 2**-16: integers, the same on every machine."""
    out = np.empty(codes.shape, np.int32)
    _decode(codes, step, keys, out)
    return out


def level_size(step: I64) -> F64:
    """Units of `levels` as floats (n,): exact powers of two times the step."""
    return np.ldexp(step.astype(np.float64), -(STEP_BITS + DITHER_BITS))


def lattice_bias(length: int) -> float:
    """How far, in steps and over `length` samples (Euclidean norm), the mean error can be from zero.

    k has 2**16 values, so the error sits on a lattice of that spacing with a mean of at most half of it.
    """
    return math.sqrt(length) * 2.0 ** -(DITHER_BITS + 1)
