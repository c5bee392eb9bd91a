"""`tocsin verify`: check a certificate with nothing but the file and, better, the roster you trust."""

from __future__ import annotations

from pathlib import Path

from tocsin.cli.out import alone_nats, bold, counted, decided_by, note, percent, safe, say, say_json
from tocsin.errors import InputError, VerificationError, WireError
from tocsin.model.evidence import Q32

NOT_COVERED = ("decided_ms", "reasons", "dissent")  # fields of a certificate beside what monitors signed


def run_verify(certificate: Path, roster: Path | None, *, as_json: bool) -> None:
    """Print what the certificate proves; raises VerificationError (exit 3) when it does not hold."""
    from tocsin.consensus.certificate import verify_verdict
    from tocsin.runtime.datadir import read_roster
    from tocsin.wire.certificate import decode_certificate
    from tocsin.wire.limits import MAX_CERTIFICATE_FILE_BYTES

    try:
        if certificate.stat().st_size > MAX_CERTIFICATE_FILE_BYTES:
            raise VerificationError(
                f"{certificate} is larger than {MAX_CERTIFICATE_FILE_BYTES} bytes", remedy="is it a certificate?"
            )
        body = certificate.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {certificate}: {error.strerror}", remedy="name a *.cert.json file") from error
    try:
        verdict, claimed = decode_certificate(body)
    except WireError as error:
        raise VerificationError(f"{certificate} is no certificate: {error.cause}", remedy="do not act on it") from error
    trusted = read_roster(roster) if roster else claimed
    verify_verdict(verdict, trusted)
    if claimed != trusted:
        raise VerificationError(
            "the certificate names other monitors than the roster you trust", remedy="do not act on this certificate"
        )
    signers = list(verdict.certificate.monitors)
    entry = verdict.entry
    log_e = entry.log_e_q32 / Q32
    result = {
        "valid": True,
        "pinned": roster is not None,
        "verdict_id": verdict.verdict_id,
        "agent_id": verdict.agent_id,
        "decision": verdict.decision,
        "log_e_nats": log_e,
        "alone_log_e_nats": alone_nats(entry.fleet_size, entry.alpha_ppm),
        "confidence": verdict.confidence,
        "epoch": verdict.epoch,
        "net": trusted.net,
        "scheme": "bls12-381" if trusted.adds_up else "ed25519",
        "signers": signers,
        "monitors": trusted.n,
        "quorum": trusted.quorum,
        "alpha_ppm": verdict.entry.alpha_ppm,
        "fleet_size": verdict.entry.fleet_size,
        "not_covered": list(NOT_COVERED),
    }
    if as_json:
        say_json(result)
        return
    level = f"{entry.alpha_ppm / 1e4:g} % over {counted(entry.fleet_size, 'agent')}"
    say(bold(f"valid: agent {safe(verdict.agent_id)} is {verdict.decision}"))
    say(f"  decided by {decided_by(log_e, entry.fleet_size, entry.alpha_ppm)}")
    say(f"  belief {percent(verdict.confidence)}: about the moment of the verdict; log e is about all until then")
    say(f"  signed by monitors {', '.join(map(str, signers))} of {trusted.n}; {trusted.quorum} were needed")
    say(f"  epoch {verdict.epoch} of {safe(trusted.net)}; level {level}")
    say(f"  not covered by the signatures, the word of whoever wrote the file: {', '.join(NOT_COVERED)}")
    if roster is None:
        note(
            "checked against the keys that the certificate names itself: anybody can make such a file. "
            "Pin the monitors you trust with --roster roster.json."
        )
