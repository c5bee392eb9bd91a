"""Verdicts as JSON files (`*.cert.json`): versioned, with the roster, checkable years later by other software.

Bytes are lower-case hex. Integers are decimal strings, all of them, because JSON readers lose digits beyond 2**53.
Decoding is strict: unknown, missing or repeated fields, other number forms and other versions are refused.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

import msgspec

from tocsin.errors import ConfigError, WireError
from tocsin.model.verdict import PosteriorEntry, QuorumCertificate, Roster, Statement, Verdict
from tocsin.trust.keyring import roster_from_dict, roster_to_dict
from tocsin.wire import limits

SCHEMA = "tocsin.certificate/1"

_Integer = Annotated[str, msgspec.Meta(pattern=r"^(0|-?[1-9][0-9]{0,18})\Z")]
_Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Signature = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]
_Aggregate = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{192})?\Z")]
_Name = Annotated[str, msgspec.Meta(max_length=limits.MAX_AGENT_ID_BYTES)]
_Monitor = Annotated[int, msgspec.Meta(ge=0, lt=limits.MAX_MONITORS)]
_Int64 = (-(1 << 63), (1 << 63) - 1)


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    agent_id: _Name
    log_odds_q32: _Integer
    log_e_q32: _Integer
    last_seq: _Integer
    flagged: bool
    alpha_ppm: _Integer
    fleet_size: _Integer


class _Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    net: _Name
    config_hash: _Hash
    epoch: _Integer
    view: _Integer
    phase: Literal["P", "C"]
    prev_cert_hash: _Hash
    cut_root: _Hash
    posterior_root: _Hash


class _Vote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    monitor: _Monitor
    signature: _Signature


class _Nats(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    feature: Annotated[str, msgspec.Meta(max_length=limits.MAX_FEATURE_BYTES)]
    log_bf_q32: _Integer


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    schema: Literal["tocsin.certificate/1"]
    verdict_id: _Name
    agent_id: _Name
    decision: Literal["compromised", "cleared"]
    confidence: float
    entry: _Entry
    epoch: _Integer
    decided_ms: _Integer
    statement: _Statement
    signatures: Annotated[tuple[_Vote, ...], msgspec.Meta(max_length=limits.MAX_MONITORS)]
    proof: Annotated[tuple[_Hash, ...], msgspec.Meta(max_length=limits.MAX_PATH)]
    proof_index: _Integer
    provisional: bool
    dissent: Annotated[tuple[_Monitor, ...], msgspec.Meta(max_length=limits.MAX_MONITORS)]
    reasons: Annotated[tuple[_Nats, ...], msgspec.Meta(max_length=limits.MAX_REASONS)]
    roster: dict[str, Any]
    # One sum in place of all `signatures`, and whose it is: under rosters with BLS keys.
    scheme: Literal["ed25519", "bls12-381"] = "ed25519"
    signers: Annotated[tuple[_Monitor, ...], msgspec.Meta(max_length=limits.MAX_MONITORS)] = ()
    aggregate: _Aggregate = ""


def _integer(text: str) -> int:
    value = int(text)
    if not _Int64[0] <= value <= _Int64[1]:
        raise ValueError("a number does not fit 64 bits")
    return value


def _natural(text: str) -> int:
    value = _integer(text)
    if value < 0:
        raise ValueError("a count is negative")
    return value


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a field occurs twice")
    return dict(pairs)


def encode_certificate(verdict: Verdict, roster: Roster) -> bytes:
    """UTF-8 JSON, indented, ending in a newline."""
    certificate = verdict.certificate
    entry, statement = verdict.entry, certificate.statement
    file = _File(
        schema=SCHEMA,
        verdict_id=verdict.verdict_id,
        agent_id=verdict.agent_id,
        decision="compromised" if verdict.decision == "compromised" else "cleared",
        confidence=verdict.confidence,
        entry=_Entry(
            agent_id=entry.agent_id,
            log_odds_q32=str(entry.log_odds_q32),
            log_e_q32=str(entry.log_e_q32),
            last_seq=str(entry.last_seq),
            flagged=entry.flagged,
            alpha_ppm=str(entry.alpha_ppm),
            fleet_size=str(entry.fleet_size),
        ),
        epoch=str(verdict.epoch),
        decided_ms=str(verdict.decided_ms),
        statement=_Statement(
            net=statement.net,
            config_hash=statement.config_hash.hex(),
            epoch=str(statement.epoch),
            view=str(statement.view),
            phase="C" if statement.phase == "C" else "P",
            prev_cert_hash=statement.prev_cert_hash.hex(),
            cut_root=statement.cut_root.hex(),
            posterior_root=statement.posterior_root.hex(),
        ),
        signatures=tuple(_Vote(i, signature.hex()) for i, signature in sorted(certificate.signatures.items())),
        proof=tuple(sibling.hex() for sibling in verdict.proof),
        proof_index=str(verdict.proof_index),
        provisional=verdict.provisional,
        dissent=verdict.dissent,
        reasons=tuple(_Nats(feature, str(nats)) for feature, nats in verdict.reasons),
        roster=roster_to_dict(roster),
        scheme="bls12-381" if certificate.aggregate else "ed25519",
        signers=certificate.signers,
        aggregate=certificate.aggregate.hex(),
    )
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


def decode_certificate(data: bytes) -> tuple[Verdict, Roster]:
    """The verdict and the roster it came with; nothing is verified yet. Raises WireError (TooLarge)."""
    limits.check_size("a certificate file", data, limits.MAX_CERTIFICATE_FILE_BYTES)
    try:
        tree = json.loads(data.decode("utf-8"), object_pairs_hook=_no_repeats)
        file = msgspec.convert(tree, _File)
        return _verdict(file), roster_from_dict(file.roster)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError, ConfigError) as error:
        raise WireError(f"a certificate file does not decode: {error}", remedy=f"expected {SCHEMA}") from None


def _verdict(file: _File) -> Verdict:
    if not math.isfinite(file.confidence):
        raise ValueError("the confidence is not a number")
    signatures = {vote.monitor: bytes.fromhex(vote.signature) for vote in file.signatures}
    if len(signatures) != len(file.signatures):
        raise ValueError("a monitor signed twice")
    added = file.scheme == "bls12-381"
    if added != bool(file.aggregate) or added != bool(file.signers) or (added and signatures):
        raise ValueError("the signatures are not of the scheme that is named")
    entry, statement = file.entry, file.statement
    return Verdict(
        verdict_id=file.verdict_id,
        agent_id=file.agent_id,
        decision=file.decision,
        confidence=file.confidence,
        entry=PosteriorEntry(
            agent_id=entry.agent_id,
            log_odds_q32=_integer(entry.log_odds_q32),
            log_e_q32=_integer(entry.log_e_q32),
            last_seq=_integer(entry.last_seq),
            flagged=entry.flagged,
            alpha_ppm=_natural(entry.alpha_ppm),
            fleet_size=_natural(entry.fleet_size),
        ),
        epoch=_natural(file.epoch),
        decided_ms=_integer(file.decided_ms),
        certificate=QuorumCertificate(
            statement=Statement(
                net=statement.net,
                config_hash=bytes.fromhex(statement.config_hash),
                epoch=_natural(statement.epoch),
                view=_natural(statement.view),
                phase=statement.phase,
                prev_cert_hash=bytes.fromhex(statement.prev_cert_hash),
                cut_root=bytes.fromhex(statement.cut_root),
                posterior_root=bytes.fromhex(statement.posterior_root),
            ),
            signatures=signatures,
            signers=file.signers,
            aggregate=bytes.fromhex(file.aggregate),
        ),
        proof=tuple(bytes.fromhex(sibling) for sibling in file.proof),
        proof_index=_natural(file.proof_index),
        provisional=file.provisional,
        dissent=file.dissent,
        reasons=tuple((reason.feature, _integer(reason.log_bf_q32)) for reason in file.reasons),
    )
