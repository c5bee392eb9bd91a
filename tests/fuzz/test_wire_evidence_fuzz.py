"""Whatever bytes come: decoders let only WireError or VerificationError escape, and no mutation passes for valid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.consensus.messages import ENVELOPE, Certified, Propose, Timeout, Tip, Vote, Votes
from tocsin.errors import VerificationError, WireError
from tocsin.model.evidence import Evidence, EvidenceBatch, Reason
from tocsin.model.verdict import PosteriorEntry, QuorumCertificate, Statement, Verdict
from tocsin.trust.attestation import decode_attestation
from tocsin.trust.keyring import deterministic_signers, roster_hash, roster_of
from tocsin.wire.certificate import decode_certificate, encode_certificate
from tocsin.wire.evidence import (
    attested_items,
    decode_evidence,
    encode_batch,
    encode_evidence,
    open_batch,
    verify_evidence,
)

SIGNERS = deterministic_signers(b"fuzz", 4)
ROSTER = roster_of("fuzz", SIGNERS)
ITEM = Evidence(
    monitor=0, agent_id="a", first_seq=0, last_seq=1, log_e_q32=1, log_bf_q32=2, reasons=(Reason("f", 1, "d"),)
)
BATCH = encode_batch(
    EvidenceBatch(
        net="fuzz",
        config_hash=roster_hash(ROSTER),
        monitor=0,
        seq=0,
        prev_hash=bytes(32),
        through_offset=1,
        items=(ITEM, ITEM),
    ),
    SIGNERS[0],
)
ATTESTED = encode_evidence(attested_items(open_batch(BATCH, ROSTER))[1])
HASH, SIGNATURE = b"h" * 32, b"s" * 64
CERTIFIED = Certified(Votes(1, 0, "P", HASH, HASH, HASH, ((0, SIGNATURE),)), (Tip(-1, bytes(32)), Tip(4, HASH)))
MESSAGES = [
    ENVELOPE.encode(Vote(1, 2, "C", HASH, HASH, SIGNATURE)),
    ENVELOPE.encode(Timeout(1, 2, 0, CERTIFIED, None, SIGNATURE)),
    ENVELOPE.encode(Propose(1, 0, CERTIFIED.cut, HASH, None, SIGNATURE)),
]
STATEMENT = Statement(
    net="fuzz", config_hash=HASH, epoch=1, view=0, phase="C", prev_cert_hash=HASH, cut_root=HASH, posterior_root=HASH
)
CERTIFICATE = encode_certificate(
    Verdict(
        verdict_id="v",
        agent_id="a",
        decision="cleared",
        confidence=0.25,
        entry=PosteriorEntry(
            agent_id="a", log_odds_q32=-(1 << 60), log_e_q32=7, last_seq=-1, flagged=False, alpha_ppm=1, fleet_size=1
        ),
        epoch=1,
        decided_ms=1 << 55,
        certificate=QuorumCertificate(statement=STATEMENT, signatures={2: SIGNATURE, 0: SIGNATURE}),
        proof=(HASH,),
        proof_index=1,
        dissent=(3,),
        reasons=(("f", -(1 << 40)),),
    ),
    ROSTER,
)


def check_attested(data: bytes) -> None:
    verify_evidence(decode_evidence(data), ROSTER)


DECODERS: list[tuple[str, Callable[[bytes], Any], list[bytes]]] = [
    ("batch", lambda data: open_batch(data, ROSTER), [BATCH]),
    ("attested evidence", check_attested, [ATTESTED]),
    ("attestation", decode_attestation, [decode_evidence(ATTESTED).attestation]),
    ("message", ENVELOPE.decode, MESSAGES),
    ("certificate", decode_certificate, [CERTIFICATE]),
]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A valid encoding with some bytes overwritten, a slice cut out, or something inserted."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 4) | st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=6)) + data[at + gone :]
    return data


@pytest.mark.parametrize(("name", "decode", "seeds"), DECODERS, ids=[name for name, _, _ in DECODERS])
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_only_declared_errors_escape(
    name: str, decode: Callable[[bytes], Any], seeds: list[bytes], data: st.DataObject
) -> None:
    raw = data.draw(mutated(seeds) | st.binary(max_size=200), label=name)
    try:
        decode(raw)
    except (WireError, VerificationError):
        return


@pytest.mark.parametrize("bit", range(8))
def test_no_bit_of_a_batchs_content_can_change_unnoticed(bit: int) -> None:
    original = open_batch(BATCH, ROSTER)
    for at in range(len(BATCH)):
        changed = BATCH[:at] + bytes((BATCH[at] ^ 1 << bit,)) + BATCH[at + 1 :]
        try:
            opened = open_batch(changed, ROSTER)
        except (WireError, VerificationError):
            continue
        # The outer framing is not signed; what it frames is.
        assert (opened.header, opened.items, opened.batch) == (original.header, original.items, original.batch)


@pytest.mark.parametrize("nested", [b"\x91" * 100_000, b"\x81\xa1a" * 60_000])
def test_deep_nesting_is_refused(nested: bytes) -> None:
    with pytest.raises(WireError):
        ENVELOPE.decode(b"\x01" + nested)


def test_deep_nesting_behind_a_valid_message_is_refused() -> None:
    """Fields beyond the known ones are skipped, however deep they nest."""
    vote = MESSAGES[0]
    assert vote[1] == 0x97
    with pytest.raises(WireError):
        ENVELOPE.decode(vote[:1] + b"\x98" + vote[2:] + b"\x91" * 100_000 + b"\xc0")


@pytest.mark.parametrize("nested", [b"[" * 100_000, b'{"roster":' * 50_000])
def test_deep_json_is_refused(nested: bytes) -> None:
    with pytest.raises(WireError):
        decode_certificate(nested)


def test_certificates_round_trip_and_are_strict() -> None:
    verdict, roster = decode_certificate(CERTIFICATE)
    assert encode_certificate(verdict, roster) == CERTIFICATE
    text = CERTIFICATE.decode()
    for old, new in (
        ('"view": "0"', '"view": 0'),
        ('"view": "0"', '"view": "00"'),
        ('"view": "0"', '"view": "-1"'),
        ('"view": "0"', '"view": "9223372036854775808"'),
        ('"view": "0"', '"view": "0", "view": "0"'),
        ('"view": "0"', '"view": "0", "more": "0"'),
        ('"phase": "C"', '"phase": "X"'),
        ('"confidence": 0.25', '"confidence": NaN'),
        ('"monitor": 2', '"monitor": 0'),
        ("certificate/1", "certificate/2"),
    ):
        assert old in text
        with pytest.raises(WireError):
            decode_certificate(text.replace(old, new, 1).encode())


def test_a_message_of_another_version_is_refused() -> None:
    with pytest.raises(WireError, match="version"):
        ENVELOPE.decode(b"\x02" + MESSAGES[0][1:])
    with pytest.raises(WireError):
        ENVELOPE.decode(b"")


def test_attestations_are_bounded() -> None:
    grown = msgspec.structs.replace(decode_attestation(decode_evidence(ATTESTED).attestation), path=(HASH,) * 41)
    with pytest.raises(WireError):
        decode_attestation(msgspec.msgpack.encode(grown))
