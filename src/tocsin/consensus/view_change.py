"""Giving up on a leader: timeouts, timeout certificates, and what the next leader is bound to.

After Jolteon (Gelashvili et al. 2022) and HotStuff-2 (Malkhi & Nayak 2023): a timeout names the highest prepare
certificate its sender had seen; a quorum of timeouts opens the next view, whose proposal must repeat the value of the
highest of those certificates. Whoever voted to commit in a view had that certificate before giving up on the view, and
two quorums share an honest monitor, so a decided value is always the one repeated.
"""

from __future__ import annotations

from tocsin.consensus.cut import cut_root, is_well_formed
from tocsin.consensus.messages import (
    MAX_TIMEOUT_SUMS,
    Certified,
    Timeout,
    TimeoutCertificate,
    TimeoutSum,
    TimeoutVote,
)
from tocsin.consensus.quorum import votes_hold
from tocsin.consensus.sums import signers_of, spoilers, sum_of
from tocsin.model.verdict import Roster
from tocsin.trust.bls import is_share
from tocsin.trust.canonical import timeout_bytes
from tocsin.trust.keyring import roster_hash
from tocsin.trust.signing import TIMEOUT, Signer, verify


def _message(roster: Roster, epoch: int, view: int, high_view: int) -> bytes:
    return timeout_bytes(roster.net, roster_hash(roster), epoch, view, high_view)


def make_timeout(
    roster: Roster, signer: Signer, epoch: int, view: int, high: Certified | None, entered: TimeoutCertificate | None
) -> Timeout:
    """This monitor's timeout of (epoch, view). To be made once and re-sent verbatim: it freezes `high`."""
    high_view = high.votes.view if high else -1
    signed = _message(roster, epoch, view, high_view)
    signature = signer.share(TIMEOUT, signed) if roster.adds_up else signer.sign(TIMEOUT, signed)
    return Timeout(epoch, view, high_view, high, entered, signature)


def prepared_holds(roster: Roster, certified: Certified, epoch: int, prev_cert_hash: bytes) -> bool:
    """Whether `certified` is a prepare certificate of this epoch, over this cut."""
    votes = certified.votes
    return (
        votes.phase == "P"
        and votes.epoch == epoch
        and votes.prev_cert_hash == prev_cert_hash
        and is_well_formed(certified.cut, roster.n)
        and cut_root(certified.cut) == votes.cut_root
        and votes_hold(roster, votes)
    )


def timeout_holds(roster: Roster, monitor: int, timeout: Timeout, prev_cert_hash: bytes) -> bool:
    """Whether `timeout` is `monitor`'s, and the certificate it carries is the one it names.

    Shares that add up are checked when there is a quorum of them (`without_spoilers`): until then `monitor` is who the
    link says it is, and whoever could lie about that could as well time out.
    """
    if roster.adds_up:
        signed_by_monitor = is_share(timeout.signature)
    else:
        signed = _message(roster, timeout.epoch, timeout.view, timeout.high_view)
        signed_by_monitor = verify(roster.keys[monitor], TIMEOUT, signed, timeout.signature)
    if not signed_by_monitor:
        return False
    if timeout.high is None:
        return timeout.high_view == -1
    return timeout.high.votes.view == timeout.high_view <= timeout.view and prepared_holds(
        roster, timeout.high, timeout.epoch, prev_cert_hash
    )


def _by_high_view(timeouts: dict[int, Timeout]) -> dict[int, dict[int, bytes]]:
    shares: dict[int, dict[int, bytes]] = {}
    for monitor, timeout in sorted(timeouts.items()):
        shares.setdefault(timeout.high_view, {})[monitor] = timeout.signature
    return dict(sorted(shares.items()))


def without_spoilers(roster: Roster, timeouts: dict[int, Timeout]) -> dict[int, Timeout]:
    """Those of some timeouts of one (epoch, view) whose shares add up."""
    kept = dict(timeouts)
    for high_view, shares in _by_high_view(timeouts).items():
        one = timeouts[next(iter(shares))]
        for monitor in spoilers(roster, shares, TIMEOUT, _message(roster, one.epoch, one.view, high_view)):
            del kept[monitor]
    return kept


def sum_of_timeouts(roster: Roster, timeouts: dict[int, Timeout]) -> TimeoutCertificate | None:
    """`certificate_of_timeouts` where shares add up; None where they saw too many different highest views."""
    shares = _by_high_view(timeouts)
    if len(shares) > MAX_TIMEOUT_SUMS:
        return None
    plain = certificate_of_timeouts(timeouts)
    sums = tuple(TimeoutSum(high_view, sum_of(roster, part)) for high_view, part in shares.items())
    return TimeoutCertificate(plain.epoch, plain.view, (), plain.high, sums)


def certificate_of_timeouts(timeouts: dict[int, Timeout]) -> TimeoutCertificate:
    """Of checked timeouts of one (epoch, view), at least a quorum of them; index = monitor."""
    any_timeout = next(iter(timeouts.values()))
    highest = max(timeouts.values(), key=lambda timeout: timeout.high_view)
    votes = tuple(TimeoutVote(i, t.high_view, t.signature) for i, t in sorted(timeouts.items()))
    return TimeoutCertificate(any_timeout.epoch, any_timeout.view, votes, highest.high)


def timeouts_hold(
    roster: Roster, certificate: TimeoutCertificate, epoch: int, view: int, prev_cert_hash: bytes
) -> bool:
    """Whether a quorum gave up on (epoch, view) and `high` really is the highest certificate among them."""
    if (certificate.epoch, certificate.view) != (epoch, view):
        return False
    highest = _highest_of_sums(roster, certificate) if roster.adds_up else _highest_of_votes(roster, certificate)
    if highest is None:
        return False
    if certificate.high is None:
        return highest == -1
    # Without this check a leader could strip the certificate and propose against a lock.
    return certificate.high.votes.view == highest <= view and prepared_holds(
        roster, certificate.high, epoch, prev_cert_hash
    )


def _highest_of_votes(roster: Roster, certificate: TimeoutCertificate) -> int | None:
    """Highest view that the signers had seen; None where they are no quorum."""
    signers = {vote.monitor for vote in certificate.votes}
    distinct = len(signers) == len(certificate.votes) and not certificate.sums
    if not distinct or len(signers) < roster.quorum or max(signers) >= roster.n:
        return None
    for vote in certificate.votes:
        signed = _message(roster, certificate.epoch, certificate.view, vote.high_view)
        if not verify(roster.keys[vote.monitor], TIMEOUT, signed, vote.signature):
            return None
    return max(vote.high_view for vote in certificate.votes)


def _highest_of_sums(roster: Roster, certificate: TimeoutCertificate) -> int | None:
    if certificate.votes:
        return None
    everybody: list[int] = []
    for one in certificate.sums:
        signed = _message(roster, certificate.epoch, certificate.view, one.high_view)
        signers = signers_of(roster, one.total, TIMEOUT, signed)
        if not signers:
            return None
        everybody.extend(signers)
    if len(set(everybody)) != len(everybody) or len(everybody) < roster.quorum:
        return None
    return max(one.high_view for one in certificate.sums)
