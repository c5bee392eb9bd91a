"""R5.2: baselines as JSON, checked against the shipped schema by an independent validator."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import InputError, WireError
from tocsin.model.baseline import DistributedBaseline, Expected, FeatureBaseline, Typical
from tocsin.wire import baseline as wire

GOLDEN = Path(__file__).resolve().parent.parent / "golden"

LATENCY = FeatureBaseline(
    name="latency", count=9, mean=1.5, std=0.25, p05=1.0, p50=1.5, p95=2.0, saturated=1,
    typical=Typical(agents=12, median=1.25, mad=0.125),
    expected=Expected(mean=1.5, std=0.5, own_share=0.25, prior_samples=27.0),
)  # fmt: skip
BASELINE = DistributedBaseline(
    level=1, scope="r3", agents=12, samples=900, epoch=2, features=(LATENCY,), correlation=((1.0,),),
    actions={"read_file": 7}, confidence=0.5, staleness_seconds=1.25, summary_hash="00" * 16,
    expected_from="r3", expected_peers=11,
)  # fmt: skip
NESTED = msgspec.structs.replace(BASELINE, parts=(BASELINE, msgspec.structs.replace(BASELINE, scope="r4")))
VALIDATOR = jsonschema.Draft202012Validator(json.loads(wire.schema()))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(wire.schema()))


@pytest.mark.parametrize("baseline", [BASELINE, NESTED])
def test_what_is_written_satisfies_the_schema_and_reads_back(baseline: DistributedBaseline) -> None:
    raw = wire.encode(baseline)
    VALIDATOR.validate(json.loads(raw))
    assert wire.decode(raw) == baseline


def test_golden_bytes() -> None:
    assert wire.encode(NESTED) == (GOLDEN / "baseline-2.json").read_bytes().rstrip(b"\n")


def test_version_1_is_still_read() -> None:
    raw = (GOLDEN / "baseline-1.json").read_bytes()
    jsonschema.Draft202012Validator(json.loads(wire.schema(1))).validate(json.loads(raw))
    bare = msgspec.structs.replace(LATENCY, typical=None, expected=None)
    old = msgspec.structs.replace(BASELINE, features=(bare,), expected_from="", expected_peers=0)
    assert wire.decode(raw) == msgspec.structs.replace(old, parts=(old, msgspec.structs.replace(old, scope="r4")))


finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(0, allow_infinity=False)
share = st.floats(0, 1)
count = st.integers(0, 1 << 62)
name = st.text(max_size=8)
features = st.builds(
    FeatureBaseline, name=name, count=count, mean=finite, std=positive, p05=finite, p50=finite, p95=finite,
    saturated=count, typical=st.none() | st.builds(Typical, agents=count, median=finite, mad=positive),
    expected=st.none() | st.builds(Expected, mean=finite, std=positive, own_share=share, prior_samples=positive),
)  # fmt: skip


@st.composite
def baselines(draw: st.DrawFn, depth: int = 2) -> DistributedBaseline:
    columns = draw(st.lists(features, max_size=3))
    row = st.lists(st.floats(-1, 1), min_size=len(columns), max_size=len(columns))
    return DistributedBaseline(
        level=draw(st.integers(0, 3)), scope=draw(name), agents=draw(count), samples=draw(count),
        epoch=draw(st.integers(-1, 1 << 31)), features=tuple(columns),
        correlation=tuple(tuple(draw(row)) for _ in columns), actions=draw(st.dictionaries(name, count, max_size=3)),
        confidence=draw(share), staleness_seconds=draw(positive), summary_hash=draw(st.sampled_from(["", "0f" * 16])),
        certificate_epoch=draw(st.integers(-1, 9)), expected_from=draw(name), expected_peers=draw(count),
        parts=tuple(draw(st.lists(baselines(depth - 1), max_size=2))) if depth else (),
    )  # fmt: skip


@given(baselines())
def test_any_baseline_comes_back_as_it_went(baseline: DistributedBaseline) -> None:
    raw = wire.encode(baseline)
    VALIDATOR.validate(json.loads(raw))
    assert wire.decode(raw) == baseline
    assert wire.encode(wire.decode(raw)) == raw


@given(st.binary(max_size=60) | st.builds(lambda a, b: wire.encode(NESTED)[:a] + b, st.integers(0, 900), st.binary()))
def test_bytes_of_strangers_raise_nothing_but_wire_errors(raw: bytes) -> None:
    with contextlib.suppress(WireError):
        wire.decode(raw)


def test_every_field_of_the_model_is_in_the_schema() -> None:
    definitions = json.loads(wire.schema())["$defs"]
    assert set(definitions["baseline"]["properties"]) == set(DistributedBaseline.__struct_fields__)
    for name, model in (("feature", FeatureBaseline), ("typical", Typical), ("expected", Expected)):
        assert set(definitions[name]["properties"]) == set(model.__struct_fields__)


TOLD = json.loads(msgspec.json.encode(LATENCY))
SPOILT = [
    {"schema": "tocsin.baseline/3"},
    {"expected_peers": -1},
    {"features": [{**TOLD, "typical": {"agents": 1, "median": 0.0, "mad": -1.0}}]},
    {"features": [{**TOLD, "expected": {"mean": 0.0, "std": 1.0, "own_share": 1.5, "prior_samples": 1.0}}]},
    {"features": [{**TOLD, "expected": {"mean": 0.0, "std": -1.0, "own_share": 0.5, "prior_samples": 1.0}}]},
    {"features": [{**TOLD, "typical": 3}]},
    {"level": 4},
    {"agents": -1},
    {"staleness_seconds": -1.0},
    {"confidence": 1.5},
    {"correlation": [[1.5]]},
    {"actions": {"x": -1}},
    {"features": [{**TOLD, "count": -1}]},
    {"features": [{"name": "x"}]},
]


@pytest.mark.parametrize("change", SPOILT)
def test_schema_and_decoder_refuse_the_same_things(change: dict[str, object]) -> None:
    document = {**json.loads(wire.encode(BASELINE)), **change}
    assert not VALIDATOR.is_valid(document)
    with pytest.raises(WireError):
        wire.decode(json.dumps(document).encode())


def test_a_correlation_matrix_must_be_square() -> None:
    document = {**json.loads(wire.encode(BASELINE)), "correlation": [[1.0, 0.5]]}
    with pytest.raises(WireError, match="square"):
        wire.decode(json.dumps(document).encode())


def test_numbers_that_json_cannot_carry_are_refused() -> None:
    with pytest.raises(InputError):
        wire.encode(msgspec.structs.replace(BASELINE, confidence=float("nan")))


def test_nesting_is_bounded() -> None:
    deep = BASELINE
    for _ in range(6):
        deep = msgspec.structs.replace(BASELINE, parts=(deep,))
    with pytest.raises(WireError, match="deep"):
        wire.decode(wire.encode(deep))
