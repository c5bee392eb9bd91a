"""Correlation data, compact binary, version 1. Every packet is below 1 KB; integers are little-endian.

    statement = "CS" 1 bits | window u64 | basis 8 | T u16 | factors u8 | sketch words u8 | step u32 | agent | loadings
                i16 each | codes, `bits` a sample, first sample in the highest bits, zero-padded | sketch u64 each
    rows      = "CR" 1 kind | window u64 | T u16 | rows u8 | exponent i8 | part u8 | source | values i16 each

Names are UTF-8 after a length byte. A statement is what one agent says about one window; rows are factors on their way
up or bases on their way down, `values * 2**exponent`, `VALUES_PER_PART` numbers in each part but the last.

Decoders let only `WireError` escape.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from tocsin.errors import InputError, TooLarge, WireError
from tocsin.stats.dither import MAX_BITS, MAX_STEP, MIN_BITS, largest_code
from tocsin.stats.factors import MAX_LENGTH, MIN_LENGTH
from tocsin.stats.simhash import WORDS

I8 = NDArray[np.int8]
I16 = NDArray[np.int16]
U64 = NDArray[np.uint64]
F64 = NDArray[np.float64]

VERSION = 1
PACKET_BYTES = 1000
NAME_BYTES = 128
MAX_FACTORS = 24
VALUES_PER_PART = 420  # 420 * 2 + header 18 + name 129 bytes fit a packet
MAX_EXPONENT = 32
REGION_FACTORS, ZONE_FACTORS, GLOBAL_BASIS, ZONE_BASIS = 0, 1, 2, 3

_STATEMENT = struct.Struct("<2sBBQ8sHBBIB")
_ROWS = struct.Struct("<2sBBQHBbBB")


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """One agent, one window: loadings (k,) in units of 2**-14, dither codes (T,) with their step in units of 2**-24."""

    agent: str
    window: int
    basis: bytes  # digest of the global basis the loadings refer to
    bits: int
    step: int
    loadings: I16
    codes: I8
    sketch: U64  # (8,) for screening, or (0,)


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """A (k, T) matrix of series: `values * 2**exponent`."""

    kind: int
    source: str
    window: int
    exponent: int
    values: I16

    def floats(self) -> F64:
        return np.ldexp(self.values.astype(np.float64), self.exponent)


class RowsPart(msgspec.Struct, frozen=True, kw_only=True):
    """One packet of `Rows`: `shape` is that of the whole matrix."""

    kind: int
    source: str
    window: int
    exponent: int
    shape: tuple[int, int]
    part: int
    values: I16


def _name(text: str) -> bytes:
    raw = text.encode()
    if not 0 < len(raw) <= NAME_BYTES:
        raise InputError(f"a name of {len(raw)} bytes does not fit", remedy=f"use 1 to {NAME_BYTES} bytes")
    return raw


def _take(raw: bytes, start: int, size: int, what: str) -> bytes:
    piece = raw[start : start + size]
    if len(piece) != size:
        raise WireError(f"correlation packet ends in the middle of its {what}")
    return piece


def _decode_name(raw: bytes, start: int, size: int) -> str:
    if not 0 < size <= NAME_BYTES:
        raise WireError("correlation packet has a name of unfit length")
    try:
        return _take(raw, start, size, "name").decode()
    except UnicodeDecodeError:
        raise WireError("correlation packet has a name that is not UTF-8") from None


def _pack(codes: I8, bits: int) -> bytes:
    unsigned = (codes.astype(np.int16) + largest_code(bits)).astype(np.uint8)
    return np.packbits(np.unpackbits(unsigned[:, None], axis=1)[:, 8 - bits :]).tobytes()


def _unpack(raw: bytes, bits: int, length: int) -> I8:
    flat = np.unpackbits(np.frombuffer(raw, np.uint8))
    if flat[bits * length :].any():
        raise WireError("statement has padding that is not zero")
    wide = np.zeros((length, 8), np.uint8)
    wide[:, 8 - bits :] = flat[: bits * length].reshape(length, bits)
    unsigned = np.packbits(wide, axis=1)[:, 0].astype(np.int16)
    if int(unsigned.max()) > 2 * largest_code(bits):
        raise WireError("statement has a code that is never used")
    return (unsigned - largest_code(bits)).astype(np.int8)


def encode(statement: Statement) -> bytes:
    """Raises `InputError` for what does not fit a packet."""
    s, name = statement, _name(statement.agent)
    head = _STATEMENT.pack(
        b"CS", VERSION, s.bits, s.window, s.basis, s.codes.shape[0], s.loadings.shape[0], s.sketch.shape[0], s.step,
        len(name),
    )  # fmt: skip
    body = s.loadings.astype("<i2").tobytes() + _pack(s.codes, s.bits) + s.sketch.astype("<u8").tobytes()
    raw = head + name + body
    if len(raw) > PACKET_BYTES:
        raise InputError(f"a statement of {len(raw)} bytes exceeds {PACKET_BYTES}", remedy="state fewer bits a sample")
    return raw


def decode(raw: bytes) -> Statement:
    """Raises `WireError` (`TooLarge`) for anything `encode` would not have produced."""
    if len(raw) > PACKET_BYTES:
        raise TooLarge(f"statement of {len(raw)} bytes exceeds {PACKET_BYTES}")
    fields = _STATEMENT.unpack(_take(raw, 0, _STATEMENT.size, "header"))
    magic, version, bits, window, basis, length, factors, words, step, size = fields
    if (magic, version) != (b"CS", VERSION):
        raise WireError("not a correlation statement of version 1")
    if not (MIN_BITS <= bits <= MAX_BITS and MIN_LENGTH <= length <= MAX_LENGTH and factors <= MAX_FACTORS):
        raise WireError("statement is out of range")
    if words not in (0, WORDS) or step > MAX_STEP:
        raise WireError("statement is out of range")
    at = _STATEMENT.size
    agent = _decode_name(raw, at, size)
    at += size
    loadings = np.frombuffer(_take(raw, at, 2 * factors, "loadings"), "<i2").astype(np.int16)
    at += 2 * factors
    packed = (bits * length + 7) // 8
    codes = _unpack(_take(raw, at, packed, "codes"), bits, length)
    at += packed
    sketch = np.frombuffer(_take(raw, at, 8 * words, "sketch"), "<u8").astype(np.uint64)
    if at + 8 * words != len(raw):
        raise WireError("statement has bytes after its end")
    if step == 0 and codes.any():
        raise WireError("statement has codes without a step")
    return Statement(
        agent=agent, window=window, basis=basis, bits=bits, step=step, loadings=loadings, codes=codes, sketch=sketch
    )


def rounded_rows(kind: int, source: str, window: int, rows: F64) -> Rows:
    """`rows` (k, T) at 16 bits an entry; the exponent fits the largest one."""
    largest = float(np.abs(rows).max(initial=0.0))
    exponent = max(int(np.frexp(largest)[1]) - 15, -MAX_EXPONENT) if largest > 0 else -15
    values = np.clip(np.rint(np.ldexp(rows, -exponent)), -32767, 32767).astype(np.int16)
    return Rows(kind=kind, source=source, window=window, exponent=exponent, values=values)


def encode_rows(rows: Rows) -> list[bytes]:
    """One packet or several. Raises `InputError` for what does not fit."""
    name, (count, length) = _name(rows.source), rows.values.shape
    if count > MAX_FACTORS or not MIN_LENGTH <= length <= MAX_LENGTH:
        raise InputError(f"a factor matrix of {count} x {length} does not fit a message")
    flat = rows.values.ravel().astype("<i2")
    packets: list[bytes] = []
    for part in range(_parts(count, length)):
        head = _ROWS.pack(
            b"CR", VERSION, rows.kind, rows.window, length, count, rows.exponent, part, len(name)
        )  # fmt: skip
        packets.append(head + name + flat[part * VALUES_PER_PART : (part + 1) * VALUES_PER_PART].tobytes())
    return packets


def _parts(count: int, length: int) -> int:
    return max(1, -(-count * length // VALUES_PER_PART))


def decode_rows(raw: bytes) -> RowsPart:
    """Raises `WireError` (`TooLarge`) for anything `encode_rows` would not have produced."""
    if len(raw) > PACKET_BYTES:
        raise TooLarge(f"factor rows of {len(raw)} bytes exceed {PACKET_BYTES}")
    fields = _ROWS.unpack(_take(raw, 0, _ROWS.size, "header"))
    magic, version, kind, window, length, count, exponent, part, size = fields
    if (magic, version) != (b"CR", VERSION) or kind > ZONE_BASIS:
        raise WireError("not factor rows of version 1")
    if not MIN_LENGTH <= length <= MAX_LENGTH or count > MAX_FACTORS or abs(exponent) > MAX_EXPONENT:
        raise WireError("factor rows are out of range")
    if part >= _parts(count, length):
        raise WireError("factor rows have a part too many")
    source = _decode_name(raw, _ROWS.size, size)
    values = min(VALUES_PER_PART, count * length - part * VALUES_PER_PART)
    if len(raw) != _ROWS.size + size + 2 * values:
        raise WireError("factor rows have another size than they say")
    numbers = np.frombuffer(raw[_ROWS.size + size :], "<i2").astype(np.int16)
    return RowsPart(
        kind=kind, source=source, window=window, exponent=exponent, shape=(count, length), part=part, values=numbers
    )


def join_rows(parts: Sequence[RowsPart]) -> Rows:
    """All parts of one matrix, in any order. Raises `WireError` if they do not fit together."""
    if not parts:
        raise WireError("no parts of factor rows")
    ordered = sorted(parts, key=lambda one: one.part)
    first = ordered[0]
    key = (first.kind, first.source, first.window, first.exponent, first.shape)
    if any((p.kind, p.source, p.window, p.exponent, p.shape) != key for p in ordered):
        raise WireError("parts of different factor rows do not join")
    if [p.part for p in ordered] != list(range(_parts(*first.shape))):
        raise WireError("parts of factor rows are missing or repeated")
    values = np.concatenate([p.values for p in ordered]).reshape(first.shape)
    return Rows(kind=first.kind, source=first.source, window=first.window, exponent=first.exponent, values=values)
