"""Decoders of updates, grids and baselines let only WireError escape, and take nothing they would not write."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tocsin.aggregation.aggregator import Aggregator
from tocsin.aggregation.messages import Arrived, Attach
from tocsin.errors import WireError
from tocsin.wire import baseline, update

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
UPDATE = (GOLDEN / "update-1.bin").read_bytes()
GRID = (GOLDEN / "update-grid-1.bin").read_bytes()


def digest(raw: bytes) -> None:
    with contextlib.suppress(WireError):
        update.join([update.decode(raw)])
    with contextlib.suppress(WireError):
        update.decode_grid(raw)
    with contextlib.suppress(WireError):
        baseline.decode(raw)


@given(st.binary(max_size=1200))
def test_random_bytes(raw: bytes) -> None:
    digest(raw)
    digest(b"TU\x01\x00" + raw)
    digest(b"TG\x01" + raw)


def mutants(raw: bytes, seed: int, count: int) -> list[bytes]:
    pick, out = random.Random(seed), list[bytes]()
    for _ in range(count):
        b = bytearray(raw)
        for _ in range(pick.randint(1, 4)):
            at = pick.randrange(len(b))
            choice = pick.randrange(4)
            if choice == 0:
                b[at] = pick.randrange(256)
            elif choice == 1:
                del b[at : at + pick.randint(1, 5)]
            elif choice == 2:
                b[at:at] = pick.randbytes(pick.randint(1, 5))
            else:
                b[at] ^= 1 << pick.randrange(8)
            b = b or bytearray(b"T")
        out.append(bytes(b))
    return out


def test_mutated_packets_decode_to_what_encodes_to_the_same_bytes_or_not_at_all() -> None:
    accepted = 0
    for raw in mutants(UPDATE, 1, 4000):
        with contextlib.suppress(WireError):
            whole = update.join([update.decode(raw)])
            accepted += 1
            again = update.join([update.decode(p) for p in update.encode(whole)])
            assert np.array_equal(again.counts, whole.counts)
            assert again.actions == whole.actions
    assert accepted > 0
    for raw in mutants(GRID, 2, 2000):
        digest(raw)


def test_an_aggregator_survives_anything_and_never_holds_an_impossible_sum() -> None:
    node = Aggregator("z1", 2)
    node.step(0, Attach("r7"))
    node.step(0, Arrived(GRID, "r7"))
    for seed in range(40):
        for raw in [UPDATE, *mutants(UPDATE, seed, 50)]:
            node.step(0, Arrived(raw))
            node.total.refuse_impossible()
    assert sum(node.refused.values()) > 1000


def test_deeply_nested_json_is_refused() -> None:
    digest(b'{"parts":[' * 100_000)
    digest(b"[" * 100_000)
