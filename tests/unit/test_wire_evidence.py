"""Evidence and batches on the wire: golden bytes, round trips, limits, attestations."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import InputError, TooLarge, VerificationError, WireError
from tocsin.model.evidence import BEHAVIOUR, CLIP_Q32, COORDINATION, Evidence, EvidenceBatch, Reason
from tocsin.trust.attestation import attest, decode_attestation, encode_attestation
from tocsin.trust.keyring import deterministic_signers, roster_hash, roster_of
from tocsin.wire import limits
from tocsin.wire.evidence import (
    GENESIS,
    attested_items,
    decode_evidence,
    encode_batch,
    encode_evidence,
    open_batch,
    verify_evidence,
)
from tocsin.wire.proto import evidence_pb2 as pb

GOLDEN = Path(__file__).parent.parent / "golden" / "evidence_batch.hex"
SIGNERS = deterministic_signers(b"wire", 4)
ROSTER = roster_of("wire", SIGNERS)

TEXT = st.text(max_size=20)
LOGS = st.integers(-CLIP_Q32, CLIP_Q32)
COUNTS = st.integers(0, limits.MAX_COUNTER)


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    first = draw(COUNTS)
    return Evidence(
        monitor=1,
        agent_id=draw(st.text(min_size=1, max_size=60)),
        first_seq=first,
        last_seq=draw(st.integers(first, limits.MAX_COUNTER)),
        log_e_q32=draw(LOGS),
        log_bf_q32=draw(LOGS),
        baseline_epoch=draw(COUNTS),
        observed_ms=draw(COUNTS),
        reasons=tuple(draw(st.lists(st.builds(Reason, TEXT, LOGS, TEXT), max_size=3))),
        kind=draw(st.sampled_from([BEHAVIOUR, COORDINATION])),
    )


ONE = Evidence(
    monitor=1, agent_id="agent-7", first_seq=0, last_seq=9, log_e_q32=-5, log_bf_q32=1 << 33, baseline_epoch=2,
    observed_ms=1_700_000_000_000, reasons=(Reason("transition", 1 << 32, "read_file then send_money"),),
)  # fmt: skip


def batch_of(*items: Evidence) -> EvidenceBatch:
    return EvidenceBatch(
        net="wire", config_hash=roster_hash(ROSTER), monitor=1, seq=3, prev_hash=b"\x07" * 32, through_offset=44,
        items=items, fleet_size=12,
    )  # fmt: skip


@given(evidence())
def test_evidence_round_trips(item: Evidence) -> None:
    assert decode_evidence(encode_evidence(item)) == item


@given(st.lists(evidence(), max_size=4))
def test_batches_round_trip(items: list[Evidence]) -> None:
    batch = batch_of(*items)
    opened = open_batch(encode_batch(batch, SIGNERS[1]), ROSTER)
    assert opened.batch == batch


def test_golden_bytes() -> None:
    """Other versions must read what this one wrote, byte for byte."""
    raw = bytes.fromhex(GOLDEN.read_text(encoding="ascii"))
    assert encode_batch(batch_of(ONE), SIGNERS[1]) == raw
    opened = open_batch(raw, ROSTER)
    assert opened.batch == batch_of(ONE)
    assert opened.head.hex() == "180b7c12b2f6269d12ad8d8c56661b3a87d38474f64ddffba17d101f8490727f"


@pytest.mark.parametrize(
    "change",
    [
        {"agent_id": ""},
        {"agent_id": "ä" * 129},
        {"agent_id": "\ud800"},
        {"first_seq": 10},
        {"first_seq": -1},
        {"last_seq": 1 << 62},
        {"log_e_q32": CLIP_Q32 + 1},
        {"log_bf_q32": -CLIP_Q32 - 1},
        {"monitor": 1024},
        {"observed_ms": 1 << 64},
        {"kind": 2},
        {"kind": -1},
        {"reasons": (Reason("f", 0),) * 17},
        {"reasons": (Reason("f" * 129, 0),)},
        {"reasons": (Reason("f", 0, "d" * 513),)},
    ],
)
def test_what_peers_would_refuse_is_not_encoded(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        encode_evidence(msgspec.structs.replace(ONE, **change))


def test_a_batch_holds_only_under_its_own_roster_and_key() -> None:
    raw = encode_batch(batch_of(ONE), SIGNERS[1])
    with pytest.raises(VerificationError, match="another net or roster"):
        open_batch(raw, msgspec.structs.replace(ROSTER, alpha_ppm=1))
    with pytest.raises(VerificationError, match="signature"):
        open_batch(encode_batch(batch_of(ONE), SIGNERS[2]), ROSTER)


def test_an_item_in_another_monitors_name_is_refused() -> None:
    other = msgspec.structs.replace(ONE, monitor=2)
    with pytest.raises(WireError, match="another monitor"):
        open_batch(encode_batch(batch_of(other), SIGNERS[1]), ROSTER)


def test_items_cannot_be_swapped_in() -> None:
    raw = encode_batch(batch_of(ONE), SIGNERS[1])
    forged = encode_evidence(msgspec.structs.replace(ONE, log_bf_q32=(1 << 33) + 2))
    assert len(forged) == len(encode_evidence(ONE))
    with pytest.raises(VerificationError, match="items"):
        open_batch(raw.replace(encode_evidence(ONE), forged), ROSTER)


def test_size_limits() -> None:
    with pytest.raises(TooLarge):
        open_batch(bytes(limits.MAX_BATCH_BYTES + 1), ROSTER)
    with pytest.raises(TooLarge):
        decode_evidence(bytes(limits.MAX_ITEM_BYTES + limits.MAX_ATTESTATION_BYTES + 1))
    with pytest.raises(WireError, match="too many items"):
        open_batch(encode_batch(batch_of(*[ONE] * (limits.MAX_BATCH_ITEMS + 1)), SIGNERS[1]), ROSTER)


def test_genesis_is_no_batchs_hash() -> None:
    assert bytes(32) == GENESIS != open_batch(encode_batch(batch_of(), SIGNERS[1]), ROSTER).head


# --- attestations


def attested() -> Evidence:
    two = msgspec.structs.replace(ONE, agent_id="agent-8")
    three = msgspec.structs.replace(ONE, agent_id="agent-9")
    return attested_items(open_batch(encode_batch(batch_of(ONE, two, three), SIGNERS[1]), ROSTER))[1]


def test_an_attested_item_stands_alone() -> None:
    item = attested()
    assert item.agent_id == "agent-8"
    verify_evidence(item, ROSTER)
    verify_evidence(decode_evidence(encode_evidence(item)), ROSTER)


@pytest.mark.parametrize(
    "change",
    [
        {"log_bf_q32": 5},
        {"agent_id": "agent-7"},
        {"monitor": 2},
        {"observed_ms": 1},
        {"reasons": ()},
        {"attestation": b""},
    ],
)
def test_an_attestation_covers_every_field(change: dict[str, object]) -> None:
    with pytest.raises(VerificationError):
        verify_evidence(msgspec.structs.replace(attested(), **change), ROSTER)


def test_an_attestation_binds_the_index() -> None:
    item = attested()
    moved = msgspec.structs.replace(decode_attestation(item.attestation), index=2)
    with pytest.raises(VerificationError):
        verify_evidence(msgspec.structs.replace(item, attestation=encode_attestation(moved)), ROSTER)


def test_a_monitor_cannot_attest_in_anothers_name() -> None:
    item = msgspec.structs.replace(ONE, monitor=2)
    raw = encode_batch(batch_of(item), SIGNERS[1])
    batch = pb.EvidenceBatch.FromString(raw)
    (proof,) = attest(batch.header, batch.signature, list(batch.items))
    with pytest.raises(VerificationError, match="another monitor"):
        verify_evidence(msgspec.structs.replace(item, attestation=encode_attestation(proof)), ROSTER)
