"""Correlation packets: golden bytes, round trips, and nothing but WireError for other bytes."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import InputError, TooLarge, WireError
from tocsin.stats.dither import largest_code
from tocsin.wire import correlation as wire
from tocsin.wire.correlation import Rows, Statement

GOLDEN_HEAD = "435301030700000000000000000102030405060710000240e2010003612d310100ffff"


def statement(bits: int, length: int, factors: int, seed: int, agent: str = "a-1") -> Statement:
    rng, most = np.random.default_rng(seed), largest_code(bits)
    return Statement(
        agent=agent, window=int(rng.integers(0, 2**63)), basis=rng.bytes(8), bits=bits,
        step=int(rng.integers(1, 2**20)), loadings=rng.integers(-32768, 32768, factors).astype(np.int16),
        codes=rng.integers(-most, most + 1, length).astype(np.int8),
    )  # fmt: skip


def same(a: Statement | Rows, b: Statement | Rows) -> bool:
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in a.__struct_fields__)


@given(st.integers(2, 7), st.integers(16, 800), st.integers(0, 24), st.integers(0, 2**32),
       st.text(min_size=1, max_size=16))  # fmt: skip
def test_statements_come_back(bits: int, length: int, factors: int, seed: int, agent: str):
    one = statement(bits, length, factors, seed, agent)
    raw = wire.encode(one)
    assert same(wire.decode(raw), one)
    assert len(raw) == 28 + len(agent.encode()) + 2 * factors + (bits * length + 7) // 8 <= 1000


def test_golden_bytes():
    codes = np.array([-3, -2, -1, 0, 1, 2, 3, -3] * 2, np.int8)
    one = Statement(
        agent="a-1", window=7, basis=bytes(range(8)), bits=3, step=123456, loadings=np.array([1, -1], np.int16),
        codes=codes,
    )  # fmt: skip
    golden = GOLDEN_HEAD + f"{int('000001010011100101110000' * 2, 2):012x}"
    assert wire.encode(one).hex() == golden
    assert same(wire.decode(bytes.fromhex(golden)), one)


@given(st.integers(0, 24), st.integers(16, 1024), st.floats(1e-12, 1e3), st.integers(0, 2**32))
def test_rows_come_back_in_any_order(count: int, length: int, scale: float, seed: int):
    rng = np.random.default_rng(seed)
    exact = scale * rng.normal(size=(count, length))
    rows = wire.rounded_rows(wire.ZONE_FACTORS, "zone-1", 9, exact)
    packets = wire.encode_rows(rows)
    random.Random(seed).shuffle(packets)
    assert max(map(len, packets)) <= wire.PACKET_BYTES
    back = wire.join_rows([wire.decode_rows(one) for one in packets])
    assert same(back, rows)
    assert np.abs(back.floats() - exact).max(initial=0) <= max(2.0**-32, np.abs(exact).max(initial=0) * 2.0**-14)


def test_unfit_rows_and_statements_are_refused():
    rows = wire.rounded_rows(0, "r", 1, np.ones((3, 400)))
    parts = [wire.decode_rows(one) for one in wire.encode_rows(rows)]
    other = [wire.decode_rows(one) for one in wire.encode_rows(wire.rounded_rows(0, "r", 2, np.ones((3, 400))))]
    for unfit in ([], parts[:-1], [*parts, parts[0]], [parts[0], *other[1:]]):
        with pytest.raises(WireError, match="part"):
            wire.join_rows(unfit)
    with pytest.raises(InputError, match="does not fit"):
        wire.encode_rows(wire.rounded_rows(0, "r", 1, np.ones((25, 16))))
    with pytest.raises(InputError, match="fewer bits"):
        wire.encode(statement(8, 1024, 24, 0))
    with pytest.raises(InputError, match="name"):
        wire.encode(statement(3, 16, 1, 0, agent="x" * 129))
    for decoder in (wire.decode, wire.decode_rows):
        with pytest.raises(TooLarge):
            decoder(bytes(1001))


@given(st.binary(max_size=200))
def test_random_bytes(raw: bytes):
    for head in (b"", b"CS\x01\x05", b"CR\x01\x00"):
        with contextlib.suppress(WireError):
            wire.decode(head + raw)
        with contextlib.suppress(WireError):
            wire.join_rows([wire.decode_rows(head + raw)])


def test_mutants_encode_to_the_same_bytes_or_do_not_decode():
    pick, accepted, refused = random.Random(3), 0, 0
    rows = wire.encode_rows(wire.rounded_rows(1, "zone", 4, np.random.default_rng(1).normal(size=(2, 40))))[0]
    for _ in range(4000):
        for raw, is_rows in ((wire.encode(statement(5, 30, 3, pick.randrange(99))), False), (rows, True)):
            b = bytearray(raw)
            for _ in range(pick.randint(1, 3)):
                at = pick.randrange(len(b))
                if pick.random() < 0.7:
                    b[at] ^= 1 << pick.randrange(8)
                elif pick.random() < 0.5:
                    del b[at:]
                    b = b or bytearray(b"C")
                else:
                    b[at:at] = pick.randbytes(2)
            try:
                if is_rows:
                    again = wire.encode_rows(wire.join_rows([wire.decode_rows(bytes(b))]))[0]
                else:
                    again = wire.encode(wire.decode(bytes(b)))
            except WireError:
                refused += 1
                continue
            accepted += 1
            assert again == bytes(b)
    assert accepted > 1000
    assert refused > 1000
