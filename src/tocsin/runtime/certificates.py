"""Verdicts on disk: one certificate file each, and a row in the store."""

from __future__ import annotations

from pathlib import Path

from tocsin.model.verdict import Roster, Verdict
from tocsin.runtime.datadir import write_durably
from tocsin.runtime.store import Store
from tocsin.wire.certificate import encode_certificate

SUFFIX = ".cert.json"


def certificate_name(epoch: int, verdict_id: str) -> str:
    """File name by epoch and verdict id only: an agent's name is chosen by a stranger."""
    return f"{epoch:06d}-{verdict_id}{SUFFIX}"


def certificate_file(directory: Path, verdict: Verdict) -> Path:
    """Where a verdict's certificate is kept."""
    return directory / certificate_name(verdict.epoch, verdict.verdict_id)


def store_verdict(store: Store, directory: Path, verdict: Verdict, roster: Roster) -> bool:
    """Write file and row, once; True when the verdict was new."""
    body = encode_certificate(verdict, roster)
    if store.certificate(verdict.verdict_id) is not None:
        return False
    write_durably(certificate_file(directory, verdict), body)
    return store.add_verdict(
        verdict.verdict_id, verdict.agent_id, verdict.epoch, verdict.decision, verdict.decided_ms, body
    )
