"""Distributed baseline as JSON, described by the JSON Schema shipped beside this file (`baseline-2.json`).

Version 1, whose schema is kept beside it, said nothing of `typical` and `expected`, and its confidence counted samples
of everybody together. It is still read, as version 2 without either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import resources

import msgspec

from tocsin.errors import InputError, TooLarge, WireError
from tocsin.model.baseline import DistributedBaseline

VERSION = 2
SCHEMA_NAME = f"tocsin.baseline/{VERSION}"
READ = (SCHEMA_NAME, "tocsin.baseline/1")
MAX_BYTES = 64 << 20  # one part per agent of a large fleet
MAX_DEPTH = 4  # parts of parts: one nesting per level of the tree

_decoder = msgspec.json.Decoder(DistributedBaseline)


def schema(version: int = VERSION) -> bytes:
    """The JSON Schema (draft 2020-12) of a version, 1 or 2; every encoded baseline satisfies that of the latest."""
    return resources.files("tocsin.wire").joinpath(f"baseline-{version}.json").read_bytes()


def encode(baseline: DistributedBaseline) -> bytes:
    """Raises `InputError` for a number that JSON cannot carry (NaN, infinity)."""
    if not all(map(math.isfinite, _floats(baseline))):
        raise InputError("a baseline with NaN or infinity cannot be written as JSON")
    return msgspec.json.encode(baseline)


def decode(raw: bytes) -> DistributedBaseline:
    """Raises `WireError` (`TooLarge`) for anything but a baseline of version 1 or 2."""
    if len(raw) > MAX_BYTES:
        raise TooLarge(f"baseline of {len(raw)} bytes exceeds {MAX_BYTES}")
    try:
        baseline = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise WireError(f"not a baseline: {problem!s:.200}") from None
    _refuse_unfit(baseline, MAX_DEPTH)
    return baseline if baseline.schema == SCHEMA_NAME else _current(baseline)


def _current(baseline: DistributedBaseline) -> DistributedBaseline:
    return msgspec.structs.replace(baseline, schema=SCHEMA_NAME, parts=tuple(map(_current, baseline.parts)))


def _refuse_unfit(baseline: DistributedBaseline, depth: int) -> None:
    """What types alone do not say and the schema does."""
    d = len(baseline.features)
    typical, expected = [f.typical for f in baseline.features], [f.expected for f in baseline.features]
    problems = (
        (f"schema is none of {', '.join(READ)}", baseline.schema not in READ),
        ("level out of range", not 0 <= baseline.level <= 3),
        ("negative count", min(baseline.agents, baseline.samples, baseline.expected_peers) < 0),
        ("negative staleness", baseline.staleness_seconds < 0),
        ("negative feature count", any(min(f.count, f.saturated, f.std) < 0 for f in baseline.features)),
        ("impossible typical values", any(t is not None and min(t.agents, t.mad) < 0 for t in typical)),
        (
            "impossible expectation",
            any(e is not None and (min(e.std, e.prior_samples) < 0 or not 0.0 <= e.own_share <= 1.0) for e in expected),
        ),
        ("negative action count", any(count < 0 for count in baseline.actions.values())),
        ("confidence out of range", not 0.0 <= baseline.confidence <= 1.0),
        ("correlation is not square", bool(baseline.correlation) and [len(r) for r in baseline.correlation] != [d] * d),
        ("correlation out of range", any(not -1.0 <= r <= 1.0 for row in baseline.correlation for r in row)),
        ("parts nested too deep", depth == 0),
    )
    for problem, found in problems:
        if found:
            raise WireError(f"not a baseline: {problem}")
    for part in baseline.parts:
        _refuse_unfit(part, depth - 1)


def _floats(baseline: DistributedBaseline) -> Iterator[float]:
    yield from (baseline.confidence, baseline.staleness_seconds)
    for f in baseline.features:
        yield from (f.mean, f.std, f.p05, f.p50, f.p95)
        for beside in (f.typical, f.expected):
            yield from () if beside is None else msgspec.structs.astuple(beside)
    for row in baseline.correlation:
        yield from row
    for part in baseline.parts:
        yield from _floats(part)
