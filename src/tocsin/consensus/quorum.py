"""Statements, votes and certificates: who leads, what is signed, and what n - f signatures on it are worth."""

from __future__ import annotations

from tocsin.consensus import sums
from tocsin.consensus.messages import Votes
from tocsin.model.verdict import QuorumCertificate, Roster, Statement
from tocsin.trust.canonical import decided_bytes, statement_bytes
from tocsin.trust.keyring import roster_hash
from tocsin.trust.signing import HASH_BYTES, VOTE, Signer, domain_hash, verify

_DECIDED = b"tocsin/1 decided"
NO_CERTIFICATE = bytes(HASH_BYTES)  # prev_cert_hash of epoch 0


def leader_of(roster: Roster, epoch: int, view: int) -> int:
    """Round robin over epochs and views, so that no monitor decides for long what is proposed."""
    return (epoch + view) % roster.n


def statement_of(roster: Roster, votes: Votes) -> Statement:
    """The full statement that `votes` are about."""
    return Statement(
        net=roster.net,
        config_hash=roster_hash(roster),
        epoch=votes.epoch,
        view=votes.view,
        phase=votes.phase,
        prev_cert_hash=votes.prev_cert_hash,
        cut_root=votes.cut_root,
        posterior_root=votes.posterior_root,
    )


def decision_hash(statement: Statement) -> bytes:
    """Chains decisions. Two certificates of one decision (other view, other signers) have the same."""
    return domain_hash(_DECIDED, decided_bytes(statement))


def sign_vote(signer: Signer, statement: Statement, *, adds_up: bool = False) -> bytes:
    """A vote for `statement`, which names the phase: a prepare vote never counts as a commit vote.

    An Ed25519 signature, or a BLS share where votes add up.
    """
    signed = statement_bytes(statement)
    return signer.share(VOTE, signed) if adds_up else signer.sign(VOTE, signed)


def vote_holds(roster: Roster, monitor: int, statement: Statement, signature: bytes) -> bool:
    """Whether `signature` is `monitor`'s vote for `statement`."""
    if not 0 <= monitor < roster.n:
        return False
    signed = statement_bytes(statement)
    if roster.adds_up:
        return sums.share_holds(roster, monitor, VOTE, signed, signature)
    return verify(roster.keys[monitor], VOTE, signed, signature)


def certificate_of(roster: Roster, votes: Votes) -> QuorumCertificate:
    """The self-contained form, for people and gateways."""
    total = votes.total
    return QuorumCertificate(
        statement=statement_of(roster, votes),
        signatures=dict(votes.signatures),
        signers=(sums.members(total.signers, roster.n) or ()) if total else (),
        aggregate=total.signature if total else b"",
    )


def votes_hold(roster: Roster, votes: Votes) -> bool:
    """Whether at least n - f distinct monitors of `roster` signed the statement, and every signature counts."""
    if roster.adds_up:
        signed = statement_bytes(statement_of(roster, votes))
        if votes.total is None or votes.signatures:
            return False
        return len(sums.signers_of(roster, votes.total, VOTE, signed)) >= roster.quorum
    if votes.total is not None:
        return False
    signers = {monitor for monitor, _ in votes.signatures}
    if len(signers) != len(votes.signatures) or len(signers) < roster.quorum:
        return False
    if not all(0 <= monitor < roster.n for monitor in signers):
        return False
    signed = statement_bytes(statement_of(roster, votes))  # once, not once a vote
    return all(verify(roster.keys[monitor], VOTE, signed, signature) for monitor, signature in votes.signatures)
