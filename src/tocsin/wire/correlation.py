"""Correlation data, compact binary, version 1. Every packet is below 1 KB; integers are little-endian.

    statement = "CS" 1 bits | window u64 | basis 8 | T u16 | factors u8 | step u32 | agent | loadings i16 each
                | codes, `bits` a sample, first sample in the highest bits, zero-padded
    rows      = "CR" 1 kind | window u64 | T u16 | rows u8 | exponent i8 | part u8 | source | values i16 each

Names are UTF-8 after a length byte. A statement is what one agent says about one window; rows are factors on their way
up or the basis on its way down, `values * 2**exponent`, `VALUES_PER_PART` numbers in each part but the last.

Decoders let only `WireError` escape.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tocsin.errors import InputError, TooLarge, WireError
from tocsin.stats.dither import MAX_BITS, MAX_STEP, MIN_BITS, largest_code
from tocsin.stats.factors import MAX_LENGTH, MIN_LENGTH

I8 = NDArray[np.int8]
I16 = NDArray[np.int16]
F64 = NDArray[np.float64]
Flags = NDArray[np.bool_]

VERSION = 1
PACKET_BYTES = 1000
NAME_BYTES = 128
MAX_FACTORS = 24
VALUES_PER_PART = 420  # 420 * 2 + header 18 + name 129 bytes fit a packet
MAX_EXPONENT = 32
REGION_FACTORS, ZONE_FACTORS, GLOBAL_BASIS = 0, 1, 2

_NO_CODES: I8 = np.zeros(0, np.int8)
_STATEMENT = struct.Struct("<2sBBQ8sHBIB")
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


def _pack(codes: I8, bits: int) -> list[bytes]:
    """Each row of `codes` (n, T)."""
    n, length = codes.shape
    unsigned = (codes.astype(np.int16) + largest_code(bits)).astype(np.uint8)
    wide = np.unpackbits(unsigned.reshape(n, length, 1), axis=2)[:, :, 8 - bits :]
    return [row.tobytes() for row in np.packbits(wide.reshape(n, length * bits), axis=1)]


def _unpack(packed: Sequence[bytes], bits: int, length: int) -> tuple[I8, Flags]:
    """Codes (n, T), and (n,) which rows are as `_pack` writes them: padding is zero, no code that is never used."""
    n = len(packed)
    flat = np.unpackbits(np.frombuffer(b"".join(packed), np.uint8).reshape(n, -1), axis=1)
    wide = np.zeros((n, length, 8), np.uint8)
    wide[:, :, 8 - bits :] = flat[:, : bits * length].reshape(n, length, bits)
    unsigned = np.packbits(wide, axis=2)[:, :, 0].astype(np.int16)
    fit = ~flat[:, bits * length :].any(axis=1) & (unsigned.max(axis=1) <= 2 * largest_code(bits))
    return (unsigned - largest_code(bits)).astype(np.int8), fit


def encode(statement: Statement) -> bytes:
    """Raises `InputError` for what does not fit a packet."""
    return _framed(statement, _pack(statement.codes[None], statement.bits)[0])


def encode_all(statements: Sequence[Statement]) -> list[bytes]:
    """As `encode` each; statements of one length and number of bits, as those of a region are, are packed at once."""
    if len({(one.bits, one.codes.shape) for one in statements}) != 1:
        return [encode(one) for one in statements]
    packed = _pack(np.stack([one.codes for one in statements]), statements[0].bits)
    return [_framed(one, codes) for one, codes in zip(statements, packed, strict=True)]


def _framed(s: Statement, codes: bytes) -> bytes:
    name = _name(s.agent)
    head = _STATEMENT.pack(
        b"CS", VERSION, s.bits, s.window, s.basis, s.codes.shape[0], s.loadings.shape[0], s.step, len(name)
    )  # fmt: skip
    raw = head + name + s.loadings.astype("<i2").tobytes() + codes
    if len(raw) > PACKET_BYTES:
        raise InputError(f"a statement of {len(raw)} bytes exceeds {PACKET_BYTES}", remedy="state fewer bits a sample")
    return raw


def decode(raw: bytes) -> Statement:
    """Raises `WireError` (`TooLarge`) for anything `encode` would not have produced."""
    found = _unframed(raw)
    codes, fit = _unpack([found.packed], found.statement.bits, found.length)
    if not fit[0]:
        raise WireError("statement has codes or padding that are never used")
    return found.with_codes(codes[0])


def decode_all(raws: Sequence[bytes]) -> list[Statement | None]:
    """As `decode` each, None where that would raise; those of one length and number of bits are unpacked at once."""
    out: list[Statement | None] = [None] * len(raws)
    alike: dict[tuple[int, int], list[tuple[int, _Unframed]]] = {}
    for k, raw in enumerate(raws):
        try:
            found = _unframed(raw)
        except WireError:
            continue
        alike.setdefault((found.statement.bits, found.length), []).append((k, found))
    for (bits, length), members in alike.items():
        codes, fit = _unpack([found.packed for _, found in members], bits, length)
        for (k, found), row, good in zip(members, codes, fit.tolist(), strict=True):
            with contextlib.suppress(WireError):
                out[k] = found.with_codes(row) if good else None
    return out


class _Unframed(NamedTuple):
    """A statement whose codes are still packed."""

    statement: Statement
    packed: bytes
    length: int

    def with_codes(self, codes: I8) -> Statement:
        if self.statement.step == 0 and codes.any():
            raise WireError("statement has codes without a step")
        return msgspec.structs.replace(self.statement, codes=codes)


def _unframed(raw: bytes) -> _Unframed:
    if len(raw) > PACKET_BYTES:
        raise TooLarge(f"statement of {len(raw)} bytes exceeds {PACKET_BYTES}")
    fields = _STATEMENT.unpack(_take(raw, 0, _STATEMENT.size, "header"))
    magic, version, bits, window, basis, length, factors, step, size = fields
    if (magic, version) != (b"CS", VERSION):
        raise WireError("not a correlation statement of version 1")
    if not (MIN_BITS <= bits <= MAX_BITS and MIN_LENGTH <= length <= MAX_LENGTH and factors <= MAX_FACTORS):
        raise WireError("statement is out of range")
    if step > MAX_STEP:
        raise WireError("statement is out of range")
    at = _STATEMENT.size
    agent = _decode_name(raw, at, size)
    at += size
    loadings = np.frombuffer(_take(raw, at, 2 * factors, "loadings"), "<i2").astype(np.int16)
    at += 2 * factors
    packed = _take(raw, at, (bits * length + 7) // 8, "codes")
    if at + len(packed) != len(raw):
        raise WireError("statement has bytes after its end")
    statement = Statement(
        agent=agent, window=window, basis=basis, bits=bits, step=step, loadings=loadings, codes=_NO_CODES
    )
    return _Unframed(statement, packed, length)


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
    if (magic, version) != (b"CR", VERSION) or kind > GLOBAL_BASIS:
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
