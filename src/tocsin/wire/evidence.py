"""Evidence and signed evidence batches as Protocol Buffers (proto/evidence.proto).

Decoding refuses anything outside wire/limits.py and the clipping range, so that what is decoded can be added up
without further checks. Hashes and signatures are over bytes as received.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from google.protobuf.message import DecodeError, Message

from tocsin.errors import InputError, VerificationError, WireError
from tocsin.model.evidence import BEHAVIOUR, CLIP_Q32, COORDINATION, Evidence, EvidenceBatch, Reason
from tocsin.model.verdict import Roster
from tocsin.trust import merkle
from tocsin.trust.attestation import attest, decode_attestation, encode_attestation, holds
from tocsin.trust.keyring import roster_hash
from tocsin.trust.signing import EVIDENCE, HASH_BYTES, SIGNATURE_BYTES, Signer, domain_hash, verify
from tocsin.wire import limits
from tocsin.wire.proto import evidence_pb2 as pb

_LINK = b"tocsin/1 evidence link"
_MAX_EVIDENCE_BYTES = limits.MAX_ITEM_BYTES + limits.MAX_ATTESTATION_BYTES
GENESIS = bytes(HASH_BYTES)  # prev_hash of a chain's first batch


@dataclass(frozen=True, slots=True)
class SignedBatch:
    """A decoded batch beside the bytes it was decoded from. `head` names it in the chain and in cuts."""

    header: bytes
    signature: bytes
    items: tuple[bytes, ...]
    head: bytes
    batch: EvidenceBatch


def _parse(what: str, message: Message, data: bytes, maximum: int) -> None:
    limits.check_size(what, data, maximum)
    try:
        message.ParseFromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise WireError(f"{what} does not decode: {error}", remedy="run one version everywhere") from None


def _demand(condition: bool, cause: str) -> None:
    if not condition:
        raise WireError(cause, remedy="see the limits in the protocol's documentation")


# --- one item


def encode_evidence(evidence: Evidence) -> bytes:
    """Protocol Buffers bytes, attestation included. Raises InputError when no peer would accept them."""
    try:
        _check(evidence)
        message = pb.Evidence(
            monitor=evidence.monitor,
            agent_id=evidence.agent_id,
            first_seq=evidence.first_seq,
            last_seq=evidence.last_seq,
            log_e_q32=evidence.log_e_q32,
            log_bf_q32=evidence.log_bf_q32,
            baseline_epoch=evidence.baseline_epoch,
            observed_ms=evidence.observed_ms,
            reasons=[pb.Reason(feature=r.feature, log_bf_q32=r.log_bf_q32, detail=r.detail) for r in evidence.reasons],
            attestation=evidence.attestation,
            kind=evidence.kind,
        )
        data = message.SerializeToString(deterministic=True)
        limits.check_size("evidence", data, _MAX_EVIDENCE_BYTES)
    except (ValueError, TypeError, WireError) as error:
        cause = f"evidence about {evidence.agent_id!r:.80} does not fit the wire: {error}"
        raise InputError(cause, remedy="shorten or clip it at the source") from None
    return data


def _check(evidence: Evidence) -> None:
    """What every reader demands and every writer keeps to."""
    _demand(evidence.monitor < limits.MAX_MONITORS, "evidence names an impossible monitor")
    _demand(1 <= len(evidence.agent_id.encode()) <= limits.MAX_AGENT_ID_BYTES, "an agent's name is empty or too long")
    _demand(evidence.first_seq <= evidence.last_seq <= limits.MAX_COUNTER, "evidence covers an impossible range")
    for value in (evidence.log_e_q32, evidence.log_bf_q32):
        _demand(-CLIP_Q32 <= value <= CLIP_Q32, "evidence is outside the clipping range")
    largest = max(evidence.baseline_epoch, evidence.observed_ms)
    _demand(largest <= limits.MAX_COUNTER, "a number in evidence is too large")
    _demand(evidence.kind in (BEHAVIOUR, COORDINATION), f"evidence of unknown kind {evidence.kind}")
    _demand(len(evidence.reasons) <= limits.MAX_REASONS, f"evidence has more than {limits.MAX_REASONS} reasons")
    for reason in evidence.reasons:
        _demand(len(reason.feature.encode()) <= limits.MAX_FEATURE_BYTES, "a reason's feature name is too long")
        _demand(len(reason.detail.encode()) <= limits.MAX_DETAIL_BYTES, "a reason's detail is too long")


def decode_evidence(data: bytes) -> Evidence:
    """Inverse of `encode_evidence`. Raises WireError (TooLarge)."""
    message = pb.Evidence()
    _parse("evidence", message, data, _MAX_EVIDENCE_BYTES)
    evidence = Evidence(
        monitor=message.monitor,
        agent_id=message.agent_id,
        first_seq=message.first_seq,
        last_seq=message.last_seq,
        log_e_q32=message.log_e_q32,
        log_bf_q32=message.log_bf_q32,
        baseline_epoch=message.baseline_epoch,
        observed_ms=message.observed_ms,
        reasons=tuple(Reason(reason.feature, reason.log_bf_q32, reason.detail) for reason in message.reasons),
        attestation=message.attestation,
        kind=message.kind,
    )
    _check(evidence)
    return evidence


def verify_evidence(evidence: Evidence, roster: Roster) -> None:
    """Check that `evidence` is what its monitor signed under `roster`. Raises WireError or VerificationError."""
    if not evidence.attestation:
        raise VerificationError("the evidence is not attested", remedy="ask the monitor that stated it")
    attestation = decode_attestation(evidence.attestation)
    header = decode_header(attestation.header, roster)
    if not holds(attestation, roster.keys[header.monitor], header.items_root):
        raise VerificationError("the attestation does not hold", remedy="discard the evidence")
    if decode_evidence(attestation.item) != msgspec.structs.replace(evidence, attestation=b""):
        raise VerificationError("the evidence is not what was signed", remedy="discard the evidence")
    if header.monitor != evidence.monitor:
        raise VerificationError("the evidence speaks for another monitor", remedy="discard the evidence")


# --- batches


def encode_batch(batch: EvidenceBatch, signer: Signer) -> bytes:
    """Sign `batch` and return its bytes. Raises InputError or TooLarge."""
    return sign_batch(batch, [encode_evidence(item) for item in batch.items], signer)


def sign_batch(batch: EvidenceBatch, items: Sequence[bytes], signer: Signer) -> bytes:
    """`encode_batch` where the items' bytes are at hand already; `batch.items` is not looked at. Raises TooLarge."""
    header = pb.BatchHeader(
        net=batch.net,
        config_hash=batch.config_hash,
        monitor=batch.monitor,
        seq=batch.seq,
        prev_hash=batch.prev_hash,
        through_offset=batch.through_offset,
        fleet_size=batch.fleet_size,
        item_count=len(items),
        items_root=merkle.root(items),
    ).SerializeToString(deterministic=True)
    message = pb.EvidenceBatch(header=header, signature=signer.sign(EVIDENCE, header), items=items)
    data = message.SerializeToString(deterministic=True)
    limits.check_size("an evidence batch", data, limits.MAX_BATCH_BYTES)
    return data


