"""R1.8: the compact binary update. Golden bytes pin the format; everything else is a round trip or a refusal."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import InputError, TooLarge, WireError
from tocsin.stats.histogram import BINS, accumulate_histograms
from tocsin.stats.moments import MAX_EXPONENT, MAX_FEATURES, Grid, MomentLayout, accumulate_moments
from tocsin.wire import update as wire

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


def summary_of(d: int, n: int, seed: int = 0, missing: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    q = np.clip(np.rint(rng.normal(size=(n, d)) * 256), -32767, 32767).astype(np.int32)
    q[rng.random((n, d)) < missing] = -(1 << 31)
    row = np.zeros(n, np.int64)
    moments, cells = np.zeros((1, MomentLayout(d).open_size), np.int64), np.zeros((1, d * BINS), np.int32)
    accumulate_moments(q, row, moments)
    accumulate_histograms(q, row, cells)
    return np.concatenate([MomentLayout(d).closed(moments)[0], cells[0]])


def update(d: int = 2, n: int = 5, **changes: object) -> wire.Update:
    whole = wire.Update(
        kind=wire.DELTA, source="r7", level=1, epoch=3, seq=41, as_of_ms=1_700_000_000_123, agents=12, d=d,
        counts=summary_of(d, n), actions={"read_file": 3, "send_email": 2},
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)


def same(a: wire.Update, b: wire.Update) -> bool:
    names = [f for f in a.__struct_fields__ if f != "counts"]
    return all(getattr(a, f) == getattr(b, f) for f in names) and np.array_equal(a.counts, b.counts)


def test_golden_update() -> None:
    (raw,) = wire.encode(update())
    assert raw == (GOLDEN / "update-1.bin").read_bytes()
    assert same(wire.join([wire.decode(raw)]), update())


def test_golden_grid() -> None:
    grid = Grid(("latency", "tokens_in"), (1000, -3), (-10, 2))
    raw = wire.encode_grid(3, grid)
    assert raw == (GOLDEN / "update-grid-1.bin").read_bytes()
    assert wire.decode_grid(raw) == (3, grid)


def test_the_largest_grid_there_is_can_be_sent() -> None:
    names = tuple(f"{k:02}".ljust(wire.NAME_BYTES, "x") for k in range(MAX_FEATURES))
    grid = Grid(names, (-(1 << 52) + 1,) * MAX_FEATURES, (-MAX_EXPONENT,) * MAX_FEATURES)
    raw = wire.encode_grid((1 << 31) - 1, grid)
    assert 2000 < len(raw) <= 2300 < wire.GRID_BYTES
    assert wire.decode_grid(raw) == ((1 << 31) - 1, grid)


@given(
    d=st.integers(0, 16),
    values=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(-(1 << 60), 1 << 60)), max_size=60),
    actions=st.dictionaries(st.text(max_size=20), st.integers(-(1 << 60), 1 << 60), max_size=40),
    kind=st.sampled_from([wire.DELTA, wire.SNAPSHOT]),
    seq=st.integers(0, 1 << 62),
)
def test_whatever_is_encoded_comes_back(d: int, values: list[tuple[int, int]], actions: dict[str, int], kind: int,
                                        seq: int) -> None:  # fmt: skip
    counts = np.zeros(MomentLayout(d).size + d * BINS, np.int64)
    for at, value in values:
        counts[at % counts.shape[0]] = value
    whole = update(d=d, counts=counts, actions=actions, kind=kind, seq=seq)
    packets = wire.encode(whole)
    assert all(len(p) <= wire.PACKET_BYTES for p in packets)
    assert same(wire.join([wire.decode(p) for p in packets]), whole)


@pytest.mark.parametrize(("d", "n", "parts"), [(8, 50, 1), (8, 64_000, 2), (16, 50, 2), (16, 64_000, 3)])
def test_sizes(d: int, n: int, parts: int) -> None:
    packets = wire.encode(update(d=d, counts=summary_of(d, n), actions={f"tool_{k:02}": 5 * k for k in range(16)}))
    assert len(packets) <= parts
    assert max(map(len, packets)) < 1024


def test_bookkeeping_of_complete_data_costs_next_to_nothing() -> None:
    with_missing = len(wire.encode(update(d=8, counts=summary_of(8, 500, missing=0.2), actions={}))[0])
    complete = len(wire.encode(update(d=8, counts=summary_of(8, 500), actions={}))[0])
    assert complete < with_missing - 60


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n", [1, 40, 500, 2048])
def test_sixteen_features_take_two_packets_up_to_2048_samples(n: int, seed: int) -> None:
    actions = {f"tool_{k}": n for k in range(8)}
    packets = wire.encode(update(d=16, actions=actions, counts=summary_of(16, n, seed)))
    assert len(packets) <= 2
    (_,) = wire.encode(update(d=8, actions=actions, counts=summary_of(8, n, seed)))


def test_what_takes_more_is_told() -> None:
    sizes = [len(wire.encode(update(d=16, counts=summary_of(16, 500, 1) * times))) for times in (1, 20, 10_000)]
    assert sizes == [2, 3, 4]  # the same shape of more samples
    moments = MomentLayout(16).size
    assert moments * 62 > 2 * 8 * wire.PACKET_BYTES  # no code puts every update into two


def worst(value: int, names: int) -> wire.Update:
    """Numbers and names as large as there are; those that are predicted from others are as far off as can be."""
    counts = np.full(MomentLayout(16).size + 16 * BINS, value)
    counts[1::2] *= -1
    return update(
        d=16, counts=counts, actions={f"{k:03}".ljust(128, "x"): value for k in range(names)}, source="s" * 128
    )


@pytest.mark.parametrize("value", [1, (1 << 31) - 1, (1 << 60) - 1])
@pytest.mark.parametrize("names", [0, 257])
def test_the_largest_update_there_is_can_be_sent(value: int, names: int) -> None:
    packets = wire.encode(worst(value, names))
    assert len(packets) <= 82
    assert max(map(len, packets)) <= wire.PACKET_BYTES
    assert same(wire.join([wire.decode(p) for p in packets]), worst(value, names))


TOOLS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=32)


@given(
    values=st.lists(st.integers(-(1 << 60) + 1, (1 << 60) - 1), min_size=1, max_size=200),
    actions=st.dictionaries(TOOLS, st.integers(0, 1 << 60), max_size=257),
)
def test_no_update_takes_more_parts_than_the_largest(values: list[int], actions: dict[str, int]) -> None:
    counts = np.resize(np.array(values, np.int64), MomentLayout(16).size + 16 * BINS)
    packets = wire.encode(update(d=16, counts=counts, actions=actions, source="s" * 128))
    assert len(packets) <= 82
    assert same(
        wire.join([wire.decode(p) for p in packets]), update(d=16, counts=counts, actions=actions, source="s" * 128)
    )


def parts_of(whole: wire.Update) -> list[wire.Packet]:
    return [wire.decode(p) for p in wire.encode(whole)]


def test_parts_that_do_not_belong_together_do_not_join() -> None:
    big = {"d": 16, "counts": summary_of(16, 64_000)}
    parts, others = parts_of(update(**big)), parts_of(update(**big, seq=42))
    assert len(parts) > 1
    for wrong in (parts[:-1], parts[::-1], [parts[0], *others[1:]], [parts[0], parts[0], *parts[2:]]):
        with pytest.raises(WireError):
            wire.join(wrong)


def test_numbers_beyond_exact_arithmetic_are_refused() -> None:
    counts = summary_of(2, 5)
    counts[0] = 1 << 61
    with pytest.raises(WireError):
        wire.join(parts_of(update(counts=counts)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"",
        lambda raw: b"XX" + raw[2:],
        lambda raw: raw[:2] + b"\x02" + raw[3:],
        lambda raw: raw[:3] + b"\x07" + raw[4:],
        lambda raw: raw[:-1],
        lambda raw: raw + b"\x00",
        lambda raw: raw[:4] + b"\x02\xff\xff" + raw[7:],
        lambda raw: raw.replace(b"send_email", b"send\xff\xfe\xff\xffil"),
    ],
)
def test_spoilt_bytes_are_refused(spoil) -> None:  # type: ignore[no-untyped-def]
    (raw,) = wire.encode(update())
    with pytest.raises(WireError):
        wire.decode(spoil(raw))


def test_an_action_named_twice_is_refused() -> None:
    (raw,) = wire.encode(update(actions={"aa": 1, "ab": 2}))
    with pytest.raises(WireError, match="twice"):
        wire.decode(raw.replace(b"ab", b"aa"))


def test_limits() -> None:
    with pytest.raises(TooLarge):
        wire.decode(b"TU\x01\x00" + bytes(1000))
    with pytest.raises(TooLarge):
        wire.decode_grid(b"TG\x01" + bytes(5000))
    with pytest.raises(InputError):
        wire.encode(update(source="x" * 129))
    with pytest.raises(WireError):
        wire.decode_grid(wire.encode_grid(0, Grid(("a", "b"), (0, 0), (0, 0))).replace(b"b", b"a"))


def test_longer_spellings_of_a_number_are_refused() -> None:
    (raw,) = wire.encode(update(d=0, counts=np.zeros(1, np.int64), actions={}))
    assert raw.endswith(b"\x00\x01\x00\x00\x00")  # start 0, stop 1, a zero in a run of one, no actions
    level_epoch = bytes([1, 3])
    with pytest.raises(WireError, match="canonical"):
        wire.decode(raw.replace(level_epoch, bytes([1, 0x83, 0x00]), 1))
    tokens = len(raw) - 3
    with pytest.raises(WireError, match="decode"):
        wire.decode(raw[:tokens] + b"\x80\x00" + raw[tokens + 1 :])


def test_a_run_past_the_end_is_refused() -> None:
    (raw,) = wire.encode(update(d=0, counts=np.zeros(1, np.int64), actions={}))
    with pytest.raises(WireError, match="decode"):
        wire.decode(raw[:-2] + b"\x01" + raw[-1:])


def test_parts_must_begin_where_the_last_one_ended() -> None:
    parts = parts_of(update(d=16, counts=summary_of(16, 64_000)))
    parts[1] = msgspec.structs.replace(parts[1], start=parts[1].start - 1)
    with pytest.raises(WireError, match="overlap"):
        wire.join(parts)
