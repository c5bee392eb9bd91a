"""The stored and transmitted form of an `EventBatch`: versioned, compact, checksummed.

    magic 'TcEv' | version u8 | flags u8 (1 = zlib) | body bytes inflated u32 | BLAKE2b-128 of the rest | payload

The checksum covers the fields before it and the payload. The body is a u32 length, a msgpack header of that length
(offset, counts, string tables), then every column as raw little-endian values in the order of `_COLUMNS`.
It detects damage, not forgery: who wrote a batch is for signatures to say.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tocsin.errors import InputError, TooLarge, WireError
from tocsin.model.events import ARG_TYPES, F64, I32, Effect, EventBatch, Kind, Phase

MAGIC = b"TcEv"
VERSION = 1
MAX_BODY_BYTES = 256 << 20
CHECKSUM_BYTES = 16
_ZLIB = 1
_PREFIX = struct.Struct("<4sBBI")
_U32 = struct.Struct("<I")

# name, dtype, and which count gives its length: rows, rows + 1, arguments, prompt words, rows x features.
_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("agent", "<i4", "rows"),
    ("t_ns", "<i8", "rows"),
    ("session", "<i8", "rows"),
    ("phase", "<i1", "rows"),
    ("kind", "<i1", "rows"),
    ("action", "<i4", "rows"),
    ("effect", "<i1", "rows"),
    ("group", "<i4", "rows"),
    ("context", "<i4", "rows"),
    ("values", "<f8", "cells"),
    ("arg_offset", "<i4", "bounds"),
    ("arg_name", "<i8", "args"),
    ("arg_hash", "<i8", "args"),
    ("arg_type", "<i1", "args"),
    ("arg_flags", "<u1", "args"),
    ("arg_len", "<i4", "args"),
    ("prompt_offset", "<i4", "bounds"),
    ("prompt_word", "<i4", "words"),
    ("event_id", "<i8", "rows"),
)


class _Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    offset: int
    rows: int
    args: int
    words: int
    agents: tuple[str, ...]
    actions: tuple[str, ...]
    groups: tuple[str, ...]
    contexts: tuple[str, ...]
    feature_names: tuple[str, ...]

    def lengths(self) -> dict[str, int]:
        return {
            "rows": self.rows,
            "bounds": self.rows + 1,
            "args": self.args,
            "words": self.words,
            "cells": self.rows * len(self.feature_names),
        }


_header_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(_Header)


def filled(batch: EventBatch) -> EventBatch:
    """`batch` with every optional column at full length (a batch may leave group, context, values and ragged out)."""
    n = len(batch)
    whole: dict[str, Any] = {
        "group": np.zeros(n, np.int32),
        "context": np.zeros(n, np.int32),
        "values": np.full((n, len(batch.feature_names)), np.nan),
        "arg_offset": np.zeros(n + 1, np.int32),
        "prompt_offset": np.zeros(n + 1, np.int32),
        "event_id": np.zeros(n, np.int64),
    }
    missing = {name: column for name, column in whole.items() if getattr(batch, name).shape[0] != column.shape[0]}
    if not missing and batch.groups and batch.contexts:
        return batch
    return replace(batch, groups=batch.groups or ("",), contexts=batch.contexts or ("",), **missing)


def encode_batch(batch: EventBatch, *, compress: bool = True) -> bytes:
    """The bytes of `batch`; equal batches give equal bytes. Raises InputError where its columns disagree."""
    whole = filled(batch)
    header = _Header(
        offset=whole.offset,
        rows=len(whole),
        args=int(whole.arg_name.shape[0]),
        words=int(whole.prompt_word.shape[0]),
        agents=whole.agents,
        actions=whole.actions,
        groups=whole.groups,
        contexts=whole.contexts,
        feature_names=whole.feature_names,
    )
    lengths = header.lengths()
    head = _header_encoder.encode(header)
    parts = [_U32.pack(len(head)), head]
    for name, dtype, count in _COLUMNS:
        column: NDArray[Any] = np.ascontiguousarray(getattr(whole, name), dtype=dtype)
        if column.size != lengths[count]:
            raise InputError(f"event batch column {name} holds {column.size} values, not {lengths[count]}")
        parts.append(column.tobytes())
    body = b"".join(parts)
    if len(body) > MAX_BODY_BYTES:
        raise InputError(f"event batch of {len(body)} bytes is over {MAX_BODY_BYTES}", remedy="split the batch")
    packed = zlib.compress(body, 1) if compress else body
    flags, payload = (_ZLIB, packed) if len(packed) < len(body) else (0, body)
    prefix = _PREFIX.pack(MAGIC, VERSION, flags, len(body))
    return prefix + _checksum(prefix, payload) + payload


def decode_batch(data: bytes | memoryview) -> EventBatch:
    """The batch in `data`. Raises WireError (TooLarge) for anything else.

    Its arrays are aligned copies: kernels would be compiled once more for arrays that are not.
    """
    body = _body(data)
    if len(body) < _U32.size:
        raise WireError("event batch without a header")
    start = _U32.size + _U32.unpack_from(body)[0]
    if start > len(body):
        raise WireError("event batch header is longer than its body")
    try:
        header = _header_decoder.decode(body[_U32.size : start])
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"event batch header does not decode: {error}") from error
    if min(header.offset, header.rows, header.args, header.words) < 0:
        raise WireError("event batch with a negative count")
    lengths = header.lengths()
    expected = sum(np.dtype(dtype).itemsize * lengths[count] for _, dtype, count in _COLUMNS)
    if start + expected != len(body):
        raise WireError(f"event batch columns take {len(body) - start} bytes, not {expected}")
    columns: dict[str, NDArray[Any]] = {}
    for name, dtype, count in _COLUMNS:
        columns[name] = np.frombuffer(body, dtype, lengths[count], start).copy()
        start += columns[name].nbytes
    columns["values"] = columns["values"].reshape(header.rows, len(header.feature_names))
    _check(header, columns)
    return EventBatch(
        offset=header.offset,
        agents=header.agents,
        actions=header.actions,
        groups=header.groups,
        contexts=header.contexts,
        feature_names=header.feature_names,
        **columns,
    )


def empty(offset: int = 0) -> EventBatch:
    """A batch of no events."""
    return EventBatch(
        offset=offset,
        agents=(),
        agent=np.zeros(0, np.int32),
        t_ns=np.zeros(0, np.int64),
        session=np.zeros(0, np.int64),
        phase=np.zeros(0, np.int8),
        kind=np.zeros(0, np.int8),
        actions=(),
        action=np.zeros(0, np.int32),
        effect=np.zeros(0, np.int8),
    )


def take(batch: EventBatch, index: NDArray[Any], offset: int | None = None) -> EventBatch:
    """Rows `index` (positions or a boolean mask) of `batch`, in that order; string tables are kept whole.

    Rows are renumbered from `offset` (the batch's own where None): a batch's positions are contiguous.
    """
    whole = filled(batch)
    rows = np.flatnonzero(index) if index.dtype == np.bool_ else index.astype(np.int64)
    arg_offset, arg_rows = _gather(whole.arg_offset, rows)
    prompt_offset, prompt_rows = _gather(whole.prompt_offset, rows)
    where = {"rows": rows, "cells": rows, "args": arg_rows, "words": prompt_rows}
    columns = {name: getattr(whole, name)[where[count]] for name, _, count in _COLUMNS if count in where}
    start = whole.offset if offset is None else offset
    return replace(whole, offset=start, **columns, arg_offset=arg_offset, prompt_offset=prompt_offset)


def trimmed(batch: EventBatch) -> EventBatch:
    """`batch` without the names in its tables that no row has: a refused row must not leave its agent behind."""
    whole = filled(batch)
    changed: dict[str, Any] = {}
    for table, column in (("agents", "agent"), ("actions", "action"), ("groups", "group"), ("contexts", "context")):
        names, codes = getattr(whole, table), getattr(whole, column)
        has = np.bincount(codes[codes >= 0], minlength=len(names)) > 0
        if not has.all():
            place = np.append(np.where(has, np.cumsum(has) - 1, -1), -1).astype(np.int32)  # the last: of code -1
            changed[column] = place[codes]
            changed[table] = tuple(name for name, used in zip(names, has.tolist(), strict=True) if used)
    return replace(whole, **changed) if changed else batch


def concat(batches: Sequence[EventBatch], offset: int | None = None) -> EventBatch:
    """All rows of `batches` in order as one batch, from `offset` (the first batch's where None).

    Tables are merged in order of first appearance; a feature some batch lacks is NaN in its rows.
    """
    if not batches:
        return empty(offset or 0)
    wholes = [filled(batch) for batch in batches]
    agents, agent = _merged([(b.agents, b.agent) for b in wholes])
    actions, action = _merged([(b.actions, b.action) for b in wholes])
    groups, group = _merged([(b.groups, b.group) for b in wholes])
    contexts, context = _merged([(b.contexts, b.context) for b in wholes])
    names = tuple(dict.fromkeys(name for b in wholes for name in b.feature_names))
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(b, name) for b in wholes])
        for name, _, count in _COLUMNS
        if count in ("rows", "args", "words")
    }
    columns.update(agent=agent, action=action, group=group, context=context, values=_joined_values(wholes, names))
    for name in ("arg_offset", "prompt_offset"):
        columns[name] = _joined_offsets([getattr(b, name) for b in wholes])
    return EventBatch(
        offset=wholes[0].offset if offset is None else offset,
        agents=agents,
        actions=actions,
        groups=groups,
        contexts=contexts,
        feature_names=names,
        **columns,
    )


def _checksum(prefix: bytes, payload: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(prefix, digest_size=CHECKSUM_BYTES)
    digest.update(payload)
    return digest.digest()


def _body(data: bytes | memoryview) -> bytes:
    """The inflated body, after the prefix and the checksum were checked."""
    view = memoryview(data)
    start = _PREFIX.size + CHECKSUM_BYTES
    if len(view) < start:
        raise WireError(f"event batch of {len(view)} bytes is cut short")
    magic, version, flags, size = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise WireError("not an event batch")
    if version != VERSION or flags & ~_ZLIB:
        raise WireError(f"event batch version {version}, flags {flags} is not known", remedy="upgrade tocsin")
    payload = view[start:]
    if bytes(view[_PREFIX.size : start]) != _checksum(bytes(view[: _PREFIX.size]), payload):
        raise WireError("event batch checksum does not match: damaged in storage or on the way")
    if size > MAX_BODY_BYTES:
        raise TooLarge(f"event batch of {size} bytes is over {MAX_BODY_BYTES}")
    if not flags & _ZLIB:
        body = bytes(payload)
    else:
        inflater = zlib.decompressobj()
        try:
            body = inflater.decompress(payload, size + 1)
        except zlib.error as error:
            raise WireError(f"event batch does not inflate: {error}") from error
        if not inflater.eof or inflater.unused_data:
            raise WireError("event batch does not end where its compressed stream does")
    if len(body) != size:
        raise WireError(f"event batch body is {len(body)} bytes, not {size}")
    return body


def _check(header: _Header, columns: dict[str, NDArray[Any]]) -> None:
    """Every code points into its table and every ragged offset into its column."""
    bounds = (
        ("agent", 0, len(header.agents)),
        ("action", -1, len(header.actions)),
        ("group", 0, len(header.groups)),
        ("context", 0, len(header.contexts)),
        ("phase", 0, len(Phase)),
        ("kind", 0, len(Kind)),
        ("effect", 0, len(Effect)),
        ("arg_type", 0, len(ARG_TYPES)),
    )
    for name, low, high in bounds:
        column = columns[name]
        if column.size and (int(column.min()) < low or int(column.max()) >= high):
            raise WireError(f"event batch column {name} points outside {low}..{high - 1}")
    for name, total in (("arg_offset", header.args), ("prompt_offset", header.words)):
        column = columns[name]
        if column[0] != 0 or column[-1] != total or bool((column[1:] < column[:-1]).any()):
            raise WireError(f"event batch column {name} does not divide its {total} values")


def _gather(offsets: I32, rows: NDArray[np.int64]) -> tuple[I32, NDArray[np.int64]]:
    """New offsets and source positions of the ragged values of `rows`."""
    starts = offsets[rows].astype(np.int64)
    counts = offsets[rows + 1] - starts if rows.size else np.zeros(0, np.int64)
    ends = np.zeros(rows.size + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    positions = np.arange(int(ends[-1]), dtype=np.int64) + np.repeat(starts - ends[:-1], counts)
    return ends.astype(np.int32), positions


def _merged(parts: Sequence[tuple[tuple[str, ...], I32]]) -> tuple[tuple[str, ...], I32]:
    """One table for all, and the codes rewritten to it; -1 stays -1."""
    table: dict[str, int] = {}
    codes: list[I32] = []
    for names, column in parts:
        # The extra last slot is where code -1 lands.
        remap = np.array([table.setdefault(name, len(table)) for name in names] + [-1], np.int32)
        codes.append(remap[column])
    return tuple(table), np.concatenate(codes)


def _joined_offsets(parts: Sequence[I32]) -> I32:
    shifts = np.cumsum([0] + [int(part[-1]) for part in parts[:-1]])
    joined = [np.zeros(1, np.int64), *(part[1:] + shift for part, shift in zip(parts, shifts, strict=True))]
    return np.concatenate(joined).astype(np.int32)


def _joined_values(batches: Sequence[EventBatch], names: tuple[str, ...]) -> F64:
    out = np.full((sum(len(b) for b in batches), len(names)), np.nan)
    row = 0
    for b in batches:
        out[row : row + len(b), [names.index(name) for name in b.feature_names]] = b.values
        row += len(b)
    return out
