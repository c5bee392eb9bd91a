"""Checking a verdict offline, with nothing but the roster: for gateways, auditors and `tocsin verify`."""

from __future__ import annotations

from hashlib import blake2b

from tocsin.consensus.messages import Sum
from tocsin.consensus.quorum import vote_holds
from tocsin.consensus.sums import bitmap_of, signers_of
from tocsin.errors import VerificationError
from tocsin.model.verdict import QuorumCertificate, Roster, Verdict
from tocsin.stats.logodds import logistic
from tocsin.trust.canonical import entry_bytes, statement_bytes
from tocsin.trust.keyring import roster_hash
from tocsin.trust.merkle import verify_proof
from tocsin.trust.signing import VOTE

COMPROMISED = "compromised"
CONFIDENCE_TOLERANCE = 1e-9  # it went through decimal digits
CLEARED = "cleared"


def verdict_id(net: str, epoch: int, agent_id: str) -> str:
    """The name of the verdict about an agent in an epoch: 24 hex digits."""
    return blake2b(f"{net}\0{epoch}\0{agent_id}".encode(), digest_size=12).hexdigest()


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates
        return False
    return True


def _demand(condition: bool, cause: str, remedy: str = "do not act on this certificate") -> None:
    if not condition:
        raise VerificationError(cause, remedy=remedy)


def verify_certificate(certificate: QuorumCertificate, roster: Roster) -> None:
    """Check that n - f distinct monitors of `roster` committed to the statement. Raises VerificationError.

    A roster with BLS keys demands the sum of their signatures, any other one signature each.
    Every signature must hold: an extra one that does not is a sign of tampering, not something to skip.
    """
    statement = certificate.statement
    expected = roster_hash(roster)
    _demand(
        statement.net == roster.net and statement.config_hash == expected,
        "the certificate was made under another roster",
        "get the roster from whoever runs the monitors, not from the certificate",
    )
    _demand(statement.phase == "C", "the certificate is not of the commit phase")
    signers = certificate.monitors
    _demand(
        len(signers) >= roster.quorum,
        f"{len(signers)} monitors signed; {roster.quorum} of {roster.n} must",
        "wait",
    )
    if roster.adds_up:
        _demand(not certificate.signatures, "the certificate has signatures beside their sum")
        known = list(signers) == sorted(set(signers)) and signers[0] >= 0 and signers[-1] < roster.n
        _demand(known, "the certificate names monitors that are not in the roster, or one twice")
        total = Sum(bitmap_of(signers, roster.n), certificate.aggregate)
        _demand(signers_of(roster, total, VOTE, statement_bytes(statement)) == signers, "the sum does not hold")
        return
    _demand(not certificate.aggregate, "the roster has no keys for a sum of signatures")
    for monitor, signature in sorted(certificate.signatures.items()):
        _demand(0 <= monitor < roster.n, f"monitor {monitor} is not in the roster")
        _demand(vote_holds(roster, monitor, statement, signature), f"the signature of monitor {monitor} does not hold")


def verify_verdict(verdict: Verdict, roster: Roster, *, pinned_roster_hash: bytes | None = None) -> None:
    """Check everything a verdict claims against `roster`. Raises VerificationError naming what does not hold.

    Pass `pinned_roster_hash` when the roster itself came with the verdict: its keys prove nothing by themselves.
    `confidence` and `verdict_id` must be what the signed entry makes them. Not signed, and so not checked:
    `decided_ms`, `dissent`, `reasons`, which tell what one monitor saw.
    """
    if pinned_roster_hash is not None:
        _demand(
            pinned_roster_hash == roster_hash(roster),
            "the roster is not the pinned one",
            "compare the roster hash with whoever runs the monitors",
        )
    _demand(not verdict.provisional, "the verdict is provisional: no quorum stands behind it", "wait for another")
    verify_certificate(verdict.certificate, roster)
    statement, entry = verdict.certificate.statement, verdict.entry
    _demand(verdict.epoch == statement.epoch, "the verdict's epoch is not the certified one")
    _demand(
        abs(verdict.confidence - logistic(entry.log_odds_q32)) <= CONFIDENCE_TOLERANCE,
        "the confidence is not the one that the entry gives",
    )
    _demand(
        verdict.verdict_id == verdict_id(statement.net, verdict.epoch, entry.agent_id),
        "the verdict's name is not the one that its net, epoch and agent give",
    )
    _demand(verdict.agent_id == entry.agent_id, "the verdict is about another agent than its entry")
    _demand(verdict.decision == (COMPROMISED if entry.flagged else CLEARED), "the decision is not what the entry says")
    _demand(entry.agent_id.isascii() or _encodes(entry.agent_id), "the agent's name is no valid text")
    _demand(
        verify_proof(statement.posterior_root, entry_bytes(entry), verdict.proof_index, verdict.proof),
        "the entry is not under the certified posterior root",
    )
