"""R5.2: baselines as JSON, checked against the shipped schema by an independent validator."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from tocsin.errors import InputError, WireError
from tocsin.model.baseline import DistributedBaseline, FeatureBaseline
from tocsin.wire import baseline as wire

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "baseline-1.json"

LATENCY = FeatureBaseline(name="latency", count=9, mean=1.5, std=0.25, p05=1.0, p50=1.5, p95=2.0, saturated=1)
BASELINE = DistributedBaseline(
    level=1, scope="r3", agents=12, samples=900, epoch=2, features=(LATENCY,), correlation=((1.0,),),
    actions={"read_file": 7}, confidence=0.5, staleness_seconds=1.25, summary_hash="00" * 16,
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
    assert wire.encode(NESTED) == GOLDEN.read_bytes().rstrip(b"\n")


def test_every_field_of_the_model_is_in_the_schema() -> None:
    definitions = json.loads(wire.schema())["$defs"]
    assert set(definitions["baseline"]["properties"]) == set(DistributedBaseline.__struct_fields__)
    assert set(definitions["feature"]["properties"]) == set(FeatureBaseline.__struct_fields__)


SPOILT = [
    {"schema": "tocsin.baseline/2"},
    {"level": 4},
    {"agents": -1},
    {"staleness_seconds": -1.0},
    {"confidence": 1.5},
    {"correlation": [[1.5]]},
    {"actions": {"x": -1}},
    {"features": [{**json.loads(msgspec.json.encode(LATENCY)), "count": -1}]},
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
