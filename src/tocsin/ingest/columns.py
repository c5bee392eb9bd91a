"""One column of a table, read exactly: texts as codes, whole numbers, measurements, times, phases.

What does not fit is refused with the column's name; nothing is guessed beyond a time's unit, and that is said.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tocsin.errors import InputError
from tocsin.wire.records import MAX_MEASUREMENT

MAX_TEXT_BYTES = 200  # of UTF-8; a longer text keeps its beginning and a hash that tells it from others
HASH_CHARS = 16
MAX_EXACT_FLOAT = 2**53  # whole numbers from here on are not all representable
MAX_SECONDS = 9e9  # the year 2255; nanoseconds still fit 64 bits
NS_PER_SECOND = 1_000_000_000
# Unix time by magnitude: (smallest, largest value from 1973 to 2255, nanoseconds in one, name)
TIME_UNITS = (
    (1e11, 9e12, 1_000_000, "milliseconds"),
    (1e14, 9e15, 1_000, "microseconds"),
    (1e17, 9e18, 1, "nanoseconds"),
)
PHASES = {"baseline": 0, "train": 0, "training": 0, "0": 0, "live": 1, "test": 1, "judged": 1, "1": 1}


def bounded(text: str) -> str:
    """`text` in at most `MAX_TEXT_BYTES` of UTF-8; different texts stay different."""
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) <= MAX_TEXT_BYTES:
        return text
    kept = raw[: MAX_TEXT_BYTES - HASH_CHARS - 1].decode("utf-8", "ignore")
    return f"{kept}~{hashlib.blake2b(raw, digest_size=HASH_CHARS // 2).hexdigest()}"


def codes(table: pa.Table, name: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """A column as codes into its distinct texts; -1 where it is null or not a number."""
    column = _plain(table, name, keep_dictionary=True)
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    try:
        entries: list[Any] = column.dictionary.to_pylist()
    except UnicodeDecodeError as error:
        raise InputError(f"column {name!r} is not UTF-8: {error}", remedy="write the table as UTF-8") from error
    if pa.types.is_float32(column.dictionary.type):  # 0.1, not the 0.10000000149 it is stored as
        entries = [entry if entry is None else float(str(np.float32(entry))) for entry in entries]
    known: dict[str, int] = {}
    meaning = [-1 if _absent(entry) else known.setdefault(bounded(_text(entry)), len(known)) for entry in entries]
    index = np.asarray(pc.fill_null(column.indices.cast(pa.int64()), len(meaning)))
    return np.array([*meaning, -1], np.int32)[index], tuple(known)


def numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column as floating-point numbers, NaN where it is null."""
    try:
        return np.asarray(_plain(table, name).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"column {name!r} holds no numbers: {error}", remedy="mend it or the mapping") from error


def measurements(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of measurements: NaN where missing or infinite, clipped where powers would overflow."""
    found = numbers(table, name)
    return np.where(np.isfinite(found), np.clip(found, -MAX_MEASUREMENT, MAX_MEASUREMENT), np.nan)


def no_numbers(table: pa.Table, name: str) -> dict[str, int]:
    """Entries of a column that are there and yet no measurement, by reason; a missing one (null) is none of them."""
    column = _plain(table, name)
    if not pa.types.is_floating(column.type):
        return {}
    found = {"nan": pc.sum(pc.is_nan(column)).as_py() or 0, "infinite": pc.sum(pc.is_inf(column)).as_py() or 0}
    return {reason: count for reason, count in found.items() if count}


def integers(table: pa.Table, name: str) -> NDArray[np.int64]:
    """A column of whole numbers, none missing, none rounded."""
    column = _plain(table, name)
    if column.null_count:
        raise InputError(f"column {name!r} has {column.null_count} rows without a number", remedy="number every event")
    if pa.types.is_floating(column.type):
        found = numbers(table, name)
        if not np.all(np.abs(found) < MAX_EXACT_FLOAT) or np.any(found != np.rint(found)):
            raise InputError(
                f"column {name!r} has missing, broken or inexact numbers",
                remedy="give whole numbers, as integers where they reach 2^53",
            )
        return found.astype(np.int64)
    try:
        return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"column {name!r} holds no whole numbers: {error}", remedy="give 64-bit integers") from error


def times(table: pa.Table, name: str) -> tuple[NDArray[np.int64], str]:
    """(nanoseconds per row, the unit that was recognised or '' for plain seconds and timestamps)."""
    column = _plain(table, name)
    if column.null_count:
        raise InputError(f"column {name!r} has {column.null_count} rows without a time", remedy="give every row a time")
    if pa.types.is_timestamp(column.type):
        try:
            in_ns = column.cast(pa.timestamp("ns", tz=column.type.tz)).cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise InputError(
                f"column {name!r} has times that do not fit: {error}", remedy="give times between 1678 and 2261"
            ) from error
        return np.asarray(in_ns.to_numpy(zero_copy_only=False), np.int64), ""
    return _numeric_times(table, name, exact=pa.types.is_integer(column.type))


def _numeric_times(table: pa.Table, name: str, *, exact: bool) -> tuple[NDArray[np.int64], str]:
    found = numbers(table, name)
    if not np.all(np.isfinite(found)):
        raise InputError(f"column {name!r} has rows without a time", remedy="give every row its time in seconds")
    smallest, largest = float(np.min(np.abs(found))), float(np.max(np.abs(found)))
    if largest <= MAX_SECONDS:
        return np.rint(found * NS_PER_SECOND).astype(np.int64), ""
    for low, high, ns, unit in TIME_UNITS:
        if low <= smallest and largest <= high:
            whole = integers(table, name) if exact else np.rint(found * (ns if ns > 1 else 1.0)).astype(np.int64)
            return whole * ns if exact else whole, unit
    raise InputError(
        f"column {name!r} has times from {smallest:g} to {largest:g}, which fit no one unit",
        remedy="give seconds since 1970, or milli-, micro- or nanoseconds, the same on every row",
    )


def phases(table: pa.Table, name: str) -> NDArray[np.int8]:
    """0 = baseline, 1 = live per row, from numbers (0 is baseline, any other is live) or known words."""
    column = _plain(table, name)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return (integers(table, name) != 0).astype(np.int8)
    code, texts = codes(table, name)
    meaning = [PHASES.get(text.strip().lower(), -1) for text in texts]
    unknown = [text for text, phase in zip(texts, meaning, strict=True) if phase < 0]
    if unknown or np.any(code < 0):
        what = f"phase {unknown[0]!r:.60}" if unknown else "rows without a phase"
        raise InputError(f"column {name!r} has {what}", remedy=f"use one of: {', '.join(PHASES)}")
    return np.array(meaning, np.int8)[code]


def _plain(table: pa.Table, name: str, *, keep_dictionary: bool = False) -> Any:
    """A column as one array, its values instead of a dictionary's codes unless those are wanted."""
    column: Any = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) and not keep_dictionary else column


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: Any) -> str:
    """A number by its shortest exact form; whole ones without a fraction, as other tools write them."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < MAX_EXACT_FLOAT else repr(value)
    return str(value)
