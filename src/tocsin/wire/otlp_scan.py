"""How much an OTLP/protobuf request holds, found out before anything is allocated for it.

An empty message takes two bytes on the wire and dozens to hundreds once parsed, so bytes alone bound neither memory nor
time. The scan follows the messages of the request's own schema as the parser would, and stops where that would fail.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.errors import TooLarge

MAX_FIELDS: Final = 6_000_000  # of all messages; 100,000 spans of ten attributes are five million
MAX_INNER_FACTOR: Final = 10  # data points, span events and the like may be so many times more than what holds them
_HOLDERS: Final = 3  # levels below the request: per resource, per scope, and the spans, records or metrics themselves
_MAX_NUMBER: Final = 32  # field numbers of OTLP are smaller
_MAX_DEPTH: Final = 128  # the parser gives up at a depth of 100
_PACKED: Final = -1  # a byte each on the wire where small, up to eight once parsed
_VARINTS: Final = frozenset((3, 4, 5, 8, 13, 14, 17, 18))  # FieldDescriptorProto.Type of what may come so packed
_SHARED: Final = "opentelemetry/proto/common/"  # attributes and their values: bounded by MAX_FIELDS alone


def check_counts(body: bytes, message: Any, max_items: int) -> None:
    """Raise TooLarge where `body`, parsed as `message`, would hold too much; what is malformed is the parser's to say.

    `max_items` bounds the resources, the scopes, and the spans, log records or metrics.
    """
    children, limits, nouns = _schema(message.DESCRIPTOR, max_items)
    over = int(_scan(np.frombuffer(body, np.uint8), children, limits, MAX_FIELDS))
    if over == len(nouns):
        raise TooLarge(f"request carries more than {MAX_FIELDS} fields", remedy="export smaller batches")
    if over >= 0:
        raise TooLarge(f"request carries more than {limits[over]} {nouns[over]}", remedy="export smaller batches")


@cache
def _schema(root: Any, max_items: int) -> tuple[NDArray[np.int16], NDArray[np.int64], list[str]]:
    """By message type, 0 being `root`: type of each field by its number (0: none, _PACKED), limit and noun."""
    types: list[Any] = [root]
    levels = [0]
    rows: list[list[int]] = []
    for place, descriptor in enumerate(types):  # grows as it goes
        row = [0] * _MAX_NUMBER
        for one in descriptor.fields:
            if one.message_type is not None:
                if one.message_type not in types:
                    types.append(one.message_type)
                    levels.append(levels[place] + 1)
                row[one.number] = types.index(one.message_type)
            elif one.type in _VARINTS:
                row[one.number] = _PACKED
        rows.append(row)
    limits = [
        MAX_FIELDS if one.file.name.startswith(_SHARED) else max_items * (1 if level <= _HOLDERS else MAX_INNER_FACTOR)
        for one, level in zip(types, levels, strict=True)
    ]
    words = [re.sub(r"\B([A-Z])", r" \1", one.name).lower() for one in types]
    return np.array(rows, np.int16), np.array(limits, np.int64), [word.rstrip("s") + "s" for word in words]


@njit(cache=True, nogil=True)
def _scan(data: Any, children: Any, limits: Any, max_fields: int) -> int:
    """The first type over its limit; len(limits) for too many fields; -1 where all is within limits or malformed."""
    counts = np.zeros(len(limits), np.int64)
    kinds = np.zeros(_MAX_DEPTH, np.int64)
    ends = np.zeros(_MAX_DEPTH, np.int64)
    ends[0] = len(data)
    depth = 0
    position = 0
    fields = 0
    while depth >= 0:
        if position >= ends[depth]:
            depth -= 1
            continue
        fields += 1
        if fields > max_fields:
            return len(limits)
        tag, position = _varint(data, position, ends[depth])
        if position >= 0 and tag & 7 != 2:
            position = _skipped(data, position, ends[depth], tag & 7)
        elif position >= 0:
            length, position = _varint(data, position, ends[depth])
            if position < 0 or length < 0 or length > ends[depth] - position:
                return -1
            number = tag >> 3
            kind = children[kinds[depth], number] if 0 < number < _MAX_NUMBER else 0
            if kind > 0:
                counts[kind] += 1
                depth += 1
                if counts[kind] > limits[kind]:
                    return kind
                if depth >= _MAX_DEPTH:
                    return -1
                kinds[depth] = kind
                ends[depth] = position + length
            else:
                position += length
                fields += length if kind == _PACKED else 0
        if position < 0:
            return -1
    return -1


@njit(cache=True, nogil=True)
def _skipped(data: Any, position: int, end: int, wire_type: int) -> int:
    """Position after a value that is not length-delimited, -1 where there is none; marks of groups have no value."""
    if wire_type == 0:
        return _varint(data, position, end)[1]
    if wire_type == 1:
        position += 8
    elif wire_type == 5:
        position += 4
    return position if wire_type <= 5 and position <= end else -1


@njit(cache=True, nogil=True)
def _varint(data: Any, position: int, end: int) -> tuple[int, int]:
    """Value and next position, which is -1 where there is no varint."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            return value, -1
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    return value, -1