def batch_head(header: bytes) -> bytes:
    """The hash by which the next batch and the cuts name this one."""
    return domain_hash(_LINK, header)


def decode_header(data: bytes, roster: Roster) -> pb.BatchHeader:
    """A header that fits `roster`; its signature is not checked. Raises WireError or VerificationError."""
    header = pb.BatchHeader()
    _parse("a batch header", header, data, limits.MAX_HEADER_BYTES)
    if header.net != roster.net or header.config_hash != roster_hash(roster):
        raise VerificationError("a batch belongs to another net or roster", remedy="give every monitor one roster")
    _demand(header.monitor < roster.n, "a batch names a monitor outside the roster")
    _demand(len(header.prev_hash) == HASH_BYTES and len(header.items_root) == HASH_BYTES, "a batch's hash is not one")
    numbers = (header.seq, header.through_offset, header.fleet_size)
    _demand(max(numbers) <= limits.MAX_COUNTER, "a number in a batch header is too large")
    _demand(header.item_count <= limits.MAX_BATCH_ITEMS, "a batch has too many items")
    return header


def open_header(data: bytes, signature: bytes, roster: Roster) -> pb.BatchHeader:
    """`decode_header`, and the signature holds. Raises WireError or VerificationError."""
    header = decode_header(data, roster)
    if not verify(roster.keys[header.monitor], EVIDENCE, data, signature):
        raise VerificationError("a batch's signature does not hold", remedy="discard the batch")
    return header


def open_batch(data: bytes, roster: Roster) -> SignedBatch:
    """Decode and verify a batch. Raises WireError (TooLarge) for bytes, VerificationError for signature and root."""
    message = pb.EvidenceBatch()
    _parse("an evidence batch", message, data, limits.MAX_BATCH_BYTES)
    _demand(len(message.signature) == SIGNATURE_BYTES, "a batch is not signed")
    header = open_header(message.header, message.signature, roster)
    items = tuple(message.items)
    _demand(len(items) == header.item_count, "a batch does not hold the number of items it states")
    if merkle.root(items) != header.items_root:
        raise VerificationError("a batch's items are not the signed ones", remedy="discard the batch")
    return SignedBatch(message.header, message.signature, items, batch_head(message.header), _batch(header, items))


def _batch(header: pb.BatchHeader, items: tuple[bytes, ...]) -> EvidenceBatch:
    evidence: list[Evidence] = []
    for data in items:
        limits.check_size("an item", data, limits.MAX_ITEM_BYTES)
        item = decode_evidence(data)
        _demand(item.monitor == header.monitor and not item.attestation, "a batch's item speaks for another monitor")
        evidence.append(item)
    return EvidenceBatch(
        net=header.net,
        config_hash=header.config_hash,
        monitor=header.monitor,
        seq=header.seq,
        prev_hash=header.prev_hash,
        through_offset=header.through_offset,
        items=tuple(evidence),
        fleet_size=header.fleet_size,
    )


def attested_items(signed: SignedBatch) -> tuple[Evidence, ...]:
    """The batch's evidence, each with the attestation that lets a third party check it alone."""
    proofs = attest(signed.header, signed.signature, signed.items)
    pairs = zip(signed.batch.items, proofs, strict=True)
    return tuple(msgspec.structs.replace(item, attestation=encode_attestation(proof)) for item, proof in pairs)
