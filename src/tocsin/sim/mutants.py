"""Every rule of the protocol, broken on purpose: a simulation that finds none of these would find nothing.

Honest monitors run the broken code; `hunt` says which seed notices, by which invariant. What breaks is as small as it
can be, a method or a function of one rule, so that each line of the table is about that rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import msgspec

from tocsin.consensus import evidence_log, learner, quorum, sums, view_change, voting
from tocsin.consensus.messages import TimeoutCertificate, Votes
from tocsin.consensus.replica import Replica
from tocsin.detection import fusion
from tocsin.model.verdict import Roster, Statement
from tocsin.sim.broken import (
    Amnesia,
    ClaimsBelieved,
    CommitsLate,
    CommitsUnprepared,
    CutsShrink,
    DecisionsUnannounced,
    LockForgotten,
    LockIgnored,
    LockUnchecked,
    NeverResends,
    NoHelp,
    NoStates,
    PosteriorBelieved,
    PreparesLate,
    PromisesUnsaved,
    SendsFirst,
    StatesAgain,
    TimeoutForgotten,
    TimeoutsAnew,
    TimeoutsOnce,
    TimerLost,
    TwoF,
    Undated,
    VotesForgotten,
    VotesTwice,
    WeakTimeouts,
    weakened,
)
from tocsin.sim.campaign import campaign
from tocsin.sim.patching import patched
from tocsin.sim.world import Build
from tocsin.trust.canonical import statement_bytes
from tocsin.wire import evidence


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken rule. `build` is what honest monitors run, `patch` what is replaced while they do."""

    rule: str
    build: Build
    patch: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True, slots=True)
class Caught:
    """What came of a hunt: the first seed that noticed and by what, or `seed` None where none did."""

    rule: str
    seed: int | None
    seeds: int
    seconds: float
    noticed: str


def hunt(mutant: Mutant, seeds: range, monitors: int = 4) -> Caught:
    """Run seeds on the broken code until one violates an invariant."""
    began = time.process_time()
    with mutant.patch():
        totals = campaign(seeds, monitors, build=mutant.build)
    failure = totals.failures[0] if totals.failures else None
    seconds = time.process_time() - began
    return Caught(mutant.rule, failure.seed if failure else None, totals.runs, seconds, failure.kind if failure else "")


# --- quorums and certificates


def _one_phase_is_like_the_other(statement: Statement) -> bytes:
    return statement_bytes(msgspec.structs.replace(statement, phase="P"))


_VOTES_HOLD = quorum.votes_hold
_HIGHEST_OF_SUMS = view_change._highest_of_sums  # pyright: ignore[reportPrivateUsage]
_HIGHEST_OF_VOTES = view_change._highest_of_votes  # pyright: ignore[reportPrivateUsage]


def _every_signature_counts(roster: Roster, votes: Votes) -> bool:
    if roster.adds_up:
        return _VOTES_HOLD(roster, votes)
    statement = quorum.statement_of(roster, votes)
    enough = len(votes.signatures) >= roster.quorum
    return enough and all(quorum.vote_holds(roster, i, statement, signature) for i, signature in votes.signatures)


def _signatures_unchecked(roster: Roster, votes: Votes) -> bool:
    if votes.total is not None:
        return len(sums.members(votes.total.signers, roster.n) or ()) >= roster.quorum
    return len({monitor for monitor, _ in votes.signatures}) >= roster.quorum


def _no_spoilers(*_: object) -> set[int]:
    return set()


def _every_timeout_counts(roster: Roster, certificate: TimeoutCertificate) -> int | None:
    """Does not look whether it is always the same monitor's."""
    if len(certificate.votes) + len(certificate.sums) < roster.quorum:
        return _HIGHEST_OF_SUMS(roster, certificate) if roster.adds_up else _HIGHEST_OF_VOTES(roster, certificate)
    return max(one.high_view for one in (*certificate.votes, *certificate.sums))


def _untrimmed(values: Sequence[int], f: int) -> int:  # noqa: ARG001 - that is the error
    return sum(values) // len(values)


def _always(*_: object) -> bool:
    return True


_TIMEOUTS_HOLD = view_change.timeouts_hold


