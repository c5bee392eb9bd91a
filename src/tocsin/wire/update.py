"""Statistical update, compact binary, version 1: what climbs the tree. A packet of an update is always below 1 KB.

A grid, which goes ahead of a snapshot, is no update and is one piece: some 110 B with 8 short names, at most 2.3 KB
with 16 of 128 bytes.

    packet = "TU" 1 kind | source level epoch seq part parts as_of_ms agents | d start stop | tokens | actions
    grid   = "TG" 1      | epoch d | per feature: name origin exponent

Integers are LEB128 varints, signed ones zigzag first; strings are length-prefixed UTF-8. `tokens` code positions
`start..stop` of the flat vector of `stats.moments.MomentLayout` followed by `d` histograms. Numbers that the layout
lets one predict are sent as differences (a pair's count from the smaller of its two features' counts, a pair's sum
from the feature's own), zero runs are one token, so complete data costs nothing for its bookkeeping. An update that
does not fit goes out in several parts; prediction needs the whole vector, so a receiver joins the token vectors first
(`join`).

How many parts: 8 bell-shaped features take one and 16 two while an update covers at most 2048 samples. More samples
mean larger counts in more cells of the histograms, so a snapshot of 16 features (sent when a node joins, fails over or
opens an epoch) takes three from some 10,000 samples on, and four from some 5,000,000; flat ones fill more cells. Two
do not suffice for every update, whatever the code: the 545 moments of 16 features may take 62 bits each, twice what two
packets hold.

Decoders let only `WireError` escape.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.errors import InputError, TooLarge, WireError
from tocsin.stats.histogram import BINS
from tocsin.stats.moments import MAX_ABS, MAX_EXPONENT, MAX_FEATURES, Grid, MomentLayout

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

PACKET_BYTES = 1000  # < 1 KB, and inside one 1280-byte IPv6 datagram
GRID_BYTES = 4096
NAME_BYTES = 128  # longest source, feature or action name
MAX_PARTS = 96  # the largest numbers and names there can be, 16 features and 257 actions, take 82
MAX_AGENTS = 1 << 31
MAX_LEVEL = 15  # 64**12 zones
VERSION = 1
DELTA, SNAPSHOT = 0, 1


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a packet says before its numbers: all that passing it on unread takes."""

    kind: int
    source: str
    level: int
    epoch: int
    seq: int
    part: int
    parts: int


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """One decoded part. `residual` (stop - start,) still has to be joined with the other parts."""

    kind: int  # DELTA adds to what the receiver holds for `source`, SNAPSHOT replaces it
    source: str
    level: int  # of the sender
    epoch: int
    seq: int
    part: int
    parts: int
    as_of_ms: int  # everything the sender had seen up to this moment is in here
    agents: int  # members at the sender
    d: int
    start: int
    residual: I64
    actions: dict[str, int]


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """A whole update: what `encode` takes and `join` returns. `counts` is the flat vector, `actions` signed counts."""

    kind: int
    source: str
    level: int
    epoch: int
    seq: int
    as_of_ms: int
    agents: int
    d: int
    counts: I64
    actions: dict[str, int]


@njit(cache=True, nogil=True)
def _predict(values: I64, d: int, sign: int) -> None:
    """Subtract (sign -1) or add back (sign +1) what the layout predicts, in place; exact inverses of each other.

    Diagonal entries stay as they are, so both directions predict from the same numbers.
    """
    counts = 1 + d
    sums = counts + d * (d + 1) // 2
    k = 0
    for a in range(d):
        own_a = values[counts + k]
        j = k
        for b in range(a + 1, d):
            j += d - b + 1  # the pair (b, b)
            values[counts + k + b - a] += sign * min(own_a, values[counts + j])
        for b in range(d):
            if b != a:
                values[sums + a * d + b] += sign * values[sums + a * d + a]
        k += d - a


@njit(cache=True, nogil=True)
def _put_tokens(values: I64, start: int, room: int, out: U8) -> tuple[int, int]:
    """Tokens for values[start:] into out[:room]; returns (next position, bytes). A zero is followed by its run - 1."""
    i, used = start, 0
    n = values.shape[0]
    while i < n:
        v = values[i]
        run = 0
        if v == 0:
            while i + run + 1 < n and values[i + run + 1] == 0:
                run += 1
        if used + (11 if v == 0 else 10) > room:
            break
        z = np.uint64((v << 1) ^ (v >> 63))
        for k in range(2 if v == 0 else 1):
            if k == 1:
                z = np.uint64(run)
            while z > np.uint64(127):
                out[used] = np.uint8((z & np.uint64(127)) | np.uint64(128))
                used += 1
                z >>= np.uint64(7)
            out[used] = np.uint8(z)
            used += 1
        i += run + 1
    return i, used


@njit(cache=True, nogil=True)
def _get_tokens(raw: U8, position: int, out: I64) -> int:
    """Fill `out` from raw[position:]; returns the position after, or -1 if the bytes do not say so."""
    i = 0
    run_follows = False
    while i < out.shape[0] or run_follows:
        z = np.uint64(0)
        shift = 0
        while True:
            if position >= raw.shape[0] or shift > 63:
                return -1
            byte = np.uint64(raw[position])
            position += 1
            if shift == 63 and byte > np.uint64(1):
                return -1
            z |= (byte & np.uint64(127)) << np.uint64(shift)
            shift += 7
            if byte < np.uint64(128):
                break
        if shift > 7 and byte == np.uint64(0):
            return -1  # a longer spelling of a shorter number: not canonical
        if run_follows:
            if z > np.uint64(out.shape[0] - i):
                return -1
            i += np.int64(z)
            run_follows = False
            continue
        v = np.int64(z >> np.uint64(1)) ^ -np.int64(z & np.uint64(1))
        out[i] = v
        i += 1
        run_follows = v == 0
    return position


_SHORT = [bytes((k,)) for k in range(128)]


def _uint(value: int) -> bytes:
    if 0 <= value < 128:
        return _SHORT[value]
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _sint(value: int) -> bytes:
    return _uint(value << 1 if value >= 0 else (-value << 1) - 1)


@lru_cache(maxsize=4096)
def _text(value: str) -> bytes:
    raw = value.encode()
    if len(raw) > NAME_BYTES:
        raise InputError(f"a name of {len(raw)} bytes exceeds {NAME_BYTES}", remedy="shorten it before summing")
    return _uint(len(raw)) + raw


class _Reader:
    """Varints and strings from untrusted bytes."""

    __slots__ = ("position", "raw")

    def __init__(self, raw: bytes, position: int) -> None:
        self.raw = raw
        self.position = position

    def uint(self, limit: int) -> int:
        raw, position = self.raw, self.position
        try:
            byte = value = raw[position]
            shift = 7
            if byte > 127:
                value &= 127
                while byte > 127:
                    if shift > 63:
                        raise WireError("update holds a number above 64 bits")
                    position += 1
                    byte = raw[position]
                    value |= (byte & 127) << shift
                    shift += 7
        except IndexError:
            raise WireError("update ends in the middle of a number") from None
        self.position = position + 1
        if byte == 0 and shift > 7:
            raise WireError("update holds a number in a non-canonical spelling")
        if value > limit:
            raise WireError(f"update holds {value} where at most {limit} is allowed")
        return value

    def sint(self, limit: int) -> int:
        value = self.uint(2 * limit)
        return (value >> 1) ^ -(value & 1)

    def text(self) -> str:
        size = self.uint(NAME_BYTES)
        raw = self.raw[self.position : self.position + size]
        self.position += size
        if len(raw) != size:
            raise WireError("update ends in the middle of a name")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise WireError("update holds a name that is not UTF-8") from None

    def end(self) -> None:
        if self.position != len(self.raw):
            raise WireError("update has bytes after its end")


def encode(update: Update) -> list[bytes]:
    """One packet, or as many parts as it takes, each at most `PACKET_BYTES`. Raises `InputError` if unfit."""
    size = MomentLayout(update.d).size + update.d * BINS
    if update.counts.shape != (size,):  # kernels do not look where they write
        raise InputError(f"an update of {update.d} features holds {size} numbers, not {update.counts.shape}")
    values = update.counts.copy()
    _predict(values, update.d, -1)
    names = sorted(update.actions)
    pieces: list[tuple[int, int, bytes, bytes]] = []
    out = np.empty(PACKET_BYTES, np.uint8)
    head = _text(update.source)
    room = PACKET_BYTES - len(head) - 64  # everything else in the header is below 64 bytes
    start = taken = 0
    while not pieces or start < values.shape[0] or taken < len(names):
        stop, used = _put_tokens(values, start, room, out)
        actions, count = bytearray(), 0
        while stop == values.shape[0] and taken < len(names):
            item = _text(names[taken]) + _sint(update.actions[names[taken]])
            if used + len(actions) + len(item) > room:
                break
            actions += item
            count += 1
            taken += 1
        pieces.append((start, stop, out[:used].tobytes(), _uint(count) + bytes(actions)))
        start = stop
    if len(pieces) > MAX_PARTS:
        raise InputError(f"an update of {len(pieces)} parts exceeds {MAX_PARTS}", remedy="send updates more often")
    fixed = b"".join(map(_uint, (update.level, update.epoch, update.seq)))
    tail = b"".join(map(_uint, (len(pieces), update.as_of_ms, update.agents, update.d)))
    return [
        b"TU" + bytes((VERSION, update.kind)) + head + fixed + _uint(k) + tail + _uint(a) + _uint(z) + tokens + actions
        for k, (a, z, tokens, actions) in enumerate(pieces)
    ]