def _believes_stripped(
    roster: Roster, certificate: TimeoutCertificate, epoch: int, view: int, prev_cert_hash: bytes
) -> bool:
    """Checks the timeouts, but not that the certificate they name is there."""
    if certificate.high is not None:
        return _TIMEOUTS_HOLD(roster, certificate, epoch, view, prev_cert_hash)
    highest = _HIGHEST_OF_SUMS if roster.adds_up else _HIGHEST_OF_VOTES
    return (certificate.epoch, certificate.view) == (epoch, view) and highest(roster, certificate) is not None


@contextmanager
def _forged_evidence_passes() -> Generator[None]:
    remembered = evidence_log._open  # pyright: ignore[reportPrivateUsage]
    with patched((evidence, "verify", _always)):
        remembered.cache_clear()
        yield
    remembered.cache_clear()


def _runs(kind: type[Replica]) -> Build:
    return Build(replica=kind)


MUTANTS = (
    Mutant("a quorum is 2f", Build(believed=lambda roster: weakened(TwoF, roster))),
    Mutant("f + 1 timeouts open a view", _runs(WeakTimeouts)),
    Mutant(
        "votes of both phases sign the same bytes",
        Build(),
        lambda: patched((quorum, "statement_bytes", _one_phase_is_like_the_other)),
    ),
    Mutant(
        "a signer counts as often as it signed",
        Build(),
        lambda: patched(
            (learner, "votes_hold", _every_signature_counts), (view_change, "votes_hold", _every_signature_counts)
        ),
    ),
    Mutant(
        "signatures in certificates are not checked",
        Build(),
        lambda: patched(
            (learner, "votes_hold", _signatures_unchecked), (view_change, "votes_hold", _signatures_unchecked)
        ),
    ),
    Mutant("signatures of votes are not checked", Build(), lambda: patched((voting, "vote_holds", _always))),
    Mutant("signatures of evidence are not checked", Build(), _forged_evidence_passes),
    Mutant(
        "a timeout certificate without its lock is believed",
        Build(),
        lambda: patched((view_change, "timeouts_hold", _believes_stripped)),
    ),
    Mutant(
        "shares are added up unchecked",
        Build(),
        lambda: patched((sums, "shares_hold", _always), (view_change, "spoilers", _no_spoilers)),
    ),
    Mutant("what helpers claim is believed", Build(), lambda: patched((voting, "Tally", ClaimsBelieved))),
    Mutant(
        "one monitor's timeouts count as those of many",
        Build(),
        lambda: patched(
            (view_change, "_highest_of_sums", _every_timeout_counts),
            (view_change, "_highest_of_votes", _every_timeout_counts),
        ),
    ),
    Mutant("a decision of another epoch is taken", _runs(Undated)),
    Mutant("locks are ignored", _runs(LockIgnored)),
    Mutant("a leader's respect for the lock is not checked", _runs(LockUnchecked)),
    Mutant("votes twice in a view", _runs(VotesTwice)),
    Mutant("votes P after a timeout", _runs(PreparesLate)),
    Mutant("votes C after a timeout", _runs(CommitsLate)),
    Mutant("votes C without a prepare certificate", _runs(CommitsUnprepared)),
    Mutant("a timeout is made anew", _runs(TimeoutsAnew)),
    Mutant("a cut may give up what was decided", _runs(CutsShrink)),
    Mutant("the posterior is not recomputed", _runs(PosteriorBelieved)),
    Mutant("liars count in the posterior", Build(), lambda: patched((fusion, "trimmed_mean", _untrimmed))),
    Mutant("promises are forgotten in a crash", _runs(Amnesia)),
    Mutant("the lock is forgotten in a crash", _runs(LockForgotten)),
    Mutant("votes are forgotten in a crash", _runs(VotesForgotten)),
    Mutant("timeouts are forgotten in a crash", _runs(TimeoutForgotten)),
    Mutant("a lost journal is not admitted", Build(admits_loss=False)),
    Mutant("messages leave before records are durable", _runs(SendsFirst)),
    Mutant("decisions are not announced after a crash", _runs(DecisionsUnannounced)),
    Mutant("evidence is stated again after a crash", Build(monitor=StatesAgain)),
    Mutant("promises are not in snapshots", _runs(PromisesUnsaved)),
    Mutant("laggards get no decisions", _runs(NoHelp)),
    Mutant("laggards get no state", _runs(NoStates)),
    Mutant("evidence that others had no room for is not sent again", _runs(NeverResends)),
    Mutant("a view timer is not armed", _runs(TimerLost)),
    Mutant("a timeout is sent once", _runs(TimeoutsOnce)),
)