@lru_cache(maxsize=64)  # what goes down the tree is one object for every child
def peek(raw: bytes) -> Head:
    """The head alone; the numbers behind it may still turn out not to decode. Raises `WireError` (`TooLarge`)."""
    return _head(raw)[0]


def _head(raw: bytes) -> tuple[Head, _Reader]:
    if len(raw) > PACKET_BYTES:
        raise TooLarge(f"update of {len(raw)} bytes exceeds {PACKET_BYTES}")
    if raw[:3] != b"TU" + bytes((VERSION,)) or len(raw) < 4 or raw[3] > SNAPSHOT:
        raise WireError("not a statistical update of version 1")
    r = _Reader(raw, 4)
    source, level, epoch, seq = r.text(), r.uint(MAX_LEVEL), r.uint(1 << 31), r.uint(1 << 62)
    part, parts = r.uint(MAX_PARTS), r.uint(MAX_PARTS)
    if part >= parts:
        raise WireError("update part out of range")
    return Head(kind=raw[3], source=source, level=level, epoch=epoch, seq=seq, part=part, parts=parts), r


def decode(raw: bytes) -> Packet:
    """Raises `WireError` (`TooLarge`) for anything `encode` would not have produced."""
    head, r = _head(raw)
    as_of_ms, agents, d = r.uint(1 << 53), r.uint(MAX_AGENTS), r.uint(MAX_FEATURES)
    size = MomentLayout(d).size + d * BINS
    start, stop = r.uint(size), r.uint(size)
    if start > stop:
        raise WireError("update part out of range")
    residual = np.zeros(stop - start, np.int64)
    r.position = int(_get_tokens(np.frombuffer(raw, np.uint8), r.position, residual))
    if r.position < 0:
        raise WireError("update's numbers do not decode")
    actions: dict[str, int] = {}
    for _ in range(r.uint(PACKET_BYTES)):
        name = r.text()
        if name in actions:
            raise WireError("update names an action twice")
        actions[name] = r.sint(MAX_ABS)
    r.end()
    return Packet(
        kind=head.kind, source=head.source, level=head.level, epoch=head.epoch, seq=head.seq, part=head.part,
        parts=head.parts, as_of_ms=as_of_ms, agents=agents, d=d, start=start, residual=residual, actions=actions,
    )  # fmt: skip


def join(packets: Sequence[Packet]) -> Update:
    """All parts of one update, in order of `part`. Raises `WireError` if they do not fit together."""
    first = packets[0]
    key = (first.kind, first.source, first.level, first.epoch, first.seq, first.as_of_ms, first.agents, first.d)
    position = 0
    actions: dict[str, int] = {}
    for k, p in enumerate(packets):
        if (p.kind, p.source, p.level, p.epoch, p.seq, p.as_of_ms, p.agents, p.d) != key or p.part != k:
            raise WireError("parts of different updates do not join")
        if p.parts != len(packets) or p.start != position or actions.keys() & p.actions.keys():
            raise WireError("parts of the update overlap or are missing")
        position += p.residual.shape[0]
        actions |= p.actions
    if position != MomentLayout(first.d).size + first.d * BINS:
        raise WireError("the update's parts do not cover its vector")
    residual = np.concatenate([p.residual for p in packets])
    if int(residual.max()) >= MAX_ABS >> 1 or int(residual.min()) <= -(MAX_ABS >> 1):
        raise WireError("update holds a number beyond exact 64-bit arithmetic")
    _predict(residual, first.d, 1)
    return Update(
        kind=first.kind, source=first.source, level=first.level, epoch=first.epoch, seq=first.seq,
        as_of_ms=first.as_of_ms, agents=first.agents, d=first.d, counts=residual, actions=actions,
    )  # fmt: skip


def encode_grid(epoch: int, grid: Grid) -> bytes:
    """The grid that updates of `epoch` are on; sent before the first of them."""
    rows = (_text(n) + _sint(o) + _sint(e) for n, o, e in zip(grid.features, grid.origin, grid.exponent, strict=True))
    return b"TG" + bytes((VERSION,)) + _uint(epoch) + _uint(len(grid)) + b"".join(rows)


def decode_grid(raw: bytes) -> tuple[int, Grid]:
    """(epoch, grid). Raises `WireError`."""
    if len(raw) > GRID_BYTES:
        raise TooLarge(f"grid of {len(raw)} bytes exceeds {GRID_BYTES}")
    if raw[:3] != b"TG" + bytes((VERSION,)):
        raise WireError("not a grid of version 1")
    r = _Reader(raw, 3)
    epoch, d = r.uint(1 << 31), r.uint(MAX_FEATURES)
    rows = [(r.text(), r.sint(1 << 52), r.sint(MAX_EXPONENT)) for _ in range(d)]
    r.end()
    names = tuple(n for n, _, _ in rows)
    if len(set(names)) != d:
        raise WireError("grid names a feature twice")
    return epoch, Grid(names, tuple(o for _, o, _ in rows), tuple(e for _, _, e in rows))
